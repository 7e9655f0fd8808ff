package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// revision is which state of the sources an image is made of.
type revision struct {
	version string
	time    time.Time
}

// oldest is the first day that a FAT file system knows.
var oldest = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// revisionOf takes the version, unless given, and the time from the project's
// git commit: tag v1.2.0 is 1.2.0, three commits later 1.2.0+3.gabcdef0, a
// changed tree ends in .dirty, and without any tag it is 0.0.0+COMMITS.gHASH.
// SOURCE_DATE_EPOCH, if set, is the time.
func revisionOf(ctx context.Context, project, version string) (revision, error) {
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", project}, args...)...)
		out, err := cmd.Output()
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return strings.TrimSpace(string(out)), err
	}
	r := revision{version, oldest}
	stamp, gitErr := git("log", "-1", "--format=%ct")
	if env := os.Getenv("SOURCE_DATE_EPOCH"); env != "" {
		stamp = env
	}
	if stamp != "" {
		sec, err := strconv.ParseInt(stamp, 10, 64)
		if err != nil {
			return r, fmt.Errorf("SOURCE_DATE_EPOCH is %q, want seconds since 1970", stamp)
		}
		if t := time.Unix(sec, 0).UTC(); t.After(oldest) {
			r.time = t
		}
	}
	if r.version == "" {
		if gitErr != nil {
			return r, fmt.Errorf("there is no git commit to take the version from: say version=1.0.0: %w", gitErr)
		}
		described, err := git("describe", "--tags", "--long", "--match", "v[0-9]*")
		if err != nil {
			count, err := git("rev-list", "--count", "HEAD")
			if err != nil {
				return r, fmt.Errorf("count the commits: %w", err)
			}
			hash, err := git("rev-parse", "--short=7", "HEAD")
			if err != nil {
				return r, fmt.Errorf("read the commit: %w", err)
			}
			described = "v0.0.0-" + count + "-g" + hash
		}
		status, err := git("status", "--porcelain")
		if err != nil {
			return r, fmt.Errorf("look for changes since the commit: %w", err)
		}
		r.version = versionFrom(described, status != "")
	}
	return r, checkVersion(r.version)
}

// versionFrom makes a version of what "git describe --long" prints.
func versionFrom(described string, dirty bool) string {
	f := strings.Split(strings.TrimPrefix(described, "v"), "-")
	n := len(f)
	// In Debian's order 1.2.0~rc1 comes before 1.2.0, and 1.2.0-rc1 behind it.
	version, commits, hash := strings.Join(f[:n-2], "~"), f[n-2], f[n-1]
	extra := ""
	if commits != "0" {
		extra = "+" + commits + "." + hash
	}
	if dirty {
		if extra == "" {
			return version + "+dirty"
		}
		return version + extra + ".dirty"
	}
	return version + extra
}

// checkVersion checks that versions can be ordered as Debian does, and be part
// of file names.
func checkVersion(v string) error {
	if !regexp.MustCompile(`^[0-9][0-9A-Za-z.+~-]{0,63}$`).MatchString(v) {
		return fmt.Errorf("version %q: want a digit first, then letters, digits, and . + ~ - (like 1.2.0)", v)
	}
	return nil
}
