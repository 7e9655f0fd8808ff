package exositetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// What each fault does to the answer, and to what was asked for.
func TestFaults(t *testing.T) {
	const content = "GET /provision/download?id=f"
	const write = "POST /onep:v1/stack/alias"
	for _, tt := range []struct {
		name   string
		fault  Fault
		line   string
		header string
		want   string // prefix of what the client sees
		stored bool   // the write was
	}{
		{"none", Fault{Call: "read", Drop: true}, write, "", "204", true},
		{"status", Fault{Status: 503, RetryAfter: "7", Body: "busy"}, write, "", "503 7 busy", false},
		{"status without a body", Fault{Status: 204}, content, "", "204", false},
		{"drop", Fault{Drop: true}, write, "", "error: EOF", true},
		{"drop, and nothing is done", Fault{Drop: true, Status: 500}, write, "", "error: EOF", false},
		{"drop after", Fault{DropAfter: 3}, content, "", "200 012 error: unexpected EOF", false},
		{"drop after more than there is", Fault{DropAfter: 10}, content, "", "200 0123456789", false},
		{"too long a length", Fault{LengthBy: 5}, content, "", "200 0123456789 error: unexpected EOF", false},
		{"too short a length", Fault{LengthBy: -3}, content, "", "200 0123456", false},
		{"no length", Fault{LengthBy: -100}, content, "", "200", false},
		{"length of an answer without one", Fault{LengthBy: 5}, write, "", "204", true},
		{"range", Fault{IgnoreRange: true}, content, "Range: bytes=2-3", "200 0123456789", false},
		{"flip", Fault{FlipAt: new(int64(0))}, content, "Range: bytes=2-3", "206 \xcd3", false},
		{"flip behind the end", Fault{FlipAt: new(int64(2))}, content, "Range: bytes=2-3", "206 23", false},
		{"trickle", Fault{Rate: 1000}, content, "", "200 0123456789", false},
		{"cut before it is dropped", Fault{LengthBy: -8, DropAfter: 5}, content, "", "200 01", false},
		{"several", Fault{Rate: 1000, FlipAt: new(int64(1)), DropAfter: 2, IgnoreRange: true, Delay: time.Millisecond}, content, "Range: bytes=5-", "200 0\xce error: unexpected EOF", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(t)
			cik := activated(t, s, "a")
			if err := errors.Join(s.cloud.CreateContent(s.Product(), "f", "", false), s.cloud.Upload(s.Product(), "f", "text/plain", strings.NewReader("0123456789"))); err != nil {
				t.Fatal(err)
			}
			id := s.Fault(tt.fault)
			r := request(s, tt.line, cik, "", "Accept: */*")
			if tt.line == write {
				r = request(s, tt.line, cik, "fetch_status=1")
			}
			if name, value, ok := strings.Cut(tt.header, ": "); ok {
				r.Header.Set(name, value)
			}
			r.GetBody = nil // the client does not try again
			if got := seen(client(t, s), r); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			eventually(t, "the request ends", func() bool { return len(s.Requests()) == 1 })
			last, wantID := s.Requests()[0], id
			if tt.name == "none" {
				wantID = 0
			}
			if last.Fault != wantID || (last.Status == 0) != tt.fault.Drop && wantID > 0 {
				t.Errorf("request %+v", last)
			}
			points, err := s.cloud.History(s.Product(), "a", "fetch_status")
			if err != nil || (len(points) > 0) != tt.stored {
				t.Errorf("stored %v, %v", points, err)
			}
			s.ClearFaults()
			if got := seen(client(t, s), request(s, "GET /provision/download?id=f", cik, "")); got != "200 0123456789" {
				t.Errorf("afterwards: %q", got)
			}
		})
	}
}

// seen is what the client sees of an answer.
func seen(c *http.Client, r *http.Request) string {
	a, err := c.Do(r)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.EOF
		}
		return "error: " + err.Error()
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	text := fmt.Sprint(a.StatusCode)
	for _, more := range []string{a.Header.Get("Retry-After"), string(body)} {
		if more != "" {
			text += " " + more
		}
	}
	if err != nil {
		text += " error: " + err.Error()
	}
	return text
}

func TestFaultTakesTime(t *testing.T) {
	s := New(t)
	c := client(t, s)
	s.Fault(Fault{Call: "timestamp", Delay: 50 * time.Millisecond, Times: 1})
	start := time.Now()
	if got := ask(t, c, request(s, "GET /timestamp", "", "")); !strings.HasPrefix(got, "200") || time.Since(start) < 50*time.Millisecond {
		t.Errorf("delay: %s after %v", got, time.Since(start))
	}
	s.Fault(Fault{Call: "timestamp", Rate: 100, Times: 1}) // of 10 bytes
	start = time.Now()
	if got := ask(t, c, request(s, "GET /timestamp", "", "")); !strings.HasPrefix(got, "200") || time.Since(start) < 100*time.Millisecond {
		t.Errorf("rate: %s after %v", got, time.Since(start))
	}
	s.Fault(Fault{Call: "timestamp", Hang: true})
	c.Timeout = 20 * time.Millisecond
	if got := ask(t, c, request(s, "GET /timestamp", "", "")); !strings.Contains(got, "Timeout exceeded") {
		t.Errorf("hang: %s", got)
	}
	eventually(t, "the handler ends with the client", func() bool { return len(s.Requests()) == 3 })
	s.ClearFaults()
	c.Timeout = time.Minute
	s.Fault(Fault{Clock: -24 * time.Hour})
	a, err := c.Do(request(s, "GET /timestamp", "", ""))
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
	date, err := http.ParseTime(a.Header.Get("Date"))
	if behind := time.Since(date); err != nil || behind < 23*time.Hour || behind > 25*time.Hour {
		t.Errorf("clock: %v behind, %v", behind, err)
	}
}

// Which requests a fault is for, and how often.
func TestFaultMatches(t *testing.T) {
	s := New(t)
	a, b := activated(t, s, "a"), activated(t, s, "b")
	s.AddDevice("c")
	c := client(t, s)
	if err := errors.Join(s.cloud.CreateContent(s.Product(), "f", "", false), s.cloud.Upload(s.Product(), "f", "", strings.NewReader("x"))); err != nil {
		t.Fatal(err)
	}
	manage := "/provision/manage/model/" + s.Product()
	for _, tt := range []struct {
		call, line, key, body string
		headers               []string
	}{
		{"activate", "POST /provision/activate", "", "id=c", nil},
		{"write", "POST /onep:v1/stack/alias", a, "fetch_status=1", nil},
		{"read", "GET /onep:v1/stack/alias?fetch_status", a, "", nil},
		{"readwrite", "POST /onep:v1/stack/alias?fetch_status", a, "fetch_status=1", nil},
		{"poll", "GET /onep:v1/stack/alias?fetch_status", a, "", []string{"Request-Timeout: 1"}},
		{"record", "POST /onep:v1/stack/record", a, "alias=fetch_status&1=1", nil},
		{"record", "POST /onep:v1/stack/alias/fetch_status", a, "3=1", nil},
		{"contentlist", "GET /provision/download", a, "", nil},
		{"contentinfo", "GET /provision/download?id=f&info=true", a, "", nil},
		{"content", "GET /provision/download?id=f", a, "", nil},
		{"timestamp", "GET /timestamp", "", "", nil},
		{"manage", "GET " + manage + "/a", s.cloud.Owner(), "", nil},
		{"manage", "POST /provision/manage/content/" + s.Product() + "/f", s.cloud.Owner(), "x", nil},
	} {
		for _, call := range Calls() {
			id := s.Fault(Fault{Call: call, Status: 599, Times: 1})
			got := ask(t, c, request(s, tt.line, tt.key, tt.body, tt.headers...))
			if (got == "599") != (call == tt.call) {
				t.Errorf("%s with a fault for %s: %s", tt.line, call, got)
			}
			if left := s.faults.remove(id); left == (call == tt.call) {
				t.Errorf("%s: the fault for %s is still there: %v", tt.line, call, left)
			}
		}
	}
	first := s.Fault(Fault{Serial: "b", Status: 501, Times: 2})
	second := s.Fault(Fault{Status: 502})
	for i, want := range []string{"501", "502", "501", "502", "502"} {
		key := b
		if i == 1 {
			key = a
		}
		if got := ask(t, c, request(s, "GET /onep:v1/stack/alias?fetch_status", key, "")); got != want {
			t.Errorf("%d: got %s, want %s", i, got, want)
		}
	}
	if got := s.Faults(); len(got) != 1 || got[0].ID != second || got[0].Applied != 3 || second != first+1 {
		t.Errorf("%+v", got)
	}
}

func TestFaultCheck(t *testing.T) {
	for _, tt := range []struct {
		json, err string
		want      Fault
	}{
		{`{"call":"write","serial":"a","times":2,"status":503,"retry_after":"5","body":"x"}`, "", Fault{Call: "write", Serial: "a", Times: 2, Status: 503, RetryAfter: "5", Body: "x"}},
		{`{"delay":1.5,"clock":"-24h","flip_at":0}`, "", Fault{Delay: 1500 * time.Millisecond, Clock: -24 * time.Hour, FlipAt: new(int64(0))}},
		{`{"delay":"1.5s","hang":true}`, "", Fault{Delay: 1500 * time.Millisecond, Hang: true}},
		{`{"drop":true,"drop_after":1,"length_by":-1,"ignore_range":true,"rate":10}`, "", Fault{Drop: true, DropAfter: 1, LengthBy: -1, IgnoreRange: true, Rate: 10}},
		{``, "not a fault in JSON", Fault{}},
		{`[]`, "not a fault in JSON", Fault{}},
		{`{"status":503} {}`, "there is more", Fault{}},
		{`{"stauts":503}`, "unknown field", Fault{}},
		{`{"delay":"soon"}`, `"soon" is no duration`, Fault{}},
		{`{"delay":true}`, `true is no duration`, Fault{}},
		{`{}`, "does nothing", Fault{}},
		{`{"call":"write","serial":"a","times":1}`, "does nothing", Fault{}},
		{`{"call":"put","status":503}`, `call "put": want one of activate,`, Fault{}},
		{`{"times":-1,"status":503}`, "times -1", Fault{}},
		{`{"status":100}`, "status 100", Fault{}},
		{`{"retry_after":"5"}`, "need a status", Fault{}},
		{`{"retry_after":"5\n","status":503}`, "retry_after", Fault{}},
		{`{"hang":true,"status":503}`, "hang and status", Fault{}},
		{`{"delay":-1}`, "negative", Fault{}},
		{`{"flip_at":-1}`, "negative", Fault{}},
		{`{"clock":"999999h"}`, "clock", Fault{}},
	} {
		got, err := ParseFault([]byte(tt.json))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got %v, want %s", tt.json, err, tt.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, %v", tt.json, got, err)
		}
	}
	s := New(t)
	func() {
		defer func() {
			if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "does nothing") {
				t.Errorf("panic %v", r)
			}
		}()
		s.Fault(Fault{})
	}()
	for range maxFaults {
		s.Fault(Fault{Drop: true})
	}
	if _, err := s.faults.add(Fault{Drop: true}); err == nil || !strings.Contains(err.Error(), "clear some") {
		t.Errorf("too many: %v", err)
	}
}

// The same over HTTP, for developers.
func TestEmulator(t *testing.T) {
	c, err := cloud.Open(cloud.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		fmt.Fprint(w, "page ", r.Method, " ", r.URL.Path)
	})
	s, err := Start(Options{Cloud: c, HTTP: "127.0.0.1:0", Page: page})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	hc := client(t, s)
	for _, tt := range []struct {
		line, body, header string
		want               string
	}{
		{"GET /emulator/faults", "", "", "200 []"},
		{"POST /emulator/faults", `{"call":"write","delay":"1s"}`, "", "201 {\n  \"id\": 1,\n  \"call\": \"write\",\n  \"delay\": 1\n}"},
		{"POST /emulator/faults", `{"status":503}`, "Sec-Fetch-Site: same-origin", "201 "},
		{"POST /emulator/faults", `{"status":503}`, "Sec-Fetch-Site: cross-site", "403 "},
		{"POST /emulator/faults", `{"status":503}`, "Origin: https://evil.example", "403 "},
		{"DELETE /emulator/faults", ``, "Origin: https://evil.example", "403 "},
		{"GET /emulator/requests", ``, "Host: evil.example", "403 the emulator's own pages"},
		{"GET /emulator/requests", ``, "Host: m2.exosite.com", "403 the emulator's own pages"},
		{"GET /emulator/requests", ``, "Host: localhost:80", "200 []"},
		{"GET /emulator/requests", ``, "Host: LocalHost", "200 []"},
		{"GET /emulator/requests", ``, "Host: [::1]:80", "200 []"},
		{"GET /emulator/requests", ``, "Host: 10.0.2.2", "200 []"},
		{"POST /emulator/faults", `{}`, "", "400 the fault does nothing"},
		{"POST /emulator/faults", strings.Repeat(" ", maxBody+1), "", "413 "},
		{"PUT /emulator/faults", ``, "", "405 "},
		{"DELETE /emulator/faults/1", ``, "", "204"},
		{"DELETE /emulator/faults/1", ``, "", `404 there is no fault "1"`},
		{"DELETE /emulator/faults/x", ``, "", `404 there is no fault "x"`},
		{"DELETE /emulator/faults", ``, "", "204"},
		{"GET /emulator/faults", "", "", "200 []"},
		{"GET /emulator/other", "", "", "404 "},
		{"GET /", "", "", "200 page GET /"},
		{"POST /page/x", "", "", "200 page POST /page/x"},
		{"GET /", "", "Host: evil.example", "403 "},
		{"GET /other", "", "", "404 "},
	} {
		r := request(s, tt.line, "", tt.body, slices.DeleteFunc([]string{tt.header}, func(h string) bool { return h == "" })...)
		if got := ask(t, hc, r); !strings.HasPrefix(got, tt.want) || len(tt.want) > 5 && strings.HasSuffix(tt.want, "]") && got != tt.want {
			t.Errorf("%s %.40s %s: got %.200s, want %s", tt.line, tt.body, tt.header, got, tt.want)
		}
	}
	// What is asked for here is not among the requests, other things are.
	ask(t, hc, request(s, "GET /timestamp", "", ""))
	var got []map[string]any
	text := strings.TrimPrefix(ask(t, hc, request(s, "GET /emulator/requests", "", "")), "200 ")
	if err := json.Unmarshal([]byte(text), &got); err != nil || len(got) != 2 {
		t.Fatalf("%s, %v", text, err)
	}
	for _, key := range []string{"time", "from", "method", "path", "call", "status", "in", "out", "duration"} {
		if got[1][key] == nil {
			t.Errorf("no %s: %v", key, got[1])
		}
	}
	if d, ok := got[1]["duration"].(float64); !ok || d <= 0 || d > 10 || got[1]["call"] != "timestamp" {
		t.Errorf("%v", got[1])
	}
}

func FuzzParseFault(f *testing.F) {
	for _, s := range []string{`{"call":"write","times":2,"status":503}`, `{"delay":"1s","clock":-3,"flip_at":1}`, `{`, `{"delay":1e300}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fault, err := ParseFault(data)
		if err != nil {
			return
		}
		text, err := json.Marshal(fault)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseFault(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		// Seconds in JSON are not exact to the nanosecond.
		if d := again.Delay - fault.Delay; d.Abs() > time.Second {
			t.Errorf("delay %v became %v", fault.Delay, again.Delay)
		}
		again.Delay, again.Clock = fault.Delay, fault.Clock
		text2, err := json.Marshal(again)
		if err != nil || !bytes.Equal(text, text2) {
			t.Errorf("%s became %s, %v", text, text2, err)
		}
	})
}
