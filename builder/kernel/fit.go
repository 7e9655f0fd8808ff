package kernel

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// Write writes the image to out. The time in it is SOURCE_DATE_EPOCH of env.
func (f FIT) Write(ctx context.Context, env []string, out string) error {
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
	cmd := exec.CommandContext(ctx, "mkimage", "-q", "-f", its, out)
	cmd.Env = append(os.Environ(), env...)
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("write the boot image: %s (packages u-boot-tools and device-tree-compiler): %w\n%s", cmd, err, strings.TrimSpace(string(msg)))
	}
	return nil
}
