package firmware

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/exosite/gwe/gweinit/slot"
)

// real is a gateway whose slots are files.
func real(b *testing.B, running image) *board {
	public, _ := newKey(b)
	w := newBoard(b, running, 8<<20, 24<<20, public)
	dir := b.TempDir()
	for _, name := range []string{"kernel_a", "kernel_b", "rootfs_a", "rootfs_b"} {
		s := w.section(name)
		f, err := os.Create(filepath.Join(dir, name))
		if err == nil {
			_, err = io.Copy(f, io.NewSectionReader(s, 0, s.len))
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	w.wrap = func(name string, _ Device) Device {
		d, err := openFile(filepath.Join(dir, name), true)
		if err != nil {
			b.Fatal(err)
		}
		return d
	}
	return w
}

// An update from a file, against a copy of the same plain bytes to the same disk, and
// the memory that it takes at most.
func BenchmarkInstall(b *testing.B) {
	// Half of it compresses.
	half := func(seed uint64, n int) []byte { return append(noise(seed, n/2), make([]byte, n/2)...) }
	running := image{"1.0", half(80, 6<<20), half(81, 20<<20)}
	next := image{"2.0", half(82, 6<<20), half(83, 20<<20)}
	public, private := newKey(b)
	data := next.pack(b, private, nil)
	plain := append(append([]byte{}, next.kernel...), next.rootfs...)
	g := real(b, running)
	writeKey(b, g.root, public)
	path := filepath.Join(b.TempDir(), "x.fw")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.Fatal(err)
	}
	var installs, copies time.Duration
	var memory uint64
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		start := time.Now()
		copyPlain(b, plain)
		copies += time.Since(start)

		g.setState(b, slot.Fresh(slot.A, slot.Empty))
		if _, err := g.start(slot.A, running.version); err != nil {
			b.Fatal(err)
		}
		for _, name := range []string{"kernel_b", "rootfs_b"} { // nothing is there already
			d, err := g.open(name, true)
			if err != nil {
				b.Fatal(err)
			}
			zeros := make([]byte, 1<<20)
			for off := int64(0); off < d.Size(); off += int64(len(zeros)) {
				d.WriteAt(zeros, off)
			}
			d.Sync()
			d.Close()
		}
		source, closer, err := Open(path, nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		var before runtime.MemStats
		runtime.ReadMemStats(&before)
		w := &writer{Gateway: g.gateway(), ID: jobID, Source: source, Progress: func(done, size int64) {
			if done > size/2 && memory == 0 {
				var now runtime.MemStats
				runtime.ReadMemStats(&now)
				memory = now.HeapInuse - min(before.HeapInuse, now.HeapInuse)
			}
		}}
		start = time.Now()
		if err := w.write(b.Context()); err != nil {
			b.Fatal(err)
		}
		installs += time.Since(start)
		closer.Close()
	}
	b.ReportMetric(installs.Seconds()/copies.Seconds(), "times-copy")
	b.ReportMetric(float64(memory)/1e6, "MB-heap")
	b.ReportMetric(float64(installs.Milliseconds())/float64(b.N), "ms/install")
}

// copyPlain writes bytes to a new file, durably.
func copyPlain(b *testing.B, plain []byte) {
	f, err := os.CreateTemp(b.TempDir(), "")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for off := 0; off < len(plain); off += 1 << 20 {
		if _, err := f.Write(plain[off:min(off+1<<20, len(plain))]); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
}
