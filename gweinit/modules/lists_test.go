package modules

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// debian is an excerpt of the lists of a Debian kernel.
const debian = "testdata/6.1.0-56-arm64"

func read(t *testing.T, dir string) *Lists {
	t.Helper()
	l, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// folder writes lists.
func folder(t *testing.T, lists map[string]string) string {
	dir := t.TempDir()
	for name, text := range lists {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFind(t *testing.T) {
	l := read(t, debian)
	for _, tt := range []struct{ name, wanted, want string }{
		{"a name", "ftdi_sio", "ftdi_sio"},
		{"with - for _", "ftdi-sio", "ftdi_sio"},
		{"with _ for -", "cdc_acm", "cdc_acm"},
		{"with both", "nls_iso8859-1", "nls_iso8859_1"},
		{"with neither", "nls-iso8859_1", "nls_iso8859_1"},
		{"a part of a name", "ftdi", ""},
		{"a file", "ftdi_sio.ko", ""},
		{"an FTDI adapter", "usb:v0403p6001d0600dc00dsc00dp00icFFiscFFipFFin00", "ftdi_sio"},
		{"a CP2102", "usb:v10C4pEA60d0100dc00dsc00dp00icFFisc00ip00in00", "cp210x"},
		{"a modem", "usb:v1D6Bp0104d0100dcEFdsc02dp01ic02isc02ip01in00", "cdc_acm"},
		{"a mouse", "usb:v046DpC077d7200dc00dsc00dp00ic03isc01ip02in00", ""},
		{"two drivers", "usb:v0BDAp9210d2001dc00dsc00dp00ic08isc06ip50in00", "uas usb_storage"},
		{"a class in range", "usb:v13FDp3940d0199dc00dsc00dp00icFFiscFFipFFin00", "uas usb_storage"},
		{"out of range", "usb:v13FDp3940d0399dc00dsc00dp00icFFiscFFipFFin00", ""},
		{"an SPI device", "spi:mcp2515", "mcp251x"},
		{"a device of a tree, a slash in it", "of:Ncan/0T(null)Cmicrochip,mcp2515", "mcp251x"},
		{"with an alias of its own behind", "of:NmmcT(null)Crockchip,rk3399-dw-mshcCrockchip,rk3288-dw-mshc", "dw_mmc_rockchip"},
		{"a CPU", "cpu:type:aarch64:feature:,0000,0001,0005,0007", "sha1_ce"},
		{"AF_CAN", "net-pf-29", "can"},
		{"AF_CAN, so written", "net_pf_29", "can"},
		{"CAN_RAW", "can-proto-1", "can_raw"},
		{"SLCAN", "tty-ldisc-17", "slcan"},
		{"a file system", "fs-ext3", "ext4"},
		{"ext4's checksum", "crypto-crc32c", "crc32c_generic"},
		{"built in", "spidev", ""},
		{"a pattern is not wanted", "*", ""},
		{"nothing", "", ""},
		{"several", "can-proto-1 usb:x ext4 net-pf-29 fs-ext4", "can_raw ext4 can"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := l.Find(strings.Fields(tt.wanted)...)
			if err != nil || strings.Join(got, " ") != tt.want {
				t.Errorf("got %v, %v, want %s", got, err, tt.want)
			}
		})
	}
}

func TestFiles(t *testing.T) {
	l := read(t, debian)
	soft := read(t, folder(t, map[string]string{
		"modules.dep":     "a.ko:\nb.ko: a.ko\nc.ko:\nd-d.ko:\n",
		"modules.alias":   "# comment\nalias wish-* c\nalias wish-1 d_d\nalias gone missing\n",
		"modules.softdep": "# comment\nsoftdep b x pre: gone wish-1 post: a\nsoftdep a post: c\nsoftdep d_d pre: b\nsoftdep\n",
	}))
	const usb = "usb-common usbcore "
	for _, tt := range []struct {
		name  string
		lists *Lists
		soft  bool
		names string
		want  string
	}{
		{"no needs", l, true, "can", "can"},
		{"in order", l, true, "ftdi_sio", usb + "usbserial ftdi_sio"},
		{"each once", l, true, "cdc_acm ftdi_sio cdc-acm", usb + "cdc-acm usbserial ftdi_sio"},
		{"closed, and in no order", l, false, "ext4", "crc16 mbcache jbd2 ext4"},
		{"soft ones first", l, true, "ext4", "crc32c_generic crc16 mbcache jbd2 ext4"},
		{"post is not pre, a cycle ends", soft, true, "b", "c d-d a b"},
		{"hard only", soft, false, "b", "a b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files, err := tt.lists.Files(tt.soft, strings.Fields(tt.names)...)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range files {
				got = append(got, strings.TrimSuffix(filepath.Base(f), ".ko"))
			}
			if !slices.Equal(got, strings.Fields(tt.want)) {
				t.Errorf("got  %v\nwant [%s]", got, tt.want)
			}
		})
	}
	if _, err := l.Files(true, "can", "canned"); err == nil || !strings.Contains(err.Error(), debian+" has no module canned") {
		t.Errorf("an unknown module: %v", err)
	}
}

func TestBuiltin(t *testing.T) {
	l := read(t, debian)
	none := read(t, folder(t, map[string]string{"modules.dep": ""}))
	for _, tt := range []struct {
		lists *Lists
		name  string
		want  bool
	}{{l, "spidev", true}, {l, "crypto-hash", true}, {l, "ext4", false}, {none, "spidev", false}} {
		if got, err := tt.lists.Builtin(tt.name); err != nil || got != tt.want {
			t.Errorf("%s: %v, %v", tt.name, got, err)
		}
	}
	// The other lists may be missing, too.
	if names, err := none.Find("x"); err != nil || names != nil {
		t.Errorf("Find: %v, %v", names, err)
	}
}

func TestReadErrors(t *testing.T) {
	if _, err := Read(t.TempDir()); err == nil || !strings.Contains(err.Error(), "modules.dep: no such file") {
		t.Errorf("no list: %v", err)
	}
	if _, err := Read(folder(t, map[string]string{"modules.dep": "a.ko b.ko\n"})); err == nil || !strings.Contains(err.Error(), `modules.dep: "a.ko b.ko" has no colon`) {
		t.Errorf("not depmod's: %v", err)
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true},
		{"", "a", false},
		{"a", "", false},
		{"*", "", true},
		{"*", "a/b", true},
		{"a*", "a", true},
		{"a*b*c", "aXbYbZc", true},
		{"a*b*c", "aXbYbZ", false},
		{"*ab", "aab", true},
		{"a?c", "a/c", true},
		{"a?", "a", false},
		{"a-b_c", "a_b-c", true},
		{"[0-9a]x", "5x", true},
		{"[0-9a]x", "ax", true},
		{"[0-9a]x", "bx", false},
		{"[!0-9]", "5", false},
		{"[^0-9]", "x", true},
		{"[]]", "]", true},
		{"[a-]", "-", true},
		{"[a-]", "_", false},
		{"[a", "[a", true},
		{"[a", "a", false},
		{"[", "[", true},
		{`\*`, "*", true},
		{`\*`, "a", false},
		{`a\`, `a\`, true},
	} {
		if got := match([]byte(tt.pattern), tt.s); got != tt.want {
			t.Errorf("match(%q, %q) = %v", tt.pattern, tt.s, got)
		}
	}
}

// What the patterns of kernels consist of is matched as by the same regexp.
func FuzzMatch(f *testing.F) {
	f.Add("usb:v13FDp3940d0[0-2]*dc*", "usb:v13FDp3940d0199dc00")
	f.Add("a?*b*", "a/b-_")
	known := regexp.MustCompile(`^([a-zA-Z0-9:,/_*?-]|\[[a-z0-9]-[a-z0-9]\]){0,40}$`)
	f.Fuzz(func(t *testing.T, pattern, s string) {
		got := match([]byte(pattern), s)
		if !known.MatchString(pattern) || strings.ContainsRune(s, '\n') {
			return
		}
		re, err := regexp.Compile("^" + strings.NewReplacer("*", "(?s:.*)", "?", `(?s-u:.)`).Replace(plainOutside(pattern)) + "$")
		if err != nil {
			return // a range from high to low
		}
		for _, c := range []byte(s) {
			if c >= 0x80 {
				return // a regexp sees characters
			}
		}
		if want := re.MatchString(strings.ReplaceAll(s, "-", "_")); got != want {
			t.Errorf("match(%q, %q) = %v, regexp %v says %v", pattern, s, got, re, want)
		}
	})
}

// plainOutside makes - to _ except between brackets.
func plainOutside(pattern string) string {
	var b strings.Builder
	inside := false
	for _, c := range pattern {
		inside = c == '[' || inside && c != ']'
		if c == '-' && !inside {
			c = '_'
		}
		b.WriteRune(c)
	}
	return b.String()
}

// Whatever stands in the lists, reading them ends and does not panic.
func FuzzLists(f *testing.F) {
	f.Add("a.ko: b.ko\nb.ko: a.ko\n", "alias x* a\nalias\nalias x\n", "softdep a pre: b xx\nsoftdep b pre: a\n", "xx")
	f.Fuzz(func(t *testing.T, dep, alias, softdep, wanted string) {
		l, err := Read(folder(t, map[string]string{"modules.dep": dep, "modules.alias": alias, "modules.softdep": softdep, "modules.builtin": dep}))
		if err != nil {
			return
		}
		names, err := l.Find(wanted)
		if err != nil {
			return
		}
		if _, err := l.Files(true, names...); err != nil && !strings.Contains(err.Error(), "too long") {
			t.Errorf("found %q, but %v", names, err)
		}
		l.Builtin(wanted)
	})
}
