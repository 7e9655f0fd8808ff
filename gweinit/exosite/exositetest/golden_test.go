package exositetest

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

var update = flag.Bool("update", false, "write the answers into testdata/*.golden")

// Requests and answers byte for byte, but for the ends of lines, with a clock
// that stands still. In testdata/*.txt, "== NAME" begins a request, and lines
// with "!" are what happens beside; the comments of the code below say what.
// <CIKn> and <RIDn> are the nth that there was.
func TestGolden(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(scripts) != 3 {
		t.Fatal(scripts, err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(script)
			if err != nil {
				t.Fatal(err)
			}
			got := newStage(t).run(string(text))
			golden := strings.TrimSuffix(script, ".txt") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			a, b := strings.Split(got, "\n"), strings.Split(string(want), "\n")
			for i := range min(len(a), len(b)) {
				if a[i] != b[i] {
					t.Fatalf("%s:%d:\ngot  %s\nwant %s", golden, i+1, a[i], b[i])
				}
			}
			if len(a) != len(b) {
				t.Fatalf("%d lines, not %d", len(a), len(b))
			}
		})
	}
}

// stage is a Server on which a script is played.
type stage struct {
	t          *testing.T
	s          *Server
	clock      atomic.Int64
	ciks, rids []string
}

func newStage(t *testing.T) *stage {
	st := &stage{t: t}
	st.clock.Store(1513931066)
	c, err := cloud.Open(cloud.Options{Dir: t.TempDir(), Now: func() time.Time { return time.Unix(st.clock.Load(), 0) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	st.s, err = Start(Options{Cloud: c, HTTP: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.s.Close() })
	if err := c.CreateProduct("p2"); err != nil {
		t.Fatal(err)
	}
	for _, sn := range []string{"00:2F:AC:43:55:A0", "00:2F:AC:43:55:A1", "spare unit"} {
		st.s.AddDevice(sn)
	}
	st.secrets()
	return st
}

func (st *stage) run(script string) string {
	st.t.Helper()
	var got strings.Builder
	var name string
	var request []string
	end := func() {
		if name != "" {
			fmt.Fprintf(&got, "== %s\n%s\n", name, st.exchange(strings.Join(request, "\n")))
		}
		name, request = "", nil
	}
	for line := range strings.Lines(script) {
		line = strings.TrimSuffix(line, "\n")
		if title, ok := strings.CutPrefix(line, "== "); ok {
			end()
			name = title
		} else if command, ok := strings.CutPrefix(line, "! "); ok {
			end()
			st.happens(command)
		} else {
			request = append(request, line)
		}
	}
	end()
	return got.String()
}

// happens does what is beside the requests.
func (st *stage) happens(command string) {
	st.t.Helper()
	verb, rest, _ := strings.Cut(command, " ")
	c, product := st.s.cloud, st.s.product
	var err error
	switch verb {
	case "clock": // goes on by DURATION
		var d time.Duration
		d, err = time.ParseDuration(rest)
		st.clock.Add(int64(d.Seconds()))
	case "set": // the product's side writes: SERIAL ALIAS VALUE
		words := strings.SplitN(rest, " ", 3)
		err = c.Set(product, words[0], words[1], words[2])
	case "activate": // SERIAL is activated
		_, err = c.Activate(product, rest, "", nil)
	case "content": // there is content: ID TYPE META|BYTES
		head, data, _ := strings.Cut(rest, "|")
		words := strings.SplitN(head, " ", 3)
		err = errors.Join(c.CreateContent(product, words[0], words[2], words[2] == "protected"), c.Upload(product, words[0], words[1], strings.NewReader(data)))
	default:
		err = errors.New("no such command")
	}
	if err != nil {
		st.t.Fatalf("! %s: %v", command, err)
	}
	st.secrets()
}

// secrets learns the CIKs and RIDs that there are.
func (st *stage) secrets() {
	learn := func(list *[]string, s string) {
		for _, known := range *list {
			if known == s {
				return
			}
		}
		if s != "" {
			*list = append(*list, s)
		}
	}
	for _, product := range st.s.cloud.Products() {
		for _, d := range st.s.cloud.Devices(product) {
			learn(&st.ciks, d.CIK)
			learn(&st.rids, d.RID)
		}
	}
}

// exchange sends a request, and has it with its answer.
func (st *stage) exchange(request string) string {
	st.t.Helper()
	pairs := []string{"<OWNER>", st.s.cloud.Owner()}
	for i, cik := range st.ciks {
		pairs = append(pairs, fmt.Sprintf("<CIK%d>", i+1), cik)
	}
	head, body, ok := strings.Cut(strings.NewReplacer(pairs...).Replace(request), "\n\n")
	if !ok {
		head, body = strings.TrimSuffix(head, "\n"), ""
	}
	if body != "" {
		head += fmt.Sprintf("\nContent-Length: %d", len(body))
	}
	raw := strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n" + body
	answer, err := roundTrip(st.s.HTTPAddr(), raw)
	if err != nil {
		st.t.Fatalf("%s\n: %v, got %q", request, err, answer)
	}
	st.secrets()
	pairs = []string{st.s.cloud.Owner(), "<OWNER>", cloud.Mask(st.s.cloud.Owner()), "<OWNER*>"}
	for i, cik := range st.ciks {
		pairs = append(pairs, cik, fmt.Sprintf("<CIK%d>", i+1), cloud.Mask(cik), fmt.Sprintf("<CIK%d*>", i+1))
	}
	for i, rid := range st.rids {
		pairs = append(pairs, rid, fmt.Sprintf("<RID%d>", i+1))
	}
	text := strings.ReplaceAll(raw, "\r\n", "\n") + "\n--\n" + strings.ReplaceAll(answer, "\r\n", "\n")
	return regexp.MustCompile(`127\.0\.0\.1:\d+`).ReplaceAllString(strings.NewReplacer(pairs...).Replace(text), "<ADDRESS>")
}

// roundTrip has the bytes of an answer.
func roundTrip(addr, request string) (string, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	method, _, _ := strings.Cut(request, " ")
	var raw bytes.Buffer
	answer, err := http.ReadResponse(bufio.NewReader(io.TeeReader(conn, &raw)), &http.Request{Method: method})
	if err != nil {
		return raw.String(), err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return raw.String(), err
}
