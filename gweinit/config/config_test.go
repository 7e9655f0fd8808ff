package config

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	_ "time/tzdata" // the builder and the device have it too
)

var update = flag.Bool("update", false, "write the expected results into testdata")

// parse reads a document of either kind, and returns it as it is encoded.
func parse(kind string, text []byte) (out []byte, value any, err error) {
	if kind == "network" {
		n, err := ParseNetwork(text)
		return n.YAML(), n, err
	}
	p, err := ParseProvision(text)
	return p.YAML(), p, err
}

// documents calls f with the documents in a folder of testdata.
func documents(t testing.TB, folder string, f func(file, kind string, text []byte)) {
	t.Helper()
	files, err := filepath.Glob("testdata/" + folder + "/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := strings.Cut(filepath.Base(file), "-")
		f(file, kind, text)
	}
}

// golden compares with a file beside a document.
func golden(t *testing.T, document, suffix, got string) {
	t.Helper()
	file := strings.TrimSuffix(document, ".yaml") + suffix
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || got != string(want) {
		t.Errorf("%s: %v; got\n%s\nwant\n%s", document, err, got, want)
	}
}

func TestGood(t *testing.T) {
	documents(t, "good", func(file, kind string, text []byte) {
		out, value, err := parse(kind, text)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			return
		}
		golden(t, file, ".out", string(out))
		again, value2, err := parse(kind, out)
		if err != nil || !reflect.DeepEqual(value, value2) || !bytes.Equal(out, again) {
			t.Errorf("%s: encoded and read again it is\n%+v\n%v; want\n%+v", file, value2, err, value)
		}
	})
}

func TestBad(t *testing.T) {
	documents(t, "bad", func(file, kind string, text []byte) {
		_, value, err := parse(kind, text)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%s: got %+v, %v; want an *Error", file, value, err)
			return
		}
		golden(t, file, ".err", strings.Join(e.Lines, "\n")+"\n")
		if strings.ContainsAny(strings.Join(e.Lines, ""), "\r\n") || len(e.Lines) > maxProblems+1 {
			t.Errorf("%s: %q", file, e.Lines)
		}
		if !reflect.ValueOf(value).IsZero() {
			t.Errorf("%s: with the error comes %+v", file, value)
		}
	})
}

// What text a value has is what counts, whatever YAML takes it for.
func TestRawText(t *testing.T) {
	for _, s := range []string{"0012", "1e5", "yes", "null1", "0x1F", "2024-01-01", "1_000", "12.50", "true"} {
		for _, doc := range []string{"serial: " + s, "serial: '" + s + "'", `{"serial": "` + s + `"}`} {
			p, err := ParseProvision([]byte(doc))
			if err != nil || p.Serial != s {
				t.Errorf("%s: serial %q, %v", doc, p.Serial, err)
			}
			again, err := ParseProvision(p.YAML())
			if err != nil || again.Serial != s {
				t.Errorf("%s: encoded as %s: serial %q, %v", doc, p.YAML(), again.Serial, err)
			}
		}
	}
}

func TestNetworkOver(t *testing.T) {
	image := `{hostname: image, links: [{name: "e*"}], dns: [1.1.1.1], fallback_dns: [9.9.9.9], ntp: [a.org]}`
	for _, tt := range []struct{ own, want string }{
		{``, image},
		{`{}`, image},
		{`{hostname: mine}`, strings.Replace(image, "hostname: image", "hostname: mine", 1)},
		{`{links: [{name: wwan0}], ntp: []}`, `{hostname: image, links: [{name: wwan0}], dns: [1.1.1.1], fallback_dns: [9.9.9.9], ntp: []}`},
		{`{links: [], dns: [], fallback_dns: []}`, `{hostname: image, links: [], dns: [], fallback_dns: [], ntp: [a.org]}`},
	} {
		var n [3]Network
		for i, text := range []string{tt.own, image, tt.want} {
			var err error
			if n[i], err = ParseNetwork([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if got := n[0].Over(n[1]); !reflect.DeepEqual(got, n[2]) {
			t.Errorf("%s: got\n%s\nwant\n%s", tt.own, got.YAML(), n[2].YAML())
		}
		if got := n[0].Over(Network{}); !reflect.DeepEqual(got, n[0]) {
			t.Errorf("%s over nothing: got\n%s", tt.own, got.YAML())
		}
	}
}

func TestProvisionOver(t *testing.T) {
	full, err := os.ReadFile("testdata/good/provision-full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseProvision(full)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ParseProvision([]byte("serial: other\nexosite: {host: other.example}\nnetwork: {}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := d
	want.Serial, want.Exosite.Host, want.Network, want.FactoryReset = "other", "other.example", &Network{}, ""
	if got := own.Over(d); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got.YAML(), want.YAML())
	}
	if got := d.Over(own); !reflect.DeepEqual(got, d) {
		t.Errorf("got\n%s\nwant\n%s", got.YAML(), d.YAML())
	}
}

func FuzzParseNetwork(f *testing.F)   { fuzz(f, "network") }
func FuzzParseProvision(f *testing.F) { fuzz(f, "provision") }

func fuzz(f *testing.F, kind string) {
	for _, folder := range []string{"good", "bad"} {
		documents(f, folder, func(_, k string, text []byte) {
			if k == kind {
				f.Add(text)
			}
		})
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		out, value, err := parse(kind, text)
		var e *Error
		if err != nil {
			if !errors.As(err, &e) || len(e.Lines) == 0 || len(e.Error()) > 20000 {
				t.Errorf("error %v", err)
			}
			return
		}
		again, value2, err := parse(kind, out)
		if err != nil || !reflect.DeepEqual(value, value2) || !bytes.Equal(out, again) {
			t.Errorf("%+v is encoded as\n%s\nand that read as %+v, %v", value, out, value2, err)
		}
		if file, err := File(text); kind == "provision" && err == nil {
			in, ok := Text(file)
			p, err := ParseProvision(in)
			if !ok || err != nil || len(file) != FileSize || !reflect.DeepEqual(p, value) {
				t.Errorf("the file of %+v has %+v, %v, %v", value, p, ok, err)
			}
		}
	})
}
