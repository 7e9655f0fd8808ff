package logfile

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The table of Read and Tail is compared with Supervisor itself.
const python = `
import json, sys
try:
    from supervisor import options
    from supervisor.dispatchers import stripEscapes
except ImportError as e:
    sys.exit('no supervisor: %s' % e)
options.as_string = lambda s: s.decode('latin-1') if isinstance(s, bytes) else s
out = []
for kind, path, offset, length in json.load(sys.stdin):
    if kind == 'strip':
        out.append([stripEscapes(bytes.fromhex(path)).hex(), 0, False])
    elif kind == 'read':
        try:
            out.append([options.readFile(path, offset, length).hex(), 0, False])
        except ValueError as e:
            out.append([e.args[0], 0, False])
    else:
        data, offset, overflow = options.tailFile(path, offset, length)
        out.append([data.encode('latin-1').hex(), offset, overflow])
json.dump(out, sys.stdout)
`

type call struct {
	kind, path     string
	offset, length int64
}

func (c call) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{c.kind, c.path, c.offset, c.length})
}

// own gives the answer in the form of Supervisor's.
func (c call) own() string {
	switch c.kind {
	case "strip":
		p, _ := hex.DecodeString(c.path)
		var s stripper
		return fmt.Sprintf("[%x 0 false]", append(s.appendTo(nil, p), s.end()...))
	case "read":
		data, err := Read(c.path, c.offset, c.length)
		switch {
		case errors.Is(err, ErrBadArguments):
			return "[BAD_ARGUMENTS 0 false]"
		case errors.Is(err, ErrFailed):
			return "[FAILED 0 false]"
		case err != nil:
			return err.Error()
		}
		return fmt.Sprintf("[%x 0 false]", data)
	default:
		data, offset, overflow := Tail(c.path, c.offset, c.length)
		return fmt.Sprintf("[%x %d %v]", data, offset, overflow)
	}
}

func TestAsSupervisor(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	empty := filepath.Join(dir, "empty")
	os.WriteFile(path, []byte("0123456789"), 0o600)
	os.WriteFile(empty, nil, 0o600)
	var calls []call
	for _, path := range []string{path, empty, dir, filepath.Join(dir, "none"), "/dev/null"} {
		for _, offset := range []int64{0, 1, 5, 9, 10, 11, 20, math.MaxInt32, -1, -5, -10, -11, -20, math.MinInt32, math.MinInt64, math.MinInt64 + 1} {
			for _, length := range []int64{0, 1, 2, 5, 9, 10, 11, 20, -1, -5, -10, -20, math.MinInt32, math.MinInt64} {
				// Python would make a buffer as large as a huge negative offset.
				if offset >= -20 || length != 0 {
					calls = append(calls, call{"read", path, offset, length})
				}
				calls = append(calls, call{"tail", path, offset, length})
			}
		}
	}
	for _, s := range []string{"", "a\x1b[1mb", "\x1b[", "\x1b", "\x1b\x1b[mx", "\x1b[\x1b[mx\x1b[m", "a\x1b[2Gbch", "\x1b]0;title\x07x", "[m", "\x1b[38;5;1m\x00\xff\x1b[K", "\x1b[é\x1b[m"} {
		calls = append(calls, call{"strip", hex.EncodeToString([]byte(s)), 0, 0})
	}
	in, err := json.Marshal(calls)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "-c", python) // Debian's, which has Debian's packages
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(in)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s; run make setup", err, stderr.String())
	}
	var want [][]any
	d := json.NewDecoder(bytes.NewReader(out))
	d.UseNumber()
	if err := d.Decode(&want); err != nil || len(want) != len(calls) {
		t.Fatal(err, len(want), len(calls))
	}
	for i, c := range calls {
		if got := c.own(); got != fmt.Sprint(want[i]) {
			t.Errorf("%+v: got %s, Supervisor %v", c, got, want[i])
		}
	}
}

func TestReadIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	data := make([]byte, MaxRead+1000)
	for i := range data {
		data[i] = byte(i % 251)
	}
	os.WriteFile(path, data, 0o600)
	size := int64(len(data))
	for _, c := range []struct{ offset, length, from, to int64 }{
		{0, 0, 0, MaxRead},
		{10, 0, 10, MaxRead + 10},
		{10, size, 10, MaxRead + 10},
		{10, math.MaxInt64, 10, MaxRead + 10},
		{-size, 0, 1000, size},
		{math.MinInt64, 0, 1000, size},
		{-5, 0, size - 5, size},
		{size - 5, math.MaxInt64, size - 5, size},
	} {
		got, err := Read(path, c.offset, c.length)
		if err != nil || !bytes.Equal(got, data[c.from:c.to]) {
			t.Errorf("%+v: %d bytes, %v", c, len(got), err)
		}
	}
	for _, c := range []struct {
		offset, length, from int64
		overflow             bool
	}{
		{0, size, 1000, true},
		{0, math.MaxInt64, 1000, true},
		{0, MaxRead, 1000, true},
		{1000, MaxRead, 1000, false},
		{math.MaxInt64, math.MaxInt64, size, false},
	} {
		got, offset, overflow := Tail(path, c.offset, c.length)
		if !bytes.Equal(got, data[c.from:]) || offset != size || overflow != c.overflow {
			t.Errorf("%+v: %d bytes, %d, %v", c, len(got), offset, overflow)
		}
	}
	if got, err := Read("/dev/zero", 0, 0); err != nil || len(got) != MaxRead {
		t.Error(len(got), err)
	}
}

// What is left is the same however the output is cut, and what Supervisor leaves
// of the whole.
func FuzzStrip(f *testing.F) {
	f.Add([]byte("a\x1b[1mb\x1b[0m"), 1)
	f.Add([]byte("\x1b\x1b[\x1b[mx\x1b[K\x1bM\x1b"), 2)
	f.Add([]byte("\x1b[38;5;1\n\x00\xff"), 3)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		if cut < 1 {
			cut = 1
		}
		var s stripper
		var got []byte
		for rest := data; len(rest) > 0; {
			n := min(cut, len(rest))
			buf := make([]byte, 1+n) // as a Reader does
			copy(buf[1:], rest[:n])
			got = append(got, s.appendTo(buf[:0], buf[1:])...)
			rest = rest[n:]
		}
		got = append(got, s.end()...)
		if want := stripWhole(data); !bytes.Equal(got, want) {
			t.Errorf("%q by %d: %q, not %q", data, cut, got, want)
		}
	})
}

func stripWhole(p []byte) (out []byte) {
	for {
		before, rest, found := bytes.Cut(p, []byte("\x1b["))
		out = append(out, before...)
		i := bytes.IndexAny(rest, "HfABCDRsuJKhlpm")
		if !found || i < 0 {
			return out
		}
		p = rest[i+1:]
	}
}
