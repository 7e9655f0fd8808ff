package support

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

var (
	errBinary  = errors.New("it is binary")
	errHangs   = fmt.Errorf("reading takes more than %v", readLimit)
	errOneLine = fmt.Errorf("no line begins in its last %d bytes", maxFile)
	errLogs    = fmt.Errorf("there are newer logs of %d MiB, or %d of them", maxLogs>>20, mostLogs)
)

// open opens a regular file below the root, nothing else: opening a FIFO would
// wait, a device may do anything, and links lead elsewhere.
func (b *bundle) open(path string) (*os.File, os.FileInfo, error) {
	f, err := os.OpenFile(filepath.Join(b.o.Root, path), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, syscall.ELOOP):
		return nil, nil, errors.New("it is a symbolic link")
	case err != nil:
		return nil, nil, reason(err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("it is no regular file, but %s", info.Mode())
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// reason is an error without the path, which is said anyhow.
func reason(err error) error {
	if e := (*os.PathError)(nil); errors.As(err, &e) {
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	return err
}

// content is what of a file was read.
type content struct {
	text     []byte // valid until the next file is read
	size     int64
	modified time.Time
}

// read returns the last maxFile bytes of a file, from the beginning of a line on.
// Files of /proc, whose size is 0, are read from their beginning.
func (b *bundle) read(path string) (content, error) {
	c, err := b.readBytes(path)
	if err != nil {
		return c, err
	}
	c.text, err = asText(c.text)
	return c, err
}

// readBytes is read without regard to what it is. A file that hangs, on a broken
// disk or in /proc, costs a goroutine and the buffer.
func (b *bundle) readBytes(path string) (content, error) {
	if b.hangs >= mostHangs {
		return content{}, fmt.Errorf("not tried: %d others hang", b.hangs)
	}
	if b.buf == nil {
		b.buf = make([]byte, maxFile+1)
	}
	type result struct {
		content
		err error
	}
	done := make(chan result, 1)
	buf := b.buf
	go func() {
		c, err := b.readInto(buf, path)
		done <- result{c, err}
	}()
	limit := time.NewTimer(readLimit)
	defer limit.Stop()
	select {
	case r := <-done:
		return r.content, r.err
	case <-limit.C:
		b.buf = nil
		b.hangs++
		return content{}, errHangs
	}
}

func (b *bundle) readInto(buf []byte, path string) (content, error) {
	f, info, err := b.open(path)
	if err != nil {
		return content{}, err
	}
	defer f.Close()
	c := content{size: info.Size(), modified: info.ModTime()}
	cut := c.size > maxFile
	if cut {
		// The byte before tells whether a line begins there.
		if _, err := f.Seek(c.size-maxFile-1, io.SeekStart); err != nil {
			return c, reason(err)
		}
	}
	most := len(buf)
	if !cut {
		most--
	}
	n, err := io.ReadFull(f, buf[:most])
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return c, reason(err)
	}
	c.text = buf[:n]
	if cut { // a part of a line may be the rest of a secret
		c.text = collapse(c.text)
		newline := bytes.IndexByte(c.text, '\n')
		if newline < 0 {
			return c, errOneLine
		}
		c.text = c.text[newline+1:]
	}
	if c.size == 0 && n == maxFile { // of /proc, and there is more
		c.text = c.text[:bytes.LastIndexByte(c.text, '\n')+1]
	}
	return c, nil
}

// longZeros is the least run of NULs that is not binary: after a power cut a file
// may have some where its last blocks were not written.
const longZeros = 64

// collapse replaces such runs by a note, in place.
func collapse(b []byte) []byte {
	if bytes.IndexByte(b, 0) < 0 {
		return b
	}
	to := b[:0]
	for at := 0; at < len(b); {
		n := at
		for n < len(b) && b[n] == 0 {
			n++
		}
		if zeros := n - at; zeros >= longZeros {
			to = append(to, fmt.Sprintf("\n[%d zero bytes]\n", zeros)...)
		} else {
			n = max(n, at+1)
			to = append(to, b[at:n]...)
		}
		at = n
	}
	return to
}

// asText returns what is text. It changes b.
func asText(b []byte) ([]byte, error) {
	b = collapse(b)
	odd := 0
	for rest := b; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		if r == 0 {
			return nil, errBinary
		}
		if r == utf8.RuneError && n == 1 || r < ' ' && (r < '\a' || r > '\r') && r != 0x1b {
			odd++
		}
		rest = rest[n:]
	}
	if odd > len(b)/10 {
		return nil, errBinary
	}
	return b, nil
}

// addFile adds a file, or the reason why not.
func (b *bundle) addFile(path, name string) {
	c, err := b.read(path)
	if err != nil {
		b.miss(path, err)
		return
	}
	modified, note := c.modified, ""
	if c.size == 0 {
		modified = b.now
	}
	if c.size > maxFile {
		note = fmt.Sprintf("the end of %d bytes", c.size)
	}
	if strings.HasPrefix(name, "programs/") {
		c.text = maskEnvironment(c.text)
	}
	b.add(name, c.text, modified, note)
}

// list returns the entries of a folder, sorted; nil if it cannot be read.
func (b *bundle) list(path string) []os.DirEntry {
	f, err := os.OpenFile(filepath.Join(b.o.Root, path), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		b.miss(path, reason(err))
		return nil
	}
	defer f.Close()
	entries, err := f.ReadDir(mostEntries)
	if err != nil && err != io.EOF {
		b.miss(path, reason(err))
	}
	if len(entries) == mostEntries {
		b.miss(path, fmt.Errorf("only the first %d entries were looked at", mostEntries))
	}
	slices.SortFunc(entries, func(x, y os.DirEntry) int { return strings.Compare(x.Name(), y.Name()) })
	return entries
}

const gatewayFolder = "data/gwe"

// addState adds the settings, and a list of what is beside them.
func (b *bundle) addState() {
	var listing strings.Builder
	for _, e := range b.list(gatewayFolder) {
		fmt.Fprintln(&listing, b.describe(e))
		switch filepath.Ext(e.Name()) {
		case ".json", ".yaml", ".yml", ".txt", ".cfg", ".config":
			b.addFile(filepath.Join(gatewayFolder, e.Name()), "state/"+e.Name())
		}
	}
	b.add("state/files", []byte(listing.String()), b.now, "what is in /data/gwe")
}

func (b *bundle) describe(e os.DirEntry) string {
	info, err := e.Info()
	if err != nil {
		return b.printable(e.Name()) + ": " + reason(err).Error()
	}
	return fmt.Sprintf("%s %9d %s %s", info.Mode(), info.Size(), info.ModTime().UTC().Format(time.RFC3339), b.printable(e.Name()))
}

// addKeys adds the hashes of the keys, and of them the public ones.
func (b *bundle) addKeys() {
	const keys = gatewayFolder + "/keys"
	var listing strings.Builder
	for _, e := range b.list(keys) {
		path := filepath.Join(keys, e.Name())
		c, err := b.readBytes(path)
		switch {
		case err != nil:
			b.miss(path, err)
			continue
		case c.size > maxFile:
			b.miss(path, fmt.Errorf("%d bytes are too many for a key", c.size))
			continue
		}
		fmt.Fprintf(&listing, "%x  %s\n", sha256.Sum256(c.text), b.printable(e.Name()))
		if public := publicParts(c.text); len(public) > 0 {
			b.addPublic("keys/"+e.Name(), public, c.modified, "the public parts")
		}
	}
	b.add("keys/SHA256SUMS", []byte(listing.String()), b.now, "")
}

// publicParts returns certificates and public keys in PEM, and minisign's public
// keys: nothing else that a file of keys has.
func publicParts(text []byte) []byte {
	var public bytes.Buffer
	for rest := text; ; {
		block, after := pem.Decode(rest)
		if block == nil {
			break
		}
		rest = after
		switch block.Type {
		case "CERTIFICATE", "PUBLIC KEY", "RSA PUBLIC KEY":
			pem.Encode(&public, &pem.Block{Type: block.Type, Bytes: block.Bytes})
		}
	}
	for line := range bytes.Lines(text) {
		// "Ed", 8 bytes of the key's number, 32 of the key.
		key, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(line)))
		if err == nil && len(key) == 42 && string(key[:2]) == "Ed" {
			public.Write(append(bytes.TrimSpace(line), '\n'))
		}
	}
	return public.Bytes()
}

// addSystem adds what the system tells about itself.
func (b *bundle) addSystem() {
	release := "etc/os-release"
	if info, err := os.Lstat(filepath.Join(b.o.Root, release)); err == nil && info.Mode()&os.ModeSymlink != 0 {
		release = "usr/lib/os-release" // where the link leads
	}
	for _, path := range []string{release, "run/resolv.conf", "etc/gweinit/network.yaml", "run/clock-set"} {
		b.addFile(path, "system/"+filepath.Base(path))
	}
	for _, name := range []string{
		"cmdline", "cpuinfo", "meminfo", "mounts", "partitions", "loadavg", "uptime", "version", "modules", "interrupts",
		"net/dev", "net/route", "net/ipv6_route", "net/arp", "net/tcp", "net/tcp6", "net/udp",
	} {
		path := "proc/" + name
		if name == "mounts" || strings.HasPrefix(name, "net/") { // links to self
			path = "proc/self/" + name
		}
		b.addFile(path, "proc/"+name)
	}
}

// addPrograms adds the supervisor's configuration.
func (b *bundle) addPrograms() {
	const etc = "etc/supervisor"
	b.addFile(etc+"/supervisord.conf", "programs/supervisord.conf")
	for _, e := range b.list(etc + "/conf.d") {
		b.addFile(filepath.Join(etc, "conf.d", e.Name()), "programs/conf.d/"+e.Name())
	}
}

// addKernelLog adds the kernel's ring buffer, the newest of it.
func (b *bundle) addKernelLog() {
	const readAll = 3 // SYSLOG_ACTION_READ_ALL
	buf := make([]byte, maxFile)
	n, err := unix.Klogctl(readAll, buf)
	if err != nil {
		b.miss("the kernel's log", err)
		return
	}
	text, err := asText(buf[:n])
	if err != nil {
		b.miss("the kernel's log", err)
		return
	}
	b.add("kernel.txt", text, b.now, "the kernel's ring buffer")
}

// logFile is a file below the folder of logs.
type logFile struct {
	path     string
	size     int64
	modified time.Time
}

// addLogs adds the newest logs.
func (b *bundle) addLogs() {
	dir := "data/log"
	if _, err := os.Stat(filepath.Join(b.o.Root, dir)); err != nil {
		dir = "var/log"
	}
	logs := b.findLogs(dir, nil, 0)
	slices.SortFunc(logs, func(x, y logFile) int {
		return cmp.Or(y.modified.Compare(x.modified), strings.Compare(x.path, y.path))
	})
	left := int64(maxLogs)
	for i, l := range logs {
		if b.err != nil {
			return
		}
		size := min(l.size, maxFile)
		if i >= mostLogs || size > left {
			b.miss(l.path, errLogs)
			continue
		}
		left -= size
		b.addFile(l.path, "logs"+strings.TrimPrefix(l.path, dir))
	}
}

// findLogs adds to logs what is below dir, but not what links lead to.
func (b *bundle) findLogs(dir string, logs []logFile, depth int) []logFile {
	const deepest = 8
	if depth > deepest {
		b.miss(dir, fmt.Errorf("more than %d folders deep", deepest))
		return logs
	}
	for _, e := range b.list(dir) {
		path := filepath.Join(dir, e.Name())
		switch {
		case len(logs) >= mostEntries:
			return logs
		case e.IsDir():
			logs = b.findLogs(path, logs, depth+1)
		case !e.Type().IsRegular():
			b.miss(path, fmt.Errorf("it is no regular file, but %s", e.Type()))
		default:
			info, err := e.Info()
			if err != nil { // it was rotated meanwhile
				b.miss(path, reason(err))
				continue
			}
			logs = append(logs, logFile{path, info.Size(), info.ModTime()})
		}
	}
	return logs
}
