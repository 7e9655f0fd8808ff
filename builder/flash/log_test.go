package flash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func entry(serial string) Entry {
	return Entry{
		Time: time.Unix(1700000000, 0), Result: OK, Device: "/dev/sdb", Serial: serial, MAC: "00:2F:AC:43:55:A0", Card: `Generic, "8 in 1"`, CardID: "x",
		Size: 31914983424, Board: "rpi3", Version: "1.2.3", SHA256: "abc", Seconds: 12.34, Detail: "a, \"b\"\nc",
	}
}

func TestLog(t *testing.T) {
	for kind, want := range map[string]string{
		".csv": "time,result,device,serial,mac,card,card_id,size,board,version,sha256,seconds,detail\n" +
			"2023-11-14T22:13:20Z,ok,/dev/sdb,GW-1,00:2F:AC:43:55:A0,\"Generic, \"\"8 in 1\"\"\",x,31914983424,rpi3,1.2.3,abc,12.3,\"a, \"\"b\"\" c\"\n",
		".json": `{"time":"2023-11-14T22:13:20Z","result":"ok","device":"/dev/sdb","serial":"GW-1","mac":"00:2F:AC:43:55:A0","card":"Generic, \"8 in 1\"","card_id":"x",` +
			`"size":31914983424,"board":"rpi3","version":"1.2.3","sha256":"abc","seconds":12.34,"detail":"a, \"b\" c"}` + "\n",
	} {
		path := filepath.Join(t.TempDir(), "log"+kind)
		e := entry("GW-1")
		e.Time = e.Time.UTC()
		if err := openLog(t, path).Append(e); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%v\n%s, want\n%s", err, got, want)
		}
		// Wherever a power cut ends it, what was in it before counts, and it goes on.
		for n := range len(want) {
			first := strings.Index(want, "\n") + 1
			if kind == ".json" {
				first = 0
			}
			if err := os.WriteFile(path, []byte(want+want[first:first+min(n, len(want)-first)]), 0o644); err != nil {
				t.Fatal(err)
			}
			l := openLog(t, path)
			unit, err := l.Allot(e, Given{Unit: Unit{Serial: "GW-2"}}.Next)
			if err != nil || unit != (Unit{Serial: "GW-2"}) {
				t.Fatalf("cut after %d: %+v, %v", n, unit, err)
			}
			if used, err := openLog(t, path).Used(); err != nil || len(used) != 2 || !used["GW-1"] || !used["GW-2"] {
				text, _ := os.ReadFile(path)
				t.Fatalf("cut after %d: %v, %v\n%s", n, used, err, text)
			}
			l.Close()
		}
	}
}

func TestLogRefuses(t *testing.T) {
	header := strings.Join(columns, ",") + "\n"
	for _, tt := range []struct{ name, text, want string }{
		{"log.txt", "", "has to end in .csv or .json"},
		{"none/log.csv", "", "no such file"},
		{"log.csv", "a,b\n", "line 1: the first line is not time,result"},
		{"log.csv", strings.ReplaceAll(header, ",", ";"), "line 1: the first line is not time,result"},
		{"log.csv", header + "x,y\nmore\n", "line 2: it has 2 fields, want 13"},
		{"log.csv", header + "\"x\nmore\n", "line 2: "},
		{"log.json", "{}\nhello\n{}\n", "line 2: "},
		{"log.csv", "GW-000123", "line 1: the first line is not time,result"},
		{"log.json", "[1,2,3]", "line 1: "},
	} {
		path := filepath.Join(t.TempDir(), tt.name)
		if tt.text != "" {
			if err := os.WriteFile(path, []byte(tt.text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := OpenLog(path); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %q: %v, want %s", tt.name, tt.text, err, tt.want)
		}
		if text, _ := os.ReadFile(path); string(text) != tt.text {
			t.Errorf("it was changed to %q", text)
		}
	}
}

// What would have serial numbers used again is an error as long as it is so.
func TestLogIsLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.csv")
	other := openLog(t, path) // another process
	l := openLog(t, path)
	counter, err := NewCounter("GW-#", 1)
	if err != nil {
		t.Fatal(err)
	}
	allot := func(l *Log, want string) {
		t.Helper()
		u, err := l.Allot(entry(""), counter.Next)
		got := u.Serial
		if err != nil {
			got = err.Error()
		}
		if !strings.HasSuffix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	allot(l, "GW-1")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	allot(other, "GW-2")
	allot(l, "GW-3")
	all, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const lost, moved = "was in it, and is not any more: put back the lines that are missing, and start again", "was moved, or replaced as editors do: see that all serial numbers are in it, and start again"
	for _, tt := range []struct {
		name string
		do   func() error
		want string
	}{
		{"an editor's older text", func() error { return os.WriteFile(path, old, 0o644) }, lost},
		{"nothing", func() error { return os.Truncate(path, 0) }, lost},
		{"moved", func() error { return os.Rename(path, path+".1") }, moved},
		{"replaced", func() error { return os.WriteFile(path, all, 0o644) }, moved},
		{"back", func() error { return errors.Join(os.Rename(path+".1", path), os.WriteFile(path, all, 0o644)) }, "GW-4"},
	} {
		if err := tt.do(); err != nil {
			t.Fatal(err)
		}
		t.Log(tt.name)
		allot(l, tt.want)
		if err := l.Append(entry("")); (err == nil) != (tt.want != moved) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// A disk that is full takes nothing, or all of a line.
func TestLogDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a small disk needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := filepath.Join(dir, "log.csv")
	l := openLog(t, path)
	defer l.Close()
	entries := 0
	for {
		e := entry(fmt.Sprintf("GW-%03d", entries))
		e.Detail = strings.Repeat("x", 300)
		if err := l.Append(e); err != nil {
			if !strings.Contains(err.Error(), "no space left") {
				t.Error(err)
			}
			break
		}
		entries++
	}
	text, err := os.ReadFile(path)
	if err != nil || len(text) < 15000 || !strings.HasSuffix(string(text), "\n") {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	if used, err := l.Used(); err != nil || len(used) != entries {
		t.Errorf("%d serial numbers, want %d, %v", len(used), entries, err)
	}
	large := entry("")
	large.Detail = strings.Repeat("x", 5000)
	if u, err := l.Allot(large, Given{Unit: Unit{Serial: "new"}}.Next); err == nil {
		t.Errorf("allotted: %v", u)
	}
}

// Several lines may use one log at once.
func TestAllot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.csv")
	counter, err := NewCounter("GW-####", 1)
	if err != nil {
		t.Fatal(err)
	}
	const lines, units = 8, 10
	var wg sync.WaitGroup
	for range lines {
		l := openLog(t, path)
		wg.Go(func() {
			for range units {
				if _, err := l.Allot(entry(""), counter.Next); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	used, err := openLog(t, path).Used()
	for n := range lines * units {
		if serial := fmt.Sprintf("GW-%04d", n+1); !used[serial] {
			t.Errorf("%s is missing", serial)
		}
	}
	if err != nil || len(used) != lines*units {
		t.Errorf("%d serial numbers, %v", len(used), err)
	}
}

func FuzzLog(f *testing.F) {
	header := strings.Join(columns, ",") + "\n"
	f.Add(true, []byte(header+"2023-11-14T22:13:20Z,ok,/dev/sdb,GW-1,,,,0,rpi3,1,abc,12.3,\n"))
	f.Add(false, []byte(`{"serial":"GW-1"}`+"\n"))
	f.Fuzz(func(t *testing.T, csv bool, text []byte) {
		path := filepath.Join(t.TempDir(), map[bool]string{true: "l.csv", false: "l.json"}[csv])
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		l, err := OpenLog(path)
		if err != nil {
			return
		}
		defer l.Close()
		before, err := l.Used()
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Append(entry("new")); err != nil {
			t.Fatal(err)
		}
		after, err := l.Used()
		for serial := range before {
			if !after[serial] {
				t.Errorf("%q is forgotten", serial)
			}
		}
		if err != nil || !after["new"] {
			t.Errorf("%v, %v", after, err)
		}
	})
}
