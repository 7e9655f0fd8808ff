package cga

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const largeSize = 2000 * 50 << 10 // bytes

// largeApp is a tarball of 100 MB unpacked, half of it text that can be
// compressed and half of it not, in 2000 files.
func largeApp(t testing.TB) []byte {
	t.Helper()
	noise := make([]byte, 25<<10)
	rand.NewChaCha8([32]byte{}).Read(noise)
	text := strings.Repeat("the quick brown fox jumps over the lazy dog\n", 600)[:25<<10]
	entries := []entry{script}
	for i := range 2000 {
		entries = append(entries, entry{name: fmt.Sprintf("lib/python3/site-packages/p%d/m%d.py", i/50, i), body: text + string(noise)})
	}
	return packed(t, nil, entries...)
}

func BenchmarkInspect(b *testing.B) {
	archive := largeApp(b)
	b.SetBytes(largeSize)
	for b.Loop() {
		if _, findings, err := Inspect(b.Context(), bytes.NewReader(archive), DefaultLimits); err != nil || len(findings) > 0 {
			b.Fatal(findings, err)
		}
	}
}

func BenchmarkUnpack(b *testing.B) {
	archive := largeApp(b)
	b.SetBytes(largeSize)
	for b.Loop() {
		if _, err := Unpack(b.Context(), bytes.NewReader(archive), filepath.Join(b.TempDir(), "scratch"), DefaultLimits); err != nil {
			b.Fatal(err)
		}
	}
}

// maxAnonymous is what unpacking 100 MB may take: a whole install has 16 MB, and
// in this are the Go runtime and the packages of tests.
const maxAnonymous = 10 << 20 // bytes

const inChild = "CGA_TEST_UNPACK"

// The memory of a process that only unpacks.
func TestMemory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "app.tar.gz")
	if err := os.WriteFile(file, largeApp(t), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/proc/self/exe", "-test.run=^TestUnpackInChild$", "-test.v")
	c.Env = append(os.Environ(), inChild+"="+file)
	out, err := c.CombinedOutput()
	_, after, found := strings.Cut(string(out), "anonymous: ")
	if err != nil || !found {
		t.Fatalf("%v: %s", err, out)
	}
	most, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d kB of anonymous memory", most>>10)
	if most > maxAnonymous {
		t.Errorf("unpacking has taken %d bytes of anonymous memory, at most %d are meant", most, maxAnonymous)
	}
}

// TestUnpackInChild is the process that TestMemory measures.
func TestUnpackInChild(t *testing.T) {
	file := os.Getenv(inChild)
	if file == "" {
		return
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := &sampler{t: t, r: f}
	if _, err := Unpack(t.Context(), r, filepath.Join(t.TempDir(), "scratch"), DefaultLimits); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("anonymous: %d \n", r.most)
}

// sampler looks at the memory of the process while somebody reads.
type sampler struct {
	t    *testing.T
	r    io.Reader
	n    int
	most int64
}

func (s *sampler) Read(p []byte) (int, error) {
	if s.n++; s.n%16 == 0 {
		text, err := os.ReadFile("/proc/self/status")
		if err != nil {
			s.t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(text), "RssAnon:")
		kb, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		s.most = max(s.most, kb<<10)
	}
	return s.r.Read(p)
}
