package cga

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/durable"
)

// epoch is the time of all members, if SOURCE_DATE_EPOCH says no other. Python's
// zipfile, and so setup.py, takes nothing from before 1980, wherever it is.
var epoch = time.Date(1980, 1, 2, 0, 0, 0, 0, time.UTC)

// Options are how to build.
type Options struct {
	Out           string    // folder of the tarball; "": that of the buildfile
	Name, Version string    // instead of what the buildfile says; "": that
	Env           []string  // of the commands, and SOURCE_DATE_EPOCH; nil: that of the process
	Input         *os.File  // standard input of the commands; nil: none
	Output        io.Writer // for the output of the commands, and for warnings; nil: none
}

// Build makes the tarball of an app, as its buildfile says, and returns its path.
// It is the same, byte for byte, wherever and whenever it is made of the same
// files.
//
// The commands run in the buildfile's folder by sh -c, and the first one that
// fails ends it. They have APP_NAME and APP_VERSION in their environment, those
// after the build APP_TARBALL too, the path of the tarball. That stays if one of
// these fails.
//
// A buildfile or tarball with errors is a FindingsError.
func Build(ctx context.Context, file string, o Options) (tarball string, err error) {
	if tarball, err = build(ctx, file, o); err != nil {
		return "", fmt.Errorf("build %s: %w", file, err)
	}
	return tarball, nil
}

func build(ctx context.Context, file string, o Options) (string, error) {
	if o.Output == nil {
		o.Output = io.Discard
	}
	if o.Env == nil {
		o.Env = os.Environ()
	}
	file, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	out := filepath.Dir(file)
	if o.Out != "" {
		if out, err = filepath.Abs(o.Out); err != nil {
			return "", err
		}
	}
	when, err := timeOf(o.Env)
	if err != nil {
		return "", err
	}
	b, findings, err := readBuildfile(file)
	if err != nil {
		return "", err
	}
	if o.Name != "" {
		b.Name = o.Name
	}
	if o.Version != "" {
		b.Version = o.Version
	}
	name := Name{b.Name, b.Version}
	if !Failed(findings) {
		findings = append(findings, b.check(name)...)
	}
	if err := report(o.Output, findings); err != nil {
		return "", err
	}
	env := append(slices.Clip(o.Env), "APP_NAME="+name.App, "APP_VERSION="+name.Version)
	if err := runCommands(ctx, b.Pre, filepath.Dir(file), env, o); err != nil {
		return "", err
	}
	members, err := b.collect(file)
	if err != nil {
		return "", err
	}
	if err := report(o.Output, b.missing(members, false)); err != nil {
		return "", err
	}
	tarball := filepath.Join(out, name.File())
	if err := writeTarball(ctx, tarball, name, members, when, o.Output); err != nil {
		return "", err
	}
	return tarball, runCommands(ctx, b.Post, filepath.Dir(file), append(env, "APP_TARBALL="+tarball), o)
}

// report writes warnings, or returns all findings if there is an error.
func report(w io.Writer, findings []Finding) error {
	if Failed(findings) {
		return FindingsError(findings)
	}
	for _, f := range findings {
		fmt.Fprintln(w, f)
	}
	return nil
}

func timeOf(env []string) (time.Time, error) {
	for _, e := range slices.Backward(env) {
		if text, ok := strings.CutPrefix(e, "SOURCE_DATE_EPOCH="); ok && text != "" {
			sec, err := strconv.ParseUint(text, 10, 32)
			if err != nil {
				return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%.40s: want seconds since 1970", text)
			}
			return time.Unix(int64(sec), 0), nil
		}
	}
	return epoch, nil
}

func runCommands(ctx context.Context, commands []string, dir string, env []string, o Options) error {
	for _, command := range commands {
		c := exec.CommandContext(ctx, "sh", "-c", command)
		c.Dir, c.Env, c.Stdout, c.Stderr = dir, env, o.Output, o.Output
		if o.Input != nil {
			c.Stdin = o.Input
		}
		// What it has left in the background may hold its output open.
		c.WaitDelay = 5 * time.Second
		if err := c.Run(); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return fmt.Errorf("run %q: %w", command, err)
		}
	}
	return nil
}

// member is what gets into the tarball.
type member struct {
	name string // path from the top level
	file string
	info fs.FileInfo
}

// collect returns what the buildfile includes of its folder, with the folders
// that it is in, sorted. Hidden from the patterns are the buildfile and tarballs
// of the app: they get in only by their own names.
func (b *buildfile) collect(file string) (members []member, err error) {
	root, err := filepath.EvalSymlinks(filepath.Dir(file)) // WalkDir follows none
	if err != nil {
		return nil, err
	}
	folders := map[string]member{}
	added := map[string]bool{}
	add := func(m member) {
		for above := path.Dir(m.name); above != "." && !added[above]; above = path.Dir(above) {
			added[above] = true
			members = append(members, folders[above])
		}
		if !added[m.name] {
			added[m.name] = true
			members = append(members, m)
		}
	}
	err = filepath.WalkDir(root, func(full string, d fs.DirEntry, err error) error {
		if err != nil || full == root {
			return err
		}
		rel, err := filepath.Rel(root, full)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		matches := func(g *glob) bool { return g.match(name) }
		if slices.ContainsFunc(b.excludes, matches) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		m := member{name, full, info}
		if d.IsDir() {
			folders[name] = m
		}
		byName := slices.ContainsFunc(b.includes, func(g *glob) bool { return g.text == name })
		if !byName && (b.ownTarball(name) || name == filepath.Base(file)) || !slices.ContainsFunc(b.includes, matches) {
			return nil
		}
		if !info.Mode().IsRegular() && !d.IsDir() && info.Mode().Type() != fs.ModeSymlink {
			return fmt.Errorf("%s is included, and is no file, folder or link", full)
		}
		add(m)
		return nil
	})
	slices.SortFunc(members, func(x, y member) int { return strings.Compare(x.name, y.name) })
	return members, err
}

// ownTarball says whether a path looks like what an earlier build has left.
func (b *buildfile) ownTarball(name string) bool {
	n, err := ParseName(path.Base(name))
	return err == nil && n.App == b.Name
}

// writeTarball writes the tarball beside its path, checks it, and renames it.
func writeTarball(ctx context.Context, tarball string, n Name, members []member, when time.Time, warnings io.Writer) error {
	dir := filepath.Dir(tarball)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+n.App+"-*.new")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // unless it was renamed
	defer f.Close()
	if err := pack(ctx, f, members, when); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	findings, err := check(ctx, f, n.App)
	if err != nil {
		return err
	}
	if err := report(warnings, findings); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), tarball); err != nil {
		return err
	}
	return durable.SyncFolder(dir)
}

// pack writes members, so that only their names, contents and x bits count.
func pack(ctx context.Context, w io.Writer, members []member, when time.Time) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	for _, m := range members {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := packMember(t, m, when); err != nil {
			return fmt.Errorf("pack %s: %w", m.file, err)
		}
	}
	return errors.Join(t.Close(), z.Close())
}

func packMember(t *tar.Writer, m member, when time.Time) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: m.name, Mode: 0o644, ModTime: when}
	switch m.info.Mode().Type() {
	case fs.ModeDir:
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, m.name+"/", 0o755
	case fs.ModeSymlink:
		target, err := os.Readlink(m.file)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, target, 0o777
	default:
		h.Size = m.info.Size()
		if m.info.Mode()&0o111 != 0 {
			h.Mode = 0o755
		}
	}
	if err := t.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	f, err := os.Open(m.file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(t, f) // one that has grown does not fit, and is an error
	if err == nil {
		err = t.Flush() // as is one that has shrunk
	}
	return err
}
