package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// What the person who wrote a command can get wrong beyond TestParse's list.
func TestParseLimits(t *testing.T) {
	items := func(n int) string {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprint("a", i))
		}
		return command(names...)
	}
	padded := func(bytes int) string { return command("a") + strings.Repeat(" ", bytes-len(command("a"))) }
	for _, tt := range []struct {
		name, value string
		want        string // a part of the error; "": none
	}{
		{"32 items", items(32), ""},
		{"33 items", items(33), "33 entries, at most 32"},
		{"64 KiB", padded(64 << 10), ""},
		{"64 KiB and one", padded(64<<10 + 1), "65537 bytes, at most 65536"},
		{"200 bytes of two each", command(strings.Repeat("ü", 100)), ""},
		{"201 bytes", command("a" + strings.Repeat("ü", 100)), "201 bytes"},
		{"dot", command("."), "no name of a file"},
		{"dots", command(".."), "no name of a file"},
		{"dots inside", command("a..b"), ""},
		{"a slash at the end", command("a/"), "no name of a file"},
		{"delete", command(`a\u007fb`), "no name of a file"},
		{"another control character", command(`a\u0085b`), "no name of a file"},
		{"a line separator", command(`a\u2028b`), "no name of a file"},
		{"text that runs backwards", command(`a\u202eb`), "no name of a file"},
		{"a space that is none of ASCII", command(`a\u00a0b`), "no name of a file"},
		{"a byte order mark", "\ufeff" + command("a"), "no JSON object"},
		{"blanks and lines around", "\r\n\t " + command("a") + " \n", ""},
		{"NUL behind", command("a") + "\x00", "behind the command's closing brace"},
		{"a string", `"install"`, "no JSON object"},
		{"cut off", command("a")[:20], "no JSON object"},
		{"another case of the key", `{"Install": [{"name": "a"}]}`, `unknown command "Install"`},
		{"a key beside", `{"install": [{"name": "a"}], "reboot": true}`, `unknown command "reboot"`},
		{"an item that is null", `{"install": [null]}`, "no name"},
		{"an object instead of a list", `{"install": {"name": "a"}}`, "want a list"},
		{"a sum of 63 digits", `{"install": [{"name": "a", "sha256": "` + strings.Repeat("0", 63) + `"}]}`, "64 hexadecimal"},
		{"a sum of other letters", `{"install": [{"name": "a", "sha256": "` + strings.Repeat("x", 64) + `"}]}`, "64 hexadecimal"},
		{"a sum that is a number", `{"install": [{"name": "a", "sha256": 7}]}`, "want a list"},
		{"the same name in another case", command("a", "A"), ""},
		{"deep", `{"install": ` + strings.Repeat("[", 60000) + `}`, "no JSON object"},
	} {
		got, err := Parse(tt.value)
		if tt.want == "" && (err != nil || len(got) == 0) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %d items, error %.200v, want %q", tt.name, len(got), err, tt.want)
		}
	}
}

// A status line is one line, the last, short, and the same after a restart: by
// it the engine sees whether the cloud has the report.
func TestStatusLines(t *testing.T) {
	bad := &installer{name: "bad"}
	for _, tt := range []struct {
		name  string
		value string
		fail  func() (string, error)
		want  string // the end of the last line
	}{
		{"an error of several lines", command("bad"), func() (string, error) {
			return "out", errors.Join(errors.New("one"), errors.New("two\x00\r"))
		}, "failed: bad: one; two"},
		{"an error that is no text", command("bad"), func() (string, error) { return "", errors.New("\xff\xfe\xc3(") }, "failed: bad: \uFFFD("},
		{"a long error", command("bad"), func() (string, error) { return "", errors.New(strings.Repeat("ü", 1<<20)) }, "ü..."},
		{"a panic", command("bad"), func() (string, error) { panic("oh") }, "failed: bad: panic: oh"},
		{"a panic with lines", command("bad", "bad2", "x"), func() (string, error) { panic("oh\nno") }, "failed: bad, bad2: panic: oh; no; not tried: x"},
		{"a panic in the error", command("bad"), func() (string, error) { return "", (*os.PathError)(nil) }, "failed: bad: panic: runtime error: invalid memory address or nil pointer dereference"},
		{"no error to try again for", command("bad"), func() (string, error) { return "fine", Later(nil) }, "installed: bad"},
		{"output of a MB", command("bad"), func() (string, error) { return strings.Repeat("\x00\xff<\n", 1<<18), nil }, "installed: bad"},
		{"refused with a long word", `{"` + strings.Repeat("k", 60000) + `": 1}`, nil, "this firmware knows install, uninstall and rollback"},
		{"refused with a long field", `{"install": [{"` + strings.Repeat("k", 60000) + `": 1}]}`, nil, "kkk..."},
		{"refused, not UTF-8", command("\xff"), nil, "refused: the command is not UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := queueFile(t)
			bad.install = func(context.Context, Job) (string, error) { return tt.fail() }
			q := open(t, path, bad)
			take(t, q, tt.value, 1)
			run(q)
			if len(q.Outcomes()) != 1 {
				t.Fatalf("outcomes %q, left %+v", texts(q), q.Status())
			}
			got := q.Outcomes()[0]
			lines := strings.Split(got.Text, "\n")
			last := lines[len(lines)-1]
			if !strings.HasPrefix(last, "gwe: command "+got.ID+" ") || !strings.HasSuffix(last, tt.want) {
				t.Errorf("the last line is %.300q, want one that ends with %q", last, tt.want)
			}
			if len(got.Text) > maxOutput+4<<10 || !utf8.ValidString(got.Text) || strings.Contains(got.Text, "\x00") {
				t.Errorf("%d bytes: %.300q", len(got.Text), got.Text)
			}
			if after := open(t, path).Outcomes(); !slices.Equal(after, []Outcome{got}) {

				t.Errorf("after a restart %.300s, before %.300s", fmt.Sprintf("%q", texts(open(t, path))), got.Text)
			}
		})
	}
}

// The longest there can be of everything is still read after a restart.
func TestFullQueueIsRead(t *testing.T) {
	path := queueFile(t)
	worst := strings.Repeat("\x01", maxOutput) // six bytes each in JSON
	loud := &installer{name: "<", install: func(context.Context, Job) (string, error) { return worst, errors.New(strings.Repeat("<", maxReason)) }}
	q := open(t, path, loud)
	var names []string
	for i := range maxItems {
		names = append(names, fmt.Sprintf("%s%02d", strings.Repeat("<", maxName-2), i))
	}
	take(t, q, command(names...), 1)
	waits := q.state.Queue[0]
	run(q)
	q.state.Queue = slices.Repeat([]queued{waits}, maxQueue-1)
	q.state.Outcomes = slices.Repeat(q.state.Outcomes, maxOutcomes)
	take(t, q, command(names...), 100)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the file has %d kB", info.Size()>>10)
	again := open(t, path)
	if c, o := len(again.state.Queue), len(again.state.Outcomes); c != maxQueue || o != maxOutcomes {
		t.Errorf("read %d commands and %d outcomes, want %d and %d", c, o, maxQueue, maxOutcomes)
	}
}

// A server does not always tell when a value was written, nor always the truth.
func TestTakeTimes(t *testing.T) {
	zero, at := time.Time{}, func(n int64) time.Time { return time.Unix(n, 0) }
	cleared := at(-7) // a row that is not taken but cleared
	type row struct {
		at   time.Time
		want bool
	}
	for _, tt := range []struct {
		name string
		rows []row
	}{
		{"told only later", []row{{zero, true}, {at(100), false}}},
		{"told later, cleared, and pushed again", []row{{zero, true}, {at(100), false}, {cleared, false}, {at(100), false}}},
		{"told later, cleared, written again", []row{{zero, true}, {at(100), false}, {cleared, false}, {at(200), true}}},
		{"told first, and then not", []row{{at(100), true}, {zero, false}, {cleared, false}, {zero, true}, {zero, false}}},
		{"1970", []row{{at(0), true}, {at(0), false}, {cleared, false}, {at(0), true}}},
		{"before 1970", []row{{at(-5), true}, {at(-5), false}, {cleared, false}, {at(-5), true}}},
		{"parts of a second", []row{{time.Unix(100, 1), true}, {time.Unix(100, 999999999), false}, {at(100), false}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := queueFile(t)
			taken := 0
			for i, r := range tt.rows {
				q := open(t, path) // a restart before each
				if r.at == cleared {
					if err := q.Cleared(); err != nil {
						t.Fatal(err)
					}
					continue
				}
				got, err := q.Take(command("a"), r.at)
				if err != nil || got != r.want {
					t.Errorf("%d: taken %v at %v, %v, want %v", i, got, r.at, err, r.want)
				}
				if got {
					taken++
				}
			}
			q := open(t, path) // none of what was written is garbled
			if got := len(q.Status()); got != taken {
				t.Errorf("%d commands wait, want %d", got, taken)
			}
			if n := q.Newest(); !n.IsZero() && n.Unix() != 100 && n.Unix() != 200 {
				t.Errorf("the newest is of %v", n)
			}
		})
	}
}

// A command of unknown time never looks like one of the far future.
func TestNewestIsNoAccident(t *testing.T) {
	q := open(t, queueFile(t))
	q.write = func(string, []byte, os.FileMode) error { return nil } // for speed
	for i := range 2000 {                                            // one of 2000 was all decimal digits
		take(t, q, fmt.Sprint("rubbish", i), 0)
		if got := q.Newest(); !got.IsZero() {
			t.Fatalf("after %q the newest is of %v", q.state.Uncleared, got)
		}
	}
}

// One that has to wait is not tried before, by another Step or for a new command,
// and the wait grows.
func TestWait(t *testing.T) {
	later := &installer{name: "a", install: func(context.Context, Job) (string, error) { return "", Later(errors.New("no network")) }}
	q := open(t, queueFile(t), later)
	take(t, q, command("a"), 1)
	for i, most := 0, firstWait; i < maxTries-1; i, most = i+1, min(2*most, longest) {
		before := time.Now()
		run(q)
		if wait := q.waiting.Sub(before); wait < most/2 || wait > most+time.Second {
			t.Errorf("try %d: %v to wait, want %v to %v", i+1, wait, most/2, most)
		}
		if i == 0 {
			take(t, q, command("a2"), 2)
			run(q)
		}
		if len(later.jobs) != i+1 || len(q.Outcomes()) > 0 {
			t.Fatalf("tried %d times, want %d; outcomes %q", len(later.jobs), i+1, texts(q))
		}
		q.waiting = time.Time{}
	}
	q.Step(t.Context()) // the last one
	if got := texts(q); len(got) != 1 || !strings.HasSuffix(got[0], "failed: a: no network") || len(q.Status()) != 1 {
		t.Errorf("told %q, left %+v", got, q.Status())
	}
	run(q) // the next has its turn without a wait
	if n := len(later.jobs); n != maxTries+1 {
		t.Errorf("tried %d times, want %d", n, maxTries+1)
	}
}

// FuzzQueueFile: whatever is in the file, Open and what follows do not panic, and
// a file that is put aside is kept as it was. The installers do all they can.
func FuzzQueueFile(f *testing.F) {
	add := func(s state) {
		data, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, name := range []string{"later", "panic", "fail", "good", "nobody"} {
		for _, tries := range []int{0, maxTries - 1, math.MaxInt, -1, math.MinInt} {
			add(state{Queue: []queued{{ID: "1-a", Items: []Item{{Name: "good"}, {Name: name}, {Name: "good2"}}, Done: 1, Started: true, Tries: tries, Output: "x"}}})
		}
	}
	add(state{Seen: []string{"", "-", "99999999999999999999-a", "9223372036854775807-a"}, Uncleared: "-", Outcomes: []Outcome{{}, {}}})
	f.Add([]byte("null"))
	f.Add([]byte("{\"queue\":[null]}"))
	f.Add([]byte("\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := queueFile(t)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var file []byte
		q := &Queue{Path: path, Log: slog.New(slog.DiscardHandler)}
		q.write = func(_ string, data []byte, _ os.FileMode) error { file = data; return nil } // for speed
		for name, do := range map[string]func() (string, error){
			"later": func() (string, error) { return "", Later(errors.New("later")) },
			"panic": func() (string, error) { panic("oh") },
			"fail":  func() (string, error) { return "half", errors.New("fail") },
			"good":  func() (string, error) { return "good", nil },
		} {
			q.Installers = append(q.Installers, &installer{name: name, install: func(context.Context, Job) (string, error) { return do() }})
		}
		if err := q.Open(); err != nil {
			if kept, err := os.ReadFile(path + ".garbled"); err != nil || string(kept) != string(data) {
				t.Errorf("kept %q, %v, want %q", kept, err, data)
			}
		}
		q.Newest()
		q.Cleared()
		q.Take("rubbish", time.Time{})
		if _, err := q.Take(command("good3"), time.Unix(1<<40, 0)); err != nil {
			t.Fatal(err)
		}
		for n := 0; len(q.Status()) > 0; n++ {
			if n > 100000 {
				t.Fatalf("it never ends: %+v", q.Status())
			}
			run(q)
			q.waiting = time.Time{}
		}
		for _, o := range q.Outcomes() {
			q.Sending(o.ID)
			q.Sent(o.ID)
		}
		if left := q.Outcomes(); len(left) > 0 {
			t.Errorf("outcomes left: %+v", left)
		}
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (&Queue{Path: path, Log: q.Log}).Open(); err != nil {
			t.Errorf("what was written is not read: %v", err)
		}
	})
}

// Take, Status and the rest go on while an installer runs, and none of them sees
// a half-made state (for -race).
func TestConcurrent(t *testing.T) {
	good := &installer{name: "app"}
	q := open(t, queueFile(t), good)
	changed := make(chan struct{}, 100)
	q.Changed = func() { changed <- struct{}{} }
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { q.Run(ctx); close(ran) }()
	const n = 20
	for i := range n {
		take(t, q, command(fmt.Sprint("app", i)), int64(i+1))
		q.Status()
		q.Newest()
		q.Holds("x")
		if err := q.Cleared(); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatalf("not told of all outcomes: %+v, %q", q.Status(), texts(q))
		}
	}
	cancel()
	<-ran
	for i, o := range q.Outcomes() {
		if !strings.HasSuffix(o.Text, fmt.Sprint("installed: app", i)) {
			t.Errorf("outcome %d is %q", i, o.Text)
		}
	}
	if len(good.jobs) != n || len(q.Outcomes()) != n {
		t.Errorf("%d jobs, %d outcomes, want %d", len(good.jobs), len(q.Outcomes()), n)
	}
}

// A folder in the file's place, or one that cannot be put aside, is told, and the
// commands are taken in memory and not on the disk: Take says so.
func TestOpenFails(t *testing.T) {
	path := queueFile(t)
	for _, dir := range []string{path, filepath.Join(path+".garbled", "x")} { // neither read nor renamed
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	q := &Queue{Path: path, Log: slog.New(slog.DiscardHandler)}
	if err := q.Open(); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("open: %v", err)
	}
	if taken, err := q.Take(command("a"), time.Unix(1, 0)); taken || err == nil || !strings.Contains(err.Error(), path) || len(q.Status()) > 0 {
		t.Errorf("taken %v, %v, %+v", taken, err, q.Status())
	}
}
