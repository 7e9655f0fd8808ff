//go:build qemu

package stories

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/exosite/gwe/builder/board"
	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/builder/image"
	"github.com/exosite/gwe/builder/qemu"
	"github.com/exosite/gwe/builder/signing"
	"github.com/exosite/gwe/gweinit/slot"
)

const project = "../.."

// The Makefile says which boards the stories run on: some on all of them, those
// about what hardly differs on the thorough ones only, and long ones about what is
// the same everywhere on a sample.
var (
	boards   = strings.Fields(cmp.Or(os.Getenv("story_boards"), "qemu-arm64"))
	thorough = strings.Fields(cmp.Or(os.Getenv("thorough_boards"), "qemu-arm64"))
	sample   = strings.Fields(cmp.Or(os.Getenv("sample_boards"), "qemu-arm64"))
)

// eachBoard runs a story on all boards, or on those among them that have what
// it needs.
func eachBoard(t *testing.T, story func(t *testing.T, b *build), among ...string) {
	on(t, boards, story, among...)
}

// eachThorough runs a story on the thorough boards, likewise.
func eachThorough(t *testing.T, story func(t *testing.T, b *build), among ...string) {
	on(t, thorough, story, among...)
}

// eachSample runs a story on the sample, likewise.
func eachSample(t *testing.T, story func(t *testing.T, b *build), among ...string) {
	on(t, sample, story, among...)
}

// eachUBoot runs a story that ends before Linux on the boards, on one of those
// that share a U-Boot.
func eachUBoot(t *testing.T, story func(t *testing.T, b *build)) {
	seen, different := map[string]bool{}, []string{}
	for _, name := range boards {
		if u := buildOf(t, name).UBoot.SHA256; !seen[u] {
			seen[u] = true
			different = append(different, name)
		}
	}
	on(t, different, story)
}

// on lets stories overlap: a machine that waits leaves the processor to others.
func on(t *testing.T, boards []string, story func(t *testing.T, b *build), among ...string) {
	t.Parallel()
	for _, name := range boards {
		if len(among) > 0 && !slices.Contains(among, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			story(t, buildOf(t, name))
		})
	}
}

// build is a built image.
type build struct {
	*image.Manifest
	board *board.Board
	out   string
}

var builds struct {
	sync.Mutex
	dir    string
	byName map[string]func() (*build, error)
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "stories-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	builds.dir, builds.byName = dir, map[string]func() (*build, error){}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// buildOf builds the board's image, with a shell on the console, once.
func buildOf(t testing.TB, name string) *build {
	t.Helper()
	builds.Lock()
	once, ok := builds.byName[name]
	if !ok {
		out := filepath.Join(builds.dir, name)
		once = sync.OnceValues(func() (*build, error) {
			m, err := buildImage(out, name, "base", "busybox", "dev")
			if err != nil {
				return nil, err
			}
			b, err := board.Load(filepath.Join(project, "boards"), name)
			return &build{m, b, out}, err
		})
		builds.byName[name] = once
	}
	builds.Unlock()
	b, err := once()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// buildImage builds with the user's cache, as "make image" does.
func buildImage(out, name string, overlays ...string) (*image.Manifest, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	trust, _, err := signing.Public("")
	if err != nil {
		return nil, err
	}
	return image.Build(context.Background(), image.Options{
		Project: project, Board: name, Overlays: overlays, Version: "1.0.0", Trust: trust,
		Cache: filepath.Join(cache, "gateway-engine"), Out: out, Mirrors: mirrors(),
		Log: func(format string, args ...any) { fmt.Printf("# "+name+": "+format+"\n", args...) },
	})
}

// mirrors are those of "make mirror=... test".
func mirrors() []string { return strings.Fields(os.Getenv("mirror")) }

// card is a copy of the built image, which the test and machines change.
type card struct {
	*build
	path string
}

func (b *build) card(t testing.TB) *card {
	t.Helper()
	path := filepath.Join(t.TempDir(), "card.img")
	if out, err := exec.Command("cp", "--sparse=always", filepath.Join(b.out, b.Image.Name), path).CombinedOutput(); err != nil {
		t.Fatalf("copy the image: %v: %s", err, out)
	}
	return &card{b, path}
}

// with opens a partition of the card for reading and writing.
func (c *card) with(t testing.TB, name string, do func(p partition)) {
	t.Helper()
	f, err := os.OpenFile(c.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	i := slices.IndexFunc(c.Partitions, func(p disk.Partition) bool { return p.Name == name })
	p := c.Partitions[i]
	do(partition{f, p.Offset, p.Size})
}

// partition is a part of the card, as the device of a slot.Store too.
type partition struct {
	f         *os.File
	off, size int64
}

func (p partition) ReadAt(b []byte, off int64) (int, error)  { return p.f.ReadAt(b, p.off+off) }
func (p partition) WriteAt(b []byte, off int64) (int, error) { return p.f.WriteAt(b, p.off+off) }
func (p partition) Sync() error                              { return nil }

// bootFile copies a file out of the boot partition.
func (c *card) bootFile(t *testing.T, name string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("mcopy", "-i", fmt.Sprintf("%s@@%d", c.path, c.Partitions[0].Offset), "::/"+name, out)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, msg)
	}
	return out
}

// damage overwrites n bytes at off.
func (c *card) damage(t testing.TB, name string, off int64, n int) {
	t.Helper()
	c.with(t, name, func(p partition) {
		if _, err := p.WriteAt([]byte(strings.Repeat("damage! ", n/8+1))[:n], off); err != nil {
			t.Fatal(err)
		}
	})
}

// copySlot makes slot b what slot a is.
func (c *card) copySlot(t *testing.T) {
	t.Helper()
	for _, part := range []func(slot.Name) string{slot.Name.KernelPartition, slot.Name.RootPartition} {
		var data []byte
		c.with(t, part(slot.A), func(p partition) {
			data = make([]byte, p.size)
			if _, err := p.ReadAt(data, 0); err != nil {
				t.Fatal(err)
			}
		})
		c.with(t, part(slot.B), func(p partition) {
			if _, err := p.WriteAt(data, 0); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func (c *card) state(t *testing.T) slot.State {
	t.Helper()
	var st slot.State
	c.with(t, slot.StatePartition, func(p partition) {
		var err error
		if st, err = slot.NewStore(p).Load(); err != nil {
			t.Fatal(err)
		}
	})
	return st
}

func (c *card) setState(t *testing.T, st slot.State) {
	t.Helper()
	c.with(t, slot.StatePartition, func(p partition) {
		if err := slot.NewStore(p).Save(st); err != nil {
			t.Fatal(err)
		}
	})
}

// machine is a running machine in a story: what is expected has to come.
type machine struct {
	*qemu.Machine
	t   testing.TB
	ctx context.Context
}

// boot starts a machine with the card. It ends with the test.
func (c *card) boot(t testing.TB, change ...func(*qemu.Options)) *machine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	o := qemu.Options{
		Board: c.board, Image: c.path, Scratch: t.TempDir(),
		UBoot: filepath.Join(c.out, c.Board, image.UBootFile),
	}
	for _, f := range change {
		f(&o)
	}
	m, err := qemu.Start(ctx, o, nil)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Kill(); cancel() })
	return &machine{m, t, ctx}
}

// patience is how long something that is expected may take.
const patience = 6 * time.Minute

// sees waits for the console to print what matches, and returns the groups.
func (m *machine) sees(expr string) []string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.ctx, patience)
	defer cancel()
	seen, err := m.Expect(ctx, expr)
	if err != nil {
		m.t.Fatal(err)
	}
	return seen.Groups
}

// ready waits for PID 1's last line.
func (m *machine) ready(b *build, slot slot.Name) string {
	m.t.Helper()
	return m.sees(fmt.Sprintf(`(?m)^gweinit: ready board=%s slot=%s version=1\.0\.0 uptime=[0-9.]+(.*?)\r?$`, b.Board, slot))[1]
}

// The shell asks for the position of the cursor behind its prompt. The result of the
// self-test comes at any time, on a line of its own.
const prompt = `(?m)^.*# (\x1b\[6n)?(gweinit: selftest .*)?$`

var selftestLine = regexp.MustCompile(`gweinit: selftest .*\n`)

// runs types a command at the console's shell and returns what it prints.
func (m *machine) runs(command string) string {
	m.t.Helper()
	// The quotes tell the marks from the line as the shell echoes it.
	if _, err := io.WriteString(m, `echo "<""begin>"; `+command+`; echo "<""end $?>"`+"\n"); err != nil {
		m.t.Fatal(err)
	}
	seen := m.sees(`(?s)<begin>\r?\n(.*?)<end (\d+)>`)
	text := strings.TrimSpace(strings.ReplaceAll(selftestLine.ReplaceAllString(seen[1], ""), "\r", ""))
	if seen[2] != "0" {
		m.t.Fatalf("%s: exit status %s: %s", command, seen[2], text)
	}
	return text
}

// shell waits for the console's shell.
func (m *machine) shell() {
	m.t.Helper()
	m.sees(prompt)
}

// poweredOff waits for the machine to end by itself.
func (m *machine) poweredOff() {
	m.t.Helper()
	select {
	case <-m.Ended():
	case <-time.After(patience):
		m.t.Fatalf("the machine is not off; its console ends:\n%s", m.Tail(30))
	}
}
