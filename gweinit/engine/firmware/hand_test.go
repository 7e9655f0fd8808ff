package firmware

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/exosite/gwe/gweinit/bundle"
	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/slot"
)

// forge makes the bundle again with another manifest, and signs that.
func forge(t *testing.T, data []byte, key minisign.PrivateKey, change func(*bundle.Manifest)) []byte {
	t.Helper()
	var out bytes.Buffer
	in, to := tar.NewReader(bytes.NewReader(data)), tar.NewWriter(&out)
	var manifest []byte
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		switch h.Name {
		case "manifest.json":
			var m bundle.Manifest
			if err := json.Unmarshal(content, &m); err != nil {
				t.Fatal(err)
			}
			change(&m)
			if content, err = json.Marshal(m); err != nil {
				t.Fatal(err)
			}
			manifest = content
		case "manifest.json.minisig":
			if content, err = bundle.Sign(key, manifest); err != nil {
				t.Fatal(err)
			}
		}
		h.Size = int64(len(content))
		if err := to.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := to.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// From wherever somebody has it.
func TestByHand(t *testing.T) {
	public, private := newKey(t)
	data := newImage.pack(t, private, nil)
	path := filepath.Join(t.TempDir(), "rpi3.v2.0.fw")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(path))))
	defer server.Close()
	for _, test := range []struct {
		name, source string
		running      image
		err          string
		trial        bool
	}{
		{name: "a file", source: path, running: oldImage, trial: true},
		{name: "standard input", source: "-", running: oldImage, trial: true},
		{name: "standard input, with a kernel that is there", source: "-", running: image{"1.0", newImage.kernel, oldImage.rootfs}, trial: true},
		{name: "a URL", source: server.URL + "/rpi3.v2.0.fw", running: oldImage, trial: true},
		{name: "the same version", source: path, running: newImage, trial: true},
		{name: "an older one", source: path, running: image{"3.0", oldImage.kernel, oldImage.rootfs}, err: "older"},
		{name: "no file", source: path + "x", err: "no such file"},
		{name: "nothing at the URL", source: server.URL + "/x.fw?secret=1", running: oldImage, err: "404"},
	} {
		t.Run(test.name, func(t *testing.T) {
			source, closer, err := Open(test.source, bytes.NewReader(data), new(exosite.Trust))
			var out bytes.Buffer
			var b *board
			if err == nil {
				defer closer.Close()
				b = newBoard(t, test.running, kernelRoom, rootfsRoom, public)
				err = ByHand(t.Context(), b.gateway(), source, &out)
			}
			if (err == nil) != test.trial || err != nil && (!contains(err.Error(), test.err) || strings.Contains(err.Error(), "secret")) {
				t.Fatalf("%v; %s", err, out.String())
			}
			if !test.trial {
				return
			}
			if st := b.state(t); st.Trial != slot.B || !b.holds(slot.B, newImage) || b.reboots != 1 {
				t.Errorf("%s, %d reboots", line(st), b.reboots)
			}
			if !contains(out.String(), " MB\n") || !strings.HasSuffix(out.String(), "slot b: 2.0 verified; rebooting into its trial\n") || strings.Count(out.String(), "\n") > 13 {
				t.Error(out.String())
			}
			if id := b.keeper.Record().Update.ID; !strings.HasPrefix(id, "hand-") || len(id) < 15 {
				t.Error(id)
			}
			// The next one has to wait.
			if err := ByHand(t.Context(), b.gateway(), source, &out); err == nil || !contains(err.Error(), "on trial") {
				t.Error(err)
			}
		})
	}
}

func TestBar(t *testing.T) {
	var out bytes.Buffer
	s := &shown{out: &out, terminal: true}
	for done := int64(0); done <= 2_000_000; done += 1000 {
		s.at(done, 2_000_000)
	}
	s.end()
	lines := strings.Split(out.String(), "\r")
	if len(lines) != 102 || lines[1] != "["+strings.Repeat(".", 40)+"] 0 %, 0.0 of 2.0 MB " || lines[101] != "["+strings.Repeat("#", 40)+"] 100 %, 2.0 of 2.0 MB \n" {
		t.Errorf("%d: %q", len(lines), lines)
	}
}

// What cannot be read twice says so.
func TestStream(t *testing.T) {
	data := noise(70, 10_000)
	for name, source := range map[string]Source{
		"stream": &stream{name: "standard input", r: bytes.NewReader(data)},
		"head":   &head{Source: &stream{name: "standard input", r: bytes.NewReader(data)}, ctx: t.Context(), size: -1},
	} {
		if h, ok := source.(*head); ok {
			if got, err := io.ReadAll(io.LimitReader(h, 500)); err != nil || !bytes.Equal(got, data[:500]) {
				t.Error(err)
			}
		}
		var got bytes.Buffer
		for _, r := range [][2]int64{{100, 200}, {200, 200}, {5000, 6000}, {6000, 10_000}} {
			got.Reset()
			if err := source.Copy(t.Context(), &got, r[0], r[1]); err != nil || !bytes.Equal(got.Bytes(), data[r[0]:r[1]]) {
				t.Errorf("%s: %v: %d bytes, %v", name, r, got.Len(), err)
			}
		}
		if err := source.Copy(t.Context(), io.Discard, 9_999, 10_001); err == nil {
			t.Errorf("%s: more than there is", name)
		}
	}
	s := &stream{name: "standard input", r: bytes.NewReader(data), at: 0}
	s.Copy(t.Context(), io.Discard, 0, 500)
	if err := s.Copy(t.Context(), io.Discard, 400, 600); err == nil || !contains(err.Error(), "byte 400", "cannot be read twice") {
		t.Error(err)
	}
	if err := s.Copy(t.Context(), io.Discard, 500, 20_000); !errors.Is(err, io.ErrUnexpectedEOF) || isLater(err) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Copy(ctx, io.Discard, 10_000, 10_000); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// What web servers do.
func TestWeb(t *testing.T) {
	data := noise(71, 300_000)
	var mode atomic.Value
	var calls atomic.Int64
	serve := func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		content := func() { http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data)) }
		switch mode.Load() {
		case "no ranges":
			r.Header.Del("Range")
			content()
		case "no size":
			for i := 0; i < len(data); i += 100_000 {
				w.Write(data[i : i+100_000])
				w.(http.Flusher).Flush()
			}
		case "503 twice":
			if n <= 2 {
				w.WriteHeader(503)
				return
			}
			content()
		case "breaks off":
			if n%2 == 0 {
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				w.Write(data[:100_000])
				panic(http.ErrAbortHandler)
			}
			content()
		case "redirects":
			if !strings.HasPrefix(r.URL.Path, "/there") {
				http.Redirect(w, r, "/there/x.fw?secret=2", http.StatusFound)
				return
			}
			content()
		case "redirects for ever":
			http.Redirect(w, r, "/x.fw?secret=2", http.StatusFound)
		case "redirects to http":
			http.Redirect(w, r, "http://example.invalid/x.fw", http.StatusFound)
		case "another range":
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 5-9/%d", len(data)))
			w.WriteHeader(206)
		case "wants a password":
			if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
				w.WriteHeader(401)
				return
			}
			content()
		default:
			content()
		}
	}
	plain := httptest.NewServer(http.HandlerFunc(serve))
	defer plain.Close()
	safe := httptest.NewUnstartedServer(http.HandlerFunc(serve))
	safe.Config.ErrorLog = log.New(io.Discard, "", 0) // who does not trust it says so
	safe.StartTLS()
	defer safe.Close()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: safe.Certificate().Raw}))
	for _, test := range []struct {
		mode, url string
		trust     *exosite.Trust
		unknown   bool // the size
		err       string
	}{
		{mode: "as it should", url: plain.URL},
		{mode: "as it should", url: safe.URL, trust: &exosite.Trust{Roots: roots}},
		{mode: "as it should", url: safe.URL, err: "not trusted"},
		{mode: "as it should", url: safe.URL, trust: &exosite.Trust{Roots: roots, ClockSet: func() bool { return false }}, err: "time is not known"},
		{mode: "no ranges", url: plain.URL},
		{mode: "no size", url: plain.URL, unknown: true},
		{mode: "503 twice", url: plain.URL},
		{mode: "breaks off", url: plain.URL},
		{mode: "redirects", url: safe.URL, trust: &exosite.Trust{Roots: roots}},
		{mode: "redirects for ever", url: plain.URL, err: "redirects more than 5 times"},
		{mode: "redirects to http", url: safe.URL, trust: &exosite.Trust{Roots: roots}, err: "http://example.invalid, which is not followed"},
		{mode: "another range", url: plain.URL, err: "it sends the range"},
		{mode: "wants a password", url: strings.Replace(plain.URL, "//", "//me:secret@", 1)},
		{mode: "wants a password", url: plain.URL, err: "401"},
	} {
		mode.Store(test.mode)
		calls.Store(0)
		trust := test.trust
		if trust == nil {
			trust = new(exosite.Trust)
		}
		source, closer, err := Open(test.url+"/x.fw?secret=1", nil, trust)
		if err != nil {
			t.Fatal(err)
		}
		source.(*web).pause = func(int) time.Duration { return 0 }
		size, err := source.Size(t.Context())
		var got bytes.Buffer
		for _, r := range [][2]int64{{0, 1000}, {120_000, 180_000}, {299_999, 300_000}} {
			if err == nil {
				got.Reset()
				if err = source.Copy(t.Context(), &got, r[0], r[1]); err == nil && !bytes.Equal(got.Bytes(), data[r[0]:r[1]]) {
					t.Errorf("%s: %v: %d bytes", test.mode, r, got.Len())
				}
			}
		}
		if (err == nil) != (test.err == "") || err != nil && (!contains(err.Error(), test.err) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s at %s: %v", test.mode, test.url, err)
		}
		if want := int64(len(data)); err == nil && size != want && !(test.unknown && size == -1) {
			t.Errorf("%s: %d bytes", test.mode, size)
		}
		closer.Close()
	}
	for _, bad := range []string{"https://", "http://%zz/secret"} {
		if _, _, err := Open(bad, nil, new(exosite.Trust)); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
