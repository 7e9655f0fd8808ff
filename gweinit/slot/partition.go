package slot

// Names of the GPT partitions. U-Boot and Linux both find them by name.
const (
	BootPartition  = "boot"  // FAT: U-Boot's script and what firmware needs
	StatePartition = "ubenv" // the two copies of the boot state
	DataPartition  = "data"  // ext4, the only file system that is written
)

// KernelPartition is the partition of n's boot image.
func (n Name) KernelPartition() string { return "kernel_" + string(n) }

// RootPartition is the partition of n's squashfs root.
func (n Name) RootPartition() string { return "rootfs_" + string(n) }
