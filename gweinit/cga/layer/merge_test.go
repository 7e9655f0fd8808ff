package layer

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What an overlay shows after a script is what the folder has after the merge.
func TestMerge(t *testing.T) {
	for _, tt := range []struct{ name, script string }{
		{"nothing", "true"},
		{"new files", "echo x > x; mkdir -p a/b; echo y > a/b/y; ln -s nowhere link; ln x hard; mkfifo pipe"},
		{"changed files", "echo more >> file; chmod 600 dir/a; echo new > dir/b"},
		{"removed files", "rm file dir/a; rm -r dir/deep"},
		{"all is removed", "rm -r ./*"},
		{"all is removed and anew", "rm -r ./*; mkdir dir; echo new > dir/new; echo new > file"},
		{"a folder anew", "rm -r dir; mkdir dir; echo new > dir/new; mkdir dir/deep"},
		{"a folder anew in one", "rm -r dir/deep; mkdir -p dir/deep/er; echo new > dir/deep/er/x; rm dir/a"},
		{"a folder by a file", "rm -r dir; echo file > dir"},
		{"a file by a folder", "rm file; mkdir -p file/in; echo x > file/in/x"},
		{"a link by a folder", "rm link; mkdir link; echo x > link/x"},
		{"a folder by a link", "rm -r dir; ln -s other dir"},
		{"renamed", "mv file other/moved; mv dir/a dir/b"},
		{"a folder renamed", "mv dir moved"},
		{"whiteouts in a folder that goes and comes", "rm dir/a; rm -r dir; mkdir -p dir/deep; rm -r dir/deep; mkdir dir/deep; echo x > dir/deep/x"},
		{"attributes", "chmod 700 . dir; chown 5:6 dir/deep; touch dir/deep/x; chmod 1777 other; chmod 2750 dir/deep"},
		{"set-uid", "cp file up; chmod 4755 up"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "-"), func(t *testing.T) {
			tmp := t.TempDir()
			to, upper := filepath.Join(tmp, "to"), filepath.Join(tmp, "upper")
			tree(t, to, "file=file", "dir/a=a", "dir/deep/x=x", "dir/deep/y=y", "other/o=o", "link>other")
			run(t, upper, to, tt.script)
			want := shown(t, upper, to)
			if err := Merge(OS{}, upper, to, false); err != nil {
				t.Fatal(err)
			}
			if got := withAttributes(t, to); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if got, err := namesIn(tmp); len(got) != 1 || err != nil {
				t.Errorf("left %q, %v", got, err)
			}
			if err := Merge(OS{}, upper, to, false); err != nil { // it was merged
				t.Error(err)
			}
		})
	}
}

// shown is what an overlay shows.
func shown(t *testing.T, upper, lower string) (text string) {
	at := filepath.Join(t.TempDir(), "at")
	work := upper + ".work"
	mkdir(t, at)
	mkdir(t, work)
	if err := unix.Mount("overlay", at, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)); err != nil {
		t.Fatal(err)
	}
	text = withAttributes(t, at)
	if err := errors.Join(unix.Unmount(at, 0), os.RemoveAll(work)); err != nil {
		t.Fatal(err)
	}
	return text
}

// withAttributes is dump with mode and owner of everything.
func withAttributes(t *testing.T, top string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(dump(t, top))
	paths := []string{""}
	if err := walk(top, top, func(e entry) error { paths = append(paths, e.path); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		info, err := os.Lstat(filepath.Join(top, path))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, path, AttributesOf(info), info.Mode())
	}
	return b.String()
}

func TestMergeLogs(t *testing.T) {
	tmp := t.TempDir()
	to, upper := filepath.Join(tmp, "log"), filepath.Join(tmp, "upper")
	tree(t, to, "messages=kernel", "a.log=a", "dir/b.log=b", "gone/c.log=c")
	run(t, upper, to, "rm messages; echo more >> a.log; chmod 600 .; rm -r dir; mkdir dir; echo new > dir/new.log; rm -r gone; echo file > gone; echo new > new.log; mkdir new; echo x > new/x")
	if err := Merge(OS{}, upper, to, true); err != nil {
		t.Fatal(err)
	}
	want := "a.log=a\ndir/ 755\ndir/b.log=b\ndir/new.log=new\n\ngone/ 755\ngone/c.log=c\nmessages=kernel\nnew/ 755\nnew/x=x\n\nnew.log=new\n\n"
	if got := dump(t, to); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the folder itself: %v, %v", info.Mode(), err)
	}
}

// A program may have changed the folder since the installer ran.
func TestMergeMeanwhile(t *testing.T) {
	for _, tt := range []struct{ name, meanwhile, want string }{
		{"a link out of it", "rm -r dir; ln -s ../outside dir", "dir/ 755\ndir/a=new\n\n"},
		{"the folder is gone", "rm -r dir", "dir/ 755\ndir/a=new\n\n"},
		{"a file", "rm -r dir; echo x > dir", "dir/ 755\ndir/a=new\n\n"},
		{"another file", "echo mine > dir/mine", "dir/ 755\ndir/a=new\n\ndir/mine=mine\n\n"},
		{"a folder", "rm dir/a; mkdir dir/a; echo x > dir/a/x", "dir/ 755\ndir/a=new\n\n"},
		{"a link for a file", "ln -sf ../../outside/a dir/a", "dir/ 755\ndir/a=new\n\n"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "-"), func(t *testing.T) {
			tmp := t.TempDir()
			to, upper, outside := filepath.Join(tmp, "to"), filepath.Join(tmp, "upper"), filepath.Join(tmp, "outside")
			tree(t, outside, "a=outside")
			tree(t, to, "dir/a=a", "dir/b=b")
			run(t, upper, to, "echo new > dir/a; rm dir/b")
			shell(t, to, tt.meanwhile)
			if err := Merge(OS{}, upper, to, false); err != nil {
				t.Fatal(err)
			}
			if got := dump(t, to); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if got := dump(t, outside); got != "a=outside\n" {
				t.Errorf("outside:\n%s", got)
			}
		})
	}
}

// What cannot be merged stays, and the rest is merged.
func TestMergeFails(t *testing.T) {
	tmp := t.TempDir()
	to, upper := filepath.Join(tmp, "to"), filepath.Join(tmp, "upper")
	tree(t, to, "a=a", "b/mounted/", "c=c", "gone=old", "same=same")
	tree(t, upper, "a=new", "c=new")
	run(t, upper, to, "rm -r b gone; chmod 600 same") // and then something is mounted there
	mounted := filepath.Join(to, "b/mounted")
	if err := unix.Mount("test", mounted, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	err := Merge(OS{}, upper, to, false)
	if err == nil || !strings.Contains(err.Error(), "b/mounted: device or resource busy") {
		t.Errorf("got %v", err)
	}
	if err := unix.Unmount(mounted, 0); err != nil {
		t.Fatal(err)
	}
	if got := dump(t, to); got != "a=new\nb/ 755\nb/mounted/ 755\nc=new\nsame=same\n" {
		t.Errorf("got\n%s", got)
	}
	// What is merged is not merged again into what programs make since.
	tree(t, to, "gone=new", "same=changed")
	if err := Merge(OS{}, upper, to, false); err != nil {
		t.Error(err)
	}
	if got := dump(t, tmp); got != "to/ 755\nto/a=new\nto/c=new\nto/gone=new\nto/same=changed\n" {
		t.Errorf("got\n%s", got)
	}

	if err := os.Symlink("to", filepath.Join(tmp, "link")); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"link", "to/a"} {
		tree(t, upper, "x=x")
		if err := Merge(OS{}, upper, filepath.Join(tmp, to), false); err == nil || !strings.Contains(err.Error(), "is no folder") {
			t.Errorf("%s: %v", to, err)
		}
	}
	if err := Merge(OS{}, upper, filepath.Join(tmp, "new/folder"), false); err != nil {
		t.Error(err)
	}
	if got := dump(t, filepath.Join(tmp, "new")); got != "folder/ 755\nfolder/x=x\n" {
		t.Errorf("got\n%s", got)
	}
}

// What programs have open stays what it is if only mode and owner change.
func TestMergeInPlace(t *testing.T) {
	tmp := t.TempDir()
	to, upper := filepath.Join(tmp, "to"), filepath.Join(tmp, "upper")
	tree(t, to, "dir/same=same", "longer=x", "other=same", "link>longer", "empty=")
	shell(t, to, "mkfifo dir/pipe; head -c 200000 /dev/zero > big; head -c 200000 /dev/zero > big2")
	l, err := net.Listen("unix", filepath.Join(to, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	files := []string{"dir/same", "dir/pipe", "socket", "empty", "big", "longer", "other", "link", "big2"}
	infos := func() (all []os.FileInfo) {
		for _, f := range files {
			info, err := os.Lstat(filepath.Join(to, f))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, info)
		}
		return all
	}
	before := infos()
	run(t, upper, to, "chown -hR 5:6 .; chmod 600 dir/same; echo more >> longer; echo -n diff > other; echo x | dd of=big2 bs=1 seek=150000 conv=notrunc 2>/dev/null")
	if err := Merge(OS{}, upper, to, false); err != nil {
		t.Fatal(err)
	}
	for i, info := range infos() {
		if same := os.SameFile(before[i], info); same != (i < 5) {
			t.Errorf("%s is the same: %v", files[i], same)
		}
		if a := AttributesOf(info); a.UID != 5 || a.GID != 6 || i == 0 && a.Mode != 0o600 {
			t.Errorf("%s: %+v", files[i], a)
		}
	}
	if got := dump(t, filepath.Join(to, "dir")); got != "pipe prw-r--r--\nsame=same\n" {
		t.Errorf("got\n%s", got)
	}
}

// What a program has written since the installer began is not lost.
func TestYield(t *testing.T) {
	for _, tt := range []struct{ name, installer, meanwhile, want, kept string }{
		{"nothing", "true", "echo new > a", "a=new\n\ndir/ 755\ndir/b=b\n", ""},
		{"chown", "chown -R 5 .", "echo more >> dir/b", "a=a\ndir/ 755\ndir/b=bmore\n\n", "dir/b"},
		{"sed", "echo mine > a", "echo theirs > a", "a=theirs\n\ndir/ 755\ndir/b=b\n", "a"},
		{"a file that replaces it", "echo mine > dir/b; echo x > dir/c", "echo theirs > new; mv new dir/b", "a=a\ndir/ 755\ndir/b=theirs\n\ndir/c=x\n\n", "dir/b"},
		{"of the same size", "chmod 600 a", "echo -n b > a", "a=b\ndir/ 755\ndir/b=b\n", "a"},
		{"both the same", "echo new > a", "echo new > a", "a=new\n\ndir/ 755\ndir/b=b\n", ""},
		{"other files", "echo mine > a", "echo new > c", "a=mine\n\nc=new\n\ndir/ 755\ndir/b=b\n", ""},
		{"made by both", "echo mine > c", "echo theirs > c", "a=a\nc=theirs\n\ndir/ 755\ndir/b=b\n", "c"},
		{"removed by the installer", "rm a", "echo new > a", "dir/ 755\ndir/b=b\n", ""},
		{"removed by the program", "echo mine > a", "rm a", "a=mine\n\ndir/ 755\ndir/b=b\n", ""},
		{"a folder anew", "rm -r dir; mkdir dir; echo mine > dir/b", "echo theirs > dir/b", "a=a\ndir/ 755\ndir/b=mine\n\n", ""},
		{"a link of the program's", "echo mine > a", "ln -sf dir/b a", "a=mine\n\ndir/ 755\ndir/b=b\n", ""},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "-"), func(t *testing.T) {
			tmp := t.TempDir()
			to, upper := filepath.Join(tmp, "to"), filepath.Join(tmp, "upper")
			tree(t, to, "a=a", "dir/b=b")
			before := Look(to)
			run(t, upper, to, tt.installer)
			installed := withOwners(t, upper)
			time.Sleep(20 * time.Millisecond) // a tick of the file system's clock
			shell(t, to, tt.meanwhile)
			kept, err := Yield(upper, to, before)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(kept, " "); got != tt.kept {
				t.Errorf("kept %q, want %q", got, tt.kept)
			}
			if err := Merge(OS{}, upper, to, false); err != nil {
				t.Fatal(err)
			}
			if got := dump(t, to); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			got := withOwners(t, to)
			for path, a := range installed {
				if got[path] != a && a.Mode&os.ModeDevice == 0 {
					if _, there := got[path]; there || tt.name != "removed by the installer" {
						t.Errorf("%s: %+v, want %+v", path, got[path], a)
					}
				}
			}
		})
	}
}

func withOwners(t *testing.T, top string) map[string]Attributes {
	all := map[string]Attributes{}
	if err := walk(top, top, func(e entry) error { all[e.path] = AttributesOf(e.info); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// Where there is nothing to compare with, nothing is kept; of files that are too many to
// be noted the installer's count.
func TestYieldOfUnknown(t *testing.T) {
	tmp := t.TempDir()
	to, upper := filepath.Join(tmp, "to"), filepath.Join(tmp, "upper")
	nothing := func(what string, before *Before) {
		t.Helper()
		if kept, err := Yield(upper, to, before); len(kept) > 0 || err != nil {
			t.Errorf("%s: kept %q, %v", what, kept, err)
		}
	}
	tree(t, upper, "a=a")
	nothing("no such folder", Look(to))
	tree(t, to, "a=old")
	nothing("not written", Look(to))
	unknown := Look(filepath.Join(tmp, "none"))
	unknown.all = false
	nothing("not noted", unknown)
	if kept, err := Yield(upper, to, Look(filepath.Join(tmp, "none"))); len(kept) != 1 || err != nil {
		t.Errorf("made since: kept %q, %v", kept, err)
	}
	if err := Merge(OS{}, upper, to, false); err != nil {
		t.Error(err)
	}
	if got := dump(t, to); got != "a=old\n" {
		t.Errorf("got %s", got)
	}
}

// A marked file whose place is empty by the time of the merge gets there, unmarked.
func TestKeptIsGone(t *testing.T) {
	tmp := t.TempDir()
	to, upper := filepath.Join(tmp, "to"), filepath.Join(tmp, "upper")
	tree(t, upper, "a=a")
	tree(t, to, "a=old")
	if kept, err := Yield(upper, to, Look(filepath.Join(tmp, "none"))); len(kept) != 1 || err != nil {
		t.Fatal(kept, err)
	}
	if err := os.Remove(filepath.Join(to, "a")); err != nil {
		t.Fatal(err)
	}
	if err := Merge(OS{}, upper, to, false); err != nil {
		t.Fatal(err)
	}
	if marked, err := isKept(filepath.Join(to, "a")); marked || err != nil || dump(t, to) != "a=a\n" {
		t.Errorf("marked %v, %v; %s", marked, err, dump(t, to))
	}
}

// interrupted is a disk whose power goes when an upper that was merged is removed.
type interrupted struct{ OS }

func (interrupted) RemoveAll(path string) error {
	if strings.HasSuffix(path, merged) {
		return errors.New("the power goes")
	}
	return os.RemoveAll(path)
}

// What is left of an upper does not remove what was written since.
func TestMergeOnce(t *testing.T) {
	tmp := t.TempDir()
	to, upper := filepath.Join(tmp, "to"), filepath.Join(tmp, "upper")
	tree(t, to, "a=a", "dir/b=b")
	run(t, upper, to, "rm a; rm -r dir; mkdir dir")
	if err := Merge(interrupted{}, upper, to, false); err == nil {
		t.Fatal("no error")
	}
	tree(t, to, "a=new", "dir/b=new")
	if err := Merge(OS{}, upper, to, false); err != nil {
		t.Error(err)
	}
	if got := dump(t, tmp); got != "to/ 755\nto/a=new\nto/dir/ 755\nto/dir/b=new\n" {
		t.Errorf("got\n%s", got)
	}
}

// many makes a tree of 10,000 files in 100 folders.
func many(b *testing.B, top string) {
	for i := range 100 {
		dir := filepath.Join(top, fmt.Sprint("folder-", i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range 100 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file-", j)), []byte("content"), 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// Into folders that are there, so that each file is moved.
func BenchmarkMerge(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		tmp := b.TempDir()
		to, upper := filepath.Join(tmp, "to"), filepath.Join(tmp, "upper")
		many(b, to)
		many(b, upper)
		b.StartTimer()
		if err := Merge(OS{}, upper, to, false); err != nil {
			b.Fatal(err)
		}
	}
}

// All files are over one of the base.
func BenchmarkCheckAndDescribe(b *testing.B) {
	tmp := b.TempDir()
	base, dir := filepath.Join(tmp, "base"), filepath.Join(tmp, "1")
	many(b, base)
	many(b, filepath.Join(dir, Root))
	for b.Loop() {
		if err := Check(dir, base); err != nil {
			b.Fatal(err)
		}
		if err := Describe(dir, base, "1.0", ""); err != nil {
			b.Fatal(err)
		}
	}
}
