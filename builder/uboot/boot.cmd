# The boot script of Gateway Engine, version 1 of its contract with Linux.
#
# It is on the boot partition and is never updated in the field, so what it
# shares with Linux is frozen: the variables of the boot state in the partition
# "ubenv" (package slot has the format), the names of the partitions, and the
# kernel arguments gwe.slot and gwe.script.
#
# Numbers are hexadecimal; "test" knows that only with a 0x before them, and
# takes 32-bit numbers for signed ones.
# Nothing here stops: whatever fails, the last line resets. A partition that is
# not found leaves its variable empty, and a read without a count can hang.
#
# Set above by the builder: devtype devnum state_addr check_addr image_addr
# kernel_addr dtb_addr console_args. gwe_args, from U-Boot's own environment, goes to the kernel.

setenv load_state 'setenv V; setenv SEQ; setenv GOOD; setenv TRIAL; setenv T_LEFT; setenv A_STATE; setenv A_LEFT; setenv B_STATE; setenv B_LEFT; test -n "${blk}" && ${devtype} read ${state_addr} ${blk} 20 && env import -c ${state_addr} 4000 V SEQ GOOD TRIAL T_LEFT A_STATE A_LEFT B_STATE B_LEFT && test "${V}" = 1 -a -n "${SEQ}" && test "${GOOD}" = a -o "${GOOD}" = b'
setenv save_state 'setexpr SEQ ${SEQ} + 1; env export -c -s 4000 ${state_addr} V SEQ GOOD TRIAL T_LEFT A_STATE A_LEFT B_STATE B_LEFT && ${devtype} write ${state_addr} ${old} 20 && ${devtype} read ${check_addr} ${old} 20 && cmp.l ${state_addr} ${check_addr} 1000'
setenv load_image '@LOAD@'

# The newer valid copy counts (blk), the older is overwritten next (old).
setenv st0; setenv st1; setenv s0; setenv s1; setenv blk; setenv old
part start ${devtype} ${devnum} ubenv st0
if test -n "${st0}"; then setexpr st1 ${st0} + 2000; fi
setenv blk ${st0}; if run load_state; then setenv s0 ${SEQ}; fi
setenv blk ${st1}; if run load_state; then setenv s1 ${SEQ}; fi
setenv blk
if test -n "${s0}"; then setenv blk ${st0}; setenv old ${st1}; fi
if test -n "${s1}"; then
  if test -z "${s0}"; then setenv blk ${st1}; setenv old ${st0}; fi
  if test 0x${s1} -gt 0x${s0}; then setenv blk ${st1}; setenv old ${st0}; fi
fi
if test -n "${blk}"; then
  if run load_state; then true; else setenv blk; fi
fi

setenv order; setenv why
if test -n "${blk}"; then
  # A trial that has tries left. Only a try that is known to be counted is made.
  setenv tstate
  if test "${TRIAL}" = a; then setenv tstate ${A_STATE}; fi
  if test "${TRIAL}" = b; then setenv tstate ${B_STATE}; fi
  if test "${tstate}" = ready -a 0x${T_LEFT} -gt 0; then
    setenv before ${T_LEFT}
    setexpr T_LEFT ${T_LEFT} - 1
    if run save_state; then setenv order ${TRIAL}; setenv why trial; else setenv T_LEFT ${before}; fi
  fi

  if test -z "${order}"; then
    # The confirmed slot while it has boots left, else the other one, if good.
    if test 0x${A_LEFT} -gt 8; then setenv A_LEFT 8; fi
    if test 0x${B_LEFT} -gt 8; then setenv B_LEFT 8; fi
    setenv go_a; setenv go_b
    if test "${A_STATE}" = good -a 0x${A_LEFT} -gt 0; then setenv go_a 1; fi
    if test "${B_STATE}" = good -a 0x${B_LEFT} -gt 0; then setenv go_b 1; fi
    if test -z "${go_a}${go_b}"; then
      if test "${A_STATE}" = good; then setenv A_LEFT 8; setenv go_a 1; fi
      if test "${B_STATE}" = good; then setenv B_LEFT 8; setenv go_b 1; fi
    fi
    setenv pick
    if test -n "${go_a}"; then setenv pick a; setenv why good; fi
    if test -n "${go_b}"; then
      if test -z "${go_a}" -o "${GOOD}" = b; then setenv pick b; setenv why good; fi
    fi
    if test -n "${pick}" -a "${pick}" != "${GOOD}"; then setenv why fallback; fi
    if test "${pick}" = a; then setexpr A_LEFT ${A_LEFT} - 1; fi
    if test "${pick}" = b; then setexpr B_LEFT ${B_LEFT} - 1; fi
    if test -n "${pick}"; then
      setenv order ${pick}
      # A boot that cannot be counted: an image that is refused must not be
      # tried for ever, so the other slot comes next.
      if run save_state; then true; else
        setenv why uncounted
        if test "${pick}" = a -a "${B_STATE}" = good; then setenv order "a b"; fi
        if test "${pick}" = b -a "${A_STATE}" = good; then setenv order "b a"; fi
      fi
    else
      # No slot is good: their images' hashes decide.
      setenv why lastresort
      setenv order "a b"
      if test "${GOOD}" = b; then setenv order "b a"; fi
    fi
  fi
else
  setenv why nostate
  setenv order "a b"
fi

for slot in "${order}"; do
  echo "gwe: slot=${slot} why=${why} seq=${SEQ} trial=${T_LEFT} left=${A_LEFT}/${B_LEFT}"
  setenv bootargs "${console_args} gpt panic=5 quiet watchdog.stop_on_reboot=0 gwe.slot=${slot} gwe.script=1 ${gwe_args}"
  setenv kst; setenv size
  part start ${devtype} ${devnum} kernel_${slot} kst
  if run load_image; then
@BOOT@
  fi
  echo "gwe: the boot image of slot ${slot} is refused"
done
reset
