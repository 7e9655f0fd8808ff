// Package uboot makes what runs before Linux: U-Boot itself, its preset
// environment, the boot script, and the flash of a board's QEMU machine.
package uboot

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/exosite/gwe/builder/board"
	"github.com/exosite/gwe/builder/debian"
	"github.com/exosite/gwe/builder/hosttool"
)

//go:embed boot.cmd
var bootScript string

// How the script reads a boot image into memory, by the board's uboot: format:
// as many blocks as its header says, or up to two more, and not at all if the
// partition has fewer. A legacy image says so in big-endian bytes, from offset
// 12 on. Either is checked when it is booted.
var loadImage = map[string]string{
	"fit":    `test -n "${kst}" && ${devtype} read ${image_addr} ${kst} 1 && fdt addr ${image_addr} && fdt header get size totalsize && setexpr blocks ${size} / 200 && setexpr blocks ${blocks} + 1 && test 0x${blocks} -le 0x8000 && ${devtype} read ${image_addr} ${kst} ${blocks}`,
	"legacy": `test -n "${kst}" && ${devtype} read ${image_addr} ${kst} 1 && setexpr at ${image_addr} + c && setexpr.b n0 *${at} && setexpr at ${at} + 1 && setexpr.b n1 *${at} && setexpr at ${at} + 1 && setexpr.b n2 *${at} && setexpr n1 ${n1} * 80 && setexpr n2 ${n2} / 2 && setexpr blocks ${n1} + ${n2} && setexpr blocks ${blocks} + 2 && test 0x${n0} -eq 0 -a 0x${blocks} -le 0x8000 && ${devtype} read ${image_addr} ${kst} ${blocks}`,
}

// Script returns the text of the board's boot script.
func Script(b *board.Board) string {
	dev := strings.Fields(b.UBoot.Device)
	var s strings.Builder
	for _, v := range []struct{ name, value string }{
		{"devtype", dev[0]},
		{"devnum", dev[1]},
		{"state_addr", fmt.Sprintf("0x%x", b.UBoot.State)},
		{"check_addr", fmt.Sprintf("0x%x", b.UBoot.State+0x8000)},
		{"image_addr", fmt.Sprintf("0x%x", b.UBoot.Image)},
		{"console_args", `"` + b.UBoot.Console + `"`},
		{"kernel_addr", fmt.Sprintf("0x%x", b.Kernel.Load)},
		{"dtb_addr", fmt.Sprintf("0x%x", b.Kernel.FDT)},
	} {
		fmt.Fprintf(&s, "setenv %s %s\n", v.name, v.value)
	}
	script := strings.NewReplacer("@LOAD@", loadImage[b.UBoot.Format], "@BOOT@", b.BootCommands).Replace(bootScript)
	for line := range strings.Lines(script) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") { // comments cost time and flash
			s.WriteString(line)
		}
	}
	return s.String()
}

// WriteScript writes boot.scr, which U-Boot sources and whose header bears the
// time, to out.
func WriteScript(ctx context.Context, b *board.Board, at time.Time, out string) error {
	cmd := out + ".cmd"
	if err := os.WriteFile(cmd, []byte(Script(b)), 0o644); err != nil {
		return fmt.Errorf("write the boot script: %w", err)
	}
	defer os.Remove(cmd)
	return hosttool.Tool{Package: "u-boot-tools", Time: at}.Run(ctx, "mkimage", "-q", "-A", b.Kernel.Arch, "-T", "script", "-C", "none", "-n", "gwe boot script", "-d", cmd, out)
}

// WriteEnv writes the preset environment of the board to out: what board.yaml
// says, and extra variables.
func WriteEnv(ctx context.Context, b *board.Board, extra map[string]string, out string) error {
	vars := maps.Clone(b.UBoot.Env)
	maps.Copy(vars, extra)
	var text bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if v := vars[name]; strings.Contains(v, "\n") || strings.HasSuffix(v, "\\") {
			return fmt.Errorf("uboot: env: %s: a line break or a backslash at the end would become another variable", name)
		}
		fmt.Fprintf(&text, "%s=%s\n", name, vars[name])
	}
	in := out + ".txt"
	if err := os.WriteFile(in, text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write U-Boot's environment: %w", err)
	}
	defer os.Remove(in)
	return hosttool.Tool{Package: "u-boot-tools"}.Run(ctx, "mkenvimage", "-s", fmt.Sprint(b.UBoot.EnvSize), "-o", out, in)
}

// WriteFlash writes the NOR flash of the board's machine to out, with U-Boot
// (if the board keeps it there) and the preset environment.
func WriteFlash(ctx context.Context, b *board.Board, uboot string, extra map[string]string, out string) error {
	flash := b.Machine.Flash
	env := out + ".env"
	if err := WriteEnv(ctx, b, extra, env); err != nil {
		return err
	}
	defer os.Remove(env)
	data, err := os.ReadFile(env)
	if err != nil {
		return fmt.Errorf("write the flash: %w", err)
	}
	f, err := os.Create(out)
	if err != nil {
		return fmt.Errorf("write the flash: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(int64(flash.Size)); err != nil {
		return fmt.Errorf("write the flash: %w", err)
	}
	if _, err := f.WriteAt(data, int64(flash.Env)); err != nil {
		return fmt.Errorf("write the flash: %w", err)
	}
	if flash.UBoot != nil {
		code, err := os.ReadFile(uboot)
		if err != nil {
			return fmt.Errorf("write the flash: %w", err)
		}
		room := flash.Env - *flash.UBoot
		if uint64(len(code)) > room {
			return fmt.Errorf("write the flash: U-Boot has %d bytes, %d are before the environment", len(code), room)
		}
		if *flash.UBoot < flash.Swap {
			code = swapWords(code)
		}
		if _, err := f.WriteAt(code, int64(*flash.UBoot)); err != nil {
			return fmt.Errorf("write the flash: %w", err)
		}
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write the flash: %w", err)
	}
	return nil
}

// swapWords reverses the bytes of each 32-bit word: QEMU's malta does so with
// the code in its flash when little-endian.
func swapWords(b []byte) []byte {
	out := make([]byte, (len(b)+3)&^3)
	copy(out, b)
	for i := 0; i < len(out); i += 4 {
		slices.Reverse(out[i : i+4])
	}
	return out
}

// Build builds the board's U-Boot from Debian's source package in the empty
// folder dir, and returns the path of the result.
func Build(ctx context.Context, b *board.Board, src *debian.Source, dir string, log func(string, ...any)) (string, error) {
	build := b.UBoot.Build
	tree, obj := filepath.Join(dir, "src"), filepath.Join(dir, "obj")
	if err := src.Unpack(ctx, tree); err != nil {
		return "", err
	}
	for _, p := range build.Patches {
		patch, err := filepath.Abs(b.Path(p))
		if err != nil {
			return "", err
		}
		if err := (hosttool.Tool{Package: "patch", Dir: tree}).Run(ctx, "patch", "-p1", "-s", "-F0", "-i", patch); err != nil {
			return "", fmt.Errorf("patch U-Boot %s: %w", src.Version, err)
		}
	}
	// The date that U-Boot shows is that of Debian's source.
	stamp, err := exec.CommandContext(ctx, "dpkg-parsechangelog", "-l", filepath.Join(tree, "debian/changelog"), "-STimestamp").Output()
	if err != nil {
		return "", fmt.Errorf("read the date of U-Boot %s (package dpkg-dev): %w", src.Version, err)
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(stamp)), 10, 64)
	if err != nil {
		return "", fmt.Errorf("the date of U-Boot %s: %w", src.Version, err)
	}
	tool := hosttool.Tool{
		Package: "make", Dir: tree, Time: time.Unix(seconds, 0),
		Env: []string{"CROSS_COMPILE=" + build.Cross, "KBUILD_BUILD_USER=gwe", "KBUILD_BUILD_HOST=gwe"},
	}
	mk := func(args ...string) error {
		return tool.Run(ctx, "make", append([]string{"-s", "O=" + obj}, args...)...)
	}
	log("building U-Boot %s with %s, once; a minute or more", src.Version, build.Defconfig)
	if err := mk(build.Defconfig); err != nil {
		return "", err
	}
	options, err := os.ReadFile(b.Path(build.Config))
	if err != nil {
		return "", err
	}
	config := filepath.Join(obj, ".config")
	if err := appendFile(config, options); err != nil {
		return "", err
	}
	if err := mk("olddefconfig"); err != nil {
		return "", err
	}
	if err := checkConfig(b.Path(build.Config), options, config); err != nil {
		return "", err
	}
	if err := mk("-j"+fmt.Sprint(runtime.NumCPU()), build.File); err != nil {
		return "", err
	}
	return filepath.Join(obj, filepath.FromSlash(build.File)), nil
}

// checkConfig makes sure that U-Boot took every option: an unknown name or an
// unmet dependency drops one without a word.
func checkConfig(file string, options []byte, config string) error {
	got, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	lines := strings.Split(string(got), "\n")
	for line := range strings.Lines(string(options)) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") && !slices.Contains(lines, line) {
			return fmt.Errorf("%s: %s: U-Boot does not take this option: unknown, or something that it depends on is off", file, line)
		}
	}
	return nil
}

func appendFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Close()
}
