package board

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const boards = "../../boards"

func TestBoardsOfTheProject(t *testing.T) {
	names, err := List(boards)
	if err != nil || len(names) < 2 {
		t.Fatalf("boards: %v, %v", names, err)
	}
	for _, name := range names {
		if _, err := Load(boards, name); err != nil {
			t.Error(err)
		}
	}
}

// breaking is one thing wrong with a board.
type breaking struct{ old, new, want string }

func TestBrokenBoards(t *testing.T) {
	testBroken(t, "qemu-mipsel", []breaking{
		{"arch: mipsel\n", "arch: mipsel\narhc: x\n", "line 3: field arhc not found"},
		{"arch: mipsel\n", "", "arch: is missing"},
		{"package: linux-image-4kc-malta", "package: [a]", "cannot unmarshal"},
		{"format: elf", "format: elv", "kernel: format: \"elv\": want arm64-image or elf"},
		{"0x81000000", "0x81c00000", "uboot: script: 0x81c00000-0x81c10000 overlaps uboot: state"},
		{"script: 0x81000000", "script: 0x81010000", "bootcmd: has to end in \"; load ide 0:1 0x81010000"},
		{"state: 0x81c00000", "state: 0x82100000", "overlaps uboot: state"},
		{"load: 0x810f0000", "load: 0x81001000", "uboot: script: 0x81000000-0x81010000 overlaps kernel: load"},
		{"  image: 0x82000000\n", "", "uboot: image: is missing"},
		{"    - overlay\n", "    - overlay\n    - overlay\n", "overlay is there twice"},
		{"    - overlay\n", "    - kernel/fs/overlay.ko\n", "not a module's name"},
		{"; reset\n", "\n", "bootcmd: has to end in"},
		{"bootdelay: \"-2\"", "bootdelay: \"0\"", "never stops at a prompt"},
		{"GOMIPS: softfloat", "GOFLAGS: -x", "go: GOFLAGS: want"},
		{"device: ide 0", "device: ide", "uboot: device"},
		{"disk: devices/", "disk: /dev/", "disk: \"/dev/"},
		{"config: u-boot/u-boot.config", "config: u-boot/nothing", "no such file"},
		{"env: 0x3e0000,", "env: 0x3f0000,", "ends behind the flash"},
		{"-m {memory}", "-m 64", "has to use {image} and {memory}"},
		{"file={flash}", "file=x", "one without the other"},
		{"", "", "it is empty"},
		{"disk:", "---\ndisk:", "missing"},
		{"  drivers:\n", "  drivers:\n    - e1000.ko\n", "kernel: drivers: \"e1000.ko\" is not a module's name"},
		{"format: fit", "format: fat", "uboot: format: \"fat\": want fit or legacy"},
		{"  load: 0x810f0000\n", "  load: 0x810f0000\n  dtbs: [x.dtb]\n", "kernel: dtbs and fdt"},
		{"  load: 0x810f0000\n", "  load: 0x810f0000\n  dtbs: [x.dtb]\n  fdt: 0x83000000\n", "only a boot image of the format legacy"},
	})
	testBroken(t, "rpi3", []breaking{
		{"fdt: 0x05000000", "fdt: 0x08001000", "uboot: script: 0x8000000-0x8010000 overlaps kernel: fdt"},
		{"broadcom/bcm2837-rpi-3-b.dtb", "../bcm2837-rpi-3-b.dtb", "kernel: dtbs: \"../bcm2837"},
		{"  env: uboot.env\n", "", "firmware: want package, files, uboot and env"},
	})
}

func testBroken(t *testing.T, name string, cases []breaking) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(boards, name, "board.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range cases {
		t.Run(tt.want, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(filepath.Join(dir, "x"), os.DirFS(filepath.Join(boards, name))); err != nil {
				t.Fatal(err)
			}
			broken := ""
			if tt.old != "" {
				broken = strings.ReplaceAll(string(text), tt.old, tt.new)
			}
			if broken == string(text) {
				t.Fatalf("the board has no %q", tt.old)
			}
			file := filepath.Join(dir, "x", "board.yaml")
			if err := os.WriteFile(file, []byte(broken), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := Load(dir, "x")
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("got  %v\nwant %s: ... %s", err, file, tt.want)
			}
		})
	}
}

func TestUnknownBoard(t *testing.T) {
	for _, name := range []string{"rpi9", "../boards/qemu-arm64", "", "."} {
		_, err := Load(boards, name)
		if err == nil || !strings.Contains(err.Error(), "qemu-arm, qemu-arm64, qemu-mips64el, qemu-mipsel, rpi3") {
			t.Errorf("%q: got %v, want the list of boards", name, err)
		}
	}
	if _, err := Load(t.TempDir(), "x"); err == nil || !strings.Contains(err.Error(), "project's folder") {
		t.Errorf("no boards: got %v", err)
	}
}
