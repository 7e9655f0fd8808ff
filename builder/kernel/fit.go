package kernel

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/exosite/gwe/builder/hosttool"
)

// FIT describes a boot image: U-Boot's flattened image tree, in which each
// part carries its SHA-256, checked by U-Boot before it boots.
type FIT struct {
	Arch        string // U-Boot's name
	Kernel      string // file
	Compression string // of Kernel
	Load, Entry uint64
	Initramfs   string // file
}

// Write writes the image, which bears the time, to out.
func (f FIT) Write(ctx context.Context, at time.Time, out string) error {
	if (f.Load|f.Entry)>>32 != 0 { // one cell each; newer dtc cuts them off without a word
		return fmt.Errorf("write the boot image: load %#x, entry %#x: out of range for 32-bit addresses", f.Load, f.Entry)
	}
	kernel, err := filepath.Abs(f.Kernel)
	if err != nil {
		return err
	}
	initramfs, err := filepath.Abs(f.Initramfs)
	if err != nil {
		return err
	}
	// The name of the configuration, "conf", is part of the boards' boot.cmd.
	source := fmt.Sprintf(`/dts-v1/;
/ {
	description = "gwe boot image";
	#address-cells = <1>;
	images {
		kernel {
			data = /incbin/(%q);
			type = "kernel";
			arch = %q;
			os = "linux";
			compression = %q;
			load = <%#x>;
			entry = <%#x>;
			hash-1 { algo = "sha256"; };
		};
		ramdisk {
			data = /incbin/(%q);
			type = "ramdisk";
			arch = %[2]q;
			os = "linux";
			compression = "none";
			hash-1 { algo = "sha256"; };
		};
	};
	configurations {
		default = "conf";
		conf { kernel = "kernel"; ramdisk = "ramdisk"; };
	};
};
`, kernel, f.Arch, f.Compression, f.Load, f.Entry, initramfs)
	its := out + ".its"
	if err := os.WriteFile(its, []byte(source), 0o644); err != nil {
		return fmt.Errorf("write the boot image: %w", err)
	}
	defer os.Remove(its)
	// mkimage calls dtc.
	if err := (hosttool.Tool{Package: "u-boot-tools, device-tree-compiler", Time: at}).Run(ctx, "mkimage", "-q", "-f", its, out); err != nil {
		return fmt.Errorf("write the boot image: %w", err)
	}
	return nil
}
