package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"aead.dev/minisign"
)

// Made by Debian's minisign -G -W.
const (
	trustedKey = "RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA9VwYFFTpsENs0CNv8EUPtyWTNzcdD2ra2ItyWM8eXu1FVTmQLLWIef0lE3+TuQWmUhKb1JjHgSun/JYCxP9/OBDiNGNxwVOwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	otherKey   = "RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAm5RtPbmfnWGLeHwKJZt82LapUEAX6fcf2HzK84+i2aGKJerWvRMkwXVX9fF9SIcelIxzzGEx61QtV49Hx5xvfil5jyqHBeC/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

	trustedID = "43B0E95414185CF5"
	otherID   = "619D9FB93D6D949B"
)

// key returns a key pair, and a set of keys with its public half only.
func key(t testing.TB, secret string) (minisign.PrivateKey, Keys) {
	t.Helper()
	var k minisign.PrivateKey
	if err := k.UnmarshalText([]byte(secret)); err != nil {
		t.Fatal(err)
	}
	return k, Keys{k.Public().(minisign.PublicKey)}
}

// signer signs whatever it gets.
func signer(t testing.TB, secret string) func([]byte) ([]byte, error) {
	k, _ := key(t, secret)
	return func(manifest []byte) ([]byte, error) {
		r := minisign.NewReader(bytes.NewReader(manifest))
		if _, err := io.Copy(io.Discard, r); err != nil {
			return nil, err
		}
		return r.SignWithComments(k, "trusted", "untrusted"), nil
	}
}

// content is half noise and half text, the same each time.
func content(size int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	data := make([]byte, size)
	for i := range data {
		if i/(64<<10)%2 == 0 {
			data[i] = byte(r.Uint32())
		} else {
			data[i] = "gateway "[i%8]
		}
	}
	return data
}

func part(name string, data []byte) Part {
	return Part{Name: name, Content: bytes.NewReader(data), Size: int64(len(data))}
}

var about = Manifest{Board: "qemu-arm64", Version: "1.2.0+3.gabcdef0", Minimum: "1.0.0"}

// write makes a bundle of version 1.2.0+3.gabcdef0.
func write(t testing.TB, sign func([]byte) ([]byte, error), kernel, root []byte) ([]byte, *Bundle) {
	t.Helper()
	var out bytes.Buffer
	b, err := Write(&out, about, sign, part("kernel", kernel), part("rootfs", root))
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), b
}

// members are the contents of a bundle's members, in order.
func members(t testing.TB, file []byte) [][]byte {
	t.Helper()
	var all [][]byte
	for r := tar.NewReader(bytes.NewReader(file)); ; {
		_, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data)
	}
}

// join is the framing of members.
func join(contents ...[]byte) []byte {
	var file []byte
	for i, name := range []string{manifestName, signatureName, "kernel.zst", "rootfs.zst"}[:len(contents)] {
		size := int64(len(contents[i]))
		file = append(append(append(file, header(name, size)...), contents[i]...), make([]byte, padding(size))...)
	}
	return append(file, make([]byte, endSize)...)
}

func TestRoundTrip(t *testing.T) {
	k, keys := key(t, trustedKey)
	sign := func(manifest []byte) ([]byte, error) { return Sign(k, manifest) }
	for _, size := range [][2]int{{1, 1}, {ChunkSize - 1, ChunkSize}, {ChunkSize + 1, 2*ChunkSize + 511}, {3*ChunkSize + 17, 512}} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			plain := [][]byte{content(size[0], 1), content(size[1], 2)}
			file, wrote := write(t, sign, plain[0], plain[1])
			again, _ := write(t, sign, plain[0], plain[1])
			if !bytes.Equal(file, again) {
				t.Error("the same content has made other bytes")
			}
			if wrote.Size != int64(len(file)) || wrote.Key != trustedID {
				t.Errorf("size %d, key %s; want %d, %s", wrote.Size, wrote.Key, len(file), trustedID)
			}
			in := bytes.NewReader(file)
			opened, err := Open(iotest.OneByteReader(in), keys)
			if err != nil {
				t.Fatal(err)
			}
			if read := in.Size() - int64(in.Len()); read != opened.Head || string(file[read:read+10]) != "kernel.zst" {
				t.Errorf("read %d bytes, want %d, to the header of the kernel", read, opened.Head)
			}
			var last, total int64
			checked, err := Check(bytes.NewReader(file), keys, func(done, size int64) {
				if done <= last && done != size {
					t.Errorf("progress from %d to %d", last, done)
				}
				last, total = done, size
			})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(opened, wrote) || !reflect.DeepEqual(checked, wrote) {
				t.Errorf("wrote   %+v\nopened  %+v\nchecked %+v", wrote, opened, checked)
			}
			if last != wrote.Size || total != wrote.Size {
				t.Errorf("progress ends with %d of %d, want %d", last, total, wrote.Size)
			}
			u, err := NewUnpacker()
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			got := [2][]byte{}
			for _, p := range opened.Pieces() {
				if int64(len(got[p.Partition])) != p.At {
					t.Errorf("piece of %d at %d, want at %d", p.Partition, p.At, len(got[p.Partition]))
				}
				data, err := u.Unpack(p, file[p.From:p.From+p.Size])
				if err != nil {
					t.Fatal(err)
				}
				got[p.Partition] = append(got[p.Partition], data...)
			}
			if !bytes.Equal(got[0], plain[0]) || !bytes.Equal(got[1], plain[1]) {
				t.Error("the pieces make something else")
			}
		})
	}
}

// Headers are what Go's archive/tar would write, and so what any tar reads.
func TestHeader(t *testing.T) {
	for _, size := range []int64{0, 1, maxManifest, maxChunks * maxFrame} {
		var out bytes.Buffer
		err := tar.NewWriter(&out).WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: "rootfs.zst", Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := header("rootfs.zst", size); !bytes.Equal(got, out.Bytes()) {
			t.Errorf("size %d:\n%q, want\n%q", size, got, out.Bytes())
		}
	}
}

// golden.fw was made when the format was new: gateways in the field read it.
func TestGolden(t *testing.T) {
	file, err := os.ReadFile("testdata/golden.fw")
	if err != nil {
		t.Fatal(err)
	}
	_, keys := key(t, trustedKey)
	b, err := Check(bytes.NewReader(file), keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b.Board != "rpi3" || b.Version != "1.0.0" || b.Minimum != "0.9" || b.Key != trustedID || b.Size != int64(len(file)) {
		t.Errorf("%+v", b)
	}
}

// The same bundle in the hands of tar, minisign and zstd, and one signed by them.
func TestRealTools(t *testing.T) {
	for _, tool := range []string{"tar", "minisign", "zstd"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v: make setup installs it", err)
		}
	}
	dir := t.TempDir()
	tool := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	file := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k, keys := key(t, trustedKey)
	file("key", []byte("untrusted comment: a key\n"+trustedKey+"\n"))
	kernel, root := content(ChunkSize+99, 1), content(2*ChunkSize, 2)
	signers := map[string]func([]byte) ([]byte, error){
		"ours": func(manifest []byte) ([]byte, error) { return Sign(k, manifest) },
		"minisign's": func(manifest []byte) ([]byte, error) {
			file("m", manifest)
			tool("minisign", "-S", "-s", "key", "-m", "m", "-t", "firmware board=qemu-arm64 version=1.2.0+3.gabcdef0")
			return os.ReadFile(filepath.Join(dir, "m.minisig"))
		},
	}
	for name, sign := range signers {
		t.Run(name, func(t *testing.T) {
			data, _ := write(t, sign, kernel, root)
			if _, err := Check(bytes.NewReader(data), keys, nil); err != nil {
				t.Fatal(err)
			}
			file("x.fw", data)
			if got, want := tool("tar", "-tf", "x.fw"), "manifest.json\nmanifest.json.minisig\nkernel.zst\nrootfs.zst\n"; got != want {
				t.Errorf("tar lists %q, want %q", got, want)
			}
			tool("tar", "-xf", "x.fw")
			got := tool("minisign", "-V", "-P", keys[0].String(), "-m", "manifest.json")
			if want := "Trusted comment: firmware board=qemu-arm64 version=1.2.0+3.gabcdef0\n"; !strings.HasSuffix(got, want) {
				t.Errorf("minisign prints %q, want %q at the end", got, want)
			}
			for name, want := range map[string][]byte{"kernel": kernel, "rootfs": root} {
				tool("zstd", "-d", "-q", "-f", "--memory=1MB", name+".zst")
				if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("zstd makes something else of %s, %v", name, err)
				}
			}
		})
	}
	t.Run("legacy", func(t *testing.T) {
		file("m", []byte("{}"))
		tool("minisign", "-S", "-l", "-s", "key", "-m", "m")
		signature, err := os.ReadFile(filepath.Join(dir, "m.minisig"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(bytes.NewReader(join([]byte("{}"), signature)), keys)
		wantError(t, err, ErrSignature, "is of minisign's legacy kind: sign without -l")
	})
}

func wantError(t *testing.T, err, kind error, text string) {
	t.Helper()
	if !errors.Is(err, kind) || !strings.Contains(err.Error(), text) {
		t.Errorf("got  %v\nwant %v: ... %s", err, kind, text)
	}
}

// A download that ends early may be tried again, wherever it ends.
func TestTruncated(t *testing.T) {
	_, keys := key(t, trustedKey)
	file, b := write(t, signer(t, trustedKey), content(ChunkSize+1, 1), content(1000, 2))
	for n := range b.Head {
		got, err := Open(bytes.NewReader(file[:n]), keys)
		if got != nil || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrFormat) {
			t.Fatalf("%d bytes: %v, %v", n, got, err)
		}
	}
	cuts := []int64{b.Head, b.Size - endSize - 1, b.Size - endSize, b.Size - blockSize, b.Size - 1}
	for _, p := range b.Pieces() {
		cuts = append(cuts, p.From-1, p.From, p.From+1, p.From+p.Size-1, p.From+p.Size)
	}
	for n := b.Head; n < b.Size; n += 9973 {
		cuts = append(cuts, n)
	}
	for _, n := range cuts {
		if _, err := Check(bytes.NewReader(file[:n]), keys, nil); !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrFormat) || errors.Is(err, ErrChunk) {
			t.Errorf("%d of %d bytes: %v", n, b.Size, err)
		}
	}
	broken := errors.New("the cable is out")
	_, err := Open(io.MultiReader(bytes.NewReader(file[:700]), iotest.ErrReader(broken)), keys)
	wantError(t, err, broken, "read the firmware bundle at byte 700: ")
}

// Each byte of the framing counts.
func TestFraming(t *testing.T) {
	_, keys := key(t, trustedKey)
	good, b := write(t, signer(t, trustedKey), content(700, 1), content(800, 2))
	pieces := b.Pieces()
	inContent := func(at int64) bool {
		return at >= pieces[0].From && at < pieces[0].From+pieces[0].Size || at >= pieces[1].From && at < pieces[1].From+pieces[1].Size
	}
	file := bytes.Clone(good)
	for i := range good {
		file[i] ^= 4
		_, err := Check(bytes.NewReader(file), keys, nil)
		comment := bytes.Contains(good[max(0, i-30):i+1], []byte("untrusted comment: ")) && !errors.Is(err, ErrFormat)
		switch {
		case err == nil && !comment:
			t.Errorf("byte %d: changed from %q, and nobody has noticed", i, good[i])
		case inContent(int64(i)) && !errors.Is(err, ErrChunk):
			t.Errorf("byte %d: %v, want ErrChunk", i, err)
		}
		file[i] = good[i]
	}
}

func TestRefused(t *testing.T) {
	_, keys := key(t, trustedKey)
	_, others := key(t, otherKey)
	sign := signer(t, trustedKey)
	good, _ := write(t, sign, content(2*ChunkSize, 1), content(1000, 2))
	m := members(t, good)
	foreign, _ := write(t, signer(t, otherKey), content(2*ChunkSize, 1), content(1000, 2))
	another, _ := write(t, sign, content(2*ChunkSize, 3), content(1000, 4))
	a := members(t, another)
	_, b := write(t, sign, content(2*ChunkSize, 1), content(1000, 2))
	swapped := bytes.Clone(good)
	pieces := b.Pieces()
	n := copy(swapped[pieces[0].From:], good[pieces[1].From:pieces[1].From+pieces[1].Size])
	copy(swapped[pieces[0].From+int64(n):], good[pieces[0].From:pieces[0].From+pieces[0].Size])

	for _, tt := range []struct {
		name string
		file []byte
		keys Keys
		kind error
		text string
	}{
		{"foreign key", foreign, keys, ErrSignature, "signed by key " + otherID + ", which is not trusted; trusted are " + trustedID},
		{"foreign key and several", good, append(others, others...), ErrSignature, "trusted are " + otherID},
		{"no key", good, nil, ErrSignature, "signed by key " + trustedID + ", and no key is trusted"},
		{"signature of another manifest", join(m[0], a[1], m[2], m[3]), keys, ErrSignature, "the signature of key " + trustedID + " does not fit the manifest"},
		{"garbled signature", join(m[0], []byte("trust me"), m[2], m[3]), keys, ErrSignature, "manifest.json.minisig is no signature of minisign"},
		{"no signature", append(join(m[0])[:memberSize(int64(len(m[0])))], make([]byte, endSize)...), keys, ErrFormat, "there should be the header of manifest.json.minisig"},
		{"long signature", join(m[0], make([]byte, maxSignature+1)), keys, ErrFormat, "with a size of 1 to 4096"},
		{"empty signature", join(m[0], nil), keys, ErrFormat, "with a size of 1 to 4096"},
		{"long manifest", join(make([]byte, maxManifest+1)), keys, ErrFormat, "with a size of 1 to 262144"},
		{"no tar", bytes.Repeat([]byte("<html>"), 1000), keys, ErrFormat, "at byte 0 there should be the header of manifest.json"},
		{"another tar", append(header("install.sh", 2), good[512:]...), keys, ErrFormat, "at byte 0 there should be the header of manifest.json"},
		{"chunks of another bundle", join(m[0], m[1], a[2], a[3]), keys, ErrChunk, "its SHA-256 is "},
		{"swapped chunks", swapped, keys, ErrChunk, "its SHA-256 is "},
		{"swapped partitions", join(m[0], m[1], m[3], m[2]), keys, ErrFormat, "there should be the header of kernel.zst, with size "},
		{"one byte more", append(bytes.Clone(good), 0), keys, ErrFormat, fmt.Sprintf("it goes on at byte %d, where it should end", len(good))},
		{"a member more", append(good[:len(good)-endSize:len(good)-endSize], join(m[0])...), keys, ErrFormat, "before byte "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Check(bytes.NewReader(tt.file), tt.keys, nil)
			wantError(t, err, tt.kind, tt.text)
			if readable := tt.kind == ErrSignature && tt.name != "garbled signature"; readable && (got == nil || got.Board != about.Board) {
				t.Errorf("got %+v, want to see what is in it", got)
			}
			opened, openErr := Open(bytes.NewReader(tt.file), tt.keys)
			if tt.kind == ErrSignature && (opened != nil || !errors.Is(openErr, ErrSignature)) {
				t.Errorf("Open returns %+v, %v", opened, openErr)
			}
		})
	}
}

// A whole partition has its own sum, should chunks be right and out of order.
func TestPartitionSum(t *testing.T) {
	_, keys := key(t, trustedKey)
	sign := signer(t, trustedKey)
	good, b := write(t, sign, content(10, 1), content(20, 2))
	m := members(t, good)
	m[0] = bytes.Replace(m[0], []byte(b.Partitions[1].SHA256.String()), []byte(b.Partitions[0].SHA256.String()), 1)
	m[1], _ = sign(m[0])
	_, err := Check(bytes.NewReader(join(m...)), keys, nil)
	wantError(t, err, ErrFormat, "partition rootfs has SHA-256 ")
}

func TestWriteRefuses(t *testing.T) {
	small := []byte("content")
	sign := signer(t, trustedKey)
	full := errors.New("disk full")
	for _, tt := range []struct {
		name  string
		about Manifest
		sign  func([]byte) ([]byte, error)
		parts []Part
		text  string
	}{
		{"no kernel", about, sign, []Part{part("rootfs", small)}, `partitions are "rootfs", want "kernel, rootfs"`},
		{"empty root", about, sign, []Part{part("kernel", small), part("rootfs", nil)}, "partition rootfs: size is 0, want 1 to "},
		{"no board", Manifest{Version: "1"}, sign, []Part{part("kernel", small), part("rootfs", small)}, `board ""`},
		{"no version", Manifest{Board: "b"}, sign, []Part{part("kernel", small), part("rootfs", small)}, `version ""`},
		{"shorter than said", about, sign, []Part{{"kernel", bytes.NewReader(small), 100}}, "partition kernel: read 100 bytes at 0: EOF"},
		{"no signature", about, func([]byte) ([]byte, error) { return nil, full }, []Part{part("kernel", small), part("rootfs", small)}, "sign the manifest: disk full"},
		{"bad signature", about, func([]byte) ([]byte, error) { return small, nil }, []Part{part("kernel", small), part("rootfs", small)}, "sign the manifest: 7 bytes that are no signature of minisign"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			b, err := Write(&out, tt.about, tt.sign, tt.parts...)
			if b != nil || err == nil || !strings.Contains(err.Error(), tt.text) || out.Len() > 0 {
				t.Errorf("%v, %v, %d bytes; want %s", b, err, out.Len(), tt.text)
			}
		})
	}
	b, err := Write(failingWriter{full}, about, sign, part("kernel", small), part("rootfs", small))
	if b != nil || !errors.Is(err, full) {
		t.Errorf("%v, %v", b, err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }
