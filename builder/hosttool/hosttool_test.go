package hosttool

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	err := Tool{Package: "dash", Env: []string{"WHO=gwe"}, Dir: t.TempDir()}.Run(t.Context(), "sh", "-c", "seq 100; echo $WHO; exit 3")
	for _, want := range []string{"exit status 3", "package dash", "\n82\n", "\n100\ngwe"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err != nil && strings.Contains(err.Error(), "\n81\n") {
		t.Errorf("more than the last 20 lines: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Tool{Package: "coreutils"}).Run(ended, "sleep", "60"); err == nil {
		t.Error("the context has ended, the tool has not")
	}
}

// What the user has set does not reach a tool, and the time does.
func TestEnvironment(t *testing.T) {
	t.Setenv("ARCH", "vax")
	err := Tool{Package: "dash", Time: time.Unix(1234, 0)}.Run(t.Context(), "sh", "-c", "env; exit 1")
	if err == nil || strings.Contains(err.Error(), "vax") || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH=1234\n") {
		t.Error(err)
	}
}

// A tool that is in sbin only is found without it on the PATH.
func TestSbin(t *testing.T) {
	t.Setenv("PATH", "/usr/bin:/bin")
	if err := (Tool{Package: "e2fsprogs"}).Run(t.Context(), "mke2fs", "-V"); err != nil {
		t.Error(err)
	}
	if err := (Tool{Package: "warp-tools"}).Run(t.Context(), "warp"); err == nil || !strings.Contains(err.Error(), "package warp-tools") {
		t.Error(err)
	}
}
