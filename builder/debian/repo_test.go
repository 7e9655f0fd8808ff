package debian

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines collects what a Repo logs.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) log(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, fmt.Sprintf(format, args...))
}

// take returns the lines since the last call, as one text.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := strings.Join(l.all, "\n")
	l.all = nil
	return s
}

func TestHostMirror(t *testing.T) {
	var l lines
	c := Config{Dir: t.TempDir(), Suite: "bookworm", Arch: "arm64", Mirrors: strings.Fields(os.Getenv("mirror")), Log: l.log}
	r, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	pkgs, err := r.Lookup(t.Context(), "linux-image-arm64", "firmware-atheros", "linux-image-arm64")
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) != 2 || pkgs[0].Name != "linux-image-arm64" || pkgs[0].Arch != "arm64" || pkgs[1].Arch != "all" || pkgs[1].Source != "firmware-nonfree" {
		t.Fatalf("got %+v", pkgs)
	}
	if k, err := pkgs[0].DependsOn("linux-image-"); err != nil || !strings.HasSuffix(k, "-arm64") || k == "linux-image-arm64" {
		t.Errorf("kernel %q, %v", k, err)
	}
	paths, err := r.Fetch(t.Context(), pkgs[0])
	if err != nil {
		t.Fatal(err)
	}
	if info := command(t, "", "dpkg-deb", "-f", paths[0], "Package"); info != "linux-image-arm64\n" {
		t.Errorf("fetched a %q", info)
	}
	var notFound *NotFoundError
	if _, err := r.Lookup(t.Context(), "gwe-nonsense", "linux-image-arm64"); !errors.As(err, &notFound) || !slices.Equal(notFound.Names, []string{"gwe-nonsense"}) {
		t.Errorf("a nonsense name: %v", err)
	}
	if log := l.take(); strings.Count(log, "\n") != 1 || !strings.HasPrefix(log, "updating the package index of bookworm arm64\nfetching 1 package(s) for arm64, 1.") {
		t.Errorf("logged %q", log)
	}
}

func TestDeadMirror(t *testing.T) {
	t.Parallel()
	r, err := Open(t.Context(), Config{Dir: t.TempDir(), Suite: "bookworm", Arch: "arm64", Mirrors: []string{"http://joe:s3cret@127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = r.Lookup(t.Context(), "dpkg")
	if !errors.Is(err, errNetwork) || strings.Contains(err.Error(), "s3cret") || time.Since(start) > 5*time.Second {
		t.Errorf("%v, after %v", err, time.Since(start))
	}
}

func TestBadConfig(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		err    string
	}{
		{func(c *Config) { c.Arch = "../x" }, "not names Debian uses"},
		{func(c *Config) { c.Suite = "" }, "not names Debian uses"},
		{func(c *Config) { c.Dir = `a"b` }, "choose another folder"},
		{func(c *Config) { c.Mirrors = []string{"http://m.example.invalid/ x"} }, "not a base URI"},
		{func(c *Config) { c.Mirrors = []string{"joe"} }, "not a base URI"},
	} {
		config := Config{Dir: t.TempDir(), Suite: "bookworm", Arch: "arm64"}
		c.change(&config)
		_, err := Open(t.Context(), config)
		checkErr(t, err, c.err)
	}
	_, err := open(t.Context(), Config{Dir: t.TempDir(), Suite: "bookworm", Arch: "arm64"}, "/nonexistent.gpg")
	checkErr(t, err, "install the package debian-archive-keyring")
}

// archive is a signed Debian archive on this computer.
type archive struct {
	dir, gpg, keyring, url string
	more                   string // lines of its Release files

	mu    sync.Mutex
	asked []string // paths
}

func newArchive(t *testing.T) *archive {
	t.Helper()
	// Not t.TempDir, whose paths can be too long for the agent's socket.
	gpg, err := os.MkdirTemp("", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	a := &archive{dir: t.TempDir(), gpg: gpg, keyring: filepath.Join(t.TempDir(), "keyring.gpg")}
	t.Cleanup(func() {
		command(t, "", "gpgconf", "--homedir", gpg, "--kill", "gpg-agent")
		os.RemoveAll(gpg)
	})
	command(t, "", "gpg", "--homedir", gpg, "--batch", "--passphrase", "", "--quick-gen-key", "test", "rsa2048", "sign", "never")
	command(t, "", "gpg", "--homedir", gpg, "--output", a.keyring, "--export")
	files := http.FileServer(http.Dir(a.dir))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.asked = append(a.asked, r.URL.Path)
		a.mu.Unlock()
		r.Header.Del("If-Modified-Since") // whose seconds are too coarse for a test
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	a.url = s.URL
	return a
}

// requests returns the number of requests since the last call.
func (a *archive) requests() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := len(a.asked)
	a.asked = nil
	return n
}

// add puts a package into the pool and returns its stanza of the index.
func (a *archive) add(t *testing.T, name, version string) string {
	t.Helper()
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: all\n", name, version)
	deb, err := os.ReadFile(buildDeb(t, control, map[string]string{"etc/version": version}))
	if err != nil {
		t.Fatal(err)
	}
	file := fmt.Sprintf("pool/%s_%s_all.deb", name, strings.ReplaceAll(version, ":", "."))
	writeFiles(t, a.dir, map[string]string{file: string(deb)})
	return fmt.Sprintf("%sFilename: %s\nSize: %d\nSHA256: %x\n\n", control, file, len(deb), sha256.Sum256(deb))
}

// addSource puts a source package into the pool and returns its stanza of the index.
func (a *archive) addSource(t *testing.T, name, version string) string {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"src/debian/control":       fmt.Sprintf("Source: %s\nMaintainer: Test <test@example.invalid>\n\nPackage: %s\nArchitecture: all\nDescription: test\n", name, name),
		"src/debian/changelog":     fmt.Sprintf("%s (%s) bookworm; urgency=low\n\n  * Test.\n\n -- Test <test@example.invalid>  Mon, 01 Jan 2024 00:00:00 +0000\n", name, version),
		"src/debian/source/format": "3.0 (native)\n",
		"src/hello.c":              "int main() { return 0; }\n",
	})
	command(t, dir, "dpkg-source", "-b", "src")
	_, plain, _ := strings.Cut(version, ":")
	base := name + "_" + plain
	// Most maintainers sign their .dsc.
	command(t, dir, "gpg", "--homedir", a.gpg, "--batch", "--clearsign", "--output", "signed", base+".dsc")
	signed, err := os.ReadFile(dir + "/signed")
	if err != nil {
		t.Fatal(err)
	}
	tar, err := os.ReadFile(dir + "/" + base + ".tar.xz")
	if err != nil {
		t.Fatal(err)
	}
	writeFiles(t, a.dir, map[string]string{"pool/" + base + ".dsc": string(signed), "pool/" + base + ".tar.xz": string(tar)})
	return fmt.Sprintf("Package: %s\nBinary: %s\nVersion: %s\nFormat: 3.0 (native)\nDirectory: pool\nChecksums-Sha256:\n %x %d %s.dsc\n %x %d %s.tar.xz\n\n",
		name, name, version, sha256.Sum256(signed), len(signed), base, sha256.Sum256(tar), len(tar), base)
}

// publish makes the indexes; signed or not.
func (a *archive) publish(t *testing.T, packages, sources string, signed bool) {
	t.Helper()
	for _, suite := range []string{"bookworm", "bookworm-updates"} {
		dir := filepath.Join(a.dir, "dists", suite)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		release := "Origin: Debian\nLabel: Debian\nSuite: " + suite + "\nCodename: " + suite + "\nArchitectures: arm64\nComponents: main non-free-firmware\nDate: " +
			time.Now().UTC().Format(time.RFC1123) + "\n" + a.more + "SHA256:\n"
		for path, text := range map[string]string{
			"main/binary-arm64/Packages": packages, "non-free-firmware/binary-arm64/Packages": "", "main/source/Sources": sources, "non-free-firmware/source/Sources": "",
		} {
			if suite != "bookworm" {
				text = ""
			}
			writeFiles(t, dir, map[string]string{path: text})
			release += fmt.Sprintf(" %x %d %s\n", sha256.Sum256([]byte(text)), len(text), path)
		}
		writeFiles(t, dir, map[string]string{"Release": release})
		if signed {
			command(t, dir, "gpg", "--homedir", a.gpg, "--batch", "--clearsign", "--output", "InRelease", "Release")
		}
	}
}

func (a *archive) open(t *testing.T, dir string, log func(string, ...any)) *Repo {
	t.Helper()
	r, err := open(t.Context(), Config{Dir: dir, Suite: "bookworm", Arch: "arm64", Mirrors: []string{a.url}, Log: log}, a.keyring)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFetch(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	one, two := a.add(t, "one", "1:1.0~rc1-1"), a.add(t, "two", "2")
	a.publish(t, one+two, "", true)
	dir := filepath.Join(t.TempDir(), "a cache")
	var l lines
	r := a.open(t, dir, l.log)
	var done int64 // of the largest download
	r.progress = func(d, total int64) {
		if d == total {
			done = max(done, d)
		}
	}
	pkgs, err := r.Lookup(t.Context(), "two", "one")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if size := pkgs[0].Size + pkgs[1].Size; done != size {
			t.Errorf("the progress ended at %d, want %d", done, size)
		}
	}()
	var paths []string
	fetch := func(r *Repo, wantRequests bool) {
		t.Helper()
		a.requests()
		paths, err = r.Fetch(t.Context(), pkgs...)
		if err != nil || (a.requests() > 0) != wantRequests {
			t.Fatalf("%v; requests wanted: %v", err, wantRequests)
		}
		for i, p := range pkgs {
			sum, err := sumAndSync(paths[i])
			if err != nil || sum != p.SHA256 {
				t.Errorf("%s: %s, %v", p.Name, sum, err)
			}
		}
	}
	fetch(r, true)
	if base := filepath.Base(paths[1]); base != "one_1%3a1.0~rc1-1_all.deb" {
		t.Errorf("named %s", base)
	}
	fetch(r, false)
	fetch(a.open(t, dir, l.log), false)
	if log := l.take(); strings.Count(log, "fetching 2 package(s)") != 1 || strings.Count(log, "updating") != 1 {
		t.Errorf("logged %s", log)
	}
	if err := os.WriteFile(paths[0], make([]byte, pkgs[0].Size), 0o644); err != nil { // a damaged disk
		t.Fatal(err)
	}
	fetch(r, true)
	if log := l.take(); !strings.HasPrefix(log, "warning: the cached package two 2 is damaged and fetched again\nfetching 1 package(s)") {
		t.Errorf("logged %s", log)
	}
	if st, err := os.Stat(filepath.Join(dir, "apt/arm64/apt.conf")); err != nil || st.Mode() != 0o600 {
		t.Errorf("apt.conf: %v, %v", st.Mode(), err)
	}
	if left, _ := filepath.Glob(dir + "/debs/.*"); left != nil {
		t.Errorf("left: %q", left)
	}

	// The same name and version with other bytes, as a lock of another archive may ask for.
	other := pkgs[0]
	other.SHA256 = strings.Repeat("00", 32)
	_, err = r.Fetch(t.Context(), other)
	checkErr(t, err, "package two version 2 on the mirror has another SHA-256")
}

func TestTwoBuilds(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.publish(t, a.add(t, "one", "1")+a.add(t, "two", "2"), "", true)
	dir := t.TempDir()
	build := func() error {
		r, err := open(t.Context(), Config{Dir: dir, Suite: "bookworm", Arch: "arm64", Mirrors: []string{a.url}}, a.keyring)
		if err != nil {
			return err
		}
		pkgs, err := r.Lookup(t.Context(), "one", "two")
		if err != nil {
			return err
		}
		_, err = r.Fetch(t.Context(), pkgs...)
		return err
	}
	done := make(chan error)
	for range 4 {
		go func() { done <- build() }()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	slices.Sort(a.asked)
	if once := slices.Compact(slices.Clone(a.asked)); !slices.Equal(once, a.asked) {
		t.Errorf("asked more than once: %q", a.asked)
	}
}

func TestStale(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	one := a.add(t, "one", "1")
	a.publish(t, one, "", true)
	r := a.open(t, t.TempDir(), nil)
	pkgs, err := r.Lookup(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	// Gone for a moment only: an error with the remedy.
	if err := os.Rename(a.dir+"/pool/one_1_all.deb", a.dir+"/pool/aside"); err != nil {
		t.Fatal(err)
	}
	if _, err = r.Fetch(t.Context(), pkgs...); !errors.Is(err, ErrGone) {
		t.Errorf("gone: %v", err)
	}
	// Replaced; what the mirror still has, though not the newest, is not what is missing.
	two := a.add(t, "two", "1")
	a.publish(t, a.add(t, "one", "2")+two+a.add(t, "two", "2"), "", true)
	still := pkgs[0]
	still.Name, still.SHA256 = "two", two[strings.Index(two, "SHA256: ")+8:][:64]
	for _, gone := range []struct {
		Package
		has  []string
		text string
	}{
		{pkgs[0], []string{"2"}, "package one version 1 is no longer on the mirror, which has 2 now"},
		{Package{Name: "three", Version: "3", Arch: "all", SHA256: pkgs[0].SHA256, Size: 1}, nil, "package three version 3 is not on the mirror, which has none of that name"},
	} {
		_, err = r.Fetch(t.Context(), still, gone.Package)
		if stale := (*StaleError)(nil); !errors.As(err, &stale) || stale.Name != gone.Name || !slices.Equal(stale.Has, gone.has) || err.Error() != gone.text {
			t.Errorf("replaced: %v", err)
		}
	}
	// Back at another place: the new index finds it.
	if err := os.Rename(a.dir+"/pool/aside", a.dir+"/pool/elsewhere.deb"); err != nil {
		t.Fatal(err)
	}
	a.publish(t, strings.ReplaceAll(one, "one_1_all", "elsewhere"), "", true)
	if _, err = r.Fetch(t.Context(), pkgs...); err != nil {
		t.Errorf("moved: %v", err)
	}
}

func TestFreshness(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.publish(t, a.add(t, "one", "1"), "", true)
	dir := t.TempDir()
	lookup := func(wantRequests bool, wantVersion, wantLog string) {
		t.Helper()
		var l lines
		r := a.open(t, dir, l.log)
		l.take() // about the security archive
		for range 2 {
			pkgs, err := r.Lookup(t.Context(), "one")
			if err != nil || pkgs[0].Version != wantVersion {
				t.Fatalf("%v, %v", pkgs, err)
			}
		}
		if got := a.requests() > 0; got != wantRequests {
			t.Errorf("asked the archive: %v", got)
		}
		if log := l.take(); strings.Count(log, "warning") > 1 || !strings.Contains(log, wantLog) {
			t.Errorf("logged %q, want %q", log, wantLog)
		}
	}
	age := func() {
		t.Helper()
		old := time.Now().Add(-25 * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, "apt/arm64/updated"), old, old); err != nil {
			t.Fatal(err)
		}
	}
	lookup(true, "1", "updating")
	a.publish(t, a.add(t, "one", "2"), "", true)
	lookup(false, "1", "")
	age()
	lookup(true, "2", "updating")
	age()
	a.publish(t, a.add(t, "one", "3"), "", false) // a bad update is not taken
	lookup(true, "2", "going on with the index of")
}

func TestUnsigned(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.publish(t, a.add(t, "one", "1"), "", false)
	if _, err := a.open(t, t.TempDir(), nil).Lookup(t.Context(), "one"); !errors.Is(err, errSignature) {
		t.Errorf("no signature: %v", err)
	}
	a.publish(t, a.add(t, "one", "1"), "", true)
	stranger := newArchive(t)
	stranger.url = a.url
	if _, err := stranger.open(t, t.TempDir(), nil).Lookup(t.Context(), "one"); !errors.Is(err, errSignature) {
		t.Errorf("another's signature: %v", err)
	}
	// Signed index, changed package.
	r := a.open(t, t.TempDir(), nil)
	pkgs, err := r.Lookup(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	writeFiles(t, a.dir, map[string]string{"pool/one_1_all.deb": strings.Repeat("x", int(pkgs[0].Size))})
	if _, err := r.Fetch(t.Context(), pkgs...); !errors.Is(err, errSync) {
		t.Errorf("changed package: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(a.dir, "dists")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.open(t, t.TempDir(), nil).Lookup(t.Context(), "one"); !errors.Is(err, errNoSuite) {
		t.Errorf("no suite: %v", err)
	}
}

func TestSource(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.publish(t, "", a.addSource(t, "u-boot", "1:2.0"), true)
	var l lines
	r := a.open(t, t.TempDir(), l.log)
	s, err := r.FetchSource(t.Context(), "u-boot", "1:2.0")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Files) != 2 || s.Files[0].Path != s.DSC || s.Files[1].Name != "u-boot_2.0.tar.xz" || s.Version != "1:2.0" {
		t.Errorf("got %+v", s)
	}
	dir := filepath.Join(t.TempDir(), "new", "src")
	if err := s.Unpack(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "hello.c")); err != nil {
		t.Error(err)
	}
	checkErr(t, s.Unpack(t.Context(), dir), "is there already")

	a.requests()
	if _, err := r.FetchSource(t.Context(), "u-boot", "1:2.0"); err != nil || a.requests() != 0 {
		t.Errorf("cached: %v", err)
	}
	if err := os.WriteFile(s.Files[1].Path, []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	checkErr(t, s.Unpack(t.Context(), filepath.Join(t.TempDir(), "bad")), "dpkg-source")
	l.take()
	if _, err := r.FetchSource(t.Context(), "u-boot", "1:2.0"); err != nil || !strings.Contains(l.take(), "damaged") {
		t.Errorf("damaged: %v", err)
	}
	for _, gone := range []struct{ name, version, text string }{
		{"u-boot", "3", "source package u-boot version 3 is no longer on the mirror, which has 1:2.0 now"},
		{"nonsense", "1", "source package nonsense version 1 is not on the mirror, which has none of that name"},
	} {
		_, err := r.FetchSource(t.Context(), gone.name, gone.version)
		if stale := (*StaleError)(nil); !errors.As(err, &stale) {
			t.Errorf("not a StaleError: %v", err)
		}
		checkErr(t, err, gone.text)
	}
}

// A mirror of a day in the past has indexes past their date.
func TestOldMirror(t *testing.T) {
	a := newArchive(t)
	// Some hosts' apt takes such indexes always.
	writeFiles(t, a.dir, map[string]string{"apt.conf": `Dir::Etc::parts "/dev/null";`})
	t.Setenv("APT_CONFIG", filepath.Join(a.dir, "apt.conf"))
	a.more = "Valid-Until: " + time.Now().Add(-24*time.Hour).UTC().Format(time.RFC1123) + "\n"
	a.publish(t, a.add(t, "one", "1"), "", true)
	c := Config{Dir: t.TempDir(), Suite: "bookworm", Arch: "arm64", Mirrors: []string{a.url}}
	for _, c.Old = range []bool{false, true} {
		r, err := open(t.Context(), c, a.keyring)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Lookup(t.Context(), "one"); c.Old && err != nil || !c.Old && !errors.Is(err, errClock) {
			t.Errorf("old %v: %v", c.Old, err)
		}
	}
}
