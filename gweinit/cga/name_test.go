package cga

import (
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	for file, want := range map[string]Name{
		"hello.v1.tar.gz":                {"hello", "1"},
		"GatewayEngine.v1-0-6.tar.gz":    {"GatewayEngine", "1-0-6"},
		"my.app.v1.2-3_4.tar.gz":         {"my.app", "1.2-3_4"},
		"my.vendor.v1.2.tar.gz":          {"my.vendor", "1.2"},
		"device-client.v1.0.vsn.tar.gz":  {"device-client", "1.0.vsn"},
		"a.v2.v3.tar.gz":                 {"a.v2", "3"},
		"a.vdev.tar.gz":                  {"a", "dev"},
		"my.vendor.vdev.tar.gz":          {"my.vendor", "dev"},
		"a.v1.2.3+4.gabcdef0~rc.tar.gz":  {"a", "1.2.3+4.gabcdef0~rc"},
		"My_App-2.v1.0.tar.gz.v2.tar.gz": {"My_App-2.v1.0.tar.gz", "2"},
		"x.y.v0.tar.gz":                  {"x.y", "0"},
		"a.v.v1.tar.gz":                  {"a.v", "1"},
	} {
		got, err := ParseName(file)
		if err != nil || got != want || got.File() != file {
			t.Errorf("%s: %+v, %v, want %+v", file, got, err, want)
		}
	}
	for file, want := range map[string]string{
		"": "want NAME.v", "hello.tar.gz": "want NAME.v", "hello.v1.tgz": "want NAME.v", "hello.v1.tar.gz ": "want NAME.v",
		".v1.tar.gz": "the app's name is empty", "hello.v.tar.gz": "the version is empty", "..v1.tar.gz": `begins with "."`,
		"-a.v1.tar.gz": `begins with "-"`, "a.v-1.tar.gz": `version "-1" begins`, "a b.v1.tar.gz": "something else in it",
		"a/b.v1.tar.gz": "something else", `a\b.v1.tar.gz`: "something else", "a:b.v1.tar.gz": "something else", "a\n.v1.tar.gz": "something else",
		"a.v1 (1).tar.gz": "something else", "\xff.v1.tar.gz": "something else", "ä.v1.tar.gz": "something else", "a%(x)s.v1.tar.gz": "something else",
		"gwe.v1.tar.gz": "is taken", "GMQ.v1.tar.gz": "is taken", "all.v1.tar.gz": "is taken",
		strings.Repeat("a", 101) + ".v1.tar.gz":            "has 101 bytes, at most 100",
		"a.v" + strings.Repeat("1", 81) + ".tar.gz":        "has 81 bytes, at most 80",
		"a.v1.tar.gz/" + strings.Repeat("x", 300) + ".tar": "want NAME.v",
	} {
		if got, err := ParseName(file); err == nil || got != (Name{}) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v, want %q", file, got, err, want)
		}
	}
	if err := (Name{"a", "1.v2"}).check(); err == nil || !strings.Contains(err.Error(), "version 2 of a.v1") {
		t.Errorf("%v", err)
	}
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"a.v1.tar.gz", "a.v2.v3.tar.gz", "a.vdev.tar.gz", ".v.tar.gz", "a.v1-2_3.tar.gz", "\x00.v1.tar.gz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, file string) {
		n, err := ParseName(file)
		if err != nil {
			if n != (Name{}) {
				t.Errorf("%+v with %v", n, err)
			}
			return
		}
		if n.File() != file || strings.ContainsAny(file, "/\\: \n\x00") || file[0] == '.' || file[0] == '-' || CheckApp(n.App) != nil || n.check() != nil {
			t.Errorf("%q: %+v", file, n)
		}
	})
}
