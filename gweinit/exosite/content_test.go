package exosite

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestRange(t *testing.T) {
	for r, want := range map[Range]string{
		{}: "", {0, 1}: "bytes=0-0", {10, 20}: "bytes=10-19", {10, 0}: "bytes=10-", {-5, 0}: "bytes=-5", {0, 1 << 40}: "bytes=0-1099511627775",
	} {
		if got, err := r.header(); got != want || err != nil {
			t.Errorf("%+v: %q, %v", r, got, err)
		}
	}
	for _, r := range []Range{{5, 5}, {5, 4}, {-5, 4}, {0, -1}, {-5, -1}} {
		if got, err := r.header(); err == nil {
			t.Errorf("%+v: %q", r, got)
		}
	}
}

// TestContentAnswers has what a server may make of a request for bytes.
func TestContentAnswers(t *testing.T) {
	part := func(body, contentRange string) string {
		return answerOf(206, body, "Content-Range: "+contentRange)
	}
	tests := []struct {
		name, answer string
		r            Range
		want         string // what download says, or a part of the error
	}{
		{"a range that ends behind the end", part("56789", "bytes 5-9/10"), Range{5, 100}, `"56789" offset 5 size 10`},
		{"more than there is at the end", part("0123", "bytes 0-3/4"), Range{From: -100}, `"0123" offset 0 size 4`},
		{"size unknown", part("23", "bytes 2-3/*"), Range{2, 4}, `"23" offset 2 size -1`},
		{"whole to a range", answerOf(200, "0123456789"), Range{2, 4}, `"0123456789" offset 0 size 10 type "" partial false <nil>`},
		{"no length", "HTTP/1.1 200 OK\r\n\r\n0123" + hangUp, Range{}, `"0123" offset 0 size -1 type "" partial false <nil>`},
		{"nothing", answerOf(200, ""), Range{}, `"" offset 0 size 0 type "" partial false <nil>`},
		{"chunks", "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-3/9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n23\r\n0\r\n\r\n", Range{2, 4}, `"23" offset 2 size 9 type "" partial true <nil>`},

		{"early close", strings.TrimSuffix(answerOf(200, "0123456789"), "456789") + hangUp, Range{}, `"0123" offset 0 size 10 type "" partial false content a on ` + product + `.m2.exosite.com: unexpected EOF`},
		{"early close of a range", strings.TrimSuffix(part("56789", "bytes 5-9/10"), "89") + hangUp, Range{From: 5}, `unexpected EOF`},
		{"early close without a length", "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/10\r\n\r\n0123" + hangUp, Range{0, 10}, `unexpected EOF`},
		{"more without a length", "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/10\r\n\r\n01234" + hangUp, Range{0, 4}, `"0123" offset 0 size 10 type "" partial true content a on ` + product + `.m2.exosite.com: the server sends more`},
		{"few chunks", "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-4/9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n23\r\n0\r\n\r\n", Range{2, 5}, `unexpected EOF`},
		{"other bytes", part("12", "bytes 1-2/10"), Range{2, 4}, "error: content on"},
		{"fewer bytes", part("2", "bytes 2-2/10"), Range{2, 4}, "error: content on"},
		{"fewer bytes up to the end", part("23", "bytes 2-3/10"), Range{From: 2}, "error: content on"},
		{"other bytes at the end", part("67", "bytes 6-7/10"), Range{From: -2}, "error: content on"},
		{"too many bytes of unknown size", part("012", "bytes 7-9/*"), Range{From: -2}, "error: content on"},
		{"other bytes of unknown size", part("012", "bytes 0-2/*"), Range{0, 2}, "error: content on"},
		{"a range that nobody wanted", part("01", "bytes 0-1/2"), Range{}, "error: content on"},
		{"no Content-Range", answerOf(206, "01"), Range{0, 2}, "Content-Range is"},
		{"malformed Content-Range", part("01", "bytes 1-0/2"), Range{0, 2}, "Content-Range is"},
		{"length against range", part("012", "bytes 0-1/9"), Range{0, 2}, "says that these are 3"},
		{"no such range", answerOf(416, ""), Range{From: 9}, "416"},
		{"not there", answerOf(404, ""), Range{}, "404"},
		{"no content", answerOf(204, ""), Range{}, "204"},
		{"bad CIK", answerOf(401, ""), Range{}, ErrBadCIK.Error()},
		{"no length of one", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Range{}, "Content-Length"},
	}
	for _, test := range tests {
		s := serveRaw(t, test.answer)
		c, _ := newClient(t, Options{CIK: testCIK, Tries: 1}, s.addr)
		if got := download(t.Context(), c, "a", test.r); !strings.Contains(got, test.want) {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestContentTriedAgain(t *testing.T) {
	s := serveRaw(t, answerOf(503, "", "Retry-After: 2"), hangUp, answerOf(200, "abc"))
	c, waits := newClient(t, Options{CIK: testCIK}, s.addr)
	if got := download(t.Context(), c, "a", Range{}); !strings.HasPrefix(got, `"abc"`) || len(s.seen()) != 3 || waits.all[0] != firstDelay+2*time.Second {
		t.Errorf("%s, %v", got, waits.all)
	}
	stalled := answerOf(200, "abc")
	s = serveRaw(t, stalled[:len(stalled)-1])
	c, _ = newClient(t, Options{CIK: testCIK}, s.addr)
	c.stall = 20 * time.Millisecond
	if got := download(t.Context(), c, "a", Range{}); !strings.HasPrefix(got, `"ab"`) || !strings.Contains(got, "nothing for 20ms") {
		t.Error(got)
	}
}

// TestContentResumes downloads over connections that end again and again.
func TestContentResumes(t *testing.T) {
	whole := strings.Repeat("0123456789", 100)
	var answers []string
	for at := 0; at < len(whole); at += 300 {
		a := answerOf(206, whole[at:], fmt.Sprintf("Content-Range: bytes %d-%d/%d", at, len(whole)-1, len(whole)))
		if at == 0 {
			a = answerOf(200, whole)
		}
		answers = append(answers, a[:len(a)-max(len(whole)-at-300, 0)]+hangUp)
	}
	s := serveRaw(t, answers...)
	c, _ := newClient(t, Options{CIK: testCIK}, s.addr)
	var got strings.Builder
	for n := 0; ; n++ {
		content, err := c.Content(t.Context(), "a", Range{From: int64(got.Len())})
		if err != nil || content.Offset != int64(got.Len()) {
			t.Fatal(err, content)
		}
		_, err = io.Copy(&got, content)
		content.Close()
		if err == nil {
			break
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) || n > len(answers) {
			t.Fatal(err)
		}
	}
	if got.String() != whole || len(s.seen()) != 4 {
		t.Errorf("%d bytes in %d requests", got.Len(), len(s.seen()))
	}
}

// TestContentStreams has 64 MiB pass without being kept.
func TestContentStreams(t *testing.T) {
	const size = 64 << 20
	ca := newCA(t)
	s := ca.serve(t, ca.leaf(t, leaf{}), nil)
	s.handle = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(size))
		block := make([]byte, 32<<10)
		for range size / len(block) {
			w.Write(block)
		}
	}
	c, _ := newClient(t, Options{CIK: testCIK, Server: serverName, Trust: &Trust{Roots: ca.pool}}, s.addr)
	content, err := c.Content(t.Context(), "a", Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, err := io.Copy(struct{ io.Writer }{io.Discard}, content)
	runtime.ReadMemStats(&after)
	if n != size || err != nil {
		t.Fatal(n, err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > size/2 {
		t.Errorf("%d bytes were allocated", grown)
	}
}

func TestRedirects(t *testing.T) {
	ca := newCA(t)
	cert := ca.leaf(t, leaf{name: "device", client: true})
	mirror := ca.serve(t, ca.leaf(t, leaf{name: "127.0.0.1", address: true}), func(config *tls.Config) { config.ClientAuth = tls.RequestClientCert })
	mirror.handle = func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "content") }
	tests := []struct {
		name, to string
		ok       bool
	}{
		{"another host", "https://" + mirror.addr + "/x?geheim=1", true},
		{"without TLS", "http://" + mirror.addr + "/x?geheim=1", false},
		{"not a URL", "http://%zz/?geheim=1", false},
		{"nowhere", "", false},
		{"other scheme", "file:///etc/geheim", false},
		{"with a password", "https://u:geheim@" + mirror.addr + "/", false},
		{"for ever", "?geheim=1", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			own := ca.serve(t, ca.leaf(t, leaf{name: "127.0.0.1", address: true}), func(config *tls.Config) { config.ClientAuth = tls.RequestClientCert })
			own.handle = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", test.to)
				w.WriteHeader(http.StatusFound)
			}
			c, err := New(Options{CIK: testCIK, Server: own.addr, Trust: &Trust{Roots: ca.pool}, Certificate: &cert})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			got := download(t.Context(), c, "a", Range{})
			if strings.Contains(got, "geheim") || strings.HasPrefix(got, `"content"`) != test.ok {
				t.Error(got)
			}
			if r := own.last(); r.Header.Get("X-Exosite-CIK") != testCIK || len(r.TLS.PeerCertificates) != 1 {
				t.Errorf("own server got %v, %d certificates", r.Header, len(r.TLS.PeerCertificates))
			}
			if n := len(strings.Fields(own.paths())); test.to == "?geheim=1" && n != 1+maxHops {
				t.Errorf("%d requests", n)
			}
			if !test.ok {
				return
			}
			if r := mirror.last(); r.Header.Get("X-Exosite-CIK") != "" || len(r.TLS.PeerCertificates) != 0 || r.Header.Get("Referer") != "" {
				t.Errorf("other server got %v, %d certificates", r.Header, len(r.TLS.PeerCertificates))
			}
			mirror.handle = func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusUnauthorized) }
			if _, err := c.Content(t.Context(), "a", Range{}); err == nil || errors.Is(err, ErrBadCIK) || !strings.Contains(err.Error(), mirror.addr) {
				t.Error(err)
			}
		})
	}
	// Nothing but downloads is sent elsewhere.
	own := serveRaw(t, answerOf(307, "", "Location: https://"+mirror.addr+"/"))
	c, _ := newClient(t, Options{CIK: testCIK}, own.addr)
	if err := c.Write(t.Context(), Value{"a", "1"}); err == nil || !strings.Contains(err.Error(), "somewhere else") {
		t.Error(err)
	}
}
