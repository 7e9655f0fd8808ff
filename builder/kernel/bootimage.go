package kernel

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/exosite/gwe/builder/hosttool"
)

// BootImage describes what a kernel partition holds, in one of two formats.
// "fit" is U-Boot's flattened image tree, in which each part carries its
// SHA-256. "legacy" is a uImage of several files with one CRC-32, for a U-Boot
// without FIT; of it only boot.cmd knows how the kernel is compressed and where
// it goes. U-Boot checks either before it boots.
type BootImage struct {
	Format      string
	Arch        string   // U-Boot's name
	Kernel      string   // file
	Compression string   // of Kernel
	Load, Entry uint64   // addresses
	Initramfs   string   // file
	DTBs        []string // files; legacy only, from part 2 on
}

// Write writes the image, which bears the time, to out.
func (i BootImage) Write(ctx context.Context, at time.Time, out string) error {
	if (i.Load|i.Entry)>>32 != 0 { // one cell each; newer dtc cuts them off without a word
		return fmt.Errorf("write the boot image: load %#x, entry %#x: out of range for 32-bit addresses", i.Load, i.Entry)
	}
	write := i.writeFIT
	if i.Format == "legacy" {
		write = i.writeLegacy
	}
	if err := write(ctx, at, out); err != nil {
		return fmt.Errorf("write the boot image: %w", err)
	}
	return nil
}

func (i BootImage) writeLegacy(ctx context.Context, at time.Time, out string) error {
	files := append([]string{i.Kernel, i.Initramfs}, i.DTBs...)
	for _, f := range files {
		if strings.Contains(f, ":") {
			return fmt.Errorf("%s: mkimage separates files by colons", f)
		}
		if _, err := os.Stat(f); err != nil { // mkimage leaves a broken image
			return err
		}
	}
	return hosttool.Tool{Package: "u-boot-tools", Time: at}.Run(ctx, "mkimage", "-q", "-A", i.Arch, "-O", "linux", "-T", "multi", "-C", "none",
		"-a", fmt.Sprintf("%x", i.Load), "-e", fmt.Sprintf("%x", i.Entry), "-n", "gwe boot image", "-d", strings.Join(files, ":"), out)
}

func (i BootImage) writeFIT(ctx context.Context, at time.Time, out string) error {
	kernel, err := filepath.Abs(i.Kernel)
	if err != nil {
		return err
	}
	initramfs, err := filepath.Abs(i.Initramfs)
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
`, kernel, i.Arch, i.Compression, i.Load, i.Entry, initramfs)
	its := out + ".its"
	if err := os.WriteFile(its, []byte(source), 0o644); err != nil {
		return err
	}
	defer os.Remove(its)
	// mkimage calls dtc.
	return hosttool.Tool{Package: "u-boot-tools, device-tree-compiler", Time: at}.Run(ctx, "mkimage", "-q", "-f", its, out)
}
