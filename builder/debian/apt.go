package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/exosite/gwe/builder/cache"
)

// indexAge is how long an index of packages is taken without asking for a newer one.
const indexAge = 24 * time.Hour

// remedy is what went wrong, as far as known, and what to do about it.
type remedy string

func (r remedy) Error() string { return string(r) }

const (
	errSignature = remedy("the signature could not be verified: update the package debian-archive-keyring, and check that mirror=URL is a Debian mirror and that no proxy or login page stands between")
	errClock     = remedy("the index is expired or from the future: check this computer's date, or take a mirror that is up to date with mirror=URL")
	errNoSuite   = remedy("the mirror does not have this suite: check mirror=URL")
	errResolve   = remedy("the mirror's name cannot be resolved: check the network, the proxy of the host's apt and mirror=URL")
	errNetwork   = remedy("the mirror cannot be reached: check the network, the proxy of the host's apt and mirror=URL")
	errTLS       = remedy("the mirror's certificate is not trusted: install the package ca-certificates or the proxy's certificate, or take another mirror=URL")
	errLogin     = remedy("the mirror or the proxy wants a login: put it into /etc/apt/auth.conf.d or the host's apt proxy setting")
	errSpace     = remedy("the disk of the cache folder is full: make room")
	errSync      = remedy("the mirror is being updated: try again in some minutes, or take another with mirror=URL")
	errUnknown   = remedy("no such package")
	errNoDebian  = remedy("this needs a Debian or Ubuntu host")
	errNoDpkgDev = remedy("install the package dpkg-dev")
)

// ErrGone is in the error if the mirror does not have the version that is asked for.
const ErrGone = remedy("the mirror does not have this version (any more)")

// remedyFor finds the reason in what an apt command complained about; nil if it is none known.
func remedyFor(out string) error {
	for _, row := range []struct {
		err   error
		signs []string
	}{ // the first row that fits counts: a consequence of another row comes after it
		{errClock, []string{"is not valid yet", "is expired (invalid since"}},
		{errSignature, []string{"NO_PUBKEY", "BADSIG", "EXPKEYSIG", "is not signed", "GPG error", "signature verification", "couldn't be verified", "Clearsigned file isn't valid", "could not be authenticated", "unauthenticated packages"}},
		{errResolve, []string{"Could not resolve", "Temporary failure resolving", "Something wicked happened resolving"}},
		{errTLS, []string{"ertificate verification failed", "SSL connection failed", "handshake"}},
		{errNetwork, []string{"Could not connect", "Unable to connect", "Cannot initiate the connection", "Network is unreachable", "onnection timed out", "Connection failed", "Connection refused", "Error reading from server"}},
		{errLogin, []string{"401  ", "403  ", "407  "}},
		{errSpace, []string{"No space left on device", "enough free space"}},
		{errSync, []string{"Hash Sum mismatch", "File has unexpected size"}},
		{errNoSuite, []string{"does not have a Release file", "no longer has a Release file"}},
		{ErrGone, []string{"404  Not Found", "File not found", "E: Version '", "E: Can't find version", "E: Unable to locate package", "Unable to find a source package", "E: Can't find a source to download"}},
		{errUnknown, []string{"No packages found"}},
	} {
		for _, s := range row.signs {
			if strings.Contains(out, s) {
				return row.err
			}
		}
	}
	return nil
}

// run runs a command to its end and returns its standard output. The error carries the last
// complaints and, where the reason is known, what to do.
func run(ctx context.Context, dir string, env []string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // apt and dpkg end their own children
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err == nil {
		return stdout.String(), nil
	}
	what := fmt.Sprintf("%.80s", strings.Join(argv, " "))
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s: %w", what, ctx.Err())
	case errors.Is(err, exec.ErrNotFound) && argv[0] == "dpkg-source":
		return "", fmt.Errorf("%s: %w", err, errNoDpkgDev)
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%s: %w", err, errNoDebian)
	}
	if c := complaints(stderr.String()); c != "" {
		what += ": " + c
	}
	if r := remedyFor(stderr.String()); r != nil {
		return stdout.String(), fmt.Errorf("%s (%v): %w", what, err, r)
	}
	return stdout.String(), fmt.Errorf("%s: %w", what, err)
}

// complaints returns the last few lines of what a command wrote to standard error: apt's
// errors and warnings, or anything if there are none.
func complaints(stderr string) string {
	var all, apt []string
	for line := range strings.Lines(redact(stderr)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		all = append(all, line)
		if strings.HasPrefix(line, "E:") || strings.HasPrefix(line, "W:") {
			apt = append(apt, line)
		}
	}
	if apt != nil {
		all = apt
	}
	return strings.Join(all[max(0, len(all)-4):], "; ")
}

// redact takes user names and passwords out of the URLs in s.
func redact(s string) string {
	return regexp.MustCompile(`(://)[^/\s"']*@`).ReplaceAllString(s, "${1}***@")
}

// root is a private apt root: configuration, indexes and state of one set of sources.
type root struct {
	dir     string // holds everything but the lock, which is beside it
	title   string // for messages
	conf    string // text of its apt.conf
	sources string // text of its sources.list
	log     func(string, ...any)

	mu    sync.Mutex
	asked bool // for a new index, by this process: a dead network is asked once
}

// aptConf returns the text of a private apt.conf: host, what is taken over from the host's
// configuration, and what makes it private. An empty arch is the host's own.
func aptConf(host, dir, arch string, asRoot bool) string {
	var b strings.Builder
	b.WriteString(host)
	set := func(name, value string) { fmt.Fprintf(&b, "%s \"%s\";\n", name, value) }
	set("Acquire::AllowInsecureRepositories", "false")
	set("Acquire::AllowWeakRepositories", "false")
	set("Acquire::AllowDowngradeToInsecureRepositories", "false")
	set("APT::Update::Error-Mode", "any") // else a dead mirror is a mere warning
	if arch != "" {
		set("APT::Architecture", arch)
		set("APT::Architectures::", arch)
	}
	if asRoot {
		set("APT::Sandbox::User", "root") // _apt may not enter the cache folder
	}
	set("Dir::State", filepath.Join(dir, "state"))
	set("Dir::State::Lists", filepath.Join(dir, "lists"))
	set("Dir::State::status", filepath.Join(dir, "status"))
	set("Dir::Cache", filepath.Join(dir, "cache"))
	set("Dir::Etc::sourcelist", filepath.Join(dir, "sources.list"))
	for _, part := range []string{"sourceparts", "main", "parts", "preferences", "preferencesparts"} {
		set("Dir::Etc::"+part, "/dev/null")
	}
	return b.String()
}

// sourcesList returns the text of a private sources.list. The option target keeps away what
// else an archive offers: translations, DEP-11, file lists.
func sourcesList(kind, target, options, suite string, mirrors []string) string {
	line := func(uri, suite string) string {
		return fmt.Sprintf("%s [%s target=%s] %s %s main non-free-firmware\n", kind, options, target, uri, suite)
	}
	s := line(mirrors[0], suite) + line(mirrors[0], suite+"-updates")
	if len(mirrors) > 1 {
		s += line(mirrors[1], suite+"-security")
	}
	return s
}

// use runs fn with the root ready, its index fresh if that can be had, and no other build in it.
func (r *root) use(ctx context.Context, fn func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(r.dir), 0o755); err != nil {
		return fmt.Errorf("apt root: %w", err)
	}
	unlock, err := cache.Lock(ctx, r.dir+".lock", r.log)
	if err != nil {
		return fmt.Errorf("locking the apt root: %w", err)
	}
	defer unlock()
	if err := r.prepare(); err != nil {
		return fmt.Errorf("apt root: %w", err)
	}
	if err := r.refresh(ctx); err != nil {
		return err
	}
	return fn()
}

func (r *root) prepare() error {
	for _, d := range []string{"state", "lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(r.dir, d), 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"apt.conf": r.conf, "sources.list": r.sources, "status": ""} {
		path := filepath.Join(r.dir, name)
		if old, err := os.ReadFile(path); err == nil && string(old) == text {
			continue // a newer file makes apt build its cache anew: half a second a command
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil { // 0600: proxy passwords
			return err
		}
	}
	return nil
}

// stamp is the file that a successful update writes: the sources.list it was made with.
func (r *root) stamp() string { return filepath.Join(r.dir, "updated") }

// refresh updates the index if there is none, if it is of other sources, or if it is old.
// An old one does when the update fails.
func (r *root) refresh(ctx context.Context) error {
	var made time.Time
	if text, _ := os.ReadFile(r.stamp()); string(text) == r.sources {
		if st, err := os.Stat(r.stamp()); err == nil {
			made = st.ModTime()
		}
	}
	usable := !made.IsZero()
	if usable && (r.asked || time.Since(made) < indexAge) {
		return nil
	}
	err := r.update(ctx)
	if err != nil && usable && ctx.Err() == nil {
		r.log("warning: %v; going on with the index of %s", err, made.Format(time.DateTime))
		return nil
	}
	return err
}

func (r *root) update(ctx context.Context) error {
	r.asked = true
	r.log("updating the package index of %s", r.title)
	// One retry, not apt's three: the fourth try of a dead mirror comes after 7 seconds.
	if _, err := r.run(ctx, "", "apt-get", "update", "-q", "-o", "Acquire::Retries=1"); err != nil {
		return fmt.Errorf("updating the package index of %s: %w", r.title, err)
	}
	if err := os.WriteFile(r.stamp(), []byte(r.sources), 0o600); err != nil {
		return fmt.Errorf("updating the package index of %s: %w", r.title, err)
	}
	return nil
}

// retryGone runs fn, and if the mirror no longer has what fn wants, again with a new index.
func (r *root) retryGone(ctx context.Context, fn func() error) error {
	err := fn()
	if !errors.Is(err, ErrGone) {
		return err
	}
	if err := r.update(ctx); err != nil {
		return err
	}
	return fn()
}

// run runs an apt command on the root, in folder dir.
func (r *root) run(ctx context.Context, dir string, argv ...string) (string, error) {
	return run(ctx, dir, []string{"APT_CONFIG=" + filepath.Join(r.dir, "apt.conf")}, argv...)
}
