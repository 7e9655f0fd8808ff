package debian

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParseStanzas(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []stanza
		err        string
	}{
		{"empty", "", nil, ""},
		{"one", "Package: a\nVersion: 1:2~3\n", []stanza{{"package": "a", "version": "1:2~3"}}, ""},
		{"no last newline", "Package: a", []stanza{{"package": "a"}}, ""},
		{"two, blank lines and spaces between", "\nPackage: a\n \n\t\n\nPackage: b\n\n", []stanza{{"package": "a"}, {"package": "b"}}, ""},
		{"folded", "Depends: a,\n b (= 1),\n\tc\nX:\n .\n y\n", []stanza{{"depends": "a,\nb (= 1),\nc", "x": "\n.\ny"}}, ""},
		{"comment", "A: 1\n# no field\nB: 2\n", []stanza{{"a": "1", "b": "2"}}, ""},
		{"carriage returns", "A: 1\r\nB: 2\r\n", []stanza{{"a": "1", "b": "2"}}, ""},
		{"empty value", "A:\nB: \n", []stanza{{"a": "", "b": ""}}, ""},
		{"no colon", "A: 1\nhello\n", nil, "line 2: no field name"},
		{"space in name", "hello world: 1\n", nil, "line 1: no field name"},
		{"no name", ": 1\n", nil, "line 1: no field name"},
		{"stray continuation", "A: 1\n\n b\n", nil, "line 3: a continuation of no field"},
		{"twice", "A: 1\na: 2\n", nil, "line 2: field a twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseStanzas(c.text)
			checkErr(t, err, c.err)
			if c.err == "" && !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// FuzzParseStanzas writes down what was read and reads it again: nothing may change.
func FuzzParseStanzas(f *testing.F) {
	f.Add("Package: a\nDepends: b,\n c\n\n# x\nPackage: d\n")
	f.Add("A:\n .\n\t\n")
	f.Add(": \n x")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseStanzas(text)
		if err != nil {
			return
		}
		var b strings.Builder
		for _, s := range all {
			if len(s) == 0 {
				t.Fatalf("an empty stanza from %q", text)
			}
			for name, value := range s {
				fmt.Fprintf(&b, "%s: %s\n", name, strings.ReplaceAll(value, "\n", "\n "))
			}
			b.WriteString("\n")
		}
		again, err := parseStanzas(b.String())
		if err != nil || !reflect.DeepEqual(again, all) {
			t.Fatalf("%q: read %q, then %q, %v", text, all, again, err)
		}
	})
}

func TestNewPackage(t *testing.T) {
	sum := strings.Repeat("5a", 32)
	valid := func(more ...string) stanza {
		s := stanza{"package": "a-b", "version": "1:6.1-1", "architecture": "arm64", "sha256": sum, "size": "1444"}
		for i := 0; i < len(more); i += 2 {
			s[more[i]] = more[i+1]
		}
		return s
	}
	for _, c := range []struct {
		name            string
		in              stanza
		source, version string
		err             string
	}{
		{"source as the package", valid(), "a-b", "1:6.1-1", ""},
		{"source named", valid("source", "linux"), "linux", "1:6.1-1", ""},
		{"source with version", valid("source", "linux-signed (6.1+1)"), "linux-signed", "6.1+1", ""},
		{"Built-Using without a version", valid("built-using", "linux"), "", "", "field built-using: \"linux\" is not a source package"},
		{"Built-Using a range", valid("static-built-using", "linux (>= 1)"), "", "", "field static-built-using"},
		{"Built-Using out of the cache", valid("built-using", "../x (= 1)"), "", "", "field built-using"},
		{"no size", valid("size", ""), "", "", "field Size"},
		{"negative size", valid("size", "-1"), "", "", "not a valid package"},
		{"no hash", valid("sha256", ""), "", "", "not a valid package"},
		{"hash out of the cache", valid("sha256", "../"+sum[3:]), "", "", "not a valid package"},
		{"name that is an option", valid("package", "-o"), "", "", "not a valid package"},
		{"version with a slash", valid("version", "1/../.."), "", "", "not a valid package"},
		{"architecture with a slash", valid("architecture", "a/b"), "", "", "not a valid package"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := newPackage(c.in)
			checkErr(t, err, c.err)
			if c.err == "" && (p.Source != c.source || p.SourceVersion != c.version) {
				t.Errorf("source %q %q, want %q %q", p.Source, p.SourceVersion, c.source, c.version)
			}
		})
	}
}

func TestBuiltUsing(t *testing.T) {
	p, err := newPackage(stanza{
		"package": "busybox-static", "version": "1", "architecture": "arm64", "sha256": strings.Repeat("5a", 32), "size": "1",
		"built-using":        "glibc (= 2.36-9+deb12u14), gcc-12\n(= 12.2.0-14),",
		"static-built-using": "glibc (= 2.36-9+deb12u14), x1 (= 1:1~rc1)",
	})
	if want := []SourceRef{{"glibc", "2.36-9+deb12u14"}, {"gcc-12", "12.2.0-14"}, {"x1", "1:1~rc1"}}; err != nil || !slices.Equal(p.BuiltUsing, want) {
		t.Errorf("got %v, %v, want %v", p.BuiltUsing, err, want)
	}
}

func FuzzParseSourceRef(f *testing.F) {
	f.Add("linux (= 6.1.192-2)")
	f.Add("x (= 1))")
	f.Fuzz(func(t *testing.T, text string) {
		if ref, err := ParseSourceRef(text); err == nil && ref.String() != text {
			t.Errorf("%q was read as %q", text, ref)
		}
	})
}

func TestDependsOn(t *testing.T) {
	p := Package{Name: "linux-image-arm64", Version: "6.1", Depends: "libc6:any (>= 2), kmod | linux-base,\nlinux-image-6.1.0-56-arm64(= 6.1), linux-image-x"}
	for prefix, want := range map[string]string{
		"linux-image-": "linux-image-6.1.0-56-arm64",
		"linux-base":   "linux-base",
		"libc6":        "libc6",
		"u-boot":       "",
	} {
		got, err := p.DependsOn(prefix)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v; want %q", prefix, got, err, want)
		}
	}
}

// checkErr fails the test unless err says want, or is nil if that is empty.
func checkErr(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Fatalf("error %v, want %q", err, want)
	}
}
