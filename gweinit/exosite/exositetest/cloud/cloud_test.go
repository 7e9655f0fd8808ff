package cloud

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/spec"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

const (
	testProduct = "a1b2c3"
	sn          = "00:2F:AC:43:55:A0"
)

// open has a cloud with one product.
func open(t *testing.T, o Options) *Cloud {
	t.Helper()
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.CreateProduct(testProduct); err != nil && !errors.Is(err, ErrExists) {
		t.Fatal(err)
	}
	return c
}

// device has an activated device in it.
func device(t *testing.T, c *Cloud, sn string) (*Device, string) {
	t.Helper()
	must(t, c.AddSerials(testProduct, Serial{SN: sn}))
	must(t, c.Enable(testProduct, sn, "test"))
	cik, err := c.Activate(testProduct, sn, "test", nil)
	must(t, err)
	d, ok := c.ByCIK(cik)
	if !ok {
		t.Fatal("the device has a CIK that is not valid")
	}
	return d, cik
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wants(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func TestActivation(t *testing.T) {
	c := open(t, Options{})
	status := func(want Status) {
		t.Helper()
		if d, err := c.Device(testProduct, sn); err != nil || d.Status != want {
			t.Errorf("got %v, %v, want %v", d.Status, err, want)
		}
	}
	_, err := c.Activate(testProduct, sn, "", nil)
	wants(t, "not added", err, ErrUnknown)
	must(t, c.AddSerials(testProduct, Serial{sn, "line 3"}))
	status(Unused)
	_, err = c.Activate(testProduct, sn, "", nil)
	wants(t, "not enabled", err, ErrNotEnabled)
	must(t, c.Enable(testProduct, sn, "10.0.0.1"))
	status(NotActivated)
	first, err := c.Activate(testProduct, sn, "10.0.0.2", []byte("sum"))
	must(t, err)
	status(Activated)
	if len(first) != 40 || !isName(first) {
		t.Errorf("CIK %q", first)
	}
	_, err = c.Activate(testProduct, sn, "", nil)
	wants(t, "twice", err, ErrNotEnabled)
	if d, ok := c.ByCertificate([]byte("sum")); !ok || d.SN() != sn || d.Product() != testProduct {
		t.Errorf("by certificate: %v", d)
	}
	if _, ok := c.ByCertificate(nil); ok {
		t.Error("no certificate is one")
	}
	if _, ok := c.ByCIK(""); ok {
		t.Error("no CIK is one")
	}

	must(t, c.Disable(testProduct, sn, ""))
	status(Disabled)
	if _, ok := c.ByCIK(first); ok {
		t.Error("a disabled device's CIK is valid")
	}
	if _, ok := c.ByCertificate([]byte("sum")); ok {
		t.Error("a disabled device's certificate is valid")
	}
	_, err = c.Activate(testProduct, sn, "", nil)
	wants(t, "disabled", err, ErrNotEnabled)
	must(t, c.Enable(testProduct, sn, ""))
	second, err := c.Activate(testProduct, sn, "", nil)
	must(t, err)
	must(t, c.Enable(testProduct, sn, ""))
	if _, ok := c.ByCIK(second); ok {
		t.Error("a CIK is valid after the device was enabled again")
	}
	if second == first {
		t.Error("the new CIK is the old one")
	}

	// A certificate is that of the last device that came with it.
	must(t, c.AddSerials(testProduct, Serial{SN: "second"}))
	must(t, c.AddSerials(testProduct, Serial{SN: "first"}))
	for _, sn := range []string{"first", "second"} {
		must(t, c.Enable(testProduct, sn, ""))
		_, err = c.Activate(testProduct, sn, "", []byte("sum"))
		must(t, err)
	}
	must(t, c.Disable(testProduct, "first", ""))
	if d, ok := c.ByCertificate([]byte("sum")); !ok || d.SN() != "second" {
		t.Error("the second device has lost its certificate with the first")
	}
	must(t, c.RemoveSerials(testProduct, "second"))
	if _, ok := c.ByCertificate([]byte("sum")); ok {
		t.Error("a removed device's certificate is valid")
	}

	log, err := c.Log(testProduct, sn)
	must(t, err)
	var texts []string
	for _, e := range log {
		texts = append(texts, e.From+" "+e.Text)
	}
	want := []string{"10.0.0.1 enabled", "10.0.0.2 activated", " disabled", " enabled", " activated", " enabled"}
	if !slices.Equal(texts, want) {
		t.Errorf("log %q, want %q", texts, want)
	}
}

func TestReplacement(t *testing.T) {
	c := open(t, Options{})
	d, cik := device(t, c, "old")
	_, err := d.Write(Value{"device_info", "{}"})
	must(t, err)
	must(t, c.AddSerials(testProduct, Serial{SN: "new"}, Serial{SN: "empty"}))
	wants(t, "a unit that never was", c.Replace(testProduct, "new", "empty", ""), ErrUnknown)
	must(t, c.Replace(testProduct, "new", "old", ""))
	if _, ok := c.ByCIK(cik); ok {
		t.Error("the old unit's CIK is valid")
	}
	cik, err = c.Activate(testProduct, "new", "", nil)
	must(t, err)
	d, _ = c.ByCIK(cik)
	if p, ok := d.Read("device_info"); !ok || p.Value != "{}" || d.SN() != "new" {
		t.Errorf("the replacement has %v, %v", p, ok)
	}
	_, err = c.Activate(testProduct, "old", "", nil)
	wants(t, "the old unit", err, ErrNotEnabled)
	wants(t, "twice", c.Replace(testProduct, "new", "old", ""), ErrUnknown)
	must(t, c.Enable(testProduct, "old", ""))
	wants(t, "one that has data", c.Replace(testProduct, "new", "old", ""), ErrExists)
}

func TestNames(t *testing.T) {
	c := open(t, Options{})
	for _, id := range []string{"", "a b", "ä", strings.Repeat("a", 64), "a/b", "a.b"} {
		wants(t, fmt.Sprintf("product %q", id), c.CreateProduct(id), ErrInvalid)
	}
	wants(t, "again", c.CreateProduct(testProduct), ErrExists)
	for _, s := range []Serial{{"", ""}, {"a,b", ""}, {"a\nb", ""}, {"a", "x,y"}, {strings.Repeat("a", 257), ""}, {"\xff", ""}} {
		wants(t, fmt.Sprintf("serial %q", s), c.AddSerials(testProduct, s), ErrInvalid)
	}
	wants(t, "twice in one", c.AddSerials(testProduct, Serial{SN: "a"}, Serial{SN: "a"}), ErrExists)
	wants(t, "one of two is wrong", c.AddSerials(testProduct, Serial{SN: "b"}, Serial{SN: ""}), ErrInvalid)
	if got := c.Devices(testProduct); len(got) != 0 {
		t.Errorf("of several that failed there are %v", got)
	}
	must(t, c.AddSerials(testProduct, Serial{SN: "a/b c"}, Serial{SN: sn}))
	wants(t, "remove an unknown one", c.RemoveSerials(testProduct, sn, "no"), ErrUnknown)
	if got := c.Devices(testProduct); len(got) != 2 || got[0].SN != sn {
		t.Errorf("devices %v", got)
	}
	must(t, c.RemoveSerials(testProduct, sn))
	wants(t, "owner", c.SetOwner("short"), ErrInvalid)
	must(t, c.DeleteProduct(testProduct))
	wants(t, "deleted", c.AddSerials(testProduct, Serial{SN: "x"}), ErrUnknown)
	if len(c.Owner()) != 40 {
		t.Errorf("owner %q", c.Owner())
	}
}

func TestSeries(t *testing.T) {
	now := newClock()
	c := open(t, Options{Now: now.now, Resources: append(spec.GWE(), spec.Resource{Alias: "count", Format: "integer"})})
	d, _ := device(t, c, sn)
	if _, ok := d.Read("engine_fetch"); ok {
		t.Error("a value before the first write")
	}
	at, err := d.Write(Value{"engine_fetch", "a"}, Value{"no_such", "b"}, Value{"count", "7"})
	must(t, err)
	if !at.Equal(now.now()) {
		t.Errorf("written at %v, the clock has %v", at, now.now())
	}
	if _, ok := d.Read("no_such"); ok {
		t.Error("an unknown resource has a value")
	}
	_, err = d.Write(Value{"engine_fetch", "b"}, Value{"count", "x"})
	wants(t, "a wrong format", err, ErrInvalid)
	_, err = d.Write(Value{"engine_fetch", strings.Repeat("a", MaxValue+1)})
	wants(t, "too long", err, ErrInvalid)
	_, err = d.Write(Value{"engine_fetch", "a\xff"})
	wants(t, "not UTF-8", err, ErrInvalid)
	if p, _ := d.Read("engine_fetch"); p.Value != "a" {
		t.Errorf("after writes that failed: %v", p)
	}
	_, err = d.Write(Value{"engine_fetch", "b"}, Value{"engine_fetch", "c"}) // at the same time as "a"
	must(t, err)
	history, err := c.History(testProduct, sn, "engine_fetch")
	must(t, err)
	var got []string
	for _, p := range history {
		got = append(got, p.Value)
	}
	if !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("history %v", got)
	}

	wants(t, "set a report", c.Set(testProduct, sn, "engine_report", "x"), ErrForbidden)
	wants(t, "set an unknown one", c.Set(testProduct, sn, "no", "x"), ErrUnknown)
	now.add(time.Second)
	must(t, c.Set(testProduct, sn, "engine_fetch", ""))
	if p, ok := d.Read("engine_fetch"); !ok || p.Value != "" {
		t.Errorf("cleared: %v, %v", p, ok)
	}
	must(t, c.RemoveSerials(testProduct, sn))
	_, err = d.Write(Value{"count", "1"})
	wants(t, "a removed device", err, ErrUnknown)
	_, err = d.Record(Point{"count", now.now(), "1"})
	wants(t, "a removed device", err, ErrUnknown)
}

func TestRecord(t *testing.T) {
	c := open(t, Options{})
	d, _ := device(t, c, sn)
	at := func(s float64) time.Time { return time.UnixMicro(int64(s * 1e6)) }
	for i, step := range []struct{ points, clash []float64 }{
		{points: []float64{100, 101, 50}},
		{points: []float64{100}, clash: []float64{100}},
		{points: []float64{200, 200.5, 199.25, 201}, clash: []float64{200.5, 199.25}},
		{points: []float64{100.5}}, // not at a time that has a value
		{points: []float64{100.5, 102, 50}, clash: []float64{100.5, 50}},
	} {
		var points, want []Point
		for _, s := range step.points {
			points = append(points, Point{"device_info", at(s), fmt.Sprint(s)})
		}
		for _, s := range step.clash {
			want = append(want, Point{"device_info", at(s), fmt.Sprint(s)})
		}
		clashes, err := d.Record(append(points, Point{"no_such", at(1), "x"})...)
		if err != nil || !reflect.DeepEqual(clashes, want) {
			t.Errorf("step %d: %v, %v, want %v", i, clashes, err, want)
		}
	}
	for _, s := range []float64{-1, 1e13} {
		_, err := d.Record(Point{"device_info", at(s), "x"})
		wants(t, fmt.Sprint("time ", s), err, ErrInvalid)
	}
	var got []string
	history, _ := c.History(testProduct, sn, "device_info")
	for _, p := range history {
		got = append(got, p.Value)
	}
	if want := []string{"50", "100", "100.5", "101", "102", "200", "201"}; !slices.Equal(got, want) {
		t.Errorf("history %v, want %v", got, want)
	}
	if p, _ := d.Read("device_info"); p.Value != "201" {
		t.Errorf("newest %v", p)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	now := newClock()
	c := open(t, Options{Now: now.now})
	d, _ := device(t, c, sn)
	long := strings.Repeat("x", 10<<10)
	for i := range maxPoints + 10 {
		now.add(time.Second)
		_, err := d.Write(Value{"device_info", fmt.Sprint(i)}, Value{"engine_report", fmt.Sprint(i, long)})
		must(t, err)
	}
	history, _ := c.History(testProduct, sn, "device_info")
	if len(history) != maxPoints || history[0].Value != "10" {
		t.Errorf("%d points from %v", len(history), history[0])
	}
	history, _ = c.History(testProduct, sn, "engine_report")
	if len(history) != maxHistory/len(long) || !strings.HasPrefix(history[len(history)-1].Value, fmt.Sprint(maxPoints+9)) {
		t.Errorf("%d long points", len(history))
	}
	_, err := d.Write(Value{"engine_report", strings.Repeat("x", MaxValue)})
	must(t, err)
	if history, _ = c.History(testProduct, sn, "engine_report"); len(history) != 1 {
		t.Errorf("beside the longest value there are %d", len(history)-1)
	}
}

func TestWait(t *testing.T) {
	now := newClock()
	c := open(t, Options{Now: now.now})
	d, _ := device(t, c, sn)
	write := func(value string, after time.Duration) {
		now.add(after)
		_, err := d.Write(Value{"engine_fetch", value})
		must(t, err)
	}
	start := now.now()
	write("a", 0)
	write("b", time.Second)
	write("c", time.Millisecond)
	write("d", time.Second)
	for since, want := range map[time.Duration]string{-time.Second: "a", 0: "c", 500 * time.Millisecond: "c", time.Second: "d"} {
		p, err := d.Wait(t.Context(), "engine_fetch", start.Add(since))
		if err != nil || p.Value != want {
			t.Errorf("since %v: %v, %v, want %q", since, p, err, want)
		}
	}
	short, cancel := context.WithCancel(t.Context())
	cancel()
	for _, alias := range []string{"engine_fetch", "no_such"} {
		if _, err := d.Wait(short, alias, now.now()); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", alias, err)
		}
	}
	// Nothing but the next one is awaited without a time, within the same second, too.
	got := make(chan Point)
	for range 3 {
		go func() {
			p, err := d.Wait(t.Context(), "engine_fetch", time.Time{})
			if err != nil {
				p.Value = err.Error()
			}
			got <- p
		}()
	}
	waitFor(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return d.client.series[c.byAlias["engine_fetch"]].changed != nil
	})
	time.Sleep(10 * time.Millisecond) // the others, most likely
	write("e", time.Millisecond)
	for i := 0; i < 3; i++ {
		select {
		case p := <-got:
			if p.Value != "e" {
				t.Errorf("got %v", p)
			}
		case <-time.After(100 * time.Millisecond): // it came late and waits for the next one
			i--
			write("e", time.Millisecond)
		}
	}
}

// The end of a credential is that of all that is done with it.
func TestEndedCredential(t *testing.T) {
	for name, end := range map[string]func(c *Cloud) error{
		"disabled": func(c *Cloud) error { return c.Disable(testProduct, sn, "") },
		"enabled":  func(c *Cloud) error { return c.Enable(testProduct, sn, "") },
		"removed":  func(c *Cloud) error { return c.RemoveSerials(testProduct, sn) },
		"deleted":  func(c *Cloud) error { return c.DeleteProduct(testProduct) },
		"replaced": func(c *Cloud) error {
			return errors.Join(c.AddSerials(testProduct, Serial{SN: "new"}), c.Replace(testProduct, "new", sn, ""))
		},
	} {
		c := open(t, Options{})
		d, _ := device(t, c, sn)
		waited := make(chan error, 2)
		for _, alias := range []string{"engine_fetch", "no_such"} {
			go func() {
				_, err := d.Wait(t.Context(), alias, time.Time{})
				waited <- err
			}()
		}
		waitFor(t, func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return d.client.series[c.byAlias["engine_fetch"]].changed != nil && d.client.none.changed != nil
		})
		must(t, end(c))
		wants(t, name+": wait", <-waited, ErrUnknown)
		wants(t, name+": wait", <-waited, ErrUnknown)
		_, err := d.Write(Value{"device_info", "x"})
		wants(t, name+": write", err, ErrUnknown)
		_, err = d.Record(Point{"device_info", c.Now(), "x"})
		wants(t, name+": record", err, ErrUnknown)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("it does not happen")
		}
	}
}

func TestContent(t *testing.T) {
	c := open(t, Options{Dir: t.TempDir()})
	const id = "a app/..v1.tar.gz"
	wants(t, "upload an unknown one", c.Upload(testProduct, id, "text/plain", strings.NewReader("x")), ErrUnknown)
	must(t, c.CreateContent(testProduct, id, "meta", false))
	wants(t, "again", c.CreateContent(testProduct, id, "meta", false), ErrExists)
	wants(t, "a comma", c.CreateContent(testProduct, "a,b", "", false), ErrInvalid)
	_, _, err := c.OpenContent(testProduct, id)
	wants(t, "not uploaded", err, ErrUnknown)
	must(t, c.Upload(testProduct, id, "application/gzip", strings.NewReader("first")))
	f, info, err := c.OpenContent(testProduct, id)
	must(t, err)
	defer f.Close()
	if info.Size != 5 || info.Type != "application/gzip" || info.Meta != "meta" || !info.Uploaded {
		t.Errorf("%+v", info)
	}
	if err := c.Upload(testProduct, id, "text/plain", io.MultiReader(strings.NewReader("sec"), iotest.ErrReader(io.ErrUnexpectedEOF))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an upload that breaks off: %v", err)
	}
	if info, _ := c.ContentInfo(testProduct, id); info.Size != 5 {
		t.Errorf("after an upload that broke off: %+v", info)
	}
	must(t, c.Upload(testProduct, id, "text/plain", strings.NewReader("second")))
	if text, err := io.ReadAll(f); string(text) != "first" {
		t.Errorf("a download that goes on has %q, %v", text, err)
	}
	list, err := c.Contents(testProduct)
	if err != nil || len(list) != 1 || list[0].Size != 6 {
		t.Errorf("%+v, %v", list, err)
	}
	must(t, c.DeleteContent(testProduct, id))
	wants(t, "deleted", c.DeleteContent(testProduct, id), ErrUnknown)
	if files, _ := os.ReadDir(filepath.Join(c.dir, contentDir)); len(files) != 0 {
		t.Errorf("files left: %v", files)
	}
}

// TestRestart: all is there after a close, and after a crash at any byte of
// the journal's last line.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	now := newClock()
	c := open(t, Options{Dir: dir, Now: now.now})
	owner := c.Owner()
	d, cik := device(t, c, sn)
	for i := range 250 {
		now.add(time.Second)
		_, err := d.Write(Value{"device_info", fmt.Sprint(i)}, Value{"usage_report", "<same>"})
		must(t, err)
	}
	must(t, c.AddSerials(testProduct, Serial{"b", "extra"}, Serial{"off", ""}, Serial{"open", ""}, Serial{"gone", ""}, Serial{"repl", ""}))
	must(t, c.Disable(testProduct, "off", ""))
	must(t, c.Enable(testProduct, "open", ""))
	must(t, c.RemoveSerials(testProduct, "gone"))
	device(t, c, "cert")
	must(t, c.Enable(testProduct, "cert", ""))
	_, err := c.Activate(testProduct, "cert", "", []byte{0xff, 0, 1})
	must(t, err)
	device(t, c, "broken")
	must(t, c.Replace(testProduct, "repl", "broken", ""))
	must(t, c.CreateProduct("second"))
	must(t, c.CreateProduct("third"))
	must(t, c.CreateContent("third", "x", "", true))
	must(t, c.Upload("third", "x", "", strings.NewReader("x")))
	must(t, c.DeleteProduct("third"))
	must(t, c.CreateContent(testProduct, "app.v1.tar.gz", "m", true))
	must(t, c.Upload(testProduct, "app.v1.tar.gz", "application/gzip", strings.NewReader("bytes")))
	must(t, c.CreateContent("second", "empty", "", false))

	type state struct {
		Owner    string
		Products []string
		Devices  []DeviceInfo
		Log      []LogEntry
		History  []Point
		Contents []Content
	}
	stateOf := func(c *Cloud) state {
		log, err := c.Log(testProduct, sn)
		must(t, err)
		history, err := c.History(testProduct, sn, "device_info")
		must(t, err)
		contents, err := c.Contents(testProduct)
		must(t, err)
		s := state{c.Owner(), c.Products(), c.Devices(testProduct), log, history, contents}
		for i := range s.Devices { // not kept at each request
			s.Devices[i].Seen = time.Time{}
			s.Devices[i].Activated = s.Devices[i].Activated.UTC()
		}
		return s
	}
	want := stateOf(c)
	check := func(c *Cloud) {
		t.Helper()
		if got := stateOf(c); !reflect.DeepEqual(got, want) {
			t.Errorf("after a restart:\n%+v\nwant:\n%+v", got, want)
		}
		if _, ok := c.ByCIK(cik); !ok || c.Owner() != owner {
			t.Error("credentials are lost")
		}
		if d, ok := c.ByCertificate([]byte{0xff, 0, 1}); !ok || d.SN() != "cert" {
			t.Error("a certificate is lost")
		}
		f, _, err := c.OpenContent(testProduct, "app.v1.tar.gz")
		must(t, err)
		defer f.Close()
		if text, _ := io.ReadAll(f); string(text) != "bytes" {
			t.Errorf("content %q", text)
		}
		if files, _ := os.ReadDir(filepath.Join(c.dir, contentDir)); len(files) != 1 {
			t.Errorf("%d files", len(files))
		}
	}
	_, err = Open(Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second cloud in the same folder: %v", err)
	}
	must(t, c.Close())
	if _, err := d.Write(Value{"device_info", "x"}); err == nil {
		t.Error("a write after Close is stored")
	}
	c = open(t, Options{Dir: dir, Now: now.now})
	check(c)
	must(t, c.Close())

	// The crash.
	name := filepath.Join(dir, journalName)
	before, err := os.ReadFile(name)
	must(t, err)
	c = open(t, Options{Dir: dir, Now: now.now})
	must(t, c.CreateContent(testProduct, "later", "", false))
	must(t, c.Close())
	after, err := os.ReadFile(name)
	must(t, err)
	line := after[bytes.LastIndexByte(after[:len(after)-1], '\n')+1:]
	if !bytes.Contains(line, []byte("later")) {
		t.Fatalf("the last line is %q", line)
	}
	for cut := 0; cut < len(line); cut += 5 {
		must(t, os.WriteFile(name, append(slices.Clone(before), line[:cut]...), 0o600))
		c := open(t, Options{Dir: dir, Now: now.now})
		check(c)
		must(t, c.Close())
	}
}

// TestGarbledState: what makes no sense is left out and told, the rest is there.
func TestGarbledState(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Dir: dir})
	d, cik := device(t, c, sn)
	_, err := d.Write(Value{"device_info", "kept"})
	must(t, err)
	must(t, c.CreateContent(testProduct, "lost", "", false))
	must(t, c.Upload(testProduct, "lost", "", strings.NewReader("bytes")))
	must(t, c.Close())
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString("\n\x00\xff{{\n{\"Op\":\"later\"}\n{\"Op\":\"points\",\"RID\":\"no\"}\n{\"Op\":\"enable\",\"Product\":\"no\"}\n[]\n" +
		`{"Op":"content","Product":"` + testProduct + `"}` + "\n" + `{"Op":"activate","Product":"` + testProduct + `","SN":"no"}` + "\n")
	must(t, err)
	must(t, f.Close())
	files, err := filepath.Glob(filepath.Join(dir, contentDir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	must(t, os.Truncate(files[0], 2))

	var log strings.Builder
	c = open(t, Options{Dir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if n := strings.Count(log.String(), "is left out"); n != 8 {
		t.Errorf("%d lines were told to be left out:\n%s", n, log.String())
	}
	if !strings.Contains(log.String(), "has lost its bytes") {
		t.Errorf("content without its bytes: %s", log.String())
	}
	d, ok := c.ByCIK(cik)
	if !ok {
		t.Fatal("the device is lost")
	}
	if p, _ := d.Read("device_info"); p.Value != "kept" {
		t.Errorf("got %v", p)
	}
	if info, err := c.ContentInfo(testProduct, "lost"); err != nil || info.Uploaded {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestOtherSpec: what a spec does not have is there again with one that has it.
func TestOtherSpec(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Dir: dir})
	d, cik := device(t, c, sn)
	_, err := d.Write(Value{"device_info", "kept"})
	must(t, err)
	must(t, c.Close())
	c = open(t, Options{Dir: dir, Resources: []spec.Resource{{Alias: "temperature", Format: "number"}}})
	d, _ = c.ByCIK(cik)
	if _, ok := d.Read("device_info"); ok {
		t.Error("a resource that is not in the spec has a value")
	}
	_, err = d.Write(Value{"temperature", "20"})
	must(t, err)
	must(t, c.Close())
	c = open(t, Options{Dir: dir})
	d, _ = c.ByCIK(cik)
	if p, _ := d.Read("device_info"); p.Value != "kept" {
		t.Errorf("after another spec: %v", p)
	}
}

// TestRewrite: a journal that has become long gets short while devices write.
func TestRewrite(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Dir: dir})
	d, cik := device(t, c, sn)
	value := strings.Repeat("x", MaxValue-10)
	for i := range maxJournal/MaxValue + 5 {
		_, err := d.Write(Value{"device_info", fmt.Sprint(value, i)})
		must(t, err)
	}
	if c.journal.size > 10*MaxValue {
		t.Errorf("the journal has %d bytes", c.journal.size)
	}
	must(t, c.Close())
	c = open(t, Options{Dir: dir})
	d, _ = c.ByCIK(cik)
	if p, _ := d.Read("device_info"); p.Value != fmt.Sprint(value, maxJournal/MaxValue+4) {
		t.Error("the last value is lost")
	}
}

func TestFollow(t *testing.T) {
	c := open(t, Options{})
	d, _ := device(t, c, sn)
	got := make(chan Event, 100)
	stop := c.Follow(func(e Event) {
		c.Devices(testProduct) // may call
		got <- e
	})
	_, err := d.Write(Value{"device_info", "a"})
	must(t, err)
	must(t, c.Set(testProduct, sn, "engine_fetch", "b"))
	must(t, c.AddSerials(testProduct, Serial{SN: "x"}, Serial{SN: "y"}))
	must(t, c.Disable(testProduct, sn, ""))
	must(t, c.CreateContent(testProduct, "c", "", false))
	for _, want := range []Event{
		{Kind: ValueChanged, Product: testProduct, SN: sn, Alias: "device_info", Value: "a"},
		{Kind: ValueChanged, Product: testProduct, SN: sn, Alias: "engine_fetch", Value: "b", Set: true},
		{Kind: DeviceChanged, Product: testProduct, SN: "x"},
		{Kind: DeviceChanged, Product: testProduct, SN: "y"},
		{Kind: DeviceChanged, Product: testProduct, SN: sn},
		{Kind: ContentChanged, Product: testProduct},
	} {
		select {
		case e := <-got:
			if (want.Kind == ValueChanged) == e.Time.IsZero() {
				t.Errorf("time %v of %v", e.Time, e)
			}
			if e.Time = (time.Time{}); e != want {
				t.Errorf("got %+v, want %+v", e, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no event, want %+v", want)
		}
	}
	stop()
	stop()
	must(t, c.CreateProduct("other"))
	later := make(chan Event, 1)
	defer c.Follow(func(e Event) { later <- e })()
	must(t, c.CreateProduct("another"))
	<-later // it has been told by now
	if len(got) != 0 {
		t.Errorf("after stop: %v", <-got)
	}
}

func TestManyAtOnce(t *testing.T) {
	c := open(t, Options{Dir: t.TempDir()})
	var wg sync.WaitGroup
	for i := range 50 {
		d, cik := device(t, c, fmt.Sprint(i))
		wg.Go(func() {
			for j := range 20 {
				if _, err := d.Write(Value{"device_info", fmt.Sprint(i, j)}); err != nil {
					t.Error(err)
				}
				if d, ok := c.ByCIK(cik); !ok {
					t.Error("not known")
				} else if p, _ := d.Read("device_info"); p.Value != fmt.Sprint(i, j) {
					t.Errorf("device %d reads %v", i, p)
				}
				c.Devices(testProduct)
			}
		})
	}
	wg.Wait()
}

func FuzzReplay(f *testing.F) {
	dir := f.TempDir()
	c, err := Open(Options{Dir: dir})
	if err != nil {
		f.Fatal(err)
	}
	c.CreateProduct(testProduct)
	c.AddSerials(testProduct, Serial{"a", "b"})
	c.Enable(testProduct, "a", "")
	cik, _ := c.Activate(testProduct, "a", "", []byte("x"))
	d, _ := c.ByCIK(cik)
	d.Write(Value{"device_info", "x"})
	c.CreateContent(testProduct, "c", "", false)
	c.Close()
	journal, err := os.ReadFile(filepath.Join(dir, journalName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(journal)
	f.Add([]byte(`{"Op":"replace","Product":"a1b2c3","SN":"a","Old":"a"}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		dump := func(journal []byte) (again []byte) {
			c := empty(Options{Dir: "/nonexistent"})
			if err := c.replay("", bytes.NewReader(journal)); err != nil {
				t.Fatal(err)
			}
			must(t, c.dump(func(o op) error {
				line, err := json.Marshal(o)
				again = append(append(again, line...), '\n')
				return err
			}))
			return again
		}
		first := dump(text)
		second := dump(first)
		if !slices.Equal(sortedLines(first), sortedLines(second)) {
			t.Errorf("%q is\n%s\nand that is\n%s", text, first, second)
		}
	})
}

// sortedLines takes the order of maps out.
func sortedLines(text []byte) []string {
	lines := strings.Split(string(text), "\n")
	slices.Sort(lines)
	return lines
}
