package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// installer is one of files that begin with its name.
type installer struct {
	name    string
	install func(ctx context.Context, job Job) (string, error)
	jobs    []Job
}

func (i *installer) Takes(item Item) bool { return strings.HasPrefix(item.Name, i.name) }

func (i *installer) Install(ctx context.Context, job Job) (string, error) {
	i.jobs = append(i.jobs, job)
	if i.install == nil {
		return "output of " + strings.Join(names(job.Items), "+"), nil
	}
	return i.install(ctx, job)
}

func open(t *testing.T, path string, installers ...Installer) *Queue {
	t.Helper()
	q := &Queue{Path: path, Installers: installers, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	q.write = os.WriteFile // nobody takes the power away here
	if err := q.Open(); err != nil {
		t.Fatal(err)
	}
	return q
}

func queueFile(t *testing.T) string { return filepath.Join(t.TempDir(), "commands.json") }

// take takes a command that was written at second n.
func take(t *testing.T, q *Queue, value string, n int64) bool {
	t.Helper()
	at := time.Time{}
	if n > 0 {
		at = time.Unix(n, 0)
	}
	taken, err := q.Take(value, at)
	if err != nil {
		t.Fatal(err)
	}
	return taken
}

func command(names ...string) string {
	return `{"install": [{"name": "` + strings.Join(names, `"}, {"name": "`) + `"}]}`
}

func run(q *Queue) {
	for q.Step(context.Background()) {
	}
}

func texts(q *Queue) (all []string) {
	for _, o := range q.Outcomes() {
		all = append(all, o.Text)
	}
	return all
}

// A command is taken once, whatever brings it again.
func TestTakeOnce(t *testing.T) {
	path := queueFile(t)
	q := open(t, path)
	for _, c := range []struct {
		name  string
		do    func()
		value string
		at    int64
		taken bool
	}{
		{"new", nil, command("a"), 100, true},
		{"pushed again", nil, command("a"), 100, false},
		{"read again after a restart", func() { q = open(t, path) }, command("a"), 100, false},
		{"its time cannot be asked for", nil, command("a"), 0, false},
		{"another one of that second", nil, command("b"), 100, true},
		{"written again", nil, command("a"), 101, true},
		{"an older one that comes late", nil, command("c"), 99, true},
		{"without a time, and cleared before", func() { q.Cleared() }, command("c"), 0, true},
		{"again without one", nil, command("c"), 0, false},
		{"rubbish", nil, "rubbish", 102, true},
		{"rubbish again", nil, "rubbish", 102, false},
	} {
		if c.do != nil {
			c.do()
		}
		if got := take(t, q, c.value, c.at); got != c.taken {
			t.Errorf("%s: taken %v, want %v", c.name, got, c.taken)
		}
	}
	if got := len(q.Status()); got != 5 || len(q.Outcomes()) != 1 {
		t.Errorf("%d commands wait, %d outcomes", got, len(q.Outcomes()))
	}
	if got := q.Newest(); !got.Equal(time.Unix(102, 0)) {
		t.Errorf("the newest is of %v", got)
	}
}

func TestSteps(t *testing.T) {
	apps, firmware := &installer{name: "app"}, &installer{name: "fw"}
	q := open(t, queueFile(t), apps, firmware)
	var forgotten []string
	q.Forget = func(id string) { forgotten = append(forgotten, id) }
	take(t, q, command("app1", "app2", "fw1", "app3"), 1)
	take(t, q, command("app4", "other", "fw2"), 2)
	take(t, q, command("app5"), 3)
	run(q)
	want := []string{
		"output of app1+app2\ngwe: command ID installed: app1, app2\noutput of fw1\ngwe: command ID installed: fw1\noutput of app3\ngwe: command ID installed: app3",
		"output of app4\ngwe: command ID installed: app4\ngwe: command ID failed: other: this firmware has nothing that installs such a file: \"other\"; not tried: fw2",
		"output of app5\ngwe: command ID installed: app5",
	}
	for i, o := range q.Outcomes() {
		if got := strings.ReplaceAll(o.Text, o.ID, "ID"); got != want[i] {
			t.Errorf("outcome %d:\n%s\nwant\n%s", i, got, want[i])
		}
	}
	if len(apps.jobs) != 4 || len(firmware.jobs) != 1 || len(forgotten) != 3 || len(q.Status()) != 0 {
		t.Errorf("%d and %d jobs, %d forgotten, %v left", len(apps.jobs), len(firmware.jobs), len(forgotten), q.Status())
	}
	seen := map[string]bool{}
	for _, j := range append(apps.jobs, firmware.jobs...) {
		if seen[j.ID] || j.Again {
			t.Errorf("job %+v is one from before", j)
		}
		seen[j.ID] = true
	}
}

// What an installer does wrong ends its command, and no other.
func TestInstallersThatFail(t *testing.T) {
	tries := 0
	bad := &installer{name: "bad"}
	q := open(t, queueFile(t), bad)
	for _, c := range []struct {
		name    string
		install func(context.Context, Job) (string, error)
		want    string
	}{
		{"error", func(context.Context, Job) (string, error) { return "half\n", errors.New("no room") }, "half\ngwe: command ID failed: bad: no room"},
		{"panic", func(context.Context, Job) (string, error) { panic("oh") }, "gwe: command ID failed: bad: panic: oh"},
		{"much", func(context.Context, Job) (string, error) {
			return strings.Repeat("ü", 1<<20) + "\xff\x00end", nil
		}, "end\ngwe: command ID installed: bad"},
		{"later", func(_ context.Context, job Job) (string, error) {
			if tries++; tries < 3 {
				return "", fmt.Errorf("fetch: %w", Later(errors.New("no network")))
			}
			return fmt.Sprint(job.Again), nil
		}, "true\ngwe: command ID installed: bad"},
		{"later for ever", func(context.Context, Job) (string, error) { return "", Later(errors.New("no network")) }, "gwe: command ID failed: bad: no network"},
	} {
		bad.install, bad.jobs = c.install, nil
		take(t, q, command("bad"), time.Now().UnixNano())
		for len(q.Outcomes()) == 0 {
			run(q)
			if s := q.Status(); len(s) > 0 && (s[0].State != "waiting" || s[0].Error != "no network" && s[0].Error != "fetch: no network") {
				t.Fatalf("%s: %+v", c.name, s)
			}
			q.waiting = time.Time{} // the time has come
		}
		o := q.Outcomes()[0]
		got := strings.ReplaceAll(o.Text, o.ID, "ID")
		if !strings.Contains(got, c.want) || len(got) > 2*maxOutput || !utf8.ValidString(got) || strings.Contains(got, "\x00") {
			t.Errorf("%s: %.300q, want %q", c.name, got, c.want)
		}
		if err := q.Sent(o.ID); err != nil {
			t.Fatal(err)
		}
	}
	if len(bad.jobs) != maxTries {
		t.Errorf("tried %d times, want %d", len(bad.jobs), maxTries)
	}
}

// One that hangs keeps nobody but the commands behind it waiting, and ends with
// the engine; the next engine is told that it was begun.
func TestStuck(t *testing.T) {
	path := queueFile(t)
	begun := make(chan bool)
	stuck := &installer{name: "stuck", install: func(ctx context.Context, job Job) (string, error) {
		begun <- job.Again
		<-ctx.Done()
		return "", ctx.Err()
	}}
	for _, again := range []bool{false, true} {
		q := open(t, path, stuck)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { q.Run(ctx); close(done) }()
		take(t, q, command("stuck"), 1)
		if got := <-begun; got != again {
			t.Errorf("again is %v, want %v", got, again)
		}
		take(t, q, "rubbish", 2)
		if s := q.Status(); len(s) != 1 || s[0].State != "installing" || len(q.Outcomes()) != 1 {
			t.Errorf("meanwhile: %+v, %q", s, texts(q))
		}
		cancel()
		<-done
	}
}

func TestLimits(t *testing.T) {
	q := open(t, queueFile(t))
	for i := range int64(maxQueue + maxOutcomes + 10) {
		take(t, q, command(fmt.Sprint("app", i)), i+1)
	}
	if got := texts(q); len(q.Status()) != maxQueue || len(got) != maxOutcomes || !strings.HasSuffix(got[0], "refused: 32 commands wait already") {
		t.Errorf("%d commands, %d outcomes, %q", len(q.Status()), len(got), got[0])
	}
}

// A disk that takes nothing loses and doubles nothing.
func TestBrokenDisk(t *testing.T) {
	good := &installer{name: "app"}
	q := open(t, queueFile(t), good)
	broken := func(string, []byte, os.FileMode) error { return errors.New("I/O error") }
	q.write = broken
	if taken, err := q.Take(command("app"), time.Unix(1, 0)); err == nil || taken || len(q.Status()) > 0 {
		t.Fatalf("taken: %v, %v", taken, err)
	}
	q.write = os.WriteFile
	take(t, q, command("app"), 1)
	q.write = broken
	run(q)
	if len(good.jobs) > 0 {
		t.Error("it was begun without a note of that")
	}
	q.write, q.waiting = os.WriteFile, time.Time{}
	good.install = func(context.Context, Job) (string, error) { q.write = broken; return "done", nil }
	run(q)
	q.write, q.waiting = os.WriteFile, time.Time{}
	good.install = nil
	run(q)
	if len(good.jobs) != 2 || good.jobs[0].Again || !good.jobs[1].Again || good.jobs[0].ID != good.jobs[1].ID || len(q.Outcomes()) != 1 {
		t.Errorf("%+v, %q", good.jobs, texts(q))
	}
}

func TestGarbledQueue(t *testing.T) {
	for _, text := range []string{
		"", "\x00\x00\x00", "{", `{"seen": 7}`, `{"queue": [{"id": "x", "items": []}]}`,
		`{"queue": [{"id": "x", "items": [{"name": "../../etc/passwd"}]}]}`,
		`{"queue": [{"id": "x", "items": [{"name": "a"}], "done": 1}]}`,
		`{"queue": [{"id": "x", "items": [{"name": "a"}], "done": -1}]}`,
		`{"queue": [{"id": "../x", "items": [{"name": "a"}]}]}`,
	} {
		path := queueFile(t)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		q := &Queue{Path: path, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		if err := q.Open(); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", text, err)
		}
		if kept, err := os.ReadFile(path + ".garbled"); err != nil || string(kept) != text {
			t.Errorf("%q: kept %q, %v", text, kept, err)
		}
		if !take(t, q, command("a"), 1) {
			t.Errorf("%q: nothing is taken", text)
		}
	}
	// A later firmware's.
	path := queueFile(t)
	if err := os.WriteFile(path, []byte(`{"v": 2, "seen": ["1-x"], "queue": [{"id": "x", "items": [{"name": "app", "key": 1}], "more": {}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if q := open(t, path); len(q.Status()) != 1 {
		t.Errorf("a later firmware's: %+v", q.state)
	}
}

func TestParse(t *testing.T) {
	sum := strings.Repeat("0aB", 21) + "f"
	long := strings.Repeat("n", maxName)
	for value, want := range map[string]string{ // the items, or ! and a part of the error
		`{"install": [{"name": "app.v1.tar.gz"}]}`:              "[{app.v1.tar.gz }]",
		` {"install":[{"name":"a"},{"name":"b c.v1"}]}` + "\n":  "[{a } {b c.v1 }]",
		`{"install": [{"name": "a", "sha256": "` + sum + `"}]}`: "[{a " + strings.ToLower(sum) + "}]",
		command(long):       "[{" + long + " }]",
		command(long + "n"): "!201 bytes",
		command("a", "a"):   "!twice",
		command("../a"):     "!no name of a file",
		command("/a"):       "!no name of a file",
		command(`a\\b`):     "!no name of a file",
		command(".hidden"):  "!no name of a file",
		command("-rf"):      "!no name of a file",
		command(`a\u0000b`): "!no name of a file",
		command(`a\nb`):     "!no name of a file",
		command(`\ud800`):   "!no name of a file",
		command(""):         "!no name",
		command(strings.Split(strings.Repeat("a ", 33), " ")...): "!at most 32",
		``:                             "!no JSON object",
		` `:                            "!no JSON object",
		`null`:                         "!nothing to install",
		`[]`:                           "!no JSON object",
		`{}`:                           "!nothing to install",
		`{"install": null}`:            "!the list is empty",
		`{"install": []}`:              "!the list is empty",
		`{"install": "a"}`:             "!want a list",
		`{"install": [7]}`:             "!want a list",
		`{"install": [{"name": 7}]}`:   "!want a list",
		`{"install": [{"nmae": "a"}]}`: `!unknown field "nmae"`,
		`{"install": [{"name": "a", "sha256": "abc"}]}`:                                 "!64 hexadecimal digits",
		`{"uninstall": ["b", {"name": "c"}]}`:                                           "[{uninstall b } {uninstall c }]",
		`{"install": [{"name": "a"}], "rollback": [{"name": "b"}], "uninstall": ["a"]}`: "[{uninstall a } {rollback b } {a }]",
		`{"install": ["a"]}`:                             "!want a list",
		`{"install": [{"name": "a", "do": "rollback"}]}`: `!unknown field "do"`,
		`{"uninstall": [{"name": "a", "sha256": "00"}]}`: `!unknown field "sha256"`,
		`{"uninstall": []}`:                              "!the list is empty",
		`{"rollback": [7]}`:                              "!want a list",
		`{"rollback": ["a", {"name": "a"}]}`:             "!twice",
		`{"rollback": ["../a"]}`:                         "!no name of a file",
		`{"reboot": true}`:                               `!unknown command "reboot"`,
		command("a") + "x":                               "!behind the command's closing brace",
		command("a") + command("a"):                      "!behind the command's closing brace",
		command("\xff"):                                  "!not UTF-8",
		command(strings.Repeat("a", 65536)):              "!at most 65536",
	} {
		items, err := Parse(value)
		var parts []string
		for _, item := range items {
			parts = append(parts, "{"+item.label()+" "+item.SHA256+"}")
		}
		got := fmt.Sprint(parts)
		if err != nil {
			got = "!" + err.Error()
		}
		if part, bad := strings.CutPrefix(want, "!"); bad && (err == nil || !strings.Contains(got, part)) || !bad && got != want {
			t.Errorf("%.80q: %.200s, want %s", value, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{command("a"), `{"install": [{"name": "a", "sha256": ""}], "x": 1}`, "null", "[[", command("..")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		items, err := Parse(value)
		if err == nil && len(items) == 0 {
			t.Error("no error and nothing to do")
		}
		for _, i := range items {
			if filepath.Base(i.Name) != i.Name || i.Name == "." || i.Name == ".." {
				t.Errorf("%q is no file's name", i.Name)
			}
		}
	})
}

// Whatever is in the file, the queue works.
func FuzzState(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"seen":["1-a"],"uncleared":"1-a","queue":[{"id":"1-a","items":[{"name":"a"}],"started":true}],"outcomes":[{"id":"1-b","text":"x"}]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		path := queueFile(t)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		q := &Queue{Path: path, Installers: []Installer{&installer{name: "a"}}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		q.write = os.WriteFile
		q.Open()
		q.Newest()
		q.Status()
		if _, err := q.Take(command("app"), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		run(q)
		if len(q.Status()) > 0 {
			t.Errorf("left: %+v", q.Status())
		}
		again := &Queue{Path: path, Log: q.Log}
		if err := again.Open(); err != nil {
			t.Errorf("what was written is not read: %v", err)
		}
	})
}

// What takes the gateway down is counted; an engine that ends in good order, and a try
// that is to be repeated, are not.
func TestStarts(t *testing.T) {
	path := queueFile(t)
	app := &installer{name: "a"}
	take(t, open(t, path), command("a"), 1)
	boot := func(install func(ctx context.Context, cancel func()) (string, error)) {
		t.Helper()
		q := open(t, path, app)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		app.install = func(ctx context.Context, _ Job) (string, error) { return install(ctx, cancel) }
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(powerCut); !ok {
					panic(r)
				}
			}
		}()
		q.Step(ctx)
	}
	dies := func(context.Context, func()) (string, error) { panic(powerCut{errors.New("power")}) }
	ends := func(ctx context.Context, cancel func()) (string, error) { cancel(); return "", ctx.Err() }
	later := func(context.Context, func()) (string, error) { return "", Later(errors.New("not now")) }
	for _, install := range []func(context.Context, func()) (string, error){dies, dies, ends, dies, later, dies, ends} {
		boot(install)
	}
	var starts []int
	for _, job := range app.jobs {
		starts = append(starts, job.Starts)
	}
	if want := []int{1, 2, 3, 3, 4, 1, 2}; !slices.Equal(starts, want) {
		t.Errorf("starts %v, want %v", starts, want)
	}
}

// A command that only a newer firmware knows costs none of the others.
func TestUnknownDo(t *testing.T) {
	path := queueFile(t)
	if err := os.WriteFile(path, []byte(`{"queue": [{"id": "1-x", "items": [{"do": "freeze", "name": "app"}]}, {"id": "2-x", "items": [{"name": "app"}]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	app := &installer{name: "never"}
	q := open(t, path, app)
	run(q)
	if got := texts(q); len(got) != 2 || !strings.Contains(got[0], "nothing that installs such a file: \"freeze app\"") {
		t.Errorf("outcomes %q", got)
	}
}

// A command of the gateway's own is there once, until how it ended was reported.
func TestOrder(t *testing.T) {
	app := &installer{name: "app"}
	q := open(t, queueFile(t), app)
	for range 2 {
		if err := q.Order("firmware-app", Item{Name: "app"}); err != nil {
			t.Fatal(err)
		}
	}
	run(q)
	if err := q.Order("firmware-app", Item{Name: "app"}); err != nil {
		t.Fatal(err)
	}
	run(q)
	if len(app.jobs) != 1 || app.jobs[0].ID != "firmware-app-0" {
		t.Errorf("jobs %+v", app.jobs)
	}
	if err := q.Sent("firmware-app"); err != nil {
		t.Fatal(err)
	}
	if err := q.Order("firmware-app", Item{Name: "app"}); err != nil {
		t.Fatal(err)
	}
	run(q)
	if len(app.jobs) != 2 {
		t.Errorf("after it was reported: %d jobs", len(app.jobs))
	}
}
