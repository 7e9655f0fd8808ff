package firmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/exosite/gwe/gweinit/bundle"
	"github.com/exosite/gwe/gweinit/engine/command"
	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/exositetest"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/update"
)

// world is a gateway whose cloud has a firmware.
type world struct {
	*exositetest.Server
	*board
	t      *testing.T
	key    minisign.PrivateKey
	client *exosite.Client
	meter  *exosite.Meter
	next   image
	bundle []byte

	item    command.Item
	tries   int                         // of the queue
	waits   int                         // times that it had to
	copied  func(n int, from, to int64) // is called before the n-th Copy
	copies  int
	install *Installer
}

var (
	oldImage = image{"1.0", noise(10, 1_500_000), noise(11, 3_000_000)}
	newImage = image{"2.0", noise(12, 1_400_001), noise(13, 4_300_000)}
)

const (
	kernelRoom = 3 << 19
	rootfsRoom = 9 << 19
)

func newWorld(t *testing.T) *world {
	t.Helper()
	public, private := newKey(t)
	w := &world{
		t: t, Server: exositetest.New(t), key: private, meter: &exosite.Meter{}, next: newImage,
		board: newBoard(t, oldImage, kernelRoom, rootfsRoom, public),
		item:  command.Item{Name: fileName}, tries: 10,
	}
	w.AddDevice("GW-1")
	var err error
	w.client, err = exosite.New(exosite.Options{Server: "http://" + w.HTTPAddr(), Meter: w.meter, Consumer: "test", Tries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	if _, err := w.client.Activate(t.Context(), "GW-1"); err != nil {
		t.Fatal(err)
	}
	if err := w.Cloud().CreateContent(w.Product(), fileName, "", false); err != nil {
		t.Fatal(err)
	}
	w.install = w.installer(&tapped{Content(w.client, fileName), w})
	w.upload(newImage.pack(t, private, nil))
	return w
}

// tapped is a source that says when it is asked.
type tapped struct {
	Source
	w *world
}

func (s *tapped) Copy(ctx context.Context, out io.Writer, from, to int64) error {
	s.w.copies++
	if s.w.copied != nil {
		s.w.copied(s.w.copies, from, to)
	}
	return s.Source.Copy(ctx, out, from, to)
}

func (w *world) upload(data []byte) {
	w.t.Helper()
	if err := w.Cloud().Upload(w.Product(), fileName, "application/octet-stream", bytes.NewReader(data)); err != nil {
		w.t.Fatal(err)
	}
	w.bundle = data
}

// fetched is how many bytes have come since the last time, headers included.
func (w *world) fetched() (n int64) {
	for _, link := range w.meter.Take() {
		n += link.Consumers["test"]["content"].TotRx
	}
	return n
}

// run is the queue: it tries until there is an outcome, or the gateway reboots.
func (w *world) run() (output string, err error) {
	w.fetched()
	j := command.Job{ID: jobID, Items: []command.Item{w.item}}
	for range w.tries {
		ctx, reboot := context.WithCancel(w.t.Context())
		w.reboot = reboot
		output, err = w.install.Install(ctx, j)
		reboot()
		j.Again = true
		if !isLater(err) {
			break
		}
		w.waits++
	}
	return output, err
}

// activated says that the firmware is there, and about to be tried.
func (w *world) activated(err error, i image) {
	w.t.Helper()
	if !errors.Is(err, context.Canceled) || w.reboots != 1 {
		w.t.Fatalf("%d reboots, %v", w.reboots, err)
	}
	if got := line(w.state(w.t)); !w.holds(slot.B, i) || !contains(got, "TRIAL=b", "B_STATE=ready", "A_STATE=good") {
		w.t.Errorf("slot b has it: %v; %s", w.holds(slot.B, i), got)
	}
	if u := w.keeper.Record().Update; u.ID != jobID || u.Version != i.version || u.Limit != int(update.DefaultLimit/time.Second) || fmt.Sprint(u.Programs) != "[app]" {
		w.t.Errorf("recorded is %+v", u)
	}
}

// What networks, servers and people do to an update that still comes to its end.
func TestFaults(t *testing.T) {
	const call = "content"
	flip := int64(700_000)
	once := func(f exositetest.Fault) exositetest.Fault {
		f.Call = call
		f.Times = max(f.Times, 1)
		return f
	}
	// Before the second Copy: the first brings the head.
	second := func(faults ...exositetest.Fault) func(w *world) {
		return func(w *world) {
			w.copied = func(n int, _, _ int64) {
				for _, f := range faults {
					if n == 2 {
						w.Fault(once(f))
					}
				}
			}
		}
	}
	first := func(faults ...exositetest.Fault) func(w *world) {
		return func(w *world) {
			for _, f := range faults {
				w.Fault(once(f))
			}
		}
	}
	for _, test := range []struct {
		name  string
		cause func(w *world)
		waits int     // of the queue
		most  float64 // bytes fetched, as a part of the bundle
	}{
		{"nothing", func(*world) {}, 0, 1.02},
		{"breaks off", second(exositetest.Fault{DropAfter: 1_000_000}, exositetest.Fault{DropAfter: 1}, exositetest.Fault{DropAfter: 2_000_000}), 0, 1.02},
		{"breaks off in the head", first(exositetest.Fault{DropAfter: 700}), 0, 1.02},
		{"knows no ranges", func(w *world) { w.Fault(exositetest.Fault{Call: call, IgnoreRange: true}) }, 0, 1.6},
		{"knows no ranges, and breaks off", second(exositetest.Fault{IgnoreRange: true, DropAfter: 3_000_000}), 0, 1.1},
		{"another length", second(exositetest.Fault{LengthBy: -100_000}), 1, 1.1},
		{"more than there is", second(exositetest.Fault{LengthBy: 5000}), 1, 1.1},
		{"trickles", second(exositetest.Fault{Rate: 3_000_000}), 0, 1.02},
		{"a byte is wrong", second(exositetest.Fault{FlipAt: &flip}), 0, 1.2},
		{"a byte is wrong, twice", second(exositetest.Fault{FlipAt: &flip, Times: 3}), 0, 1.4},
		{"cannot answer", first(exositetest.Fault{Status: 503}, exositetest.Fault{Status: 502}), 2, 1.02},
		{"too many requests", second(exositetest.Fault{Status: 429, RetryAfter: "1"}), 1, 1.02},
		{"another credential", second(exositetest.Fault{Status: 401}), 1, 1.02},
		{"no such range", second(exositetest.Fault{Status: 416}), 0, 1.02},
		{"no answer", second(exositetest.Fault{Drop: true}), 0, 1.02},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			test.cause(w)
			_, err := w.run()
			w.activated(err, newImage)
			ratio := float64(w.fetched()) / float64(len(w.bundle))
			t.Logf("fetched %.3f of the bundle", ratio)
			if ratio > test.most || w.waits != test.waits {
				t.Errorf("fetched %.3f of the bundle, want at most %v; %d waits, want %d", ratio, test.most, w.waits, test.waits)
			}
		})
	}
}

// Ten interruptions cost little: the connection's, and the program's, which loses
// the frame that has not all come.
func TestInterruptions(t *testing.T) {
	const times = 10
	t.Run("of the connection", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.copied = func(n int, _, _ int64) {
			for i := range int64(times) {
				if n == 2 {
					w.Fault(exositetest.Fault{Call: "content", Times: 1, DropAfter: 300_000 + i*37_000})
				}
			}
		}
		_, err := w.run()
		w.activated(err, newImage)
		ratio := float64(w.fetched()) / float64(len(w.bundle))
		t.Logf("fetched %.3f of the bundle", ratio)
		if ratio > 1.1 || len(w.Faults()) > 0 {
			t.Errorf("%d breaks did not come; fetched %.3f of the bundle", len(w.Faults()), ratio)
		}
	})
	for name, power := range map[string]bool{"of the program": false, "of the power": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.fetched()
			for i := range int64(times) {
				ctx, cancel := context.WithCancel(t.Context())
				at := rand.Int64N(int64(len(w.bundle)) / times)
				w.install.Source = func(string) (Source, error) {
					return &cutting{Content(w.client, fileName), int64(len(w.bundle))/times + at, cancel}, nil
				}
				if _, err := w.install.Install(ctx, job(fileName)); !errors.Is(err, context.Canceled) {
					t.Fatalf("cut %d: %v", i, err)
				}
				cancel()
				if w.reboots > 0 {
					break // it is done
				}
				if power { // what was not synced is lost
					w.disk = w.disk.Copy()
					if _, err := w.start(slot.A, oldImage.version); err != nil {
						t.Fatal(err)
					}
				}
			}
			got := w.fetched()
			if w.reboots == 0 {
				w.install.Source = func(string) (Source, error) { return Content(w.client, fileName), nil }
				_, err := w.run()
				w.activated(err, newImage)
				got += w.fetched()
			}
			lost := got - int64(len(w.bundle))
			t.Logf("fetched %.3f of the bundle, %d bytes twice for each interruption", float64(got)/float64(len(w.bundle)), lost/times)
			if most := times * int64(bundle.ChunkSize+headBlock+10_000); lost > most {
				t.Errorf("fetched %d bytes twice, want at most %d: a frame and a head for each", lost, most)
			}
		})
	}
}

// cutting ends everything after so many bytes.
type cutting struct {
	Source
	left   int64
	cancel func()
}

func (c *cutting) Copy(ctx context.Context, w io.Writer, from, to int64) error {
	return c.Source.Copy(ctx, writeFunc(func(p []byte) (int, error) {
		if c.left -= int64(len(p)); c.left < 0 {
			c.cancel()
			return 0, context.Canceled
		}
		return w.Write(p)
	}), from, to)
}

type writeFunc func(p []byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

// Another firmware of the same name is uploaded while it is fetched: that one is
// installed, and nothing is mixed.
func TestReplaced(t *testing.T) {
	for _, test := range []struct {
		name string
		next image
	}{
		{"of the same size", image{"2.1", noise(22, len(newImage.kernel)), noise(23, len(newImage.rootfs))}},
		{"of another size", image{"2.1", noise(22, 900_000), noise(23, 2_000_000)}},
		{"shorter than what is there", image{"2.1", noise(22, 100), noise(23, 100)}},
		{"with a part that is the same", image{"2.1", newImage.kernel, noise(23, 4_300_000)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			next := test.next.pack(t, w.key, nil)
			written := 0
			w.wrap = func(name string, d Device) Device {
				return hooked{d, func() {
					if written++; written == 2 {
						w.upload(next)
					}
				}}
			}
			w.copied = func(n int, _, _ int64) {
				if n == 2 {
					w.Fault(exositetest.Fault{Call: "content", Times: 1, DropAfter: 2_500_000})
				}
			}
			_, err := w.run()
			w.activated(err, test.next)
			if w.waits != 0 || w.begun != 2 {
				t.Errorf("%d waits, begun %d times", w.waits, w.begun)
			}
		})
	}
	t.Run("again and again", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.tries = 1
		n := 0
		w.copied = func(copies int, from, to int64) {
			if from > 0 { // not for the head
				n++
				w.upload(image{fmt.Sprintf("2.%d", n), noise(uint64(30+n), 100_000), noise(31, 2_000_000)}.pack(t, w.key, nil))
			}
		}
		_, err := w.run()
		if !isLater(err) || !contains(err.Error(), "another firmware of the same name", "4 times") || w.reboots > 0 {
			t.Errorf("%v", err)
		}
		if st := w.state(t); st.B.Status != slot.Writing || st.Trial != "" {
			t.Error(line(st))
		}
	})
}

// hooked calls something before each write.
type hooked struct {
	Device
	before func()
}

func (h hooked) WriteAt(p []byte, off int64) (int, error) {
	h.before()
	return h.Device.WriteAt(p, off)
}

// What is refused before anything is touched.
func TestRefusals(t *testing.T) {
	public, private := newKey(t)
	_, stranger := newKey(t)
	small := image{"2.0", noise(40, 5000), noise(41, 7000)}
	good := small.pack(t, private, nil)
	with := func(change func(*bundle.Manifest)) []byte { return small.pack(t, private, change) }
	flipped := func(at int) []byte {
		data := bytes.Clone(good)
		data[at] ^= 1
		return data
	}
	signature := bytes.Index(good, []byte("trusted comment: firmware"))
	for _, test := range []struct {
		name   string
		data   []byte
		kernel int64 // size of the partition; 0: large enough
		is     error
		text   string
	}{
		{"not a bundle", noise(42, 100_000), 0, bundle.ErrFormat, ""},
		{"signed by a stranger", small.pack(t, stranger, nil), 0, bundle.ErrSignature, "not trusted"},
		{"signature is damaged", flipped(signature + 20), 0, bundle.ErrSignature, ""},
		{"manifest is changed", flipped(520), 0, bundle.ErrSignature, ""},
		{"for another board", with(func(m *bundle.Manifest) { m.Board = "rpi4" }), 0, bundle.ErrBoard, "rpi4"},
		{"older", image{"0.9", small.kernel, small.rootfs}.pack(t, private, nil), 0, bundle.ErrOlder, "0.9"},
		{"needs a step between", with(func(m *bundle.Manifest) { m.Minimum = "1.5" }), 0, bundle.ErrMinimum, "1.5"},
		{"empty", nil, 0, io.ErrUnexpectedEOF, "byte 0"},
		{"cut off in the head", good[:600], 0, io.ErrUnexpectedEOF, "byte 600"},
		{"cut off at the end", good[:len(good)-1], 0, nil, "cut off"},
		{"cut off in the middle", good[:len(good)/2], 0, nil, "cut off"},
		{"something behind it", append(bytes.Clone(good), 0), 0, nil, "belong to it"},
		{"kernel is too large", good, 5120 + 512, nil, "kernel has 5000 bytes, and there is room for 4608"},
	} {
		t.Run(test.name, func(t *testing.T) {
			kernel := int64(64 << 10)
			if test.kernel > 0 {
				kernel = test.kernel
			}
			running := image{"1.0", noise(43, 1000), noise(44, 1000)}
			b := newBoard(t, running, kernel, 64<<10, public)
			before, writes := b.state(t), b.disk.Writes
			ctx, reboot := context.WithCancel(t.Context())
			defer reboot()
			b.reboot = reboot
			output, err := b.installer(&memory{name: fileName, data: test.data}).Install(ctx, job(fileName))
			if err == nil || output != "" || isLater(err) || test.is != nil && !errors.Is(err, test.is) || !contains(err.Error(), fileName+": ", test.text) {
				t.Errorf("%q, %v", output, err)
			}
			if b.state(t) != before || b.disk.Writes != writes || b.begun > 0 || b.keeper.Record().Update != nil {
				t.Errorf("%d writes, begun %d times, %s", b.disk.Writes-writes, b.begun, line(b.state(t)))
			}
		})
	}
	t.Run("just fits", func(t *testing.T) {
		b := newBoard(t, image{"1.0", noise(43, 1000), noise(44, 1000)}, 5120+1024, 7168, public)
		ctx, reboot := context.WithCancel(t.Context())
		b.reboot = reboot
		if _, err := b.installer(&memory{name: fileName, data: good}).Install(ctx, job(fileName)); !errors.Is(err, context.Canceled) || !b.holds(slot.B, small) {
			t.Error(err)
		}
	})
	t.Run("two at once", func(t *testing.T) {
		b := newBoard(t, image{"1.0", noise(43, 1000), noise(44, 1000)}, 64<<10, 64<<10, public)
		_, err := b.installer(nil).Install(t.Context(), job(fileName, "b.fw"))
		if err == nil || isLater(err) || !contains(err.Error(), "one at a time") || b.begun > 0 {
			t.Error(err)
		}
	})
	t.Run("with a SHA-256", func(t *testing.T) {
		b := newBoard(t, image{"1.0", noise(43, 1000), noise(44, 1000)}, 64<<10, 64<<10, public)
		source := &memory{name: fileName, data: good}
		j := job(fileName)
		j.Items[0].SHA256 = strings.Repeat("ab", 32)
		_, err := b.installer(source).Install(t.Context(), j)
		if err == nil || isLater(err) || err.Error() != fileName+": firmware is checked by the signature in it: leave out sha256" || source.copied > 0 || b.begun > 0 {
			t.Errorf("%v, %d bytes fetched", err, source.copied)
		}
	})
	t.Run("no key", func(t *testing.T) {
		b := newBoard(t, image{"1.0", noise(43, 1000), noise(44, 1000)}, 64<<10, 64<<10, public)
		b.root = t.TempDir()
		_, err := b.installer(&memory{name: fileName, data: good}).Install(t.Context(), job(fileName))
		if !errors.Is(err, bundle.ErrSignature) || isLater(err) || !contains(err.Error(), "no key is trusted") || b.begun > 0 {
			t.Error(err)
		}
	})
}

// Exosite says that there is none, or does not answer.
func TestNotThere(t *testing.T) {
	for status, later := range map[int]bool{404: false, 403: false, 401: true, 500: true, 429: true} {
		w := newWorld(t)
		w.tries = 1
		w.Fault(exositetest.Fault{Call: "contentinfo", Status: status})
		_, err := w.run()
		if isLater(err) != later || err == nil || strings.Contains(err.Error(), w.client.CIK()) || w.begun > 0 {
			t.Errorf("%d: %v", status, err)
		}
	}
}

// Frames that are not where the manifest says: the slot is marked as being written,
// and stays so.
func TestSwappedChunks(t *testing.T) {
	w := newWorld(t)
	data := bytes.Clone(w.bundle)
	keys, err := bundle.LoadKeys(w.install.path(keysFile))
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Open(bytes.NewReader(data), keys)
	if err != nil {
		t.Fatal(err)
	}
	p := b.Pieces()
	one, two := p[2], p[3] // of the rootfs; noise makes frames of one size
	if one.Size != two.Size {
		t.Fatal(one, two)
	}
	copy(data[one.From:], w.bundle[two.From:two.From+two.Size])
	copy(data[two.From:], w.bundle[one.From:one.From+one.Size])
	w.upload(data)
	_, err = w.run()
	if !errors.Is(err, bundle.ErrChunk) || isLater(err) || !contains(err.Error(), "piece 3 of 7", fmt.Sprintf("bytes %d to %d", one.From, one.From+one.Size-1), "3 times") {
		t.Error(err)
	}
	if st := w.state(t); st.B.Status != slot.Writing || st.Trial != "" || w.reboots > 0 {
		t.Error(line(st))
	}
	// And the right one goes on with what is there.
	w.upload(w.next.pack(t, w.key, nil))
	_, err = w.run()
	w.activated(err, newImage)
	if got := w.fetched(); got > int64(len(w.bundle)-len(newImage.kernel))+100_000 {
		t.Errorf("fetched %d bytes of %d, and the kernel was there", got, len(w.bundle))
	}
}

// What the running firmware has is not fetched.
func TestSameKernel(t *testing.T) {
	w := newWorld(t)
	next := image{"2.0", oldImage.kernel, newImage.rootfs}
	w.upload(next.pack(t, w.key, nil))
	_, err := w.run()
	w.activated(err, next)
	if got, most := w.fetched(), int64(len(next.rootfs)+100_000); got > most {
		t.Errorf("fetched %d bytes, want at most %d", got, most)
	}
}

// Disks that do not keep what is written, or do not take it.
func TestBadDisk(t *testing.T) {
	for _, test := range []struct {
		name string
		wrap func(b *board) func(name string, d Device) Device
		text string // of the error; "": it ends well
	}{
		{"forgets a write", func(b *board) func(string, Device) Device {
			n := 0
			return func(_ string, d Device) Device {
				return &forgetful{Device: d, forgets: func(off int64) bool { n++; return n == 4 }}
			}
		}, ""},
		{"forgets a place", func(b *board) func(string, Device) Device {
			return func(_ string, d Device) Device {
				return &forgetful{Device: d, forgets: func(off int64) bool { return off == 2<<20 }}
			}
		}, "slot b does not keep what is written, at byte 2097152 of its rootfs for instance: the disk may be worn out"},
		{"takes no write", func(b *board) func(string, Device) Device {
			return func(name string, d Device) Device {
				if name == "rootfs_b" {
					return broken{d, "write"}
				}
				return d
			}
		}, "write slot b: input/output error"},
		{"does not sync", func(b *board) func(string, Device) Device {
			return func(name string, d Device) Device { return broken{d, "sync"} }
		}, "sync slot b: input/output error"},
		{"cannot be read before it is written", func(b *board) func(string, Device) Device {
			return func(name string, d Device) Device {
				if name == "rootfs_b" {
					return &unreadable{Device: d}
				}
				return d
			}
		}, ""},
		{"the running slot cannot be read", func(b *board) func(string, Device) Device {
			return func(name string, d Device) Device {
				if strings.HasSuffix(name, "_a") {
					return broken{d, "read"}
				}
				return d
			}
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.wrap = test.wrap(w.board)
			_, err := w.run()
			if test.text == "" {
				w.activated(err, newImage)
			} else if err == nil || isLater(err) || !contains(err.Error(), test.text) || w.state(t).Trial != "" || w.reboots > 0 {
				t.Errorf("%v; %s", err, line(w.state(t)))
			}
		})
	}
}

type forgetful struct {
	Device
	forgets func(off int64) bool
}

func (f *forgetful) WriteAt(p []byte, off int64) (int, error) {
	if f.forgets(off) {
		return len(p), nil
	}
	return f.Device.WriteAt(p, off)
}

var errIO = errors.New("input/output error")

type broken struct {
	Device
	what string
}

func (b broken) ReadAt(p []byte, off int64) (int, error) {
	if b.what == "read" {
		return 0, errIO
	}
	return b.Device.ReadAt(p, off)
}

func (b broken) WriteAt(p []byte, off int64) (int, error) {
	if b.what == "write" {
		return 0, errIO
	}
	return b.Device.WriteAt(p, off)
}

func (b broken) Sync() error {
	if b.what == "sync" {
		return errIO
	}
	return b.Device.Sync()
}

// unreadable has bad sectors, which writing mends.
type unreadable struct {
	Device
	written bool
}

func (u *unreadable) ReadAt(p []byte, off int64) (int, error) {
	if !u.written {
		return 0, errIO
	}
	return u.Device.ReadAt(p, off)
}

func (u *unreadable) WriteAt(p []byte, off int64) (int, error) {
	u.written = true
	return u.Device.WriteAt(p, off)
}
