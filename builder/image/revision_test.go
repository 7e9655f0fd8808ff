package image

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestVersionFrom(t *testing.T) {
	for _, tt := range []struct {
		described string
		dirty     bool
		want      string
	}{
		{"v1.2.0-0-gabcdef0", false, "1.2.0"},
		{"v1.2.0-0-gabcdef0", true, "1.2.0+dirty"},
		{"v1.2.0-3-gabcdef0", false, "1.2.0+3.gabcdef0"},
		{"v1.2.0-3-gabcdef0", true, "1.2.0+3.gabcdef0.dirty"},
		{"v0.0.0-17-gabcdef0", false, "0.0.0+17.gabcdef0"},
		{"v10-1-gabcdef012", false, "10+1.gabcdef012"},
	} {
		got := versionFrom(tt.described, tt.dirty)
		if got != tt.want {
			t.Errorf("%s, dirty %t: got %s, want %s", tt.described, tt.dirty, got, tt.want)
		}
		if err := checkVersion(got); err != nil {
			t.Error(err)
		}
	}
}

// Gateways compare versions as Debian does: a later state of the sources must
// not look like an older one.
func TestVersionsOrder(t *testing.T) {
	order := []string{
		"v0.0.0-9-gfffffff", "v0.0.0-10-g0000000",
		"v1.2.0-rc1-0-gabcdef0", "v1.2.0-rc1-2-gabcdef0", "v1.2.0-rc2-0-gabcdef0",
		"v1.2.0-0-gabcdef0", "v1.2.0-9-gabcdef0", "v1.2.0-10-gabcdef0", "v1.2.1-0-gabcdef0", "v1.10.0-0-gabcdef0",
	}
	for i := range order[1:] {
		a, b := versionFrom(order[i], false), versionFrom(order[i+1], false)
		if err := exec.Command("dpkg", "--compare-versions", a, "lt", b).Run(); err != nil {
			t.Errorf("%s (%s) does not come before %s (%s): %v", a, order[i], b, order[i+1], err)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	for _, good := range []string{"1", "1.2.0", "2026.11.3~beta2", "1.2.0+3.gabcdef0.dirty", "1-2", "0" + strings.Repeat("x", 63)} {
		if err := checkVersion(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "v1.2.0", ".1", "1:2", "1 2", "1_2", "1/2", "1.2.0\n", "1é", "0" + strings.Repeat("x", 64)} {
		if err := checkVersion(bad); err == nil || !strings.Contains(err.Error(), "like 1.2.0") {
			t.Errorf("%q: got %v, want what a version looks like", bad, err)
		}
	}
}

// repository makes a git repository by steps: "commit", "tag NAME",
// "annotate NAME", "change", "add" (a file that git does not know), "ignore".
func repository(t *testing.T, steps ...string) string {
	t.Helper()
	dir := t.TempDir()
	for name, value := range map[string]string{
		"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_CEILING_DIRECTORIES": filepath.Dir(dir),
		"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b.c", "GIT_AUTHOR_DATE": "1600000000 +0200",
		"GIT_COMMITTER_NAME": "C", "GIT_COMMITTER_EMAIL": "c@d.e", "GIT_COMMITTER_DATE": "1700000000 +0200",
	} {
		t.Setenv(name, value)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "") // restored at the end
	os.Unsetenv("SOURCE_DATE_EPOCH")
	script := `set -e; cd "$0"; step() { case $1 in
		commit) [ -d .git ] || git init -q; echo x >> file; git add file; git commit -qm x;;
		tag) git tag $2;; annotate) git tag -m x $2;;
		change) echo y >> file;; add) echo y > new;; ignore) echo new > .git/info/exclude; echo y > new;;
	esac; }` + "\n"
	for _, s := range steps {
		script += "step " + s + "\n"
	}
	if out, err := exec.Command("sh", "-c", script, dir).CombinedOutput(); err != nil {
		t.Fatalf("git: %v\n%s", err, out)
	}
	return dir
}

func TestRevision(t *testing.T) {
	committed := time.Unix(1700000000, 0).UTC()
	for _, tt := range []struct {
		name, version, epoch string
		steps                []string
		want                 string // HASH is the commit's
		time                 time.Time
	}{
		{"no tag", "", "", []string{"commit", "commit"}, "0.0.0+2.gHASH", committed},
		{"tag", "", "", []string{"commit", "tag v1.2.0"}, "1.2.0", committed},
		{"annotated tag", "", "", []string{"commit", "annotate v1.2.0"}, "1.2.0", committed},
		{"commits after a tag", "", "", []string{"commit", "tag v1.2.0", "commit", "commit"}, "1.2.0+2.gHASH", committed},
		{"other tags", "", "", []string{"commit", "tag v1.2.0", "commit", "tag vendor", "tag 9.9"}, "1.2.0+1.gHASH", committed},
		{"changed", "", "", []string{"commit", "tag v1.2.0", "change"}, "1.2.0+dirty", committed},
		{"a new file", "", "", []string{"commit", "add"}, "0.0.0+1.gHASH.dirty", committed},
		{"an ignored file", "", "", []string{"commit", "ignore"}, "0.0.0+1.gHASH", committed},
		{"given", "2.0~beta1", "", []string{"commit", "change"}, "2.0~beta1", committed},
		{"given, no git", "2.0", "", nil, "2.0", oldest},
		{"SOURCE_DATE_EPOCH", "", "1500000000", []string{"commit", "tag v1.2.0"}, "1.2.0", time.Unix(1500000000, 0).UTC()},
		{"SOURCE_DATE_EPOCH, no git", "2.0", "1500000000", nil, "2.0", time.Unix(1500000000, 0).UTC()},
		{"before FAT", "2.0", "0", nil, "2.0", oldest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := repository(t, tt.steps...)
			if tt.epoch != "" {
				t.Setenv("SOURCE_DATE_EPOCH", tt.epoch)
			}
			hash, _ := exec.Command("git", "-C", dir, "rev-parse", "--short=7", "HEAD").Output()
			want := revision{strings.Replace(tt.want, "HASH", strings.TrimSpace(string(hash)), 1), tt.time}
			got, err := revisionOf(t.Context(), dir, tt.version)
			if err != nil || got != want {
				t.Errorf("got  %v, %v\nwant %v", got, err, want)
			}
		})
	}
}

func TestRevisionErrors(t *testing.T) {
	for _, tt := range []struct {
		name, version string
		steps         []string
		prepare       func(t *testing.T, dir string) error
		want          string
	}{
		{"no git", "", nil, nil, "say version=1.0.0"},
		{"no commit", "", nil, func(_ *testing.T, dir string) error { return exec.Command("git", "init", "-q", dir).Run() }, "say version=1.0.0"},
		{"bad version", "v1", nil, nil, `version "v1": want a digit first`},
		{"bad tag", "", []string{"commit", "tag v1_2"}, nil, `version "1_2": want a digit first`},
		{"bad SOURCE_DATE_EPOCH", "1", []string{"commit"}, func(t *testing.T, _ string) error { t.Setenv("SOURCE_DATE_EPOCH", "now"); return nil },
			`SOURCE_DATE_EPOCH is "now"`},
		// In a container the checkout often belongs to somebody else. There is
		// a commit: what git says is the help.
		{"somebody else's", "", []string{"commit"}, func(_ *testing.T, dir string) error {
			return errors.Join(os.Chown(dir, 12345, 12345), os.Chown(filepath.Join(dir, ".git"), 12345, 12345))
		}, "dubious ownership"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := repository(t, tt.steps...)
			if tt.prepare != nil {
				if err := tt.prepare(t, dir); err != nil {
					t.Fatal(err)
				}
			}
			_, err := revisionOf(t.Context(), dir, tt.version)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}
