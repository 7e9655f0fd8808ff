package debian

import (
	"reflect"
	"testing"
)

func TestPickMirrors(t *testing.T) {
	const a, b, s = "http://a.example.invalid/debian/", "http://b.example.invalid/debian/", "http://a.example.invalid/security/"
	for _, c := range []struct {
		out  string
		want []string
	}{
		{"", nil},
		{"Ubuntu|" + a + "\nDocker CE|" + b + "\n", nil},
		{"Debian-Security|" + s + "\n", nil},
		{"Debian|" + a + "\n", []string{a}},
		{"Docker CE|" + b + "\nDebian-Security|" + s + "\nDebian|cdrom:[Debian 12]/\nDebian|" + a + "\nDebian|" + a + "\nDebian|" + b + "\n", []string{a, s}},
	} {
		if got := pickMirrors(c.out); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %q, want %q", c.out, got, c.want)
		}
	}
}

func TestMissing(t *testing.T) {
	got, err := Missing(t.Context(), "gwe-nonsense-b", "dpkg", "gwe-nonsense-a", "apt")
	if want := []string{"gwe-nonsense-b", "gwe-nonsense-a"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if got, err := Missing(t.Context(), "dpkg"); err != nil || len(got) != 0 {
		t.Errorf("dpkg: %q, %v", got, err)
	}
	_, err = Missing(t.Context(), "lib*")
	checkErr(t, err, "not a package name")
}

func TestInstallNothing(t *testing.T) {
	log := func(string, ...any) { t.Error("logged") }
	if err := Install(t.Context(), log, "dpkg", "apt"); err != nil {
		t.Error(err)
	}
}
