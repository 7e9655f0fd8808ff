package kernel

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// fit is a boot image whose files have names that a device tree has to quote.
func fit(t *testing.T) BootImage {
	dir := filepath.Join(t.TempDir(), `a "b" ü`)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f := BootImage{Format: "fit", Arch: "mips", Compression: "none", Load: 0x810f0000, Entry: 0x810f0440,
		Kernel: filepath.Join(dir, "kernel"), Initramfs: filepath.Join(dir, "initramfs.zst")}
	for name, data := range map[string]string{f.Kernel: "the kernel", f.Initramfs: "the initramfs"} {
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

var epoch = time.Unix(1700000000, 0)

// list returns what dumpimage says of an image, with single blanks.
func list(t *testing.T, image string) string {
	t.Helper()
	cmd := exec.Command("dumpimage", "-l", image)
	cmd.Env = append(os.Environ(), "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return regexp.MustCompile(`[ \t]+`).ReplaceAllString(string(out), " ")
}

func TestFIT(t *testing.T) {
	f := fit(t)
	dir := t.TempDir()
	out := filepath.Join(dir, "boot.fit")
	if err := f.Write(t.Context(), epoch, out); err != nil {
		t.Fatal(err)
	}
	got := list(t, out)
	for _, want := range []string{
		"FIT description: gwe boot image",
		"Created: Tue Nov 14 22:13:20 2023",
		"Image 0 (kernel)", "Type: Kernel Image", "Compression: uncompressed", "Data Size: 10 Bytes",
		"Architecture: MIPS", "OS: Linux", "Load Address: 0x810f0000", "Entry Point: 0x810f0440",
		fmt.Sprintf("Hash algo: sha256\n Hash value: %x", sha256.Sum256([]byte("the kernel"))),
		"Image 1 (ramdisk)", "Type: RAMDisk Image", "Data Size: 13 Bytes",
		fmt.Sprintf("Hash algo: sha256\n Hash value: %x", sha256.Sum256([]byte("the initramfs"))),
		"Default Configuration: 'conf'", "Configuration 0 (conf)", "Kernel: kernel", "Init Ramdisk: ramdisk",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("dumpimage -l has no %q, but\n%s", want, got)
		}
	}
	for i, want := range []string{"the kernel", "the initramfs"} {
		part := filepath.Join(t.TempDir(), "part")
		if out, err := exec.Command("dumpimage", "-T", "flat_dt", "-p", fmt.Sprint(i), "-o", part, out).CombinedOutput(); err != nil {
			t.Fatalf("dumpimage -p %d: %v\n%s", i, err, out)
		}
		if got, err := os.ReadFile(part); err != nil || string(got) != want {
			t.Errorf("image %d is %q, want %q; %v", i, got, want, err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left beside the image: %v", left)
	}

	again := filepath.Join(dir, "again.fit")
	if err := f.Write(t.Context(), epoch, again); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(out)
	b, _ := os.ReadFile(again)
	if !bytes.Equal(a, b) {
		t.Errorf("two runs differ: %d and %d bytes", len(a), len(b))
	}
}

func TestLegacy(t *testing.T) {
	i := fit(t)
	i.Format, i.Arch, i.Compression, i.Load, i.Entry = "legacy", "arm64", "gzip", 0x200000, 0x200000
	for n, data := range []string{"the first device tree", "the second"} {
		i.DTBs = append(i.DTBs, filepath.Join(t.TempDir(), fmt.Sprint(n)))
		if err := os.WriteFile(i.DTBs[n], []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(t.TempDir(), "boot.img")
	if err := i.Write(t.Context(), epoch, out); err != nil {
		t.Fatal(err)
	}
	got := list(t, out)
	for _, want := range []string{
		"Image Name: gwe boot image", "Created: Tue Nov 14 22:13:20 2023",
		"Image Type: AArch64 Linux Multi-File Image (uncompressed)", "Load Address: 00200000", "Entry Point: 00200000",
		"Image 0: 10 Bytes", "Image 1: 13 Bytes", "Image 2: 21 Bytes", "Image 3: 10 Bytes",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("dumpimage -l has no %q, but\n%s", want, got)
		}
	}
	for n, want := range []string{"the kernel", "the initramfs", "the first device tree", "the second"} {
		part := filepath.Join(t.TempDir(), "part")
		if out, err := exec.Command("dumpimage", "-T", "multi", "-p", fmt.Sprint(n), "-o", part, out).CombinedOutput(); err != nil {
			t.Fatalf("dumpimage -p %d: %v\n%s", n, err, out)
		}
		if got, err := os.ReadFile(part); err != nil || string(got) != want {
			t.Errorf("file %d is %q, want %q; %v", n, got, want, err)
		}
	}
	again := out + "2"
	if err := i.Write(t.Context(), epoch, again); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(out)
	b, _ := os.ReadFile(again)
	if !bytes.Equal(a, b) {
		t.Errorf("two runs differ: %d and %d bytes", len(a), len(b))
	}
	i.DTBs[1] += "x"
	if err := i.Write(t.Context(), epoch, again); err == nil || !strings.Contains(err.Error(), i.DTBs[1]) {
		t.Errorf("without its second device tree: %v", err)
	}
}

func TestFITErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*BootImage)
		want   string
	}{
		{"no kernel", func(f *BootImage) { f.Kernel += "x" }, "kernelx"},
		{"no initramfs", func(f *BootImage) { f.Initramfs += "x" }, "initramfs.zstx"},
		{"an address beyond U-Boot's 32 bits", func(f *BootImage) { f.Load = 1 << 32 }, "out of range for 32-bit"},
		{"mkimage is not installed", func(*BootImage) { t.Setenv("PATH", t.TempDir()) }, "u-boot-tools"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := fit(t)
			tt.change(&f)
			err := f.Write(t.Context(), epoch, filepath.Join(t.TempDir(), "boot.fit"))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}
