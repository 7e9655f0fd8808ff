package bundle

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

func TestCompareVersions(t *testing.T) {
	for _, tt := range []struct {
		a    string
		want int
		b    string
	}{
		{"1.0", 0, "1.0"},
		{"1.0", 0, "1.0-0"},
		{"1.00", 0, "1.0"},
		{"1.09", 0, "1.9"},
		{"0:1", 0, "1"},
		{"1.9", -1, "1.10"},
		{"1.0~rc1", -1, "1.0"},
		{"1.0~~", -1, "1.0~"},
		{"1.0~rc1", -1, "1.0~rc1+1"},
		{"1.0", -1, "1.0+1"},
		{"1.0", -1, "1.0.1"},
		{"1.0+3.gabcdef0", -1, "1.0+12.g0000000"},
		{"1.0+3.gabcdef0", -1, "1.0+3.gabcdef0.dirty"},
		{"1.0a", -1, "1.0+"},
		{"1.0a", -1, "1.0b"},
		{"1.0Z", -1, "1.0a"},
		{"1.0", -1, "1.0-1"},
		{"1.0-1", -1, "1.0-1.1"},
		{"1.0-rc-1", -1, "1.0-rc-2"},
		{"9", -1, "1:0"},
		{"1:0", -1, "10:0"},
		{"0", -1, "99999999999999999999999999999999"},
		{"99999999999999999999999999999998", -1, "99999999999999999999999999999999"},
		{"", -1, "0a"},
	} {
		if got := CompareVersions(tt.a, tt.b); got != tt.want {
			t.Errorf("%q to %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := CompareVersions(tt.b, tt.a); got != -tt.want {
			t.Errorf("%q to %q: %d, want %d", tt.b, tt.a, got, -tt.want)
		}
		dpkg(t, tt.a, tt.b)
	}
}

// dpkg checks with Debian's own tool, if there is one.
func dpkg(t *testing.T, a, b string) {
	t.Helper()
	if _, err := exec.LookPath("dpkg"); err != nil || a == "" || b == "" {
		return
	}
	operator := []string{"lt", "eq", "gt"}[CompareVersions(a, b)+1]
	if out, err := exec.Command("dpkg", "--compare-versions", a, operator, b).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("dpkg does not say that %q %s %q: %v %s", a, operator, b, err, out)
	}
}

func TestRandomVersions(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func() string {
		v := fmt.Sprint(r.IntN(3))
		for range r.IntN(8) {
			v += string(".+~-019aAz"[r.IntN(10)])
		}
		return strings.TrimRight(v, "-")
	}
	for range 200 {
		a, b := random(), random()
		if r.IntN(2) == 0 { // near to each other
			b = a + string(".+~09aZ"[r.IntN(7)])
		}
		dpkg(t, a, b)
	}
}

func TestCheckVersion(t *testing.T) {
	for v, ok := range map[string]bool{
		"1": true, "1.2.0": true, "0.0.0+12.gabcdef0.dirty": true, "1.0~rc1-2": true, strings.Repeat("1", 64): true,
		"": false, "v1": false, "1:1.0": false, "1.0-": false, "1 0": false, "1/0": false, "1.0\n": false, "1_0": false, "~1": false, strings.Repeat("1", 65): false,
	} {
		if err := CheckVersion(v); (err == nil) != ok {
			t.Errorf("%q: %v", v, err)
		}
	}
}

func FuzzVersion(f *testing.F) {
	f.Add("1.0~rc1", "1.0-1", "1:2")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		ab, ba := CompareVersions(a, b), CompareVersions(b, a)
		if ab != -ba || ab < -1 || ab > 1 || CompareVersions(a, a) != 0 {
			t.Fatalf("%q, %q: %d, %d", a, b, ab, ba)
		}
		if bc := CompareVersions(b, c); ab == bc && CompareVersions(a, c) != ab {
			t.Fatalf("%q, %q, %q: %d, %d, %d", a, b, c, ab, bc, CompareVersions(a, c))
		}
		if CheckVersion(a) == nil && strings.ContainsAny(a, ":/\x00\n ") {
			t.Fatalf("%q", a)
		}
	})
}
