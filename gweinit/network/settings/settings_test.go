package settings

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exosite/gwe/gweinit/config"
)

// gateway is one whose settings say nothing but its host name.
type gateway struct {
	*Settings
	t       *testing.T
	dir     string
	uses    string // what was applied last
	applied bool   // since state was asked for
	records []string
	broken  bool // recording fails
}

// texts are the documents of stories; all others are good ones.
var texts = map[string]string{
	"empty": "",
	"bad":   "hostname: [a\n",
	"large": "hostname: a\n" + strings.Repeat("#", maxSize),
}

func text(name string) string {
	if s, ok := texts[name]; ok {
		return s
	}
	return "hostname: " + name + "\n"
}

// name is the reverse.
func name(s string) string {
	for name, text := range texts {
		if text == s {
			return name
		}
	}
	return strings.TrimSuffix(strings.TrimPrefix(s, "hostname: "), "\n")
}

// do is a step of a story. It says "fails" if that is an error.
func (g *gateway) do(step string) string {
	var err error
	verb, what, _ := strings.Cut(step, " ")
	switch verb {
	case "boot":
		if g.Settings != nil && g.trial != nil { // the power is gone
			g.trial.Stop()
		}
		g.Settings = &Settings{Options: Options{
			Dir:   g.dir,
			Image: config.Network{Hostname: "image"},
			Apply: func(n config.Network) { g.uses, g.applied = n.Hostname, true },
			Record: func(text []byte) error {
				g.records = append(g.records, name(string(text)))
				if g.broken {
					return errors.New("broken flash")
				}
				return nil
			},
			Log: slog.New(slog.DiscardHandler),
		}}
		err = g.Start()
	case "set":
		err = g.Set([]byte(text(what)))
	case "reload":
		err = g.Reload()
	case "checkin":
		g.CheckedIn()
	case "wait":
		d, e := time.ParseDuration(what)
		if e != nil {
			g.t.Fatal(e)
		}
		time.Sleep(d)
		synctest.Wait()
	case "record":
		g.broken = what == "fails"
	case "yaml", "good", "rejected": // by hand
		path := filepath.Join(g.dir, map[string]string{"yaml": currentFile, "good": goodFile, "rejected": rejectedFile}[verb])
		e := os.RemoveAll(path)
		switch {
		case e != nil || what == "none":
		case what == "folder":
			e = os.MkdirAll(filepath.Join(path, "x"), 0o700)
		case verb == "rejected":
			e = os.WriteFile(path, []byte("# by hand\n"+text(what)), 0o600)
		default:
			e = os.WriteFile(path, []byte(text(what)), 0o600)
		}
		if e != nil {
			g.t.Fatal(e)
		}
	default:
		g.t.Fatalf("step %q", step)
	}
	if err != nil {
		return "; fails"
	}
	return ""
}

// state says how everything is.
func (g *gateway) state() string {
	s := "uses "
	if g.applied {
		s = "applies "
	}
	s += g.uses
	for _, file := range []string{currentFile, goodFile, rejectedFile} {
		text, err := os.ReadFile(filepath.Join(g.dir, file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if file == rejectedFile {
			_, rest, _ := strings.Cut(string(text), "\n")
			text = []byte(rest)
		}
		what := name(string(text))
		if err != nil {
			what = "folder"
		}
		s += "; " + map[string]string{currentFile: "yaml", goodFile: "good", rejectedFile: "rejected"}[file] + " " + what
	}
	for _, name := range g.records {
		s += "; records " + name
	}
	g.applied, g.records = false, nil
	if g.Settings != nil {
		st := g.Status()
		if st.Trial {
			s += "; trial"
		}
		if st.Error != "" {
			s += "; error"
		}
		if st.Reverted != "" {
			s += "; reverted"
		}
	}
	return s
}

func TestStories(t *testing.T) {
	type steps [][2]string // a step, and the state after it; "" is not looked at
	for _, tt := range []struct {
		name  string
		steps steps
	}{
		{"first start", steps{
			{"boot", "applies image"},
			{"checkin", "uses image; good empty; records empty"},
			{"checkin", "uses image; good empty"},
			{"boot", "applies image; good empty"},
			{"checkin", "uses image; good empty; records empty"},
		}},
		{"no trial before the first check-in", steps{
			{"boot", "applies image"},
			{"set a", "applies a; yaml a"},
			{"wait 1h", "uses a; yaml a"},
			{"set b", "applies b; yaml b"},
			{"boot", "applies b; yaml b"},
			{"checkin", "uses b; yaml b; good b; records b"},
		}},
		{"confirmed", steps{
			{"yaml a", ""}, {"good a", ""},
			{"boot", "applies a; yaml a; good a"},
			{"set b", "applies b; yaml b; good a; trial"},
			{"checkin", "uses b; yaml b; good a; trial"}, // by the network from before
			{"wait 4.999s", ""},
			{"checkin", "uses b; yaml b; good a; trial"},
			{"wait 1ms", ""},
			{"checkin", "uses b; yaml b; good b; records b"},
			{"wait 1h", "uses b; yaml b; good b"},
			{"boot", "applies b; yaml b; good b"},
		}},
		{"confirmed at the last moment", steps{
			{"yaml a", ""}, {"good a", ""}, {"boot", ""},
			{"set b", "applies b; yaml b; good a; trial"},
			{"wait 9m59.999s", "uses b; yaml b; good a; trial"},
			{"checkin", "uses b; yaml b; good b; records b"},
			{"wait 1h", "uses b; yaml b; good b"},
		}},
		{"reverted", steps{
			{"yaml a", ""}, {"good a", ""}, {"boot", ""},
			{"set b", "applies b; yaml b; good a; trial"},
			{"wait 9m59.999s", "uses b; yaml b; good a; trial"},
			{"wait 1ms", "applies a; yaml a; good a; rejected b; reverted"},
			{"checkin", "uses a; yaml a; good a; rejected b; records a; reverted"},
			{"boot", "applies a; yaml a; good a; rejected b; reverted"},
			{"wait 1h", "uses a; yaml a; good a; rejected b; reverted"},
			{"set b", "applies b; yaml b; good a; trial"}, // once more
		}},
		{"reverted to the image's", steps{
			{"good empty", ""},
			{"boot", "applies image; good empty"},
			{"set b", "applies b; yaml b; good empty; trial"},
			{"wait 10m", "applies image; yaml empty; good empty; rejected b; reverted"},
			{"checkin", "uses image; yaml empty; good empty; rejected b; records empty; reverted"},
		}},
		{"the image's reverted", steps{
			{"yaml a", ""}, {"good a", ""}, {"boot", ""},
			{"set empty", "applies image; yaml empty; good a; trial"},
			{"wait 10m", "applies a; yaml a; good a; rejected empty; reverted"},
			{"boot", "applies a; yaml a; good a; rejected empty; reverted"},
		}},
		{"reboots in the middle of a trial", steps{
			{"yaml a", ""}, {"good a", ""}, {"boot", ""},
			{"set b", "applies b; yaml b; good a; trial"},
			{"wait 9m", ""},
			{"boot", "applies b; yaml b; good a; trial"},
			{"wait 9m59s", "uses b; yaml b; good a; trial"},
			{"boot", "applies b; yaml b; good a; trial"},
			{"wait 10m", "applies a; yaml a; good a; rejected b; reverted"},
		}},
		{"a check-in right after the boot of a trial", steps{
			{"yaml b", ""}, {"good a", ""},
			{"boot", "applies b; yaml b; good a; trial"},
			{"checkin", "uses b; yaml b; good b; records b"}, // there was no network before
		}},
		{"power gone while it is reverted", steps{
			{"yaml b", ""}, {"good a", ""}, {"rejected b", ""},
			{"boot", "applies b; yaml b; good a; rejected b; trial"},
			{"wait 10m", "applies a; yaml a; good a; rejected b; reverted"},
		}},
		{"power gone while it is reverted, then confirmed", steps{
			{"yaml b", ""}, {"good a", ""}, {"rejected b", ""}, {"boot", ""},
			{"checkin", "uses b; yaml b; good b; rejected b; records b"},
			{"boot", "applies b; yaml b; good b; rejected b"},
		}},
		{"a change while a trial runs", steps{
			{"yaml a", ""}, {"good a", ""}, {"boot", ""},
			{"set b", "applies b; yaml b; good a; trial"},
			{"wait 9m", ""},
			{"set c", "applies c; yaml c; good a; trial"},
			{"wait 9m", "uses c; yaml c; good a; trial"},
			{"set bad", "uses c; yaml c; good a; trial; fails"},
			{"set c", "uses c; yaml c; good a; trial"}, // the same does not prolong it
			{"wait 1m", "applies a; yaml a; good a; rejected c; reverted"},
		}},
		{"undone while the trial runs", steps{
			{"yaml a", ""}, {"good a", ""}, {"boot", ""},
			{"set b", "applies b; yaml b; good a; trial"},
			{"set a", "applies a; yaml a; good a"},
			{"wait 1h", "uses a; yaml a; good a"},
		}},
		{"a bad document", steps{
			{"yaml a", ""}, {"good a", ""}, {"boot", ""},
			{"set bad", "uses a; yaml a; good a; fails"},
			{"set large", "uses a; yaml a; good a; fails"},
			{"set a", "uses a; yaml a; good a"},
		}},
		{"cannot be written", steps{
			{"yaml a", ""}, {"good a", ""}, {"boot", ""},
			{"yaml folder", ""},
			{"set b", "uses a; yaml folder; good a; fails"},
			{"reload", "uses a; yaml folder; good a; fails"},
			{"yaml a", ""}, {"good folder", ""},
			{"set b", "applies b; yaml b; good folder; trial"},
			{"wait 1m", ""},
			{"checkin", "uses b; yaml b; good folder"},
			{"good none", ""},
			{"checkin", "uses b; yaml b; good b; records b"},
		}},
		{"broken at the start, with good ones", steps{
			{"yaml bad", ""}, {"good a", ""},
			{"boot", "applies a; yaml bad; good a; error; fails"},
			{"checkin", "uses a; yaml bad; good a; error"}, // says nothing about the bad ones
			{"wait 1h", "uses a; yaml bad; good a; error"},
			{"reload", "uses a; yaml bad; good a; error; fails"},
			{"set b", "applies b; yaml b; good a; trial"},
			{"wait 10m", "applies a; yaml a; good a; rejected b; reverted"},
		}},
		{"broken at the start, then the good ones", steps{
			{"yaml bad", ""}, {"good a", ""}, {"boot", ""},
			{"set a", "applies a; yaml a; good a"},
			{"checkin", "uses a; yaml a; good a"},
			{"wait 5s", ""},
			{"checkin", "uses a; yaml a; good a; records a"},
		}},
		{"broken at the start, without good ones", steps{
			{"yaml bad", ""},
			{"boot", "applies image; yaml bad; error; fails"},
			{"checkin", "uses image; yaml bad; error"},
			{"set a", "applies a; yaml a"},
		}},
		{"everything broken", steps{
			{"yaml bad", ""}, {"good bad", ""},
			{"boot", "applies image; yaml bad; good bad; error; fails"},
			{"set b", "applies b; yaml b; good bad; trial"}, // the image's may work
			{"wait 10m", "applies image; yaml empty; good bad; rejected b; reverted"},
			{"boot", "applies image; yaml empty; good bad; rejected b; reverted; fails"},
			{"checkin", "uses image; yaml empty; good empty; rejected b; records empty; reverted"},
		}},
		{"broken good ones", steps{
			{"yaml a", ""}, {"good bad", ""},
			{"boot", "applies a; yaml a; good bad; fails"},
			{"wait 1h", "uses a; yaml a; good bad"}, // nothing to go back to
			{"checkin", "uses a; yaml a; good a; records a"},
			{"boot", "applies a; yaml a; good a"},
		}},
		{"large files", steps{
			{"yaml large", ""}, {"good a", ""},
			{"boot", "applies a; yaml large; good a; error; fails"},
			{"checkin", "uses a; yaml large; good a; error"},
			{"reload", "uses a; yaml large; good a; error; fails"},
			{"set empty", "applies image; yaml empty; good a; trial"},
			{"good large", ""}, {"rejected large", ""},
			{"boot", "applies image; yaml empty; good large; rejected large; fails"},
		}},
		{"edited by hand", steps{
			{"yaml a", ""}, {"good a", ""}, {"boot", ""},
			{"reload", "uses a; yaml a; good a"},
			{"yaml bad", ""},
			{"reload", "uses a; yaml bad; good a; fails"},
			{"yaml b", "uses a; yaml b; good a"},
			{"reload", "applies b; yaml b; good a; trial"},
			{"yaml none", ""},
			{"reload", "applies image; yaml empty; good a; trial"},
			{"wait 10m", "applies a; yaml a; good a; rejected empty; reverted"},
		}},
		{"recording fails", steps{
			{"yaml a", ""}, {"good a", ""}, {"boot", ""}, {"record fails", ""},
			{"checkin", "uses a; yaml a; good a; records a"},
			{"checkin", "uses a; yaml a; good a; records a"},
			{"set b", "applies b; yaml b; good a; trial"},
			{"wait 1m", ""},
			{"checkin", "uses b; yaml b; good b; records b"}, // good nevertheless
			{"record works", ""},
			{"checkin", "uses b; yaml b; good b; records b"},
			{"checkin", "uses b; yaml b; good b"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &gateway{t: t, dir: t.TempDir()}
				for i, step := range tt.steps {
					failed := g.do(step[0])
					if step[1] == "" {
						g.state()
					} else if got := g.state() + failed; got != step[1] {
						t.Errorf("step %d, %s:\ngot  %s\nwant %s", i+1, step[0], got, step[1])
					}
				}
			})
		})
	}
}

// What a person gets to read.
func TestTexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gateway{t: t, dir: t.TempDir()}
		path := filepath.Join(g.dir, currentFile)
		for _, step := range []string{"yaml bad", "good bad", "boot"} {
			g.do(step)
		}
		bad := ": line 1: "
		if got := g.Status().Error; !strings.HasPrefix(got, path+bad) {
			t.Errorf("error %q", got)
		}
		g.do("yaml large")
		g.do("rejected large")
		g.Settings = &Settings{Options: g.Options}
		want := []string{
			fmt.Sprintf("%s has more than %d bytes", path, maxSize),
			filepath.Join(g.dir, goodFile) + bad,
			filepath.Join(g.dir, rejectedFile) + " has ",
		}
		lines := strings.Split(fmt.Sprint(g.Start()), "\n")
		if len(lines) != len(want) {
			t.Fatalf("%q", lines)
		}
		for i := range want {
			if !strings.HasPrefix(lines[i], want[i]) {
				t.Errorf("got %q, want %q", lines[i], want[i])
			}
		}

		for _, step := range []string{"yaml a", "good a", "rejected none", "boot", "set b", "wait 10m"} {
			g.do(step)
		}
		const reverted = "2000-01-01T00:10:00Z: reverted: no check-in within 10m0s"
		if got := g.Status().Reverted; got != reverted {
			t.Errorf("reverted %q", got)
		}
		if got, err := os.ReadFile(filepath.Join(g.dir, rejectedFile)); err != nil || string(got) != "# "+reverted+"\nhostname: b\n" {
			t.Errorf("%q, %v", got, err)
		}
		g.do("boot")
		if got := g.Status().Reverted; got != reverted {
			t.Errorf("reverted %q after a reboot", got)
		}
	})
}

// Set keeps a text of its own.
func TestSetCopies(t *testing.T) {
	g := &gateway{t: t, dir: t.TempDir()}
	g.do("boot")
	b := []byte(text("a"))
	if err := g.Set(b); err != nil {
		t.Fatal(err)
	}
	b[len(b)-2] = 'b'
	g.state()
	if g.do("set b"); g.state() != "applies b; yaml b" {
		t.Error("the change is not seen")
	}
}
