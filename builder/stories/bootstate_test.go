//go:build qemu

package stories

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/builder/kernel"
	"github.com/exosite/gwe/builder/qemu"
	"github.com/exosite/gwe/gweinit/slot"
)

// stub returns a kernel of a few instructions that prints @a or @b on the
// console, and then stops or resets the machine.
func stub(board string, n slot.Name, reset bool) []byte {
	var code bytes.Buffer
	put := func(words ...uint32) { binary.Write(&code, binary.LittleEndian, words) }
	image := func() { // the header of an arm64 Image
		put(0x14000010, 0)                                          // b 0x40
		binary.Write(&code, binary.LittleEndian, []uint64{0, 4096}) // text_offset, image_size
		code.Write(make([]byte, 56-code.Len()))
		code.WriteString("ARM\x64")
		put(0)
	}
	text := "\n@" + string(n) + "\n"
	switch board {
	case "qemu-arm64":
		image()
		put(0xd2a12001) // movz x1, #0x900, lsl 16: the PL011
		for _, c := range text {
			put(0x52800000|uint32(c)<<5, 0x39000020) // movz w0, #c; strb w0, [x1]
		}
		if reset {
			put(0x52800120, 0x72b08000, 0xd4000002) // movz w0, #9; movk w0, #0x8400, lsl 16; hvc 0: PSCI's SYSTEM_RESET
		}
		put(0x14000000) // b .
	case "rpi3":
		image()
		put(0xd28a0801, 0xf2a7e421) // movz x1, #0x5040; movk x1, #0x3f21, lsl 16: the mini UART
		for _, c := range text {
			put(0x52800000|uint32(c)<<5, 0xb9000020) // movz w0, #c; str w0, [x1]
		}
		if reset {
			put(0xd2a7e202)                         // movz x2, #0x3f10, lsl 16: power management
			put(0x52800140, 0x72ab4000, 0xb9002440) // WDOG = 0x5a00000a
			put(0x52800400, 0x72ab4000, 0xb9001c40) // RSTC = 0x5a000020
		}
		put(0x14000000) // b .
	case "qemu-arm":
		put(0xe3a01409) // mov r1, #0x09000000: the PL011
		for _, c := range text {
			put(0xe3a00000|uint32(c), 0xe5c10000) // mov r0, #c; strb r0, [r1]
		}
		if reset {
			put(0xe3a00009, 0xe3800484, 0xe1400070) // mov r0, #9; orr r0, #0x84000000; hvc 0: PSCI's SYSTEM_RESET
		}
		put(0xeafffffe) // b .
	case "qemu-mipsel", "qemu-mips64el": // U-Boot leaves either in 32-bit mode
		put(0x3c08b800) // lui t0, 0xb800: ISA's I/O ports
		for _, c := range text {
			put(0x24090000|uint32(c), 0xa10903f8) // li t1, c; sb t1, 0x3f8(t0): the 16550
		}
		if reset {
			put(0x3c08bf00, 0x24090042, 0xad090500) // sw 0x42, 0xbf000500: SOFTRES
		}
		put(0x1000ffff, 0) // b .; nop
	}
	code.Write(make([]byte, 4096-code.Len()))
	return code.Bytes()
}

// stubCard is a card whose slots hold stubs.
func stubCard(t *testing.T, b *build, reset bool) *card {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c := b.card(t)
	k := b.board.Kernel
	i := kernel.BootImage{Format: b.board.UBoot.Format, Arch: k.Arch, Compression: "none", Load: k.Load, Entry: k.Load}
	i.Initramfs = file("initramfs", make([]byte, 512))
	if i.Format == "legacy" { // what its boot.cmd expects
		i.Compression = k.Compression
		for _, dtb := range k.DTBs {
			i.DTBs = append(i.DTBs, c.bootFile(t, filepath.Base(dtb)))
		}
	}
	for _, n := range []slot.Name{slot.A, slot.B} {
		code, err := kernel.Kernel{Data: stub(b.Board, n, reset)}.Compress(i.Compression)
		if err != nil {
			t.Fatal(err)
		}
		i.Kernel = file("kernel", code)
		out := filepath.Join(dir, "boot-image")
		if err := i.Write(t.Context(), time.Time{}, out); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		c.with(t, n.KernelPartition(), func(p partition) {
			if _, err := p.WriteAt(data, 0); err != nil {
				t.Fatal(err)
			}
		})
	}
	return c
}

// vars is a copy of the boot state as text: "SEQ=1 GOOD=a ..."; V=1 comes by
// itself. "" is a copy that is not valid.
type vars string

func (v vars) encode() []byte {
	buf := make([]byte, slot.CopySize)
	if v == "" {
		copy(buf, "not a boot state")
		return buf
	}
	text := string(v)
	if !strings.Contains(text, "V=") {
		text = "V=1 " + text
	}
	copy(buf[4:], strings.Join(strings.Fields(text), "\x00"))
	binary.LittleEndian.PutUint32(buf, crc32.ChecksumIEEE(buf[4:]))
	return buf
}

func (c *card) setCopies(t *testing.T, first, second vars) {
	t.Helper()
	c.with(t, slot.StatePartition, func(p partition) {
		for off, v := range map[int64]vars{0: first, slot.SecondCopy: second} {
			if _, err := p.WriteAt(v.encode(), off); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// describe is the state as the table has it.
func describe(st slot.State) string {
	return fmt.Sprintf("%x good=%s trial=%s/%x a=%s/%x b=%s/%x", st.Seq, st.Good, st.Trial, st.TrialLeft, st.A.Status, st.A.Left, st.B.Status, st.B.Left)
}

// The whole decision, in the real U-Boot of each board: what is on the disk,
// which slot is booted and why, and what is on the disk afterwards.
func TestBootStateTable(t *testing.T) {
	const ab = "A_STATE=good A_LEFT=8 B_STATE=good B_LEFT=8 "
	const trialB = "GOOD=a A_STATE=good A_LEFT=8 TRIAL=b B_STATE=ready "
	const trialA = "GOOD=b B_STATE=good B_LEFT=8 TRIAL=a A_STATE=ready "
	none := "none" // what is on the disk stays as it is: neither copy is valid
	cases := []struct {
		name          string
		first, second vars
		boots         slot.Name
		why           string
		after         string // "" means none
	}{
		// Two copies.
		{"only the first copy", "SEQ=1 GOOD=a " + ab, "", "a", "good", "2 good=a trial=/0 a=good/7 b=good/8"},
		{"only the second copy", "", "SEQ=1 GOOD=b " + ab, "b", "good", "2 good=b trial=/0 a=good/8 b=good/7"},
		{"no copy", "", "", "a", "nostate", none},
		{"the same twice", "SEQ=5 GOOD=a " + ab, "SEQ=5 GOOD=a " + ab, "a", "good", "6 good=a trial=/0 a=good/7 b=good/8"},
		{"9 before a", "SEQ=9 GOOD=a " + ab, "SEQ=a GOOD=b " + ab, "b", "good", "b good=b trial=/0 a=good/8 b=good/7"},
		{"a after 9", "SEQ=a GOOD=b " + ab, "SEQ=9 GOOD=a " + ab, "b", "good", "b good=b trial=/0 a=good/8 b=good/7"},
		{"f before 10", "SEQ=f GOOD=a " + ab, "SEQ=10 GOOD=b " + ab, "b", "good", "11 good=b trial=/0 a=good/8 b=good/7"},
		{"10 after f", "SEQ=10 GOOD=b " + ab, "SEQ=f GOOD=a " + ab, "b", "good", "11 good=b trial=/0 a=good/8 b=good/7"},
		{"ff before 100", "SEQ=ff GOOD=a " + ab, "SEQ=100 GOOD=b " + ab, "b", "good", "101 good=b trial=/0 a=good/8 b=good/7"},
		{"100 after ff", "SEQ=100 GOOD=b " + ab, "SEQ=ff GOOD=a " + ab, "b", "good", "101 good=b trial=/0 a=good/8 b=good/7"},
		{"9 becomes a", "SEQ=9 GOOD=a " + ab, "", "a", "good", "a good=a trial=/0 a=good/7 b=good/8"},
		{"f becomes 10", "SEQ=f GOOD=a " + ab, "", "a", "good", "10 good=a trial=/0 a=good/7 b=good/8"},
		{"ff becomes 100", "SEQ=ff GOOD=a " + ab, "", "a", "good", "100 good=a trial=/0 a=good/7 b=good/8"},
		{"a newer copy of another version", "SEQ=1 GOOD=a " + ab, "V=2 SEQ=2 GOOD=b " + ab, "a", "good", "2 good=a trial=/0 a=good/7 b=good/8"},
		{"copies without number or slot", "GOOD=b " + ab, "SEQ=2 GOOD=c " + ab, "a", "nostate", none},
		// A variable of one copy must not be seen in the other.
		{"an older copy with a trial", "SEQ=1 T_LEFT=3 " + trialB, "SEQ=2 GOOD=a A_STATE=good A_LEFT=8 B_STATE=ready", "a", "good", "3 good=a trial=/0 a=good/7 b=ready/0"},

		// The confirmed slot counts down.
		{"left 1", "SEQ=1 GOOD=a A_STATE=good A_LEFT=1 B_STATE=empty", "", "a", "good", "2 good=a trial=/0 a=good/0 b=empty/0"},
		{"left 9 counts as 8", "SEQ=1 GOOD=a A_STATE=good A_LEFT=9 B_STATE=empty", "", "a", "good", "2 good=a trial=/0 a=good/7 b=empty/0"},
		{"left a counts as 8", "SEQ=1 GOOD=a A_STATE=good A_LEFT=a B_STATE=empty", "", "a", "good", "2 good=a trial=/0 a=good/7 b=empty/0"},
		{"left f counts as 8", "SEQ=1 GOOD=b B_STATE=good B_LEFT=f A_STATE=empty", "", "b", "good", "2 good=b trial=/0 a=empty/0 b=good/7"},
		{"left 10 counts as 8", "SEQ=1 GOOD=a A_STATE=good A_LEFT=10 B_STATE=empty", "", "a", "good", "2 good=a trial=/0 a=good/7 b=empty/0"},
		{"left ff counts as 8", "SEQ=1 GOOD=b B_STATE=good B_LEFT=ff A_STATE=empty", "", "b", "good", "2 good=b trial=/0 a=empty/0 b=good/7"},
		{"left 100 counts as 8", "SEQ=1 GOOD=a A_STATE=good A_LEFT=100 B_STATE=empty", "", "a", "good", "2 good=a trial=/0 a=good/7 b=empty/0"},
		{"left is no number", "SEQ=1 GOOD=a A_STATE=good A_LEFT=x B_STATE=good B_LEFT=2", "", "b", "fallback", "2 good=a trial=/0 a=good/0 b=good/1"},

		// Used up: the other slot, if it is good.
		{"a used up, b good", "SEQ=1 GOOD=a A_STATE=good A_LEFT=0 B_STATE=good B_LEFT=8", "", "b", "fallback", "2 good=a trial=/0 a=good/0 b=good/7"},
		{"b used up, a good", "SEQ=1 GOOD=b B_STATE=good B_LEFT=0 A_STATE=good A_LEFT=8", "", "a", "fallback", "2 good=b trial=/0 a=good/7 b=good/0"},
		{"a used up, b empty", "SEQ=1 GOOD=a A_STATE=good A_LEFT=0 B_STATE=empty B_LEFT=8", "", "a", "good", "2 good=a trial=/0 a=good/7 b=empty/8"},
		{"a used up, b writing", "SEQ=1 GOOD=a A_STATE=good A_LEFT=0 B_STATE=writing B_LEFT=8", "", "a", "good", "2 good=a trial=/0 a=good/7 b=writing/8"},
		{"a used up, b ready", "SEQ=1 GOOD=a A_STATE=good A_LEFT=0 B_STATE=ready B_LEFT=8", "", "a", "good", "2 good=a trial=/0 a=good/7 b=ready/8"},
		{"a used up, b bad", "SEQ=1 GOOD=a A_STATE=good A_LEFT=0 B_STATE=bad B_LEFT=8", "", "a", "good", "2 good=a trial=/0 a=good/7 b=bad/8"},
		{"b used up, a bad", "SEQ=1 GOOD=b B_STATE=good B_LEFT=0 A_STATE=bad A_LEFT=8", "", "b", "good", "2 good=b trial=/0 a=bad/8 b=good/7"},
		{"both used up: both are refilled", "SEQ=1 GOOD=b A_STATE=good A_LEFT=0 B_STATE=good B_LEFT=0", "", "b", "good", "2 good=b trial=/0 a=good/8 b=good/7"},

		// The confirmed slot is not good (marked after a damage).
		{"a bad, b good", "SEQ=1 GOOD=a A_STATE=bad A_LEFT=8 B_STATE=good B_LEFT=8", "", "b", "fallback", "2 good=a trial=/0 a=bad/8 b=good/7"},
		{"a empty, b good and used up", "SEQ=1 GOOD=a A_STATE=empty A_LEFT=8 B_STATE=good B_LEFT=0", "", "b", "fallback", "2 good=a trial=/0 a=empty/8 b=good/7"},
		{"a writing, b bad: no slot is good", "SEQ=1 GOOD=a A_STATE=writing B_STATE=bad", "", "a", "lastresort", "1 good=a trial=/0 a=writing/0 b=bad/0"},
		{"b bad, a ready: no slot is good", "SEQ=1 GOOD=b A_STATE=ready B_STATE=bad", "", "b", "lastresort", "1 good=b trial=/0 a=ready/0 b=bad/0"},

		// A trial.
		{"trial of b", "SEQ=1 T_LEFT=3 " + trialB, "", "b", "trial", "2 good=a trial=b/2 a=good/8 b=ready/0"},
		{"trial of a", "SEQ=1 T_LEFT=3 " + trialA, "", "a", "trial", "2 good=b trial=a/2 a=ready/0 b=good/8"},
		{"last try", "SEQ=1 T_LEFT=1 " + trialB, "", "b", "trial", "2 good=a trial=b/0 a=good/8 b=ready/0"},
		{"tries used up", "SEQ=1 T_LEFT=0 " + trialB, "", "a", "good", "2 good=a trial=b/0 a=good/7 b=ready/0"},
		{"tries missing", "SEQ=1 " + trialB, "", "a", "good", "2 good=a trial=b/0 a=good/7 b=ready/0"},
		{"tries a", "SEQ=1 T_LEFT=a " + trialB, "", "b", "trial", "2 good=a trial=b/9 a=good/8 b=ready/0"},
		{"tries 10", "SEQ=1 T_LEFT=10 " + trialB, "", "b", "trial", "2 good=a trial=b/f a=good/8 b=ready/0"},
		{"tries 100", "SEQ=1 T_LEFT=100 " + trialB, "", "b", "trial", "2 good=a trial=b/ff a=good/8 b=ready/0"},
		{"trial of an empty slot", "SEQ=1 GOOD=a A_STATE=good A_LEFT=8 TRIAL=b T_LEFT=3 B_STATE=empty", "", "a", "good", "2 good=a trial=b/3 a=good/7 b=empty/0"},
		{"trial of a slot being written", "SEQ=1 GOOD=a A_STATE=good A_LEFT=8 TRIAL=b T_LEFT=3 B_STATE=writing", "", "a", "good", "2 good=a trial=b/3 a=good/7 b=writing/0"},
		{"trial of a good slot", "SEQ=1 GOOD=a A_STATE=good A_LEFT=8 TRIAL=b T_LEFT=3 B_STATE=good B_LEFT=8", "", "a", "good", "2 good=a trial=b/3 a=good/7 b=good/8"},
		{"trial of a bad slot", "SEQ=1 GOOD=a A_STATE=good A_LEFT=8 TRIAL=b T_LEFT=3 B_STATE=bad", "", "a", "good", "2 good=a trial=b/3 a=good/7 b=bad/0"},
		{"trial of no slot", "SEQ=1 GOOD=a A_STATE=good A_LEFT=8 TRIAL=c T_LEFT=3 B_STATE=ready", "", "a", "good", "2 good=a trial=/3 a=good/7 b=ready/0"},
		{"trial while the confirmed slot is used up", "SEQ=1 GOOD=a A_STATE=good A_LEFT=0 TRIAL=b T_LEFT=3 B_STATE=ready", "", "b", "trial", "2 good=a trial=b/2 a=good/0 b=ready/0"},
	}
	eachUBoot(t, func(t *testing.T, b *build) {
		c := stubCard(t, b, false)
		for _, tt := range cases {
			c.setCopies(t, tt.first, tt.second)
			model := ""
			if tt.after != none {
				order, why, after := c.state(t).Next()
				model = fmt.Sprintf("%s %s, then %s", order[0], why, describe(after))
			}
			if want := fmt.Sprintf("%s %s, then %s", tt.boots, tt.why, tt.after); model != "" && model != want {
				t.Errorf("%s:\nthe model says %s\nwant           %s", tt.name, model, want)
			}
			booted, why, text := c.firstBoot(t)
			after := none
			c.with(t, slot.StatePartition, func(p partition) {
				if st, err := slot.NewStore(p).Load(); err == nil {
					after = describe(st)
				}
			})
			if booted != tt.boots || why != tt.why || after != tt.after {
				t.Errorf("%s:\ngot  %s %s, then %s\nwant %s %s, then %s\n%s", tt.name, booted, why, after, tt.boots, tt.why, tt.after, text)
			}
		}
		// All those that updates leave when the power goes, as the tests there have
		// found them, and what the model says that those go by. The script is the
		// same everywhere.
		if !slices.Contains(sample, b.Board) {
			return
		}
		states, err := os.ReadFile(filepath.Join(project, "gweinit/engine/firmware/testdata/boot-states"))
		if err != nil {
			t.Fatal(err)
		}
		found := strings.Split(strings.TrimSpace(string(states)), "\n")
		for _, state := range found {
			c.setCopies(t, vars("SEQ=1 "+state), "")
			order, why, after := c.state(t).Next()
			booted, reason, text := c.firstBoot(t)
			if got := describe(c.state(t)); booted != order[0] || reason != why || got != describe(after) {
				t.Errorf("%s:\ngot  %s %s, then %s\nwant %s %s, then %s\n%s", state, booted, reason, got, order[0], why, describe(after), text)
			}
		}
		t.Logf("%d boot states tried in the real U-Boot", len(cases)+len(found))
	})
}

// firstBoot starts a machine with stubs and returns which one ran, why, and
// what the console had.
func (c *card) firstBoot(t *testing.T, change ...func(*qemu.Options)) (slot.Name, string, string) {
	t.Helper()
	m := c.boot(t, change...)
	defer m.Kill()
	why := m.sees(`gwe: slot=[ab] why=(\w+)`)[1]
	return slot.Name(m.sees(`\n@([ab])`)[1]), why, m.Text()
}

// Images that U-Boot has to refuse, with no boot state to count by: the other
// slot is booted at once.
func TestRefusedImages(t *testing.T) {
	type damage struct {
		name string
		off  int64
		data []byte
	}
	formats := map[string][]damage{
		"fit": {
			{"no header", 0, make([]byte, 64)},
			{"a size beyond the partition", 4, []byte{0x7f, 0xff, 0xff, 0xff}},
			{"a size that is negative in 32 bits", 4, []byte{0x80, 0, 0, 0}},
			{"the largest size", 4, []byte{0xff, 0xff, 0xff, 0xff}},
			{"a size of nothing", 4, []byte{0, 0, 0, 0}},
			{"a flipped bit in the kernel", 0xf0, []byte{0xff}},
			{"a kernel of zeros", 0xc0, make([]byte, 2048)},
			{"a header cut short", 0x40, make([]byte, 8192)},
		},
		"legacy": {
			{"no header", 0, make([]byte, 64)},
			{"another size", 12, []byte{0, 0, 1, 0}},
			{"the largest size", 12, []byte{0xff, 0xff, 0xff, 0xff}},
			{"a size of nothing", 12, []byte{0, 0, 0, 0}},
			{"no list of parts", 64, make([]byte, 20)},
			{"a flipped bit in the kernel", 0xf0, []byte{0xff}},
			{"an initramfs and device trees of zeros", 0x100, make([]byte, 8192)},
		},
	}
	eachUBoot(t, func(t *testing.T, b *build) {
		c := stubCard(t, b, false)
		c.setCopies(t, "", "")
		for _, d := range formats[b.board.UBoot.Format] {
			c.with(t, slot.A.KernelPartition(), func(p partition) {
				before := make([]byte, 16<<10)
				if _, err := p.ReadAt(before, 0); err != nil {
					t.Fatal(err)
				}
				if _, err := p.WriteAt(d.data, d.off); err != nil {
					t.Fatal(err)
				}
				if booted, _, text := c.firstBoot(t); booted != slot.B {
					t.Errorf("%s: slot %s was booted, want b\n%s", d.name, booted, text)
				}
				if _, err := p.WriteAt(before, 0); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
}

// Slots that never come up: the order in which U-Boot tries them, boot after
// boot, without anybody's help.
func TestBootSequences(t *testing.T) {
	cases := []struct {
		name    string
		state   vars
		refused string // slots whose image is damaged
		want    string // in upper case when the image is refused
	}{
		{"both good", "SEQ=1 GOOD=a A_STATE=good A_LEFT=8 B_STATE=good B_LEFT=8", "", "aaaaaaaabbbbbbbba"},
		{"one good", "SEQ=1 GOOD=b A_STATE=empty B_STATE=good B_LEFT=8", "", "bbbbbbbbbbb"},
		{"a trial that dies", "SEQ=fd GOOD=a A_STATE=good A_LEFT=8 TRIAL=b T_LEFT=3 B_STATE=ready", "", "bbbaaaaaaaaaa"},
		{"a trial that is refused", "SEQ=1 GOOD=a A_STATE=good A_LEFT=8 TRIAL=b T_LEFT=3 B_STATE=ready", "b", "BBBaa"},
		{"the good slot is refused", "SEQ=1 GOOD=a A_STATE=good A_LEFT=8 B_STATE=good B_LEFT=8", "a", "AAAAAAAAbbbbbbbbA"},
		{"all is refused: it never stops", "SEQ=1 GOOD=a A_STATE=good A_LEFT=3 B_STATE=bad", "ab", "AAAAAAAAAAAA"},
		{"no state, one refused", "", "a", "AbAbAb"},
		{"no state, all refused", "", "ab", "ABABAB"},
		{"no slot is good, the confirmed one is refused", "SEQ=1 GOOD=b A_STATE=bad B_STATE=bad", "b", "BaBa"},
	}
	// The script is the same everywhere, and TestBootStateTable runs it on each
	// U-Boot.
	on(t, thorough[:1], func(t *testing.T, b *build) {
		for _, tt := range cases {
			c := stubCard(t, b, true)
			c.setCopies(t, tt.state, "")
			for _, n := range tt.refused {
				c.damage(t, slot.Name(n).KernelPartition(), 0xf0, 16)
			}
			m := c.boot(t)
			got := ""
			for len(got) < len(tt.want) {
				seen := m.sees(`\n@([ab])|the boot image of slot ([ab]) is refused`)
				got += seen[1] + strings.ToUpper(seen[2])
			}
			m.Kill()
			if got != tt.want {
				t.Errorf("%s:\ngot  %s\nwant %s", tt.name, got, tt.want)
			}
		}
	})
}

// A disk that cannot be written any more: a trial that could not be counted is
// not made, and an image that is refused does not lock the other one out.
func TestUnwritableBootState(t *testing.T) {
	eachUBoot(t, func(t *testing.T, b *build) {
		c := stubCard(t, b, false)
		rules := filepath.Join(t.TempDir(), "blkdebug")
		if err := os.WriteFile(rules, []byte("[inject-error]\nevent = \"pwritev\"\niotype = \"write\"\nerrno = \"5\"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		broken := func(o *qemu.Options) {
			o.Args = []string{"-set", "drive.disk.file=blkdebug:" + rules + ":" + c.path}
		}
		const state = "SEQ=1 GOOD=a A_STATE=good A_LEFT=8 TRIAL=b T_LEFT=3 B_STATE=ready"
		c.setCopies(t, state, "")
		booted, why, text := c.firstBoot(t, broken)
		if booted != slot.A || why != "uncounted" {
			t.Errorf("a trial: %s %s, want a uncounted\n%s", booted, why, text)
		}
		if st := describe(c.state(t)); st != "1 good=a trial=b/3 a=good/8 b=ready/0" {
			t.Errorf("the boot state was changed to %s", st)
		}
		c.setCopies(t, "SEQ=1 GOOD=a A_STATE=good A_LEFT=8 B_STATE=good B_LEFT=8", "")
		c.damage(t, slot.A.KernelPartition(), 0xf0, 16)
		booted, _, text = c.firstBoot(t, broken)
		if booted != slot.B {
			t.Errorf("the good slot is refused: %s was booted, want b\n%s", booted, text)
		}
	})
}

// A torn partition table: U-Boot takes the backup, and without any it resets
// again and again.
func TestUBootWithATornTable(t *testing.T) {
	eachUBoot(t, func(t *testing.T, b *build) {
		c := stubCard(t, b, false)
		disk := partition{off: 0, size: b.Image.Size}
		var err error
		if disk.f, err = os.OpenFile(c.path, os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
		defer disk.f.Close()
		zero := make([]byte, 33*512)
		if _, err := disk.WriteAt(zero, 512); err != nil {
			t.Fatal(err)
		}
		if booted, why, text := c.firstBoot(t); booted != slot.A || why != "good" {
			t.Errorf("with the backup: %s %s\n%s", booted, why, text)
		}
		if b.board.Firmware != nil {
			return // that one does not find U-Boot then; QEMU starts it all the same
		}
		if _, err := disk.WriteAt(zero, disk.size-33*512); err != nil {
			t.Fatal(err)
		}
		m := c.boot(t)
		for range 4 {
			m.sees(`(?m)^U-Boot 20`)
		}
	})
}

// No noise on the line stops U-Boot.
func TestConsoleNoise(t *testing.T) {
	eachThorough(t, func(t *testing.T, b *build) {
		c := stubCard(t, b, true)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		m := c.boot(t)
		go func() {
			for ctx.Err() == nil {
				m.Write([]byte("\r\n\x03 q\x1b "))
				time.Sleep(2 * time.Millisecond)
			}
		}()
		for range 3 {
			m.sees(`\n@a`)
		}
		if prompt := regexp.MustCompile(`(?m)^(=>|maltael #|U-Boot>)`).FindString(m.Text()); prompt != "" {
			t.Errorf("U-Boot stopped at its prompt %q:\n%s", prompt, m.Tail(20))
		}
	})
}
