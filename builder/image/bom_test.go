package image

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/exosite/gwe/builder/debian"
	"github.com/exosite/gwe/builder/disk"
)

// hash is a SHA-256 made of the digit.
func hash(digit string) string { return strings.Repeat(digit, 64) }

// sample is the manifest of testdata/bom.json.
func sample() *Manifest {
	return &Manifest{
		Board: "qemu-mipsel", Arch: "mipsel", Version: "1.2.0+3.gabcdef0", Epoch: 1700000000, Release: true,
		Overlays: []string{"base", "busybox"}, Suite: "bookworm",
		KernelPackage: "linux-image-4kc-malta", Kernel: "6.1.0-56-4kc-malta",
		Packages: []debian.Package{
			{Name: "linux-image-6.1.0-56-4kc-malta", Version: "6.1.192-2", Arch: "mipsel", Source: "linux", SourceVersion: "6.1.192-2", SHA256: hash("1"), Size: 59812568},
			{Name: "busybox-static", Version: "1:1.35.0-4+deb12u1+b1", Arch: "mipsel", Source: "busybox", SourceVersion: "1:1.35.0-4+deb12u1",
				BuiltUsing: []debian.SourceRef{{Name: "glibc", Version: "2.36-9+deb12u14"}, {Name: "linux", Version: "6.1.192-2"}}, SHA256: hash("2"), Size: 822236},
			{Name: "ca-certificates", Version: "20250419~deb12u2", Arch: "all", Source: "ca-certificates", SourceVersion: "20250419~deb12u2", SHA256: hash("3"), Size: 160948},
		},
		UBoot: UBoot{Package: "u-boot-qemu", SHA256: hash("4"), Source: &Source{Name: "u-boot", Version: "2023.01+dfsg-2", SHA256: map[string]string{
			"u-boot_2023.01+dfsg-2.dsc": hash("5"), "u-boot_2023.01+dfsg.orig.tar.xz": hash("6"), "boards/qemu-mipsel/u-boot/0001-ide.patch": hash("7"), "boards/qemu-mipsel/u-boot/u-boot.config": hash("8"),
		}}},
		Go:         "go1.26.8",
		GoModules:  []GoModule{{"golang.org/x/sys", "v0.49.0", "h1:XbzkgYJHdqh/8m2Uu0W/dQv8nktxx4BFHp1M0gROTXA="}, {"example.com/Mixed/case/v2", "v2.0.0", ""}},
		Apps:       []App{{Name: "sine", Version: "1.0", SHA256: hash("d"), Size: 2345678}},
		Tools:      map[string]string{"squashfs-tools": "1:4.6.1-1", "mtools": "4.0.43-1"},
		Partitions: []disk.Partition{{Name: "boot", Offset: 1 << 20, Size: 8 << 20, GUID: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", SHA256: hash("9")}},
		Slot:       SlotSize{BootImage: 9, Root: 4096},
		RootHash:   hash("c"),
		Keys:       []string{"13B34B1824B3D4F1", "C0FFEE"},
		Image:      File{"qemu-mipsel.img", 128 << 20, hash("a")},
		Compressed: File{"qemu-mipsel.img.zst", 17 << 20, hash("b")},
	}
}

func encode(t *testing.T, m *Manifest) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := m.Encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestEncode(t *testing.T) {
	const golden = "testdata/bom.json"
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // maps have a new order each time
		if got := encode(t, sample()); !bytes.Equal(got, want) {
			t.Fatalf("not as in %s:\n%s", golden, got)
		}
	}
	for name, m := range map[string]*Manifest{"sample": sample(), "empty": {}} {
		if err := valid(t, encode(t, m)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := valid(t, bytes.Replace(want, []byte(`"firmware"`), []byte(`"hardware"`), 2)); err == nil {
		t.Error("the schema takes what it must not")
	}
}

// valid checks a document against the official schema, which comes with the
// CycloneDX module.
func valid(t *testing.T, text []byte) error {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	const base = "http://cyclonedx.org/schema/"
	for name, file := range map[string]string{
		"bom-1.6.schema.json": "bom-1.6.schema.json", "spdx.schema.json": "spdx.schema.json", "jsf-0.82.schema.json": "jsf-0.82.schemax.json",
	} {
		schema, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "schema", file))
		if err != nil {
			t.Fatal(err)
		}
		defer schema.Close()
		doc, err := jsonschema.UnmarshalJSON(schema)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(base+name, doc); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := c.Compile(base + "bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(doc)
}

// fill sets all that v consists of, each to another value.
func fill(v reflect.Value, n *int64) {
	*n++
	switch v.Kind() {
	case reflect.String:
		v.SetString("x" + itoa(*n))
	case reflect.Int64:
		v.SetInt(*n)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(key, n)
			fill(value, n)
			v.SetMapIndex(key, value)
		}
	default:
		panic(v.Kind().String())
	}
}

// A new field of the manifest has to be in the document too.
func TestRoundTrip(t *testing.T) {
	full := &Manifest{}
	fill(reflect.ValueOf(full).Elem(), new(int64))
	for i := range full.Packages {
		full.Packages[i].Depends = "" // only for the build
	}
	for name, m := range map[string]*Manifest{"sample": sample(), "all fields": full} {
		got, err := Decode(bytes.NewReader(encode(t, m)))
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%s: %v\ngot  %+v\nwant %+v", name, err, got, m)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	good := string(encode(t, sample()))
	for _, tt := range []struct {
		name, old, new, want string
	}{
		{"empty", good, "", "no JSON object"},
		{"an array", good, "[]", "no JSON object"},
		{"garbage", good, "\x7fELF", "no JSON object"},
		{"cut", good[len(good)/2:], "", "no JSON object"},
		{"other JSON", good, `{"board": "qemu-mipsel"}`, "no CycloneDX document"},
		{"unknown version of CycloneDX", `"specVersion": "1.6"`, `"specVersion": "99"`, "no CycloneDX document"},
		{"another tool's", builderName, "example.com/other", "a CycloneDX document of another tool"},
		{"no metadata", good, `{"bomFormat": "CycloneDX", "specVersion": "1.6"}`, "a CycloneDX document of another tool"},
		{"no hash", hash("2"), "", `component "pkg:deb/debian/busybox-static@1:1.35.0-4%2Bdeb12u1%2Bb1?arch=mipsel&distro=bookworm": `},
		{"a size that is none", "822236", "large", `property gwe:size: strconv.ParseInt: parsing "large"`},
		{"a source that is none", "glibc (= 2.36-9+deb12u14)", "glibc", `"glibc" is not a source package`},
		{"an image elsewhere", `"qemu-mipsel.img"`, `"../qemu-mipsel.img"`, `component "image": "../qemu-mipsel.img" is no file name`},
		{"a patch elsewhere", `"boards/qemu-mipsel/u-boot/0001-ide.patch"`, `"/etc/shadow"`, `component "u-boot": "/etc/shadow" is no file name`},
		{"no image", `"bom-ref": "image"`, `"bom-ref": "picture"`, `the components ["image"] are missing`},
		{"no time", "2023-11-14T22:13:20Z", "yesterday", `component "firmware": parsing time "yesterday"`},
	} {
		text := strings.Replace(good, tt.old, tt.new, 1)
		if tt.name == "no hash" {
			text = strings.Replace(good, `"alg": "SHA-256",
          "content": "`+hash("2"), `"alg": "MD5",
          "content": "`+hash("2"), 1)
		}
		_, err := Decode(strings.NewReader(text))
		if !errors.Is(err, errNotOurs) || !strings.Contains(err.Error(), tt.want) || text == good {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	path := filepath.Join(t.TempDir(), "x.json")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadManifest(path); err == nil || !strings.HasPrefix(err.Error(), path+": ") {
		t.Errorf("got %v, want the file's name", err)
	}
}

func FuzzDecode(f *testing.F) {
	var b bytes.Buffer
	if err := sample().Encode(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"bomFormat": "CycloneDX", "specVersion": "1.6", "metadata": {"tools": {"components": [null]}, "component": {}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Decode(bytes.NewReader(text))
		if err != nil {
			return
		}
		again, err := Decode(bytes.NewReader(encode(t, m)))
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%v\nread %+v\nthen %+v", err, m, again)
		}
	})
}

// The first ones are of the package-url specification.
func TestPackageURL(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{packageURL("deb/debian", "curl", "7.50.3-1", "arch", "i386", "distro", "jessie"), "pkg:deb/debian/curl@7.50.3-1?arch=i386&distro=jessie"},
		{packageURL("deb/debian", "attr", "1:2.4.47-2", "arch", "source"), "pkg:deb/debian/attr@1:2.4.47-2?arch=source"},
		{packageURL("deb/debian", "libstdc++6", "12.2.0~rc1+b1"), "pkg:deb/debian/libstdc%2B%2B6@12.2.0~rc1%2Bb1"},
		{packageURL("golang", "golang.org/x/sys", "v0.49.0"), "pkg:golang/golang.org/x/sys@v0.49.0"},
		{packageURL("golang", "a/b", "(devel)&é"), "pkg:golang/a/b@%28devel%29%26%C3%A9"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %s, want %s", tt.got, tt.want)
		}
	}
}
