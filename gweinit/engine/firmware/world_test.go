package firmware

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/exosite/gwe/gweinit/bundle"
	"github.com/exosite/gwe/gweinit/engine/command"
	"github.com/exosite/gwe/gweinit/powercut"
	"github.com/exosite/gwe/gweinit/slot"
	"github.com/exosite/gwe/gweinit/update"
)

const (
	boardName = "rpi3"
	jobID     = "1700000000-abc-0"
	fileName  = "rpi3.v2.fw"
)

// image is a firmware.
type image struct {
	version        string
	kernel, rootfs []byte
}

// noise is bytes that do not compress, the same for the same seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	mathrand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1}).Read(b)
	return b
}

func newKey(t testing.TB) (minisign.PublicKey, minisign.PrivateKey) {
	t.Helper()
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

// pack makes a bundle of a firmware.
func (i image) pack(t testing.TB, key minisign.PrivateKey, change func(*bundle.Manifest)) []byte {
	t.Helper()
	m := bundle.Manifest{Board: boardName, Version: i.version}
	if change != nil {
		change(&m)
	}
	var buf bytes.Buffer
	_, err := bundle.Write(&buf, m, func(manifest []byte) ([]byte, error) { return bundle.Sign(key, manifest) },
		bundle.Part{Name: "kernel", Content: bytes.NewReader(i.kernel), Size: int64(len(i.kernel))},
		bundle.Part{Name: "rootfs", Content: bytes.NewReader(i.rootfs), Size: int64(len(i.rootfs))})
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// section is a partition of the simulated disk.
type section struct {
	disk     *powercut.Disk
	off, len int64
}

func (s section) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.len {
		return 0, io.EOF
	}
	short := p[:min(int64(len(p)), s.len-off)]
	n, err := s.disk.ReadAt(short, s.off+off)
	if err == nil && len(short) < len(p) {
		err = io.EOF
	}
	return n, err
}

func (s section) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > s.len {
		return 0, errors.New("write behind the partition's end")
	}
	return s.disk.WriteAt(p, s.off+off)
}

func (s section) Sync() error  { return s.disk.Sync() }
func (s section) Close() error { return nil }
func (s section) Size() int64  { return s.len }

const stateSize = 8 << 20

// board is a gateway: its disk, PID 1's part of it, and its files.
type board struct {
	disk           *powercut.Disk
	kernel, rootfs int64 // sizes of the partitions
	root           string
	keeper         *update.Keeper
	wrap           func(name string, d Device) Device // a partition; nil: as it is
	reboot         func()
	reboots        int
	begun          int
	dirty          map[string]bool // partitions of a slot with what is not synced
}

func (b *board) section(name string) section {
	at := int64(stateSize)
	for _, p := range []struct {
		name string
		size int64
	}{{"kernel_a", b.kernel}, {"kernel_b", b.kernel}, {"rootfs_a", b.rootfs}, {"rootfs_b", b.rootfs}} {
		if p.name == name {
			return section{b.disk, at, p.size}
		}
		at += p.size
	}
	if name == slot.StatePartition {
		return section{b.disk, 0, stateSize}
	}
	panic("no partition " + name)
}

func (b *board) open(name string, _ bool) (Device, error) {
	d := Device(watched{b.section(name), b, name})
	if b.wrap != nil {
		d = b.wrap(name, d)
	}
	return d, nil
}

// watched is a partition of a slot, of which each has caches of its own.
type watched struct {
	section
	b    *board
	name string
}

func (w watched) WriteAt(p []byte, off int64) (int, error) {
	n := slot.Name(w.name[len(w.name)-1:])
	if st := w.b.keeper.State(); n == w.b.keeper.Running || st.Slot(n).Status != slot.Writing {
		return 0, fmt.Errorf("%w: %s is written, and the state is %s", errWrong, w.name, line(*st))
	}
	if w.b.dirty == nil {
		w.b.dirty = map[string]bool{}
	}
	w.b.dirty[w.name] = true
	return w.section.WriteAt(p, off)
}

func (w watched) Sync() error {
	delete(w.b.dirty, w.name)
	return w.section.Sync()
}

// errWrong is what must not happen.
var errWrong = errors.New("WRONG")

// fill writes a firmware as a factory does.
func (b *board) fill(t testing.TB, n slot.Name, i image) {
	t.Helper()
	for name, data := range map[string][]byte{n.KernelPartition(): i.kernel, n.RootPartition(): i.rootfs} {
		padded := append(bytes.Clone(data), make([]byte, -len(data)&(sector-1))...)
		if _, err := b.section(name).WriteAt(padded, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.disk.Sync(); err != nil {
		t.Fatal(err)
	}
}

// holds says whether a slot has all of a firmware.
func (b *board) holds(n slot.Name, i image) bool {
	for name, want := range map[string][]byte{n.KernelPartition(): i.kernel, n.RootPartition(): i.rootfs} {
		got := make([]byte, len(want))
		if _, err := b.section(name).ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			return false
		}
	}
	return true
}

func (b *board) state(t testing.TB) slot.State {
	t.Helper()
	st, err := slot.NewStore(b.section(slot.StatePartition)).Load()
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func (b *board) setState(t testing.TB, st slot.State) {
	t.Helper()
	if err := slot.NewStore(b.section(slot.StatePartition)).Save(st); err != nil {
		t.Fatal(err)
	}
}

// start is PID 1 coming up in a slot.
func (b *board) start(running slot.Name, version string) (update.Arrival, error) {
	b.keeper = &update.Keeper{Running: running, Version: version, Open: func() (update.Device, error) { return b.section(slot.StatePartition), nil }}
	if err := b.keeper.Booted(false); err != nil {
		return update.Arrival{}, err
	}
	if err := b.keeper.KeepBoots(); err != nil {
		return update.Arrival{}, err
	}
	return b.keeper.Arrive("the last words")
}

func (b *board) Firmware(context.Context) (update.Status, error) {
	return update.Status{Board: boardName, Version: b.keeper.Version, Slot: b.keeper.Running, Slots: b.keeper.State(), Record: b.keeper.Record()}, nil
}

func (b *board) Begin(_ context.Context, id, version string) (slot.Name, error) {
	b.begun++
	return b.keeper.Begin(id, version, []string{"app"})
}

func (b *board) Activate(_ context.Context, id string, limit time.Duration, window string) error {
	if len(b.dirty) > 0 {
		return fmt.Errorf("%w: activated before %v are synced", errWrong, b.dirty)
	}
	return b.keeper.Activate(id, limit, window, []string{"app"})
}

func (b *board) Reboot(context.Context) error {
	b.reboots++
	if b.reboot != nil {
		b.reboot()
	}
	return nil
}

func (b *board) gateway() Gateway { return Gateway{Host: b, Root: b.root, Open: b.open} }

// newBoard runs a firmware in slot a, trusts a key, and has an empty slot b.
func newBoard(t testing.TB, running image, kernel, rootfs int64, key minisign.PublicKey) *board {
	t.Helper()
	b := &board{disk: powercut.New(nil, stateSize+2*kernel+2*rootfs), kernel: kernel, rootfs: rootfs, root: t.TempDir()}
	writeKey(t, b.root, key)
	b.fill(t, slot.A, running)
	b.setState(t, slot.Fresh(slot.A, slot.Empty))
	if _, err := b.start(slot.A, running.version); err != nil {
		t.Fatal(err)
	}
	return b
}

func writeKey(t testing.TB, root string, key minisign.PublicKey) {
	t.Helper()
	text, err := key.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, keysFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// memory is a source.
type memory struct {
	name   string
	data   []byte
	copied int64
}

func (m *memory) Name() string                        { return m.name }
func (m *memory) Size(context.Context) (int64, error) { return int64(len(m.data)), nil }
func (m *memory) Copy(ctx context.Context, w io.Writer, from, to int64) error {
	m.copied += to - from
	return copyAll(ctx, w, io.NewSectionReader(bytes.NewReader(m.data), from, to-from), from, to)
}

func (b *board) installer(source Source) *Installer {
	return &Installer{
		Gateway:  b.gateway(),
		Source:   func(string) (Source, error) { return source, nil },
		Settings: func() (time.Duration, string) { return update.DefaultLimit, "" },
	}
}

func job(items ...string) command.Job {
	j := command.Job{ID: jobID}
	for _, name := range items {
		j.Items = append(j.Items, command.Item{Name: name})
	}
	return j
}

// isLater says whether the queue would try again.
func isLater(err error) bool {
	mark := reflect.New(reflect.TypeOf(command.Later(errors.New("later"))))
	return err != nil && errors.As(err, mark.Interface())
}

// line is a boot state without its number.
func line(s slot.State) string {
	return fmt.Sprintf("GOOD=%s TRIAL=%s T_LEFT=%x A_STATE=%s A_LEFT=%x B_STATE=%s B_LEFT=%x", s.Good, s.Trial, s.TrialLeft, s.A.Status, s.A.Left, s.B.Status, s.B.Left)
}

// contains says whether a text has all of some parts.
func contains(text string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}
