package rootfs

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// fakeBusybox is a blob with a list of applets, as a busybox binary has it.
func fakeBusybox(names ...string) []byte {
	names = append([]string{"[", "[["}, names...)
	for i := range 120 {
		names = append(names, fmt.Sprintf("name%03d", i))
	}
	slices.Sort(names)
	return []byte("\x7fELF code \x00[\x00[[\x00ash\x00 \x00more\x00" + strings.Join(names, "\x00") + "\x00\x00/bin/sh\x00zzz\x00")
}

func TestApplets(t *testing.T) {
	good := fakeBusybox("ash", "i2cget", "run-init")
	names, err := applets(good)
	if err != nil || len(names) != 125 || names[0] != "[" || names[2] != "ash" || names[124] != "run-init" {
		t.Errorf("got %d names %v, %v", len(names), names, err)
	}
	for name, elf := range map[string][]byte{
		"empty":        nil,
		"none":         []byte("\x7fELF"),
		"few":          []byte("[\x00[[\x00ash\x00cat\x00\x00"),
		"cut":          good[:bytes.Index(good, []byte("name050"))],
		"out of order": bytes.Replace(good, []byte("name050"), []byte("aame050"), 1),
		"capitals":     bytes.Replace(good, []byte("name050"), []byte("nAme050"), 1),
	} {
		if names, err := applets(elf); err == nil {
			t.Errorf("%s: no error, but %d names", name, len(names))
		}
	}
}

func TestAddApplets(t *testing.T) {
	tree, err := run(link("bin", "usr/bin"), link("sbin", "usr/sbin"), link("usr/sbin", "bin"),
		file("bin/busybox", string(fakeBusybox("ash", "busybox", "e2fsck", "init", "linuxrc", "poweroff"))),
		file("usr/sbin/e2fsck", "ours"), link("etc/a", "b"))
	if err != nil {
		t.Fatal(err)
	}
	if err := AddApplets(tree, "bin/busybox"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"ash": "busybox", "poweroff": "busybox", "[": "busybox", "e2fsck": "", "busybox": ""} {
		if e := tree.entries["usr/bin/"+name]; e == nil || e.Target != want {
			t.Errorf("%s is %+v, want a link to %q", name, e, want)
		}
	}
	for _, name := range []string{"init", "linuxrc"} {
		if _, ok := tree.entries["usr/bin/"+name]; ok {
			t.Errorf("%s is there", name)
		}
	}
	for _, path := range []string{"usr/bin/none", "sbin/e2fsck"} {
		if err := AddApplets(tree, path); err == nil || !strings.Contains(err.Error(), "e2fsck") && !strings.Contains(err.Error(), "none") {
			t.Errorf("applets of %s: %v", path, err)
		}
	}
}

func FuzzApplets(f *testing.F) {
	f.Add(fakeBusybox("ash"))
	f.Add([]byte("[\x00[[\x00"))
	f.Add([]byte("[\x00[[\x00ash\x00[\x00[[\x00"))
	f.Fuzz(func(t *testing.T, elf []byte) {
		names, err := applets(elf)
		if err != nil {
			return
		}
		if len(names) < 100 || !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
			t.Errorf("bad list %q", names)
		}
		if !bytes.Contains(elf, []byte(strings.Join(names, "\x00")+"\x00")) {
			t.Errorf("invented %q", names)
		}
		for _, n := range names {
			if c, err := clean("usr/bin/" + n); err != nil || c != "usr/bin/"+n {
				t.Errorf("%q is no file name", n)
			}
		}
	})
}
