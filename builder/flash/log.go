package flash

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/durable"
)

// Outcome is what has become of a card, or of the gateway it is in.
type Outcome string

const (
	Allotted    Outcome = "allotted" // the serial number is this card's; it is not on the card yet
	OK          Outcome = "ok"
	Refused     Outcome = "refused" // nothing was written
	Failed      Outcome = "failed"
	Interrupted Outcome = "interrupted"
	NotEnabled  Outcome = "not enabled" // a good card, whose serial number the cloud does not know yet
	TestPassed  Outcome = "selftest pass"
	TestFailed  Outcome = "selftest fail"
)

// Entry is a line of the log.
type Entry struct {
	Time    time.Time `json:"time"`
	Result  Outcome   `json:"result"`
	Device  string    `json:"device"`
	Serial  string    `json:"serial"`
	MAC     string    `json:"mac"`
	Card    string    `json:"card"` // model
	CardID  string    `json:"card_id"`
	Size    int64     `json:"size"`  // of the card, in bytes
	Board   string    `json:"board"` // with version and hash, the image
	Version string    `json:"version"`
	SHA256  string    `json:"sha256"`
	Seconds float64   `json:"seconds"`
	Detail  string    `json:"detail"` // why it is not ok
}

var columns = []string{"time", "result", "device", "serial", "mac", "card", "card_id", "size", "board", "version", "sha256", "seconds", "detail"}

func (e Entry) fields() []string {
	return []string{
		e.Time.UTC().Format(time.RFC3339), string(e.Result), e.Device, e.Serial, e.MAC, e.Card, e.CardID, strconv.FormatInt(e.Size, 10),
		e.Board, e.Version, e.SHA256, strconv.FormatFloat(e.Seconds, 'f', 1, 64), e.Detail,
	}
}

// Log is a file with a line for each card, and one before for each serial number
// that is about to be written. It only ever grows, and it is what tells which
// serial numbers are used. Several processes may use it at once.
type Log struct {
	f    *os.File
	json bool

	mu   sync.Mutex // as well as the file's lock
	seen map[string]bool
}

// OpenLog opens a log, or makes it. The name of one with CSV ends in .csv, of one
// with a JSON object on each line in .json.
func OpenLog(path string) (*Log, error) {
	kind := filepath.Ext(path)
	if kind != ".csv" && kind != ".json" {
		return nil, fmt.Errorf("log %s: its name has to end in .csv or .json", path)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	l := &Log{f: f, json: kind == ".json"}
	if err = durable.SyncFolder(filepath.Dir(path)); err == nil {
		_, err = l.Used()
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("log %s: %w", path, err)
	}
	return l, nil
}

func (l *Log) Close() error { return l.f.Close() }

// Append adds a line. It is on the disk when Append returns.
func (l *Log) Append(e Entry) error {
	return l.locked(func() error { return l.append(e) })
}

// Allot has choose take a serial number that is not used, and adds the line that
// uses it.
func (l *Log) Allot(e Entry, choose func(used map[string]bool) (Unit, error)) (unit Unit, err error) {
	err = l.locked(func() error {
		used, err := l.used()
		if err != nil {
			return err
		}
		if unit, err = choose(used); err != nil {
			return err
		}
		e.Serial, e.MAC = unit.Serial, unit.MAC
		e.Time, e.Result = time.Now(), Allotted
		if err := l.append(e); err != nil {
			return err
		}
		used[unit.Serial] = true // and l.seen
		return nil
	})
	return unit, err
}

// Used returns the serial numbers in the log.
func (l *Log) Used() (used map[string]bool, err error) {
	err = l.locked(func() error { used, err = l.used(); return err })
	return used, err
}

// locked keeps other processes, and others of this one, away meanwhile.
func (l *Log) locked(do func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Locks are a description's. NFS wants one that can be written to.
	lock, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", l.f.Fd()), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", l.f.Name(), err)
	}
	// Others would not see what we write to a file that is not there any more, and
	// use its serial numbers again.
	ours, err := l.f.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Stat(l.f.Name()); err != nil || !os.SameFile(ours, there) {
		return fmt.Errorf("%s was moved, or replaced as editors do: see that all serial numbers are in it, and start again", l.f.Name())
	}
	return do()
}

func (l *Log) append(e Entry) error {
	info, err := l.f.Stat()
	if err != nil {
		return err
	}
	e.Detail = strings.Join(strings.Fields(e.Detail), " ")
	var text bytes.Buffer
	if l.json {
		if err := json.NewEncoder(&text).Encode(e); err != nil {
			return err
		}
	} else {
		w := csv.NewWriter(&text)
		if info.Size() == 0 {
			w.Write(columns)
		}
		w.Write(e.fields())
		w.Flush()
	}
	if _, err := l.f.Write(text.Bytes()); err != nil {
		l.f.Truncate(info.Size()) // a part of it, perhaps, which the next line must not be behind
		return fmt.Errorf("write to %s: %w", l.f.Name(), err)
	}
	if err := l.f.Sync(); err != nil {
		return fmt.Errorf("write to %s: %w", l.f.Name(), err)
	}
	return nil
}

// used reads the serial numbers. A last line that is cut off is removed: what it
// was for has not happened. Anything else that cannot be read is an error, since
// serial numbers may be in it.
func (l *Log) used() (map[string]bool, error) {
	text, err := io.ReadAll(io.NewSectionReader(l.f, 0, 1<<62))
	if err != nil {
		return nil, err
	}
	used, number, read := map[string]bool{}, 0, 0
	for line := range bytes.Lines(text) {
		number++
		serial, err := l.serial(bytes.TrimRight(line, "\r\n"), number == 1)
		last := !bytes.HasSuffix(line, []byte("\n"))
		if last && err == nil { // an editor's
			_, err = l.f.WriteString("\n")
		} else if last && (number > 1 || l.begins(line)) {
			err = l.f.Truncate(int64(read))
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w: correct it, or take another log", number, err)
		}
		if serial != "" {
			used[serial] = true
		}
		read += len(line)
	}
	for serial := range l.seen {
		if !used[serial] { // an editor has written what it had read before
			return nil, fmt.Errorf("serial number %s was in it, and is not any more: put back the lines that are missing, and start again", serial)
		}
	}
	l.seen = used
	return used, nil
}

// begins says whether a first line that is cut off is a log's at all.
func (l *Log) begins(line []byte) bool {
	want := strings.Join(columns, ",")
	if l.json {
		want = `{"time":"`
	}
	n := min(len(want), len(line))
	return string(line[:n]) == want[:n]
}

// serial is the one that a line uses; "" if there is none.
func (l *Log) serial(line []byte, first bool) (string, error) {
	if len(line) == 0 {
		return "", nil
	}
	if l.json {
		var e Entry
		err := json.Unmarshal(line, &e)
		return used(e.Result, e.Serial), err
	}
	fields, err := csv.NewReader(bytes.NewReader(line)).Read()
	switch {
	case err != nil:
		return "", err
	case first && !slices.Equal(fields, columns):
		return "", fmt.Errorf("the first line is not %s", strings.Join(columns, ","))
	case first:
		return "", nil
	case len(fields) != len(columns):
		return "", fmt.Errorf("it has %d fields, want %d", len(fields), len(columns))
	}
	return used(Outcome(fields[slices.Index(columns, "result")]), fields[slices.Index(columns, "serial")]), nil
}

// used leaves out the serial numbers that gateways have told: they may be anybody's.
func used(o Outcome, serial string) string {
	if o == TestPassed || o == TestFailed {
		return ""
	}
	return serial
}
