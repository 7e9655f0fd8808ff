package boot

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/reaper"
)

func TestRun(t *testing.T) {
	s := &system{reaper: reaper.New()}
	for _, tt := range []struct {
		script string
		status int
		output string
		err    string
	}{
		{"echo out; echo err >&2; exit 3", 3, "out\nerr\n", ""},
		{"cat", 0, "", ""}, // its input is empty
		{"pwd; echo $HOME", 0, "/\n/root\n", ""},
		{"kill -KILL $$", 0, "", "ended by signal killed"},
	} {
		var out bytes.Buffer
		status, err := s.run(t.Context(), &out, "/bin/sh", "-c", tt.script)
		if status != tt.status || out.String() != tt.output || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s:\ngot  %d, %q, %v\nwant %d, %q, %s", tt.script, status, out.String(), err, tt.status, tt.output, tt.err)
		}
	}
	if _, err := s.run(t.Context(), nil, "/nonexistent"); err == nil || !strings.Contains(err.Error(), "/nonexistent") {
		t.Errorf("no such program: %v", err)
	}

	// What takes too long goes with all that it has started, and nobody waits
	// for the end of its output.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	var out bytes.Buffer
	start := time.Now()
	if _, err := s.run(ctx, &out, "/bin/sh", "-c", "sleep 60 & sleep 60"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 30*time.Second {
		t.Errorf("too long: %v after %v", err, time.Since(start))
	}
	for deadline := time.Now().Add(20 * time.Second); !s.reaper.Idle(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("something is left of it")
		}
	}
}
