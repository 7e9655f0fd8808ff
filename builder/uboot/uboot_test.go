package uboot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"github.com/exosite/gwe/gweinit/slot"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/builder/board"
)

func load(t *testing.T, name string) *board.Board {
	t.Helper()
	b, err := board.Load("../../boards", name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestScript(t *testing.T) {
	for _, tt := range []struct{ board, head string }{
		{"qemu-arm64", `setenv devtype virtio
setenv devnum 0
setenv state_addr 0x42700000
setenv check_addr 0x42708000
setenv image_addr 0x42800000
setenv console_args "console=ttyAMA0"
`},
		{"qemu-mipsel", `setenv devtype ide
setenv devnum 0
setenv state_addr 0x81c00000
setenv check_addr 0x81c08000
setenv image_addr 0x82000000
setenv console_args "console=ttyS0"
`},
	} {
		t.Run(tt.board, func(t *testing.T) {
			b := load(t, tt.board)
			s := Script(b)
			if !strings.HasPrefix(s, tt.head) {
				t.Errorf("it begins\n%.300s\nwant\n%s", s, tt.head)
			}
			if strings.Contains(s, "@") {
				t.Error("a placeholder is left")
			}
			if !strings.Contains(s, "\n"+b.BootCommands+"\n") {
				t.Error("boot.cmd of the board is not in it")
			}
			if !strings.HasSuffix(s, "\nreset\n") {
				t.Errorf("it does not end in a reset but in %q", s[max(0, len(s)-40):])
			}
			open := map[string]int{}
			for line := range strings.Lines(s) {
				word := strings.TrimSpace(line)
				if strings.HasPrefix(word, "#") {
					t.Errorf("comment: %s", line)
				}
				if strings.Count(line, "'")%2 != 0 || strings.Count(line, `"`)%2 != 0 {
					t.Errorf("an open quote: %s", line)
				}
				// What the shell runs now, without the texts that it only stores.
				for i, part := range strings.Split(line, "'") {
					if i%2 == 0 {
						for w := range strings.FieldsFuncSeq(part, func(r rune) bool { return strings.ContainsRune(" ;\n", r) }) {
							open[w]++
						}
					}
				}
			}
			if open["if"] != open["fi"] || open["if"] != open["then"] || open["for"] != open["done"] {
				t.Errorf("if, then, fi: %d, %d, %d; for, done: %d, %d", open["if"], open["then"], open["fi"], open["for"], open["done"])
			}
		})
	}
}

// U-Boot and Linux share the names of the variables, and the layout.
func TestScriptKnowsTheBootState(t *testing.T) {
	full := slot.State{Good: slot.A, Trial: slot.B, A: slot.Slot{Status: slot.Good}, B: slot.Slot{Status: slot.Ready}}
	var variables []string
	for entry := range strings.SplitSeq(strings.TrimRight(string(full.Encode()[4:]), "\x00"), "\x00") {
		name, _, _ := strings.Cut(entry, "=")
		variables = append(variables, name)
	}
	names := strings.Join(variables, " ")
	clear := "setenv " + strings.Join(variables, "; setenv ") + ";"
	for _, want := range []string{
		"env import -c ${state_addr} 4000 " + names + " ", "env export -c -s 4000 ${state_addr} " + names + " ", clear,
		fmt.Sprintf("setexpr st1 ${st0} + %x;", slot.SecondCopy/512),
		fmt.Sprintf("cmp.l ${state_addr} ${check_addr} %x'", slot.CopySize/4),
		fmt.Sprintf("setenv A_LEFT %x;", slot.BootTries),
	} {
		if !strings.Contains(bootScript, want) {
			t.Errorf("boot.cmd lacks %q", want)
		}
	}
	for format, load := range loadImage {
		if want := fmt.Sprintf(`0x${blocks} -le %#x`, board.ImageSize/512); !strings.Contains(load, want) {
			t.Errorf("%s: loading it lacks %q", format, want)
		}
	}
}

func TestWriteScript(t *testing.T) {
	for name, arch := range map[string]string{"qemu-arm64": "AArch64", "qemu-mipsel": "MIPS", "qemu-arm": "ARM", "rpi3": "AArch64"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TZ", "UTC")
			b, dir := load(t, name), t.TempDir()
			out := filepath.Join(dir, "boot.scr")
			at := time.Unix(1700000000, 0)
			if err := WriteScript(t.Context(), b, at, out); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("left beside the script: %v", left)
			}
			list, err := exec.Command("mkimage", "-l", out).CombinedOutput()
			if err != nil {
				t.Fatalf("mkimage -l: %v\n%s", err, list)
			}
			got := strings.Join(strings.Fields(string(list)), " ")
			for _, want := range []string{"Image Name: gwe boot script", "Created: Tue Nov 14 22:13:20 2023", "Image Type: " + arch + " Linux Script (uncompressed)"} {
				if !strings.Contains(got, want) {
					t.Errorf("mkimage -l has no %q, but\n%s", want, list)
				}
			}
			// U-Boot runs what dumpimage takes out, behind the list of lengths: this one, none.
			text := filepath.Join(t.TempDir(), "text")
			if list, err := exec.Command("dumpimage", "-T", "script", "-p", "0", "-o", text, out).CombinedOutput(); err != nil {
				t.Fatalf("dumpimage: %v\n%s", err, list)
			}
			want, _ := binary.Append(nil, binary.BigEndian, [2]uint32{uint32(len(Script(b)))})
			if got := read(t, text); string(got) != string(want)+Script(b) {
				t.Errorf("it runs\n%q", got)
			}
			first := read(t, out)
			if err := WriteScript(t.Context(), b, at, out); err != nil || !bytes.Equal(read(t, out), first) {
				t.Errorf("two runs differ, %v", err)
			}
		})
	}
}

// variables parses an environment as U-Boot does.
func variables(t *testing.T, env []byte) map[string]string {
	t.Helper()
	if got, want := crc32.ChecksumIEEE(env[4:]), binary.LittleEndian.Uint32(env); got != want {
		t.Fatalf("CRC %08x, the data has %08x", want, got)
	}
	vars := map[string]string{}
	for rest := env[4:]; rest[0] != 0; {
		entry, more, ok := bytes.Cut(rest, []byte{0})
		name, value, equals := strings.Cut(string(entry), "=")
		if _, twice := vars[name]; !ok || !equals || twice {
			t.Fatalf("bad entry %q", entry)
		}
		vars[name], rest = value, more
	}
	return vars
}

func TestWriteFlash(t *testing.T) {
	code := []byte("U-Boot, of an odd length: 31 B.")
	file := filepath.Join(t.TempDir(), "u-boot.bin")
	if err := os.WriteFile(file, code, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		board              string
		size, env, envSize int
		uboot              string // as the flash stores it, from 0 on
		bootcmd            string
	}{
		{"qemu-arm64", 64 << 20, 0, 0x40000, "", "virtio scan; load virtio 0:1 0x42600000 boot.scr && source 0x42600000; reset"},
		{"qemu-mipsel", 4 << 20, 0x3e0000, 0x20000, "oB-U ,toa fodo nel dhtgn13 :\x00.B ",
			"ide reset; load ide 0:1 0x81000000 boot.scr && source 0x81000000; reset"},
	} {
		t.Run(tt.board, func(t *testing.T) {
			dir := t.TempDir()
			out := filepath.Join(dir, "flash.img")
			b := load(t, tt.board)
			extra := map[string]string{"gwe_args": "mem=64M", "bootdelay": "5"}
			if err := WriteFlash(t.Context(), b, file, extra, out); err != nil {
				t.Fatal(err)
			}
			flash := read(t, out)
			if len(flash) != tt.size {
				t.Errorf("%d bytes, want %d", len(flash), tt.size)
			}
			vars := variables(t, flash[tt.env:tt.env+tt.envSize])
			for name, want := range map[string]string{"gwe_args": "mem=64M", "bootdelay": "5", "bootcmd": tt.bootcmd, "initrd_high": b.UBoot.Env["initrd_high"]} {
				if vars[name] != want {
					t.Errorf("%s is %q, want %q", name, vars[name], want)
				}
			}
			if len(vars) != len(b.UBoot.Env)+1 || b.UBoot.Env["bootdelay"] != "-2" {
				t.Errorf("the environment has %q; the board's is now %q", vars, b.UBoot.Env)
			}
			if !bytes.HasPrefix(flash, []byte(tt.uboot)) {
				t.Errorf("the flash begins %q, want %q", flash[:len(tt.uboot)], tt.uboot)
			}
			rest := flash[:tt.env]
			if tt.env == 0 {
				rest = flash[tt.envSize:]
			}
			if rest = rest[len(tt.uboot):]; !bytes.Equal(rest, make([]byte, len(rest))) {
				t.Error("the rest is not empty")
			}
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("left beside the flash: %v", left)
			}
		})
	}
}

func TestWriteFlashErrors(t *testing.T) {
	out := filepath.Join(t.TempDir(), "flash.img")
	file := filepath.Join(t.TempDir(), "u-boot.bin")
	size := func(n int64) func(*testing.T, *board.Board) {
		return func(t *testing.T, _ *board.Board) {
			if err := os.WriteFile(file, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(file, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name    string
		prepare func(*testing.T, *board.Board)
		want    []string
	}{
		{"U-Boot just fits", size(0x3e0000), nil},
		{"U-Boot is too large", size(0x3e0001), []string{"U-Boot has 4063233 bytes", "4063232 are before the environment"}},
		{"no U-Boot", func(*testing.T, *board.Board) { os.Remove(file) }, []string{"write the flash", "u-boot.bin: no such file"}},
		{"an environment that does not fit", func(_ *testing.T, b *board.Board) { b.UBoot.Env["long"] = strings.Repeat("x", 0x20000) }, []string{"mkenvimage"}},
		{"mkenvimage is not installed", func(t *testing.T, _ *board.Board) { t.Setenv("PATH", t.TempDir()) }, []string{"mkenvimage", "u-boot-tools"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := load(t, "qemu-mipsel")
			tt.prepare(t, b)
			err := WriteFlash(t.Context(), b, file, nil, out)
			if tt.want == nil && err != nil {
				t.Error(err)
			}
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			}
		})
	}
}

// A variable's value ends at the line's end: what is behind it must not get
// lost, or become another variable.
func TestWriteEnvLines(t *testing.T) {
	out := filepath.Join(t.TempDir(), "env")
	for _, value := range []string{"echo 1\nbootdelay=5", `ends in \`} {
		err := WriteEnv(t.Context(), load(t, "qemu-arm64"), map[string]string{"a": value}, out)
		if err != nil {
			if !strings.Contains(err.Error(), "a") {
				t.Errorf("%q: %v does not name the variable", value, err)
			}
			continue
		}
		vars := variables(t, read(t, out))
		if vars["a"] != value || vars["bootdelay"] != "-2" {
			t.Errorf("%q: no error, and the environment is %q", value, vars)
		}
	}
}

func TestCheckConfig(t *testing.T) {
	config := filepath.Join(t.TempDir(), ".config")
	if err := os.WriteFile(config, []byte("CONFIG_FIT=y\n# CONFIG_NET is not set\nCONFIG_BOOTDELAY=0\nCONFIG_LZMA2=y\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ options, refused string }{
		{"# a comment\n\nCONFIG_FIT=y\n  CONFIG_BOOTDELAY=0  \n", ""},
		{"CONFIG_FIT=y\nCONFIG_TYPO=y\n", "CONFIG_TYPO=y"},
		{"CONFIG_BOOTDELAY=-2\n", "CONFIG_BOOTDELAY=-2"},
		{"CONFIG_LZMA=y\n", "CONFIG_LZMA=y"},
		{"CONFIG_NET=y\n", "CONFIG_NET=y"},
	} {
		err := checkConfig("u-boot.config", []byte(tt.options), config)
		if (err == nil) != (tt.refused == "") || err != nil && !strings.Contains(err.Error(), "u-boot.config: "+tt.refused+":") {
			t.Errorf("%q: got %v, want %q refused", tt.options, err, tt.refused)
		}
	}
}
