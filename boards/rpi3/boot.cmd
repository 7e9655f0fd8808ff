# fdtfile is U-Boot's name for the model's device tree.
setenv dtb_part 2
if test "${fdtfile}" = broadcom/bcm2837-rpi-3-b-plus.dtb; then setenv dtb_part 3; fi
# QEMU's machine, which has no serial number, resets when its watchdog is opened.
if test "${serial#}" = 0000000000000000; then setenv bootargs "${bootargs} gwe.watchdog=soft"; fi
# The first imxtract checks the CRC-32 of all parts, once.
setenv verify
if imxtract ${image_addr} 0; then
  setenv verify n
  unzip ${fileaddr} ${kernel_addr} && imxtract ${image_addr} 1 && setenv rd ${fileaddr}:${filesize} && imxtract ${image_addr} ${dtb_part} ${dtb_addr} && booti ${kernel_addr} ${rd} ${dtb_addr}
fi
