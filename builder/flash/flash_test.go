package flash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/builder/flash/flashtest"
	"github.com/exosite/gwe/gweinit/config"
)

const mib = 1 << 20

// built is the folder of the image, once a test wants it.
var (
	built string
	build = sync.OnceValue(func() (err error) {
		if built, err = os.MkdirTemp("", "flash-test-"); err != nil {
			return err
		}
		return flashtest.Build(built)
	})
)

func TestMain(m *testing.M) {
	status := m.Run()
	os.RemoveAll(built)
	os.Exit(status)
}

func folder(t testing.TB) string {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	return built
}

func openImage(t testing.TB) *Image {
	t.Helper()
	i, err := OpenImage(t.Context(), filepath.Join(folder(t), "test.img"), func(int64, int64) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return i
}

// smallImage is the beginning of the image, which takes less time.
func smallImage(t testing.TB) *Image {
	t.Helper()
	whole := openImage(t)
	i := &Image{Manifest: new(*whole.Manifest), provision: whole.provision}
	i.Image.Size = 12 * mib
	hash := sha256.New()
	var err error
	if i.file, err = scratch(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	// The slot's first MiB is data.
	for _, e := range []disk.Extent{{Offset: 0, Length: 11 * mib}, {Offset: 17 * mib, Length: mib}} {
		if _, err := io.Copy(io.MultiWriter(i.file, hash), io.NewSectionReader(whole.file, e.Offset, e.Length)); err != nil {
			t.Fatal(err)
		}
	}
	i.Image.SHA256 = hex.EncodeToString(hash.Sum(nil))
	if err := i.read(t.Context(), io.NewSectionReader(i.file, 0, i.Image.Size), false, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	return i
}

// card is a simulated one, in memory that is there once it is written to.
type card struct {
	t    testing.TB
	mem  []byte
	size int64 // as it says

	discard string                // what it does with what is discarded: zeros, ones, half, or "" if it cannot
	memory  func(off int64) int64 // where it has what is written there; -1: nowhere
	fail    func(op string, off, end int64) error
	flip    func(p []byte, off int64) // changes what is read
	gone    atomic.Bool
	closed  atomic.Bool
	written int64
	opened  int
}

// newCard has noise on it, of a life before.
func newCard(t testing.TB, size int64) *card {
	t.Helper()
	mem, err := unix.Mmap(-1, 0, int(size+grain-1)/grain*grain, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(mem) })
	noise := rand.NewChaCha8([32]byte{2})
	for off := int64(0); off < min(size, 132*mib); off += 256 << 10 {
		noise.Read(mem[off:min(size, off+3*grain)])
	}
	return &card{t: t, mem: mem, size: size}
}

// do does an operation grain by grain.
func (c *card) do(op string, p []byte, off int64, each func(p []byte, off int64)) (int, error) {
	if uintptr(unsafe.Pointer(&p[0]))%grain != 0 || off%grain != 0 || len(p)%grain != 0 {
		c.t.Errorf("%s of %d bytes at %d, from %p: no whole grains", op, len(p), off, &p[0])
	}
	if c.closed.Load() {
		c.t.Errorf("%s of a card that is closed", op)
	}
	if off+int64(len(p)) > c.size {
		return 0, io.ErrUnexpectedEOF
	}
	if c.fail != nil {
		if err := c.fail(op, off, off+int64(len(p))); err != nil {
			return 0, err
		}
	}
	if c.memory == nil {
		each(p, off)
		return len(p), nil
	}
	for at := 0; at < len(p); at += grain {
		if to := c.memory(off + int64(at)); to >= 0 {
			each(p[at:at+grain], to)
		}
	}
	return len(p), nil
}

func (c *card) ReadAt(p []byte, off int64) (int, error) {
	clear(p) // what is nowhere
	n, err := c.do("read", p, off, func(p []byte, off int64) { copy(p, c.mem[off:]) })
	if c.flip != nil {
		c.flip(p, off)
	}
	return n, err
}

func (c *card) WriteAt(p []byte, off int64) (int, error) {
	n, err := c.do("write", p, off, func(p []byte, off int64) { copy(c.mem[off:], p) })
	c.written += int64(n)
	return n, err
}

func (c *card) Sync() error {
	if c.fail != nil {
		return c.fail("sync", -1, 0)
	}
	return nil
}

func (c *card) Discard(off, size int64) error {
	if c.fail != nil {
		if err := c.fail("discard", off, off+size); err != nil {
			return err
		}
	}
	zero := func(off, end int64) error { return unix.Madvise(c.mem[off:end], unix.MADV_DONTNEED) }
	switch c.discard {
	case "zeros":
		return zero(off, off+size)
	case "half": // only what it feels like
		return errors.Join(zero(off, off+50*mib), zero(off+70*mib, off+size))
	case "ones":
		if off < 132*mib {
			copy(c.mem[off:min(off+size, 132*mib)], bytes.Repeat([]byte{0xff}, 132*mib))
		}
		return nil
	}
	return errors.ErrUnsupported
}

func (c *card) Size() int64 { return c.size }
func (c *card) Gone() bool  { return c.gone.Load() }
func (c *card) Close() error {
	c.closed.Store(true)
	return nil
}

// job flashes simulated cards, which are named by their places.
func job(t testing.TB, image *Image, cards ...*card) (*Job, []Card) {
	t.Helper()
	var list []Card
	for i, c := range cards {
		list = append(list, Card{Path: fmt.Sprintf("card%d", i), Name: fmt.Sprint(i), Model: "Simulated", ID: fmt.Sprintf("id%d", i), Size: c.size, Removable: true})
	}
	return &Job{Image: image, Tell: func(Progress) {}, open: func(c Card) (Device, error) {
		var i int
		fmt.Sscan(c.Name, &i)
		cards[i].opened++
		cards[i].closed.Store(false)
		return cards[i], nil
	}}, list
}

// provisioned adds settings and serial numbers to a job, and a log.
func (j *Job) provisioned(t testing.TB, pattern string) *Job {
	t.Helper()
	counter, err := NewCounter(pattern, 1)
	if err != nil {
		t.Fatal(err)
	}
	j.Serials, j.Settings = counter, &Settings{config.Provision{Product: "a1b2c3", Timezone: "UTC"}}
	j.Log = openLog(t, filepath.Join(t.TempDir(), "units.csv"))
	return j
}

func openLog(t testing.TB, path string) *Log {
	t.Helper()
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// checkCard compares a card with the image, in which the settings are of this
// serial number; "": the file is as the image has it.
func checkCard(t *testing.T, c *card, i *Image, serial string) {
	t.Helper()
	got, want := slices.Clone(c.mem[:i.Image.Size]), make([]byte, i.Image.Size)
	if _, err := i.file.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if serial != "" {
		file, err := config.File([]byte("product: a1b2c3\nserial: " + serial + "\ntimezone: UTC\n"))
		if err != nil {
			t.Fatal(err)
		}
		var there []byte
		for _, e := range i.provision {
			there = append(there, got[e.Offset:e.Offset+e.Length]...)
			copy(got[e.Offset:e.Offset+e.Length], want[e.Offset:])
		}
		text, _ := config.Text(there)
		p, err := config.ParseProvision(text)
		if err != nil || p.Serial != serial || p.Product != "a1b2c3" || len(there) != len(file) {
			t.Errorf("the settings on it are %+v, %v in %d bytes", p, err, len(there))
		}
	}
	if sum := sha256.Sum256(got); hex.EncodeToString(sum[:]) != i.Image.SHA256 {
		for off := range got {
			if got[off] != want[off] {
				t.Errorf("byte %d is %#x, want %#x", off, got[off], want[off])
				break
			}
		}
	}
	if c.discard == "zeros" { // no probe is left
		for rest := c.mem[i.Image.Size:]; len(rest) > 0; rest = rest[min(len(rest), 64*mib):] {
			if part := rest[:min(len(rest), 64*mib)]; resident(t, part) && !allZero(part) {
				t.Error("something is left behind the image")
			}
			unix.Madvise(rest[:min(len(rest), 64*mib)], unix.MADV_DONTNEED)
		}
	}
}

// resident says whether memory was ever written to.
func resident(t *testing.T, part []byte) bool {
	t.Helper()
	pages := make([]byte, (len(part)+grain-1)/grain)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&part[0])), uintptr(len(part)), uintptr(unsafe.Pointer(&pages[0]))); errno != 0 {
		t.Fatal(errno)
	}
	return !allZero(pages)
}

// Whatever a card was and does with what is erased, it ends as the image is.
func TestCards(t *testing.T) {
	i := openImage(t)
	for _, discard := range []string{"", "zeros", "ones", "half"} {
		sizes := []int64{256*mib + 3*512}
		if discard == "zeros" {
			sizes = []int64{disk.Size, disk.Size + 512, 8 << 30}
		}
		for _, size := range sizes {
			t.Run(fmt.Sprintf("%s %d", discard, size), func(t *testing.T) {
				c := newCard(t, size)
				c.discard = discard
				j, list := job(t, i, c)
				j.provisioned(t, "GW-##")
				var phases []string
				j.Tell = func(p Progress) {
					if p.Device != "card0" || p.Done < 0 || p.Done > p.Total {
						t.Errorf("progress %+v", p)
					}
					if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
						phases = append(phases, p.Phase)
					}
				}
				e := j.Cards(t.Context(), list)[0]
				if e.Result != OK || e.Serial != "GW-01" || (e.Detail == "") != (discard != "") || e.Size != size || e.Version != "1.2.3" || e.Card != "Simulated" {
					t.Fatalf("%+v", e)
				}
				checkCard(t, c, i, "GW-01")
				// What need not be written was not.
				want, extra := i.Image.Size, int64(mib)
				if discard == "zeros" {
					want = total(i.data)
				}
				if discard == "half" {
					want, extra = total(i.data), i.Image.Size
				}
				if c.written < want || c.written > want+extra {
					t.Errorf("%d bytes were written, want %d and little more", c.written, want)
				}
				if !c.closed.Load() {
					t.Error("it is not closed")
				}
				if got := strings.Join(slices.DeleteFunc(phases, func(p string) bool { return p == "waiting" }), " "); !strings.HasPrefix(got, "opening erasing writing verifying") || !strings.HasSuffix(got, "provisioning done") {
					t.Errorf("phases %s", got)
				}
			})
		}
	}
}

// at fails what touches an offset.
func at(op string, where int64, err error) func(string, int64, int64) error {
	return func(o string, off, end int64) error {
		if o == op && off <= where && where < end {
			return err
		}
		return nil
	}
}

func TestBadCards(t *testing.T) {
	i := smallImage(t)
	const size = 1 << 30
	data, zeros := i.data[len(i.data)-1], i.zeros()[1]
	for _, tt := range []struct {
		name string
		bad  func(c *card)
		want string
	}{
		{"write error at the start", func(c *card) { c.fail = at("write", 0, unix.EIO) }, "write at 0 bytes: input/output error"},
		{"write error in data", func(c *card) { c.fail = at("write", data.Offset, unix.EIO) }, "write at"},
		{"write error in zeros", func(c *card) { c.fail = at("write", zeros.Offset, unix.EIO) }, "write at"},
		{"write error at the image's end", func(c *card) { c.fail = at("write", i.Image.Size-1, unix.EIO) }, "write at"},
		{"write error at the card's end", func(c *card) { c.fail = at("write", size-1, unix.EIO) }, "write at 1.1 GB: input/output error"},
		{"write error in the settings", func(c *card) {
			n := 0 // the image is written there before
			c.fail = func(op string, off, end int64) error {
				if err := at("write", i.provision[0].Offset, unix.EIO)(op, off, end); err != nil {
					if n++; n > 1 {
						return err
					}
				}
				return nil
			}
		}, "write at"},
		{"read error in data", func(c *card) { c.fail = at("read", data.Offset, unix.EIO) }, "read at"},
		{"read error at the image's end", func(c *card) { c.fail = at("read", i.Image.Size-1, unix.EIO) }, "read at"},
		{"read error at the card's end", func(c *card) { c.fail = at("read", size-1, unix.EIO) }, "read at 1.1 GB: input/output error"},
		{"buffers that it does not write", func(c *card) { c.fail = at("sync", -1, unix.EIO) }, "write what the card has in its buffers: input/output error"},
		{"an error when erasing", func(c *card) { c.fail = at("discard", 0, unix.EIO) }, "erase at 0 bytes: input/output error"},
		{"pulled out", func(c *card) {
			c.fail = func(op string, off, end int64) error {
				if op == "write" && off > 2*mib && off < i.Image.Size {
					c.gone.Store(true)
					return unix.ENXIO
				}
				return nil
			}
		}, "it was pulled out, or its reader was (write at"},
		{"a bit that is stuck", func(c *card) {
			c.flip = func(p []byte, off int64) {
				if at := data.Offset + 777; off <= at && at < off+int64(len(p)) {
					p[at-off] ^= 4
				}
			}
		}, "it does not keep what is written to it: what it has at " + SizeText(data.Offset)},
		{"a bit in zeros that it says are erased", func(c *card) {
			c.discard = "zeros"
			c.flip = func(p []byte, off int64) {
				if at := zeros.Offset + zeros.Length - 1; off <= at && at < off+int64(len(p)) {
					p[at-off] ^= 4
				}
			}
		}, "it does not keep what is written to it: what it has at"},
		{"reads that differ", func(c *card) {
			n := 0
			c.flip = func(p []byte, off int64) {
				if off == 8*mib {
					if n++; n == 1 {
						p[5]++
					}
				}
			}
		}, "it does not always read the same"},
		{"settings that it does not keep", func(c *card) {
			n := 0
			c.flip = func(p []byte, off int64) {
				if len(p) == grain && off == i.provision[0].Offset/grain*grain {
					p[0]++
					n++
				}
			}
		}, "it does not keep the settings"},
		{"no memory behind the image", func(c *card) { c.memory = dropped(i.Image.Size) }, "it says it has 1.1 GB, but does not keep what is written at 16.8 MB: a counterfeit"},
		{"no memory at its end", func(c *card) { c.memory = dropped(size - grain) }, "it says it has 1.1 GB, but does not keep what is written at 1.1 GB: a counterfeit"},
		{"memory for half of it", func(c *card) { c.memory = dropped(size / 2) }, "but does not keep what is written at 536.9 MB: a counterfeit"},
		{"no memory for the image", func(c *card) { c.memory = dropped(6 * mib) }, "it does not keep what is written to it"},
		{"less memory, used again and again", func(c *card) { c.memory = wrapped(256 * mib) }, "a counterfeit"},
		{"little more memory than the image, used again", func(c *card) { c.memory = wrapped(16 * mib) }, "a counterfeit"},
		{"less memory than the image, used again", func(c *card) { c.memory = wrapped(5 * mib) }, "it does not keep what is written to it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCard(t, size)
			tt.bad(c)
			j, list := job(t, i, c)
			j.provisioned(t, "GW-##")
			// Its serial number is the next one's, unless that was on its way already.
			serial := ""
			if strings.Contains(tt.name, "settings") {
				serial = "GW-01"
			}
			if e := j.Cards(t.Context(), list)[0]; e.Result != Failed || !strings.Contains(e.Detail, tt.want) || e.Serial != serial {
				t.Errorf("%+v, want %s", e, tt.want)
			}
			if used, err := j.Log.Used(); err != nil || used["GW-01"] != (serial != "") {
				t.Errorf("used: %v, %v", used, err)
			}
			if c.opened != 1 || !c.closed.Load() {
				t.Errorf("opened %d times, closed: %v", c.opened, c.closed.Load())
			}
		})
	}
}

func dropped(memory int64) func(int64) int64 {
	return func(off int64) int64 {
		if off >= memory {
			return -1
		}
		return off
	}
}

func wrapped(memory int64) func(int64) int64 { return func(off int64) int64 { return off % memory } }

func TestRefused(t *testing.T) {
	i := openImage(t)
	small, fixed, used := newCard(t, disk.Size-512), newCard(t, 256*mib), newCard(t, 256*mib)
	j, list := job(t, i, small, fixed, used)
	j.provisioned(t, "GW-##")
	list[1].Removable = false
	list[2].Uses = []string{"mounted on /media/card"}
	for i, want := range []string{"it is too small: it has 134217216 bytes, and the image 134217728", "it is not removable (Simulated, 268.4 MB), so it may be a disk of this computer: -force", "it is in use: mounted on /media/card"} {
		if e := j.Cards(t.Context(), list)[i]; e.Result != Refused || !strings.Contains(e.Detail, want) || e.Serial != "" {
			t.Errorf("%+v, want %s", e, want)
		}
	}
	j.Force = true
	for i, want := range []Outcome{Refused, OK, Refused} {
		if e := j.Cards(t.Context(), list)[i]; e.Result != want {
			t.Errorf("-force: %+v, want %s", e, want)
		}
	}
	if small.opened+used.opened != 0 {
		t.Error("what was refused was opened")
	}
}

// Whenever it is interrupted, the card can be flashed again, with the next serial
// number if the last one was on its way.
func TestInterrupted(t *testing.T) {
	i := smallImage(t)
	c := newCard(t, 512*mib)
	j, list := job(t, i, c)
	j.provisioned(t, "GW-##")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if e := j.Cards(over, list)[0]; e.Result != Interrupted || e.Detail != "nothing was written" || c.opened != 0 {
		t.Errorf("before: %+v", e)
	}
	for _, stop := range []struct {
		op    string
		count int
		want  string
	}{
		{"discard", 1, "erasing"}, {"write", 1, "erasing"}, {"write", 8, "writing"}, {"sync", 1, "writing"}, {"read", 1, "verifying"}, {"read", 3, "verifying"}, {"sync", 2, "verifying"},
		{"sync", 3, ""}, // the last one, after which the card is as it should be
	} {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		c.fail = func(op string, off, end int64) error {
			if op == stop.op {
				if n++; n == stop.count {
					cancel()
				}
			}
			return nil
		}
		want, serial, detail := Interrupted, "", "while "+stop.want+"; the card is not complete"
		if stop.want == "" {
			want, serial, detail = OK, "GW-01", "not erased, as its reader cannot: behind the image it has what it had"
		}
		if e := j.Cards(ctx, list)[0]; e.Result != want || e.Detail != detail || e.Serial != serial {
			t.Errorf("%+v: %+v", stop, e)
		}
		if !c.closed.Load() {
			t.Error("it is not closed")
		}
	}
	c.fail = nil
	checkCard(t, c, i, "GW-01")
	if e := j.Cards(t.Context(), list)[0]; e.Result != OK || e.Serial != "GW-02" {
		t.Errorf("%+v", e)
	}
	checkCard(t, c, i, "GW-02")
}

// A reader that hangs is given up, and the others get their serial numbers.
func TestHangs(t *testing.T) {
	i := smallImage(t)
	hangs, good := newCard(t, 256*mib), newCard(t, 256*mib)
	let := make(chan struct{})
	hangs.fail = func(op string, off, end int64) error {
		if op == "write" && off > 2*mib && off < 12*mib {
			<-let
		}
		return nil
	}
	j, list := job(t, i, hangs, good)
	j.provisioned(t, "GW-##").patience = 2 * time.Second
	entries := j.Cards(t.Context(), list)
	if e := entries[0]; e.Result != Failed || !strings.Contains(e.Detail, "it hangs: nothing for") || !strings.Contains(e.Detail, "writing") {
		t.Errorf("%+v", e)
	}
	if e := entries[1]; e.Result != OK || e.Serial != "GW-01" {
		t.Errorf("%+v", e)
	}
	close(let) // it comes back when nobody waits for it any more
	for !hangs.closed.Load() {
		time.Sleep(time.Millisecond)
	}
	if used, err := j.Log.Used(); err != nil || len(used) != 1 {
		t.Errorf("used: %v, %v", used, err)
	}
}

// Eight at once have the serial numbers in their order, and the log says all.
func TestEight(t *testing.T) {
	i := smallImage(t)
	var cards []*card
	for n := range 8 {
		c := newCard(t, int64(200+n)*mib)
		c.discard = "zeros"
		cards = append(cards, c)
	}
	cards[3].fail = at("write", 0, unix.EIO)
	j, list := job(t, i, cards...)
	j.provisioned(t, "GW-##")
	var mu sync.Mutex
	var enabled []string
	j.Enable = func(_ context.Context, serial string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		enabled = append(enabled, serial)
		if serial == "GW-05" {
			return "", errors.New("the cloud is away")
		}
		return "added and enabled", nil
	}
	next := 1
	for n, e := range j.Cards(t.Context(), list) {
		want, result := fmt.Sprintf("GW-%02d", next), OK
		switch {
		case n == 3:
			want, result = "", Failed
		case next == 5:
			result = NotEnabled
		}
		if e.Result != result || e.Serial != want {
			t.Errorf("card %d: %+v, want %s", n, e, want)
		}
		if n != 3 {
			checkCard(t, cards[n], i, want)
			next++
		}
	}
	if slices.Sort(enabled); strings.Join(enabled, " ") != "GW-01 GW-02 GW-03 GW-04 GW-05 GW-06 GW-07" {
		t.Errorf("enabled %q", enabled)
	}
	text, err := os.ReadFile(j.Log.f.Name())
	if err != nil || strings.Count(string(text), "\n") != 1+7+8 || strings.Count(string(text), ",allotted,") != 7 || !strings.Contains(string(text), ",not enabled,card5,GW-05,") || !strings.Contains(string(text), "the cloud is away") || strings.Count(string(text), ",added and enabled\n") != 6 {
		t.Errorf("%v\n%s", err, text)
	}
}
