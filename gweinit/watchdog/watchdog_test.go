package watchdog

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestChoose(t *testing.T) {
	for _, tt := range []struct {
		name       string
		identities []string // of watchdog0, watchdog1, ...
		soft       bool
		want       string // or a part of the error
	}{
		{"hardware", []string{"i6300ESB timer"}, false, "watchdog0"},
		{"hardware before software", []string{"Software Watchdog", "Broadcom BCM2835 Watchdog timer"}, false, "watchdog1"},
		{"software in place of hardware", []string{"Broadcom BCM2835 Watchdog timer", "Software Watchdog"}, true, "watchdog1"},
		{"only software", []string{"Software Watchdog"}, false, "watchdog0"},
		{"hardware that is not to be used", []string{"Broadcom BCM2835 Watchdog timer"}, true, "no watchdog"},
		{"none", nil, false, "no watchdog"},
	} {
		class := t.TempDir()
		for i, identity := range tt.identities {
			dir := filepath.Join(class, "watchdog"+string(rune('0'+i)))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "identity"), []byte(identity+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := choose(class, tt.soft)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// The test runs itself once more, as what HandOn's exec starts.
func TestHandOn(t *testing.T) {
	if os.Getenv(variable) != "" {
		takeOver()
	}
	file := filepath.Join(t.TempDir(), "watchdog7")
	dev, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	env, err := HandOn(dev)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHandOn$")
	cmd.Env = append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != file+" petted" {
		t.Errorf("the watchdog got %q, %v", got, err)
	}
}

func takeOver() {
	fail := func(args ...any) {
		fmt.Println(args...)
		os.Exit(1)
	}
	dev := handedOn()
	if dev == nil {
		fail("nothing was handed on")
	}
	if flags, err := unix.FcntlInt(dev.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		fail("programs get it, too", err)
	}
	if _, ok := os.LookupEnv(variable); ok || handedOn() != nil {
		fail("it can be taken twice")
	}
	if _, err := dev.WriteString(dev.Name() + " petted"); err != nil {
		fail(err)
	}
	os.Exit(0)
}

func TestNothingHandedOn(t *testing.T) {
	for _, value := range []string{"", "watchdog0", "99999 /dev/watchdog0", "3", "-1 /dev/watchdog0"} {
		t.Setenv(variable, value)
		if dev := handedOn(); dev != nil {
			t.Errorf("%q: got %s", value, dev.Name())
		}
	}
}
