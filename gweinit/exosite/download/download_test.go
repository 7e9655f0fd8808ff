package download

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/exositetest"
)

const (
	serial = "GW-000123"
	name   = "app.v1.tar.gz"
	size   = 400_000
	every  = 40_000 // bytes between two syncs
)

// world is an emulator with a content, and a folder.
type world struct {
	*exositetest.Server
	t      *testing.T
	client *exosite.Client
	meter  *exosite.Meter
	path   string
	data   []byte
	sum    string // SHA-256 of data
	waits  []int
}

func newWorld(t *testing.T) *world {
	w := &world{Server: exositetest.New(t), t: t, meter: &exosite.Meter{}, path: filepath.Join(t.TempDir(), name)}
	w.AddDevice(serial)
	var err error
	w.client, err = exosite.New(exosite.Options{Server: "http://" + w.HTTPAddr(), Meter: w.meter, Consumer: "test", Tries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	if _, err := w.client.Activate(t.Context(), serial); err != nil {
		t.Fatal(err)
	}
	if err := w.Cloud().CreateContent(w.Product(), name, "v1", false); err != nil {
		t.Fatal(err)
	}
	w.upload(random(size))
	return w
}

func random(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	return data
}

func (w *world) upload(data []byte) {
	w.t.Helper()
	if err := w.Cloud().Upload(w.Product(), name, "application/gzip", bytes.NewReader(data)); err != nil {
		w.t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	w.data, w.sum = data, hex.EncodeToString(sum[:])
}

func (w *world) download() Download {
	return Download{
		Client: w.client, ID: name, SHA256: w.sum, Patience: time.Minute, interval: every,
		pause: func(ctx context.Context, n int) error {
			w.waits = append(w.waits, n)
			return ctx.Err()
		},
	}
}

// done says that all is there, and nothing else.
func (w *world) done(what string, size int64, err error) {
	w.t.Helper()
	got, _ := os.ReadFile(w.path)
	if err != nil || size != int64(len(w.data)) || !bytes.Equal(got, w.data) {
		w.t.Errorf("%s: %d bytes, %v; the file has %d, which are the right ones: %v", what, size, err, len(got), bytes.Equal(got, w.data))
	}
	w.left(what, name)
}

// left says what is in the folder.
func (w *world) left(what string, names ...string) {
	w.t.Helper()
	if got := fmt.Sprint(slices.Sorted(maps.Keys(w.snapshot()))); got != fmt.Sprint(names) {
		w.t.Errorf("%s: the folder has %s, want %s", what, got, names)
	}
}

// snapshot is what the folder has.
func (w *world) snapshot() map[string][]byte {
	files := map[string][]byte{}
	all, err := os.ReadDir(filepath.Dir(w.path))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range all {
		if files[e.Name()], err = os.ReadFile(filepath.Join(filepath.Dir(w.path), e.Name())); err != nil {
			w.t.Fatal(err)
		}
	}
	return files
}

// restore makes the folder what it was.
func (w *world) restore(files map[string][]byte) {
	for n := range w.snapshot() {
		os.Remove(filepath.Join(filepath.Dir(w.path), n))
	}
	for n, data := range files {
		if err := os.WriteFile(filepath.Join(filepath.Dir(w.path), n), data, 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}

// fetched is how many bytes of the content's answers have come since the last
// time, their headers included.
func (w *world) fetched() (n int64) {
	for _, link := range w.meter.Take() {
		n += link.Consumers["test"]["content"].TotRx
	}
	return n
}

// cut downloads until so many bytes are there, and returns what the folder has
// at that moment.
func (w *world) cut(at int64) (files map[string][]byte) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	d := w.download()
	d.Progress = func(done, _ int64) {
		if done >= at && files == nil {
			files = w.snapshot()
			cancel()
		}
	}
	if _, err := d.File(ctx, w.path); !errors.Is(err, context.Canceled) || Permanent(err) {
		w.t.Errorf("cut at %d: %v", at, err)
	}
	return files
}

func synced(files map[string][]byte) int64 {
	s, err := parseState(files[name+stateSuffix])
	if err != nil {
		return 0
	}
	return s.Synced
}

func TestFile(t *testing.T) {
	w := newWorld(t)
	var seen []int64
	d := w.download()
	asked := int64(-1)
	d.Room = func(size int64) error { asked = size; return nil }
	d.Progress = func(done, of int64) {
		if of != size || len(seen) > 0 && done < seen[len(seen)-1] {
			t.Errorf("%d of %d after %v", done, of, seen)
		}
		seen = append(seen, done)
	}
	n, err := d.File(t.Context(), w.path)
	w.done("new", n, err)
	if asked != size || len(seen) < 5 || seen[0] != 0 || seen[len(seen)-1] != size {
		t.Errorf("%d, %v", asked, seen)
	}
	if info, err := os.Stat(w.path); err != nil || info.Mode().Perm()&0o600 != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	d.Progress = nil
	n, err = d.File(t.Context(), w.path)
	w.done("over the one from before", n, err)
	d.SHA256, d.Room, d.Patience = "", nil, 0
	n, err = d.File(t.Context(), w.path)
	w.done("any hash", n, err)
	d.SHA256 = strings.ToUpper(w.sum)
	n, err = d.File(t.Context(), w.path)
	w.done("upper case", n, err)
	w.upload(nil)
	d.SHA256 = ""
	n, err = d.File(t.Context(), w.path)
	w.done("empty", n, err)
}

func TestStream(t *testing.T) {
	w := newWorld(t)
	var got bytes.Buffer
	w.Fault(exositetest.Fault{Call: "content", Times: 1, DropAfter: 100_000})
	w.Fault(exositetest.Fault{Call: "content", Times: 1, IgnoreRange: true, DropAfter: 150_000})
	d := w.download()
	d.Room = func(int64) error { t.Error("Room was asked"); return nil }
	if err := d.Stream(t.Context(), &got); err != nil || !bytes.Equal(got.Bytes(), w.data) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	d.SHA256 = strings.Repeat("0", 64)
	if err := d.Stream(t.Context(), io.Discard); !errors.Is(err, ErrHash) {
		t.Error(err)
	}
	for _, bad := range []string{"0", "xyz", w.sum + "00"} {
		d.SHA256 = bad
		if err := d.Stream(t.Context(), io.Discard); !errors.Is(err, ErrHash) || !Permanent(err) {
			t.Errorf("%s: %v", bad, err)
		}
		if _, err := d.File(t.Context(), w.path); !errors.Is(err, ErrHash) || !Permanent(err) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	w.left("no download")
	d.SHA256 = ""
	if err := d.Stream(t.Context(), full{}); !errors.Is(err, errFull) {
		t.Error(err)
	}
}

// A part of a content, whatever happens on the way, and not a byte more.
func TestRange(t *testing.T) {
	w := newWorld(t)
	drop := func(n int64) exositetest.Fault {
		return exositetest.Fault{Call: "content", Times: 1, DropAfter: n}
	}
	for _, test := range []struct {
		name     string
		from, to int64
		size     int64
		faults   []exositetest.Fault
		most     int64 // bytes fetched, without headers
		is       error
	}{
		{name: "all", to: size, size: size, most: size},
		{name: "the middle", from: 100_000, to: 150_000, size: size, most: 50_000},
		{name: "the end", from: size - 1, to: size, size: size, most: 1},
		{name: "nothing", from: 7, to: 7, size: size},
		{name: "of unknown size", from: 10, to: 20, size: -1, most: 10},
		{name: "breaks off", from: 100_000, to: 300_000, size: size, faults: []exositetest.Fault{drop(50_000), drop(1), drop(20_000)}, most: 200_000},
		{name: "no ranges", from: 100_000, to: 150_000, size: size, faults: []exositetest.Fault{{Call: "content", Times: 1, IgnoreRange: true}}, most: size},
		{name: "no ranges, and breaks off", from: 100_000, to: 150_000, size: size, faults: []exositetest.Fault{{Call: "content", Times: 1, IgnoreRange: true, DropAfter: 120_000}}, most: 150_000},
		{name: "another size", from: 100_000, to: 150_000, size: size + 1, is: ErrChanged, most: 50_000},
		{name: "another size, without ranges", from: 100_000, to: 150_000, size: size + 1, faults: []exositetest.Fault{{Call: "content", Times: 1, IgnoreRange: true}}, is: ErrChanged, most: size},
	} {
		for _, f := range test.faults {
			w.Fault(f)
		}
		w.fetched()
		var got bytes.Buffer
		d := w.download()
		d.SHA256 = ""
		err := d.Range(t.Context(), &got, test.from, test.to, test.size)
		if !errors.Is(err, test.is) || err == nil && !bytes.Equal(got.Bytes(), w.data[test.from:test.to]) {
			t.Errorf("%s: %d bytes, %v", test.name, got.Len(), err)
		}
		if n := w.fetched(); n > test.most+2000 {
			t.Errorf("%s: fetched %d bytes, want at most %d and headers", test.name, n, test.most)
		}
		w.ClearFaults()
	}
	d := w.download()
	for _, r := range [][3]int64{{-1, 5, 10}, {5, 4, 10}, {5, 11, 10}} {
		if err := d.Range(t.Context(), io.Discard, r[0], r[1], r[2]); err == nil || !strings.Contains(err.Error(), "no range") {
			t.Errorf("%v: %v", r, err)
		}
	}
	if n, err := d.Size(t.Context()); n != size || err != nil {
		t.Errorf("size %d, %v", n, err)
	}
	opened := errors.New("opened")
	d.Open = func(_ context.Context, r exosite.Range) (*exosite.Content, error) {
		if r != (exosite.Range{From: 3, To: 9}) {
			t.Errorf("asked for %+v", r)
		}
		return nil, opened
	}
	if err := d.Range(t.Context(), io.Discard, 3, 9, 10); !errors.Is(err, opened) {
		t.Error(err)
	}
}

var errFull = errors.New("the disk is full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

// What servers do to a download that still comes to its end.
func TestFaults(t *testing.T) {
	w := newWorld(t)
	drop := func(n int64) exositetest.Fault {
		return exositetest.Fault{Call: "content", Times: 1, DropAfter: n}
	}
	for _, test := range []struct {
		name   string
		faults []exositetest.Fault
		waits  []int
	}{
		{"breaks off", []exositetest.Fault{drop(100_000), drop(1), drop(50_000)}, []int{1, 1, 1}},
		{"brings nothing, four times", []exositetest.Fault{drop(100_000), nothing(4)}, []int{1, 2, 3, 4, 5}},
		{"knows no ranges", []exositetest.Fault{drop(100_000), {Call: "content", Times: 1, IgnoreRange: true, DropAfter: 300_000}}, []int{1, 1}},
		{"knows no ranges, and is slower than before", []exositetest.Fault{drop(100_000), {Call: "content", Times: 1, IgnoreRange: true, DropAfter: 50_000}}, []int{1, 2}},
		{"trickles", []exositetest.Fault{{Call: "content", Times: 1, Rate: 1_000_000}}, nil},
	} {
		w.waits = nil
		for _, f := range test.faults {
			w.Fault(f)
		}
		n, err := w.download().File(t.Context(), w.path)
		w.done(test.name, n, err)
		if fmt.Sprint(w.waits) != fmt.Sprint(test.waits) {
			t.Errorf("%s: waits %v, want %v", test.name, w.waits, test.waits)
		}
		os.Remove(w.path)
	}
}

// nothing is an answer that ends after its header.
func nothing(times int) exositetest.Fault {
	return exositetest.Fault{Call: "content", Times: times, IgnoreRange: true, DropAfter: 1}
}

// What ends a download, and what is left then; the next one ends well, and fetches
// only what is missing.
func TestFailures(t *testing.T) {
	w := newWorld(t)
	part, state := name+partSuffix, name+stateSuffix
	drop := exositetest.Fault{Call: "content", Times: 1, DropAfter: 100_000}
	flip := int64(5)
	for _, test := range []struct {
		name      string
		faults    []exositetest.Fault
		change    func(d *Download)
		is        func(err error) bool
		text      string
		permanent bool
		left      []string
		fetched   int64 // by the next one
	}{
		{name: "no such content", faults: []exositetest.Fault{{Call: "contentinfo", Times: 1, Status: 404}}, is: status(404), permanent: true, fetched: size},
		{name: "may not be had", faults: []exositetest.Fault{{Call: "contentinfo", Times: 1, Status: 403}}, is: status(403), permanent: true, fetched: size},
		{name: "CIK", faults: []exositetest.Fault{{Call: "contentinfo", Times: 1, Status: 401}}, is: is(exosite.ErrBadCIK), fetched: size},
		{name: "server error", faults: []exositetest.Fault{{Call: "contentinfo", Times: 1, Status: 500}}, is: status(500), fetched: size},
		{name: "nothing of it", faults: []exositetest.Fault{{Call: "content", Times: 1, Status: 503}}, is: status(503), fetched: size},
		{name: "too many", faults: []exositetest.Fault{drop, {Call: "content", Times: 1, Status: 429}}, is: status(429), text: part + ", and another try", left: []string{part, state}, fetched: size - 100_000},
		{name: "gone in between", faults: []exositetest.Fault{drop, {Call: "content", Times: 1, Status: 404}}, is: status(404), text: "at byte 100000 of 400000", permanent: true, left: []string{part, state}, fetched: size - 100_000},
		{name: "no such range", faults: []exositetest.Fault{drop, {Call: "content", Times: 1, Status: 416}}, is: status(416), left: []string{part, state}, fetched: size - 100_000},
		{name: "brings nothing", faults: []exositetest.Fault{drop, nothing(maxBroken)}, is: is(io.ErrUnexpectedEOF), text: "tried 5 times without a byte", left: []string{part, state}, fetched: size - 100_000},
		{name: "another length", faults: []exositetest.Fault{{Call: "content", Times: 1, LengthBy: -1000}}, is: is(ErrChanged), text: "399000 bytes now", fetched: size},
		{name: "another length of a range", faults: []exositetest.Fault{drop, {Call: "content", Times: 1, LengthBy: 1000}}, text: "says that these are 301000", left: []string{part, state}, fetched: size - 100_000},
		{name: "wrong byte", faults: []exositetest.Fault{{Call: "content", Times: 1, FlipAt: &flip}}, is: is(ErrHash), permanent: true, fetched: size},
		{name: "other hash", change: func(d *Download) { d.SHA256 = strings.Repeat("ab", 32) }, is: is(ErrHash), text: w.sum, permanent: true, fetched: size},
		{name: "no room", change: func(d *Download) { d.Room = func(int64) error { return errFull } }, is: is(errFull), text: "400000 of its 400000 bytes", fetched: size},
		{name: "no answer at the end", change: func(d *Download) {
			d.Progress = func(done, of int64) {
				if done == of && len(w.Faults()) == 0 {
					w.Fault(exositetest.Fault{Call: "contentinfo", Times: 1, Status: 502})
				}
			}
		}, is: status(502), left: []string{part, state}, fetched: 0},
		{name: "no folder", change: func(d *Download) { os.Remove(filepath.Dir(w.path)) }, is: is(fs.ErrNotExist), text: part, fetched: size},
	} {
		t.Run(test.name, func(t *testing.T) {
			w.t = t
			for _, f := range test.faults {
				w.Fault(f)
			}
			d := w.download()
			if test.change != nil {
				test.change(&d)
			}
			n, err := d.File(t.Context(), w.path)
			if err == nil || n != 0 || test.is != nil && !test.is(err) || !strings.Contains(err.Error(), test.text) || Permanent(err) != test.permanent || strings.Contains(err.Error(), w.client.CIK()) {
				t.Errorf("%d, permanent %v, %v", n, Permanent(err), err)
			}
			if len(w.Faults()) > 0 {
				t.Errorf("left are %+v", w.Faults())
			}
			if err := os.MkdirAll(filepath.Dir(w.path), 0o755); err != nil {
				t.Fatal(err)
			}
			w.left("after it", test.left...)
			w.fetched()
			n, err = w.download().File(t.Context(), w.path)
			w.done("the next one", n, err)
			if got := w.fetched(); got < test.fetched || got > test.fetched+1000 {
				t.Errorf("the next one fetched %d bytes, want %d and a header", got, test.fetched)
			}
			os.Remove(w.path)
		})
	}
}

func is(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }

func status(code int) func(error) bool {
	return func(err error) bool {
		var s *exosite.StatusError
		return errors.As(err, &s) && s.Code == code
	}
}

func TestPermanent(t *testing.T) {
	answer := func(call string, code int) error { return &exosite.StatusError{Call: call, Code: code} }
	for _, test := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{context.DeadlineExceeded, false},
		{fmt.Errorf("x: %w", errors.Join(answer("content", 404), errFull)), true},
		{answer("contentinfo", 400), true},
		{answer("timestamp", 404), false},
		{answer("content", 408), false},
		{answer("content", 502), false},
		{exosite.ErrBadCIK, false},
		{exosite.ErrUntrusted, false},
	} {
		if got := Permanent(test.err); got != test.want {
			t.Errorf("%v: %v", test.err, got)
		}
	}
}

// Another upload while it is downloaded: nothing is mixed.
func TestChanged(t *testing.T) {
	w := newWorld(t)
	again := func(data []byte) { // its time counts in seconds
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
		w.upload(data)
	}
	d := w.download()
	d.SHA256 = ""
	d.Progress = func(done, of int64) {
		if done == of {
			again(random(size))
		}
	}
	_, err := d.File(t.Context(), w.path)
	if !errors.Is(err, ErrChanged) || Permanent(err) {
		t.Error(err)
	}
	w.left("changed")

	w.cut(200_000)
	again(random(size))
	n, err := w.download().File(t.Context(), w.path)
	w.done("changed after a cut", n, err)
	w.cut(200_000)
	again(random(size / 3))
	n, err = w.download().File(t.Context(), w.path)
	w.done("shorter after a cut", n, err)
}

// What fits of a file that is too large for the disk stays.
func TestNoSpace(t *testing.T) {
	w := newWorld(t)
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var all unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &all); err != nil {
		t.Fatal(err)
	}
	little := all
	little.Cur = 250_000
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &little); err != nil {
		t.Fatal(err)
	}
	_, err := w.download().File(t.Context(), w.path)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &all); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EFBIG) || Permanent(err) {
		t.Error(err)
	}
	if from := synced(w.snapshot()); from != 250_000 {
		t.Errorf("%d bytes are safe", from)
	}
	w.fetched()
	n, err := w.download().File(t.Context(), w.path)
	w.done("with space", n, err)
	if got := w.fetched(); got < 150_000 || got > 151_000 {
		t.Errorf("fetched %d bytes", got)
	}
}

// A slow connection does not bring a sync's worth of bytes in a long time.
func TestSlow(t *testing.T) {
	w := newWorld(t)
	w.Fault(exositetest.Fault{Call: "content", Times: 1, Rate: 400_000})
	d := w.download()
	d.interval, d.within = 0, 100*time.Millisecond
	all := map[int64]bool{}
	d.Progress = func(int64, int64) { all[synced(w.snapshot())] = true }
	start := time.Now()
	n, err := d.File(t.Context(), w.path)
	w.done("slow", n, err)
	if took := time.Since(start); len(all) < 4 || len(all) > int(took/d.within)+2 {
		t.Errorf("saved were %v in %v", all, took)
	}
}

// Two at once do not write into one file.
func TestAtOnce(t *testing.T) {
	w := newWorld(t)
	d := w.download()
	other := error(nil)
	d.Progress = func(done, _ int64) {
		if done > 0 && other == nil {
			_, other = w.download().File(t.Context(), w.path)
		}
	}
	n, err := d.File(t.Context(), w.path)
	w.done("the first", n, err)
	if other == nil || !strings.Contains(other.Error(), "by another process") {
		t.Errorf("the second: %v", other)
	}
}

// The power is cut when so much has come; of what was not synced anything may be
// left.
func TestPowerCut(t *testing.T) {
	w := newWorld(t)
	tails := map[string]func(part []byte, from int64) []byte{
		"killed only": func(part []byte, _ int64) []byte { return part },
		"dropped":     func(part []byte, from int64) []byte { return part[:from] },
		"zeroed":      func(part []byte, from int64) []byte { clear(part[from:]); return part },
		"garbage":     func(part []byte, from int64) []byte { return append(part[:from], random(len(part)-int(from))...) },
		"too long":    func(part []byte, from int64) []byte { return append(part[:from], random(2*size)...) },
		"torn":        func(part []byte, from int64) []byte { return part[:(from+int64(len(part)))/2] },
	}
	points := []int64{0, 1, every - 1, every, every + 1, 3 * every, 5*every + 17, size - every, size - 1, size}
	for _, at := range points {
		files := w.cut(at)
		from := synced(files)
		if have := int64(len(files[name+partSuffix])); from > have || have-from > every+64<<10 || have < at {
			t.Errorf("cut at %d: %d bytes of %d are safe", at, from, have)
		}
		for what, damage := range tails {
			cut := maps.Clone(files)
			cut[name+partSuffix] = damage(bytes.Clone(files[name+partSuffix]), from)
			w.restore(cut)
			w.fetched()
			n, err := w.download().File(t.Context(), w.path)
			w.done(fmt.Sprintf("%s at %d", what, at), n, err)
			if got := w.fetched(); got > size-from+1000 {
				t.Errorf("%s at %d: fetched %d, and %d were safe", what, at, got, from)
			}
		}
		w.restore(nil)
	}
}

// What a file system should not do, and does, and what is between the steps.
func TestPowerCutOdd(t *testing.T) {
	w := newWorld(t)
	files := w.cut(5 * every)
	part, state := files[name+partSuffix], files[name+stateSuffix]
	wrong := bytes.Clone(part)
	wrong[7] ^= 1
	whole := w.cut(size)
	w.restore(nil)
	type left = map[string][]byte
	for what, files := range map[string]left{
		"no part":                    {name + stateSuffix: state},
		"no state":                   {name + partSuffix: part},
		"torn state":                 {name + partSuffix: part, name + stateSuffix: state[:len(state)/2]},
		"zeroed state":               {name + partSuffix: part, name + stateSuffix: make([]byte, len(state))},
		"garbage in the state":       {name + partSuffix: part, name + stateSuffix: random(100)},
		"huge state":                 {name + partSuffix: part, name + stateSuffix: make([]byte, 2*maxState)},
		"state of another":           {name + partSuffix: part, name + stateSuffix: bytes.Replace(state, []byte("app"), []byte("apq"), 1)},
		"state of another size":      {name + partSuffix: part, name + stateSuffix: bytes.Replace(state, []byte(`"size":4`), []byte(`"size":5`), 1)},
		"state of more than there":   {name + partSuffix: part[:every], name + stateSuffix: state},
		"what was synced is wrong":   {name + partSuffix: wrong, name + stateSuffix: state},
		"before the rename":          {name + partSuffix: w.data, name + stateSuffix: state},
		"all synced":                 {name + partSuffix: whole[name+partSuffix], name + stateSuffix: whole[name+stateSuffix]},
		"before the state's removal": {name: w.data, name + stateSuffix: state},
		"an older file is there":     {name: []byte("old"), name + partSuffix: part, name + stateSuffix: state},
	} {
		w.restore(files)
		n, err := w.download().File(t.Context(), w.path)
		w.done(what, n, err)
	}
	// A folder in the place of the state cannot be helped, and is told.
	w.restore(nil)
	if err := os.MkdirAll(filepath.Join(w.path+stateSuffix, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := w.download().File(t.Context(), w.path); err == nil || !strings.Contains(err.Error(), stateSuffix) {
		t.Error(err)
	}
}

// Ten cuts, each at a random moment with a random tail, cost little more than one
// download.
func TestPowerCuts(t *testing.T) {
	const cuts = 10
	w := newWorld(t)
	w.fetched()
	for i := range int64(cuts) {
		files := w.cut((i + 1) * size / (cuts + 1))
		if i%2 == 0 { // the power, and not just the program
			from := synced(files)
			part := files[name+partSuffix]
			files[name+partSuffix] = append(part[:from], random(rand.IntN(len(part)-int(from)+1))...)
			w.restore(files)
		}
	}
	n, err := w.download().File(t.Context(), w.path)
	w.done("ten cuts", n, err)
	// What was in the client's buffers and the sockets when it was cut is lost, too:
	// that is part of the tenth.
	got := w.fetched()
	t.Logf("fetched %d bytes of %d, with a sync every %d and %d cuts", got, size, every, cuts)
	if most := int64(size + size/10 + cuts*every); got > most {
		t.Errorf("fetched %d bytes, want at most %d", got, most)
	}
}

func FuzzState(f *testing.F) {
	f.Add(state{"app.v1.tar.gz", 400, 1527272454, 123, 0xffffffff}.encode())
	f.Add([]byte(`{"size":-1,"synced":0}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseState(data)
		if err != nil {
			return
		}
		if s.Synced < 0 || s.Synced > s.Size {
			t.Errorf("%+v", s)
		}
		if again, err := parseState(s.encode()); err != nil || again != s {
			t.Errorf("%+v, %+v, %v", s, again, err)
		}
	})
}
