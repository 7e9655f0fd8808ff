package boot

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/update"
)

func TestTailOfLog(t *testing.T) {
	dir := t.TempDir()
	if text, err := tailOfLog(filepath.Join(dir, "none")); text != "" || err != nil {
		t.Errorf("no log: %q, %v", text, err)
	}
	var log strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&log, "2026-11-25T10:00:00.000Z INFO  kernel: line %d\n", i)
		fmt.Fprintf(&log, "2026-11-25T10:00:00.000Z INFO  pump[77]: chatter\n")
	}
	log.WriteString("2026-11-25T10:00:01.000Z ERROR gweinit: the last one\n")
	path := filepath.Join(dir, "messages")
	if err := os.WriteFile(path, []byte(log.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := tailOfLog(path)
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if err != nil || len(lines) != lastWords || !strings.HasSuffix(lines[lastWords-1], "the last one") || !strings.HasSuffix(lines[0], "kernel: line 4961") || strings.Contains(text, "chatter") {
		t.Errorf("%d lines, %v:\n%s", len(lines), err, text)
	}
}

func TestReadAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(path, make([]byte, 300<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := readAll(path, 0); err != nil {
		t.Error(err)
	}
	if err := readAll(path+"x", 0); !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
	if err := readAll(filepath.Dir(path), 0); err == nil || !strings.Contains(err.Error(), "at byte 0") {
		t.Errorf("a folder: %v", err)
	}
}

func TestStreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s streak
		got := ""
		for _, now := range "yyynyyyyyyn" {
			if s.lasts(now == 'y', 4*time.Second) {
				got += "!"
			} else {
				got += "."
			}
			time.Sleep(time.Second)
		}
		if want := "........!!."; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestHasReset(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bootstatus")
	for text, want := range map[string]bool{"32\n": true, "0\n": false, "33": true, "1\n": false, "x": false, "": false} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := hasReset(path); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	if hasReset(path + "x") {
		t.Error("a watchdog that tells nothing has reset the machine")
	}
}

func TestOutcome(t *testing.T) {
	u := &update.Update{Version: "1.2.0", Slot: slot.B, State: update.Rejected, Reason: "pump is FATAL"}
	if got, want := outcome(u), "firmware 1.2.0 in slot b: rejected: pump is FATAL"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
