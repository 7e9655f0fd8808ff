package support

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

const otherCIK = "00112233445566778899aabbccddeeff00112233" // in the files, but not among the secrets

const wifi = "correct horse+battery/staple"

// privateKey returns a key, and a line of it.
func privateKey(t *testing.T) (text, line string, public []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	text = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return text, strings.Split(text, "\n")[1], pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})
}

func write(t *testing.T, root, path, text string) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// unpack writes a bundle and unpacks it by tar.
func unpack(t *testing.T, o Options) (dir string, size int) {
	t.Helper()
	dir = t.TempDir()
	file := filepath.Join(dir, "bundle.tar.gz")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(t.Context(), f, o); err != nil {
		t.Fatal(err)
	}
	info, _ := f.Stat()
	f.Close()
	if out, err := exec.Command("tar", "-xzf", file, "-C", dir).CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("tar: %v: %s", err, out)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 2 {
		t.Errorf("in it are %v, want one folder", entries)
	}
	os.Remove(file)
	return filepath.Join(dir, "gwe-support"), int(info.Size())
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

func TestBundle(t *testing.T) {
	root := t.TempDir()
	key, keyLine, public := privateKey(t)
	basic := base64.StdEncoding.EncodeToString([]byte("gateway:" + cik))
	planted := "cik=" + cik + "\nGET /?cik=" + cik + "&psk=" + url.QueryEscape(wifi) + "\n" +
		"Authorization: Basic " + basic + "\nx " + basic + "\nold " + otherCIK + "\nwifi \"" + wifi + "\"\n" + key +
		"12:00 app: " + strings.ReplaceAll(key, "\n", "\n12:00 app: ") + "\nend of it\n"

	// Logs. The end of the large ones begins within a secret.
	write(t, root, "data/log/messages", planted)
	write(t, root, "data/log/deep/er/app.log", planted)
	line := strings.Repeat("a line of a log\n", 70000)
	write(t, root, "data/log/cut.log", line+cik+" "+wifi+"\n"+line[:maxFile-32])
	write(t, root, "data/log/cutkey.log", line+key+line[:maxFile-64])
	write(t, root, "data/log/powercut.log", "before\n"+strings.Repeat("\x00", 4096)+"after "+cik+"\n")
	write(t, root, "data/log/utf16.log", strings.Join(strings.Split(cik, ""), "\x00"))
	write(t, root, "data/log/old.gz", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"+cik)
	write(t, root, "data/log/new\nline "+cik+".log", "a\n")
	write(t, root, "data/log/new_line 01234567*.log", "b\n")
	write(t, root, "data/log/latin\xff.log", "c\xff and much more text\n")
	write(t, root, "data/log/empty.log", "")
	write(t, root, "data/log/oneline.log", strings.Repeat("x", maxFile+1))
	if err := syscall.Mkfifo(filepath.Join(root, "data/log/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(root, "data/gwe.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, link := range [][2]string{{"/etc/shadow", "data/log/shadow.log"}, {"/etc", "data/log/etc"}, {"..", "data/log/loop"}} {
		if err := os.Symlink(link[0], filepath.Join(root, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	sparse, err := os.Create(filepath.Join(root, "data/log/sparse.log"))
	if err == nil {
		err = errors.Join(sparse.Truncate(1<<40), sparse.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	write(t, root, "data/log/closed/x.log", "")
	os.Chmod(filepath.Join(root, "data/log/closed"), 0)
	t.Cleanup(func() { os.Chmod(filepath.Join(root, "data/log/closed"), 0o700) })

	// Settings.
	write(t, root, "data/gwe/Gateway.cfg", "[device]\ncik = "+cik+"\nuuid = 00:2F\nvendor = ''\n")
	write(t, root, "data/gwe/provision.yaml", "product: abc\nnetwork:\n  links:\n    - name: wlan0\n      wifi: {ssid: home net, psk: two words}\n      password: |\n        third secret\n        forth secret\n      mtu: 1500\n")
	write(t, root, "data/gwe/state.json", `{"cik":"`+otherCIK+`","token":"fifth secret","n":1}`)
	write(t, root, "data/gwe/cik", cik)
	if err := errors.Join(os.Symlink("/etc/shadow", filepath.Join(root, "data/gwe/link.json")), syscall.Mkfifo(filepath.Join(root, "data/gwe/fifo.yaml"), 0o600), os.Mkdir(filepath.Join(root, "data/gwe/folder.txt"), 0o755)); err != nil {
		t.Fatal(err)
	}
	minisign := base64.StdEncoding.EncodeToString(append([]byte("Ed"), make([]byte, 40)...))
	write(t, root, "data/gwe/keys/device.pem", key)
	write(t, root, "data/gwe/keys/both.pem", key+string(public)+"sixth secret\n")
	write(t, root, "data/gwe/keys/firmware.pub", minisign+"\n")
	write(t, root, "data/gwe/keys/binary", "\x00\x01seventh secret")

	write(t, root, "etc/supervisor/supervisord.conf", "[inet_http_server]\npassword=eighth secret\nusername=u\n")
	write(t, root, "etc/supervisor/conf.d/app.conf", "[program:app]\nenvironment = A=\"ninth secret\",\n  B=tenth\ncommand = app "+cik+" --api-token eleventh\n")
	write(t, root, "usr/lib/os-release", "ID=gwe\n")
	if err := os.Symlink("../usr/lib/os-release", filepath.Join(root, "etc/os-release")); err != nil {
		t.Fatal(err)
	}
	write(t, root, "proc/cmdline", "root=/dev/x cik="+cik+" wifi_password=twelfth\n")
	write(t, root, "proc/1/stat", "1 (in it) (x) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 7 0 5 170000000 250 18446744073709551615")
	write(t, root, "proc/1/cmdline", "/bin/in it\x00--password\x00thirteenth\x00"+cik+"\x00a\nb\x00")
	write(t, root, "proc/1/environ", "X=fourteenth")
	write(t, root, "proc/2/stat", "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0 18446744073709551615")
	write(t, root, "proc/2/cmdline", "")
	write(t, root, "sys/fs/cgroup/programs/app/pids.current", "3\n")
	write(t, root, "sys/fs/cgroup/programs/app/memory.current", "4096\n")

	dir, size := unpack(t, Options{
		Root: root,
		Call: func(ctx context.Context, method string, args ...any) (any, error) {
			switch method {
			case "gweinit.status":
				return `{"board":"rpi3","cik":"` + cik + `"}`, nil
			case "supervisor.getState":
				return nil, errors.New("refused " + cik)
			}
			return []any{map[string]any{"name": "app", "spawnerr": cik}}, nil
		},
		Reports: map[string]string{"engine_report": `{"apps":[]}`, "../../x": `{"token":"fifteenth"}`},
		Secrets: []string{cik, wifi, "", "x"},
	})
	t.Logf("%d bytes", size)

	secrets := []string{
		cik, otherCIK, wifi, url.QueryEscape(wifi), url.PathEscape(wifi), basic, keyLine, cik[8:], cik[20:], otherCIK[8:], wifi[8:], "battery",
		"two words", "third", "forth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth",
		"PRIVATE KEY-----", "root:",
	}
	files := map[string]bool{}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[name] = true
		if info, _ := d.Info(); !info.Mode().IsRegular() || info.Size() > maxFile+1000 {
			t.Errorf("%s: %v", name, info)
		}
		for _, secret := range secrets {
			if bytes.Contains(text, []byte(secret)) || strings.Contains(name, secret) {
				t.Errorf("%q has %q", name, secret)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range secrets[:8] {
		if out, err := exec.Command("grep", "-rlaF", "-e", secret, dir).CombinedOutput(); err == nil {
			t.Errorf("grep %q: %s", secret, out)
		}
	}

	readme := read(t, dir, "README.txt")
	t.Log(readme)
	for name := range files {
		if name != "README.txt" && !strings.Contains(readme, name) && !strings.Contains(readme, "\\xff") {
			t.Errorf("%q is not in README.txt", name)
		}
	}
	for _, want := range []string{
		"data/log/fifo: it is no regular file", "data/log/shadow.log: it is no regular file", "data/log/etc: it is no regular file",
		"data/gwe/link.json: it is a symbolic link", "data/gwe/fifo.yaml: it is no regular file", "data/gwe/folder.txt: it is no regular file",
		"data/log/utf16.log: it is binary", "data/log/old.gz: it is binary", "data/log/oneline.log: no line begins",
		"state/supervisor.json: refused 01234567*", "proc/cpuinfo: open: no such file", "the end of 16",
	} {
		if !strings.Contains(readme, want) {
			t.Errorf("README.txt lacks %q", want)
		}
	}
	if os.Getuid() != 0 && !strings.Contains(readme, "data/log/closed: open: permission denied") {
		t.Errorf("README.txt lacks the closed folder")
	}
	for name, want := range map[string]string{
		"logs/messages":              "end of it",
		"logs/deep/er/app.log":       "old 00112233*\n",
		"logs/cut.log":               "a line of a log\n",
		"logs/powercut.log":          "before\n\n[4096 zero bytes]\nafter 01234567*\n",
		"logs/empty.log":             "",
		"logs/sparse.log":            "",
		"state/Gateway.cfg":          "cik = 01234567*\nuuid = 00:2F\n",
		"state/provision.yaml":       "      wifi: {ssid: home net, psk: *}\n      password: *\n      mtu: 1500\n",
		"state/state.json":           `{"cik":"00112233*","token":"*","n":1}`,
		"state/gweinit.status.json":  `"rpi3"`,
		"state/programs.json":        `"spawnerr": "01234567*"`,
		"state/files":                " cik\n",
		"keys/both.pem":              string(public),
		"keys/firmware.pub":          minisign,
		"keys/SHA256SUMS":            fmt.Sprintf("%x  device.pem\n", sha256.Sum256([]byte(key))),
		"programs/supervisord.conf":  "password=*\nusername=u",
		"programs/conf.d/app.conf":   "environment = A=*,B=*\ncommand = app 01234567* --api-token *\n",
		"system/os-release":          "ID=gwe",
		"proc/cmdline":               "root=/dev/x cik=01234567* wifi_password=*\n",
		"processes.txt":              "[in it) (x] /bin/in it --password * 01234567* a\\nb\n      2       0 S        0       1  [kthreadd]\n",
		"groups.txt":                 "app: pids.current=3 memory.current=4096\n",
		"reports/engine_report.json": `{"apps":[]}`,
		"reports/_.._x.json":         `{"token":"*"}`,
	} {
		if got := read(t, dir, name); !strings.Contains(got, want) {
			t.Errorf("%s is\n%.2000s\nwant\n%s", name, got, want)
		}
	}
	for _, name := range []string{"keys/device.pem", "keys/binary", "state/cik"} {
		if files[name] {
			t.Errorf("%s is there", name)
		}
	}
	same := 0
	for name := range files {
		if strings.HasPrefix(name, "logs/new_line 01234567*.log") {
			same++
		}
	}
	if same != 2 {
		t.Errorf("%d files with the same name, want 2", same)
	}
}

// TestCut has secrets at every place of where a file is cut.
func TestCut(t *testing.T) {
	root := t.TempDir()
	key, keyLine, _ := privateKey(t)
	b := &bundle{o: Options{Root: root}, mask: newMask([]string{cik, wifi})}
	secret := "x " + cik + " " + wifi + "\n" + key
	after := strings.Repeat("a line\n", 100)
	for shift := 0; shift < len(secret)+2; shift += 3 { // all that is looked for is longer
		text := "before\n" + strings.Repeat("-", maxFile) + "\n" + secret + strings.Repeat("y", maxFile-shift-len(after)) + after
		write(t, root, "log", text)
		c, err := b.read("log")
		if err != nil {
			t.Fatal(err)
		}
		got := b.mask.text(c.text)
		for _, part := range []string{cik[8:17], cik[len(cik)-9:], wifi[len(wifi)-6:], keyLine[len(keyLine)-6:], "PRIVATE"} {
			if bytes.Contains(got, []byte(part)) {
				t.Fatalf("cut %d before its end: %q is in %.300q", shift, part, got)
			}
		}
		if !bytes.HasSuffix(got, []byte(after[1:])) || len(got) > maxFile {
			t.Fatalf("cut %d before its end: %d bytes", shift, len(got))
		}
	}
}

// TestLogsBounds has more logs than a bundle takes.
func TestLogsBounds(t *testing.T) {
	root := t.TempDir()
	text := strings.Repeat("a line of a log\n", 100000)
	for i := range 30 {
		name := fmt.Sprintf("var/log/%02d.log", i)
		write(t, root, name, text)
		at := time.Now().Add(-time.Duration(i) * time.Hour)
		os.Chtimes(filepath.Join(root, name), at, at)
	}
	dir, _ := unpack(t, Options{Root: root})
	entries, _ := os.ReadDir(filepath.Join(dir, "logs"))
	if len(entries) != 16 || entries[0].Name() != "00.log" || entries[15].Name() != "15.log" {
		t.Errorf("logs: %v", entries)
	}
	if readme := read(t, dir, "README.txt"); !strings.Contains(readme, "var/log/16.log: there are newer logs") {
		t.Errorf("README.txt: %s", readme)
	}
}

// TestGrowingLog has one that is written, and rotated, while it is read.
func TestGrowingLog(t *testing.T) {
	root := t.TempDir()
	write(t, root, "data/log/app.log", "")
	path := filepath.Join(root, "data/log/app.log")
	done, ended := make(chan bool), make(chan bool)
	go func() {
		defer close(ended)
		f, _ := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			fmt.Fprintf(f, "line %d with %s in it\n", i, cik)
			if i%20000 == 19999 {
				f.Truncate(0)
			}
		}
	}()
	for range 10 {
		dir, _ := unpack(t, Options{Root: root, Secrets: []string{cik}})
		if text := read(t, dir, "logs/app.log"); strings.Contains(text, cik[:9]) {
			t.Error("the secret is in it")
		}
	}
	close(done)
	<-ended
}

func TestThisMachine(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	dir, size := unpack(t, Options{Root: "/", Secrets: []string{cik}})
	runtime.ReadMemStats(&after)
	t.Logf("%d bytes in %v, heap grew by %d KiB\n%s", size, time.Since(began), (int64(after.HeapSys)-int64(before.HeapSys))/1024, read(t, dir, "README.txt"))
	text := read(t, dir, "processes.txt")
	if !strings.Contains(text, fmt.Sprintf("%7d ", os.Getpid())) {
		t.Errorf("processes lack this one:\n%s", text)
	}
	if read(t, dir, "proc/meminfo") == "" || read(t, dir, "proc/mounts") == "" {
		t.Error("files of /proc are empty")
	}
}

// limited fails after some bytes.
type limited int

func (l *limited) Write(p []byte) (int, error) {
	if *l -= limited(len(p)); *l < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestWriteFails(t *testing.T) {
	root := t.TempDir()
	for _, most := range []limited{0, 5} {
		if err := Write(t.Context(), &most, Options{Root: root}); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("error %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Write(ctx, io.Discard, Options{Root: root}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func BenchmarkWrite(b *testing.B) {
	root := b.TempDir()
	os.MkdirAll(filepath.Join(root, "data/log"), 0o755)
	for i := range 16 {
		var text bytes.Buffer
		for line := 0; text.Len() < maxFile; line++ {
			fmt.Fprintf(&text, "2026-11-25T12:00:%02dZ app[%d]: a line as logs have them, request %d took %d ms\n", line%60, i, line, line%77)
		}
		os.WriteFile(filepath.Join(root, fmt.Sprintf("data/log/%d", i)), text.Bytes(), 0o644)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := Write(b.Context(), io.Discard, Options{Root: root, Secrets: []string{cik}}); err != nil {
			b.Fatal(err)
		}
	}
}
