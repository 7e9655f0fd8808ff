package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// Squash writes the tree to the file out as a squashfs that bears mtime
// everywhere. It needs mksquashfs 4.5 or later, but no privileges.
func (t *Tree) Squash(ctx context.Context, out string, mtime time.Time) error {
	tool, err := exec.LookPath("mksquashfs")
	if err != nil {
		return fmt.Errorf("write %s: mksquashfs is needed, install the package squashfs-tools: %w", out, err)
	}
	if s := mtime.Unix(); s < 0 || s > math.MaxUint32 {
		return fmt.Errorf("write %s: squashfs cannot hold the time %v, only 1970 to 2106", out, mtime)
	}
	return beside(out, func(tmp string) error {
		return t.squash(ctx, tool, tmp, mtime)
	})
}

func (t *Tree) squash(ctx context.Context, tool, out string, mtime time.Time) error {
	seconds := strconv.FormatInt(mtime.Unix(), 10)
	// Not sqfstar, which is the same program under another name, because in
	// 4.5.1 it takes the value of -Xcompression-level for the output file.
	//
	// 256 KiB blocks: larger ones save another 3 %, but the kernel reads and
	// keeps whole blocks, in a device with 64 MB. Levels above 19 save nothing.
	cmd := exec.CommandContext(ctx, tool, "-", out, "-tar",
		"-comp", "zstd", "-Xcompression-level", "19", "-b", "256K",
		"-mkfs-time", seconds, "-all-time", seconds,
		"-root-mode", "755", "-root-uid", "0", "-root-gid", "0", "-root-time", seconds,
		"-no-xattrs", "-no-exports", "-noappend", "-no-recovery", "-exit-on-error", "-quiet", "-no-progress")
	// mksquashfs refuses time options when SOURCE_DATE_EPOCH is set too.
	cmd.Env = []string{"LC_ALL=C"}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", tool, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", tool, err)
	}
	tarErr := t.tar(in, mtime)
	in.Close()
	// When mksquashfs stops early, its own words explain the broken pipe.
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("%s: %w: %s", cmd, err, bytes.TrimSpace(said.Bytes()))
	}
	if tarErr != nil {
		return fmt.Errorf("stream the tree to %s: %w", tool, tarErr)
	}
	return nil
}

// tar writes the tree as a tar stream, sorted, parents first.
func (t *Tree) tar(w io.Writer, mtime time.Time) error {
	tw := tar.NewWriter(w)
	for _, e := range t.List() {
		h := tar.Header{Name: e.Path, Mode: int64(e.Mode.Perm()), Uid: e.UID, Gid: e.GID, ModTime: mtime.Truncate(time.Second)}
		if e.Mode&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		switch e.Mode.Type() {
		case 0:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(e.Data))
		case fs.ModeDir:
			h.Typeflag = tar.TypeDir
		case fs.ModeSymlink:
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.Target
		default:
			h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(e.Major), int64(e.Minor)
		}
		if err := tw.WriteHeader(&h); err != nil {
			return fmt.Errorf("%s from %s: %w", e.Path, e.From, err)
		}
		if _, err := tw.Write(e.Data); err != nil {
			return fmt.Errorf("%s from %s: %w", e.Path, e.From, err)
		}
	}
	return tw.Close()
}

// beside has write make a file in a fresh folder beside out and moves it to
// out, so that a build that was stopped leaves the old out or none.
func beside(out string, write func(tmp string) error) error {
	dir, err := os.MkdirTemp(filepath.Dir(out), "."+filepath.Base(out)+"-")
	if err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "new")
	if err := write(tmp); err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	if err := os.Rename(tmp, out); err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	return nil
}
