package config

import (
	"bytes"
	"os"
	"reflect"
	"strings"
	"testing"
)

// Each key is in the template, and a person who follows it gets a document
// that is accepted.
func TestBlank(t *testing.T) {
	blank := Blank()
	if len(blank) != FileSize || !bytes.Equal(blank, fit(template, FileSize)) {
		t.Errorf("%d bytes", len(blank))
	}
	if text, ok := Text(blank); ok {
		t.Errorf("it is not blank:\n%s", text)
	}
	if p, err := ParseProvision(blank); err != nil || !reflect.DeepEqual(p, Provision{}) {
		t.Errorf("it sets %+v, %v", p, err)
	}
	for line := range strings.Lines(template) {
		if len(strings.TrimRight(line, "\n")) > 80 || line != "\n" && !strings.HasPrefix(line, "# ") {
			t.Errorf("a line of the template: %q", line)
		}
	}
	full, err := os.ReadFile("testdata/good/provision-full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want, err := ParseProvision(full)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(template, "\n\n")
	text = strings.TrimPrefix(text, "# ")
	text = strings.ReplaceAll(text, "\n# ", "\n")
	cert := strings.Split(want.Exosite.CA, "-----\n")[1]
	cert = strings.TrimSuffix(cert, "-----END CERTIFICATE")
	text = strings.Replace(text, "    (the lines of the PEM file)\n", strings.ReplaceAll("    "+strings.TrimSpace(cert), "\n", "\n    ")+"\n", 1)
	text = strings.Replace(text, "RW(56 characters)", want.FirmwareKeys[0], 1)
	p, err := ParseProvision([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	var missing []string
	for _, v := range []reflect.Value{reflect.ValueOf(p), reflect.ValueOf(p.Exosite), reflect.ValueOf(*p.Network), reflect.ValueOf(p.Network.Links[0])} {
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				missing = append(missing, v.Type().Field(i).Name)
			}
		}
	}
	if strings.Join(missing, " ") != "VLAN" || p.Network.Links[1].VLAN == nil {
		t.Errorf("the template does not have %q", missing)
	}
}

func TestFile(t *testing.T) {
	for _, tt := range []struct{ text, want, err string }{
		{"product: a", "product: a\n", ""},
		{"\uFEFFproduct: a\r\nserial: b\r\n\r\n", "product: a\nserial: b\n", ""},
		{"# DONE\nproduct: a\n", "# DONE\nproduct: a\n", ""},
		{"product: a b\n", "", `line 1: product: "a b" is not a product ID: letters, digits, - and _, at most 63`},
		{"", "", "nothing is set in it"},
		{"# product: a\n", "", "nothing is set in it"},
		{doneLine + "product: a\n", "", "nothing is set in it"},
		{"product: a #" + strings.Repeat("x", FileSize), "", "it has 16397 bytes, at most 16384 are allowed"},
	} {
		file, err := File([]byte(tt.text))
		if tt.err != "" {
			if err == nil || err.Error() != tt.err || file != nil {
				t.Errorf("%.50q: %v, want %s", tt.text, err, tt.err)
			}
			continue
		}
		text, ok := Text(file)
		if err != nil || len(file) != FileSize || !ok || string(text) != tt.want {
			t.Errorf("%.50q: %d bytes, %q, %v, %v", tt.text, len(file), text, ok, err)
		}
	}
}

func TestText(t *testing.T) {
	const doc = "product: a\n"
	for _, tt := range []struct {
		name, file, want string
		marked, settings bool
	}{
		{"as the builder makes it", string(fit(doc, FileSize)), doc, false, false},
		{"padded with NUL", doc + strings.Repeat("\x00", 100), doc, false, false},
		{"of an editor of Windows", "\uFEFF# x\r\n\r\nproduct: a\r\n", "# x\n\nproduct: a\n", false, false},
		{"of an old Mac", "# x\rproduct: a\r", "# x\nproduct: a\n", false, false},
		{"of DOS", "product: a\r\n\x1a", doc, false, false},
		{"without a last line end", "product: a", doc, false, false},
		{"larger", doc + strings.Repeat("\n", 3*FileSize), doc, false, false},
		{"empty", "", "", false, false},
		{"erased", strings.Repeat("\x00", FileSize), "", false, false},
		{"the template", template, "", false, false},
		{"comments behind blanks", "  # a\n\t# b\n", "", false, false},
		{"done", doneLine + template, "", true, false},
		{"done, saved on Windows", "\uFEFF" + strings.ReplaceAll(doneLine+template, "\n", "\r\n"), "", true, false},
		{"torn while it was overwritten", string(Done(512)) + "b\nserial: c\n", "", true, true},
		{"of another firmware", doneMark + ", and more.\n" + doc, "", true, true},
		{"the mark is further below", "\n" + doneLine + doc, "\n" + doneLine + doc, false, false},
		{"no UTF-8", "product: \xff\n", "product: \xff\n", false, false},
	} {
		text, ok := Text([]byte(tt.file))
		if ok != (tt.want != "") || ok && string(text) != tt.want {
			t.Errorf("%s: got %q, %v", tt.name, text, ok)
		}
		if marked, settings := Marked([]byte(tt.file)); marked != tt.marked || settings != tt.settings {
			t.Errorf("%s: marked %v, settings %v", tt.name, marked, settings)
		}
	}
}

func TestDone(t *testing.T) {
	large := Done(4 * FileSize)
	for _, size := range []int{0, 1, 20, 511, 512, 513, 1000, FileSize - 1, FileSize, FileSize + 1, 4 * FileSize} {
		done := Done(size)
		if len(done) != size || !bytes.Equal(done, large[:size]) {
			t.Errorf("%d: %d bytes", size, len(done))
		}
		if text, ok := Text(done); ok {
			t.Errorf("%d: there are settings in it: %q", size, text)
		}
		if marked, settings := Marked(done); settings || marked != (size > 100) {
			t.Errorf("%d: marked %v, settings %v", size, marked, settings)
		}
	}
	if first, _, ok := bytes.Cut(large[:512], []byte("\n")); !ok || !strings.Contains(string(first), "remove this line") {
		t.Errorf("the first sector does not have the whole line, but %q", first)
	}
}
