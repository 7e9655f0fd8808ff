package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// hostMirrors returns the base URIs of the Debian archive and, if the host has one, of the
// security archive that the host's apt uses.
func hostMirrors(ctx context.Context, log func(string, ...any)) ([]string, error) {
	for try := 0; ; try++ {
		out, err := run(ctx, "", nil, "apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)")
		if err != nil {
			return nil, fmt.Errorf("asking the host's apt for its mirrors: %w", err)
		}
		if m := pickMirrors(out); m != nil {
			return m, nil
		}
		if out == "" && os.Geteuid() != 0 {
			return nil, errors.New("the host's apt has no package lists, so its mirrors are not known: sudo apt-get update")
		}
		if try > 0 || out != "" {
			return nil, errors.New("the host's apt has no Debian mirror: name one with mirror=URL (the builder's -mirror), and install the package debian-archive-keyring")
		}
		// A fresh container has no lists, and apt names only the targets it has.
		log("updating the package lists of this host")
		if _, err := run(ctx, "", nil, "apt-get", "update", "-q"); err != nil {
			return nil, fmt.Errorf("updating the package lists of this host, to learn its mirrors: %w", err)
		}
	}
}

// pickMirrors reads lines of "label|URI" and returns the first of each archive; nil without
// a main archive.
func pickMirrors(out string) []string {
	uri := map[string]string{}
	for line := range strings.Lines(out) {
		label, u, _ := strings.Cut(strings.TrimSpace(line), "|")
		if uri[label] == "" && !strings.HasPrefix(u, "cdrom:") {
			uri[label] = u
		}
	}
	switch main, security := uri["Debian"], uri["Debian-Security"]; {
	case main == "":
		return nil
	case security == "":
		return []string{main}
	default:
		return []string{main, security}
	}
}

// Missing returns those of the named packages that are not installed on the host.
func Missing(ctx context.Context, names ...string) ([]string, error) {
	installed, err := Installed(ctx, names...)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return installed[n] != "" }), nil
}

// Installed returns the versions of those of the named packages that are installed on the
// host, by name.
func Installed(ctx context.Context, names ...string) (map[string]string, error) {
	for _, n := range names {
		if !isName(n) { // dpkg-query would take some of these for patterns
			return nil, fmt.Errorf("looking for package %q on this host: not a package name", n)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	out, err := run(ctx, "", nil, append([]string{"dpkg-query", "-W", "-f", `${db:Status-Abbrev}|${Package}|${Version}\n`}, names...)...)
	if exit := (*exec.ExitError)(nil); err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) { // 1: dpkg does not know some
		return nil, fmt.Errorf("looking for packages on this host: %w", err)
	}
	installed := map[string]string{}
	for line := range strings.Lines(out) {
		// Three letters: wanted, state, error. "ii " and, held back, "hi " are installed.
		f := strings.Split(strings.TrimSuffix(line, "\n"), "|")
		if len(f) == 3 && len(f[0]) > 1 && f[0][1] == 'i' {
			installed[f[1]] = f[2]
		}
	}
	return installed, nil
}

// Install installs those of the named packages that the host misses, with sudo unless root.
// The error says the command to run by hand.
func Install(ctx context.Context, log func(string, ...any), names ...string) error {
	missing, err := Missing(ctx, names...)
	if err != nil || len(missing) == 0 {
		return err
	}
	if log != nil {
		log("installing on this host: %s", strings.Join(missing, " "))
	}
	install := hostCommand(append([]string{"install", "-y", "--no-install-recommends"}, missing...)...)
	update := hostCommand("update", "-q")
	fail := func(err error) error {
		return fmt.Errorf("installing packages on this host: %w; by hand, as root: apt-get update && apt-get install -y --no-install-recommends %s", err, strings.Join(missing, " "))
	}
	lists, err := run(ctx, "", nil, "apt-get", "indextargets", "--format", "$(LABEL)")
	if err != nil {
		return fail(err)
	}
	if lists != "" {
		_, err = run(ctx, "", nil, install...)
		if err == nil {
			return nil
		}
	}
	// No lists, or old ones that name files the mirror has replaced.
	if _, err := run(ctx, "", nil, update...); err != nil {
		return fail(err)
	}
	if _, err := run(ctx, "", nil, install...); err != nil {
		return fail(err)
	}
	return nil
}

// hostCommand is an apt-get command with root's rights that asks no questions.
func hostCommand(args ...string) []string {
	argv := append([]string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get"}, args...)
	if os.Geteuid() == 0 {
		return argv
	}
	if _, err := exec.LookPath("sudo"); err != nil {
		return argv // apt says that it lacks the rights, and the error what to run as root
	}
	return append([]string{"sudo"}, argv...) // env comes after: sudo drops the environment
}
