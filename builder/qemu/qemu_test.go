package qemu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/exosite/gwe/builder/board"
)

// options are those of a board with small files in a folder whose name QEMU
// could take for options.
func options(t *testing.T, name string) Options {
	t.Helper()
	b, err := board.Load("../../boards", name)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "a,readonly=off b")
	o := Options{Board: b, Image: filepath.Join(dir, "disk.img"), UBoot: filepath.Join(dir, "u-boot.bin"), Scratch: dir}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{o.Image, o.UBoot} {
		if err := os.WriteFile(file, make([]byte, 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func TestCommand(t *testing.T) {
	for _, tt := range []struct {
		name, board string
		memory      int
		snapshot    bool
		want        []string // arguments, or options in one; DIR is the folder, in an option DIR,,
		kernelArgs  string
	}{
		{"arm64", "qemu-arm64", 0, false, []string{"-M", "virt", "-m", "512", "-bios", "DIR/u-boot.bin",
			"file=DIR,,/flash.img,readonly=on", "file=DIR,,/disk.img"}, ""},
		{"arm64 with little memory", "qemu-arm64", 96, true, []string{"-m", "96", "-snapshot"}, ""},
		{"mipsel", "qemu-mipsel", 0, false, []string{"-M", "malta", "-m", "256", "file=DIR,,/flash.img,readonly=on", "file=DIR,,/disk.img"}, ""},
		{"mipsel with less than U-Boot needs", "qemu-mipsel", 64, false, []string{"-m", "256"}, "gwe_args=mem=64M\x00"},
		{"mipsel with more", "qemu-mipsel", 512, false, []string{"-m", "512"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := options(t, tt.board)
			o.Memory, o.Snapshot, o.Args = tt.memory, tt.snapshot, []string{"-drive", "file=card, 2"}
			cmd, err := Command(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(strings.Join(cmd.Args, " "), "{") {
				t.Errorf("a placeholder is left: %q", cmd.Args)
			}
			if got := cmd.Args[len(cmd.Args)-1]; got != "file=card, 2" {
				t.Errorf("the last argument is %q, want that of Options", got)
			}
			if slices.Contains(cmd.Args, "-snapshot") != tt.snapshot {
				t.Errorf("-snapshot: want %t: %q", tt.snapshot, cmd.Args)
			}
			for _, want := range tt.want {
				want = strings.ReplaceAll(want, "DIR,,", strings.ReplaceAll(o.Scratch, ",", ",,"))
				want = strings.ReplaceAll(want, "DIR", o.Scratch)
				if !slices.ContainsFunc(cmd.Args, func(arg string) bool { return strings.Contains(","+arg+",", ","+want+",") }) {
					t.Errorf("no argument %q in\n%q", want, cmd.Args)
				}
			}
			flash, err := os.ReadFile(filepath.Join(o.Scratch, "flash.img"))
			if err != nil {
				t.Fatal(err)
			}
			if got := bytes.Contains(flash, []byte("gwe_args=")); got != (tt.kernelArgs != "") || !bytes.Contains(flash, []byte(tt.kernelArgs)) {
				t.Errorf("gwe_args in the flash: %t, want %q", got, tt.kernelArgs)
			}
		})
	}
}

func TestCommandErrors(t *testing.T) {
	path := func(t *testing.T, tools ...string) {
		dir := t.TempDir()
		for _, tool := range tools {
			file, err := exec.LookPath(tool)
			if err == nil {
				err = os.Symlink(file, filepath.Join(dir, tool))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("PATH", dir)
	}
	const build, setup = "build it first: make board=qemu-arm64 image", "make board=qemu-arm64 setup (or apt-get install qemu-system-arm)"
	for _, tt := range []struct {
		name    string
		prepare func(*testing.T, *Options)
		want    []string
	}{
		{"no image", func(_ *testing.T, o *Options) { os.Remove(o.Image) }, []string{"disk.img: no such file", build}},
		{"no U-Boot", func(_ *testing.T, o *Options) { os.Remove(o.UBoot) }, []string{"u-boot.bin: no such file", build}},
		{"no QEMU", func(t *testing.T, _ *Options) { path(t, "mkenvimage") }, []string{`"qemu-system-aarch64"`, setup}},
		{"no tool at all", func(t *testing.T, _ *Options) { path(t) }, []string{"make board=qemu-arm64 setup"}},
		{"too little memory", func(_ *testing.T, o *Options) {
			o.Board.Machine.MemoryMin, o.Board.Machine.Flash, o.Memory = 256, nil, 64
		}, []string{"qemu-arm64 has at least 256 MB"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := options(t, "qemu-arm64")
			tt.prepare(t, &o)
			_, err := Command(t.Context(), o)
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			}
		})
	}
}

// machine starts a machine whose firmware is a shell script.
func machine(t *testing.T, ctx context.Context, script string) *Machine {
	t.Helper()
	o := options(t, "qemu-arm64")
	o.Board.Machine.Flash, o.Board.Machine.Command = nil, []string{"sh {uboot} {memory}"}
	o.UBoot = filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(o.UBoot, []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := Start(ctx, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Kill)
	return m
}

func TestMachine(t *testing.T) {
	m := machine(t, t.Context(), `echo "$1 MB"; read key; echo "you typed $key" >&2; exit 1`)
	expect(t, m.Console, "([0-9]+) MB", "512 MB|512")
	if _, err := m.Write([]byte("x\n")); err != nil {
		t.Fatal(err)
	}
	expect(t, m.Console, "typed (.*)", "typed x|x")
	<-m.Ended()
	if _, err := m.Expect(t.Context(), "more"); !errors.Is(err, ErrEnded) {
		t.Errorf("powered off: got %v", err)
	}
	m.Kill() // once more is nothing
}

func TestMachineIsKilled(t *testing.T) {
	const hangs = "echo up; exec sleep 1000"
	m := machine(t, t.Context(), hangs)
	expect(t, m.Console, "up", "up")
	m.Kill()
	if _, err := m.Expect(t.Context(), "more"); !errors.Is(err, ErrEnded) {
		t.Errorf("the power was cut: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	m = machine(t, ctx, hangs)
	expect(t, m.Console, "up", "up")
	cancel()
	<-m.Ended()
}
