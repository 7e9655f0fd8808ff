bootm ${image_addr}#conf ${image_addr}#conf ${fdtcontroladdr}
