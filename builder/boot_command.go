package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/exosite/gwe/builder/board"
	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/builder/image"
	"github.com/exosite/gwe/builder/qemu"
)

const bootUsage = `The console is on the terminal; Ctrl-A x ends the machine. Without -image it
runs a copy of the built image, which keeps what the machine writes until the
image is built again.

Exit status: 0 if the machine printed what -until says, or was powered off
without -until; 3 if it did not print it; 1 for any other failure.

  builder boot -board qemu-arm64
  builder boot -board qemu-mipsel -m 64 -snapshot -until 'gweinit: ready' -timeout 60s
  builder boot -board qemu-arm64 -image card.img
  builder boot -board qemu-arm64 -provision provision.yaml
`

func bootCommand(ctx context.Context, flags *flag.FlagSet, args []string) error {
	name := flags.String("board", "", "`name` of the board")
	card := flags.String("image", "", "disk image `file` to run; the machine writes to it")
	until := flags.String("until", "", "end when the console has printed what matches this `regexp`")
	timeout := flags.Duration("timeout", 0, "end after this time (default: 2m with -until, else none)")
	memory := flags.Int("m", 0, "memory in `MB` (default: the board's)")
	snapshot := flags.Bool("snapshot", false, "forget what the machine writes")
	provision := flags.String("provision", "", "provision.yaml `file` to put on the boot partition before")
	out := flags.String("out", "out", "`folder` of the built images")
	if err := parse(flags, args); err != nil {
		return err
	}
	b, err := board.Load("boards", *name)
	if err != nil {
		return err
	}
	if _, err := regexp.Compile(*until); err != nil {
		return fmt.Errorf("-until: %w", err)
	}
	scratch, err := os.MkdirTemp("", "builder-boot-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	o := qemu.Options{
		Board: b, Image: *card, Memory: *memory, Snapshot: *snapshot, Scratch: scratch,
		UBoot: filepath.Join(*out, b.Name, image.UBootFile),
	}
	if o.Image == "" {
		built := filepath.Join(*out, b.Name+".img")
		if o.Image = built; !*snapshot {
			if o.Image, err = workingCopy(ctx, *out, b.Name); err != nil {
				return buildFirst(err, b.Name)
			}
		}
	}
	if *provision != "" {
		if *snapshot { // what is not to keep the machine's writes does not keep this one
			if o.Image, err = sparseCopy(ctx, o.Image, filepath.Join(scratch, "card.img")); err != nil {
				return err
			}
		}
		text, err := image.ReadProvision(*provision)
		if err != nil {
			return err
		}
		if err := disk.Provision(o.Image, text); err != nil {
			return err
		}
	}
	if *until == "" {
		return runOnTerminal(ctx, o, *timeout)
	}
	if *timeout == 0 {
		*timeout = 2 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	m, err := qemu.Start(ctx, o, os.Stdout)
	if err != nil {
		return err
	}
	defer m.Kill()
	go io.Copy(m, os.Stdin) // ends with the process
	seen, err := m.Expect(ctx, *until)
	fmt.Println()
	switch {
	case err == nil:
		fmt.Fprintf(os.Stderr, "builder boot: seen after %.1f s: %s\n", seen.After.Seconds(), seen.Groups[0])
		return nil
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted before the machine printed %q", *until)
	case errors.Is(err, qemu.ErrEnded):
		return fmt.Errorf("%w: %q: the machine has ended", errNotSeen, *until)
	}
	return fmt.Errorf("%w: %q within %v", errNotSeen, *until, *timeout)
}

// runOnTerminal gives the terminal to QEMU.
func runOnTerminal(ctx context.Context, o qemu.Options, timeout time.Duration) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	cmd, err := qemu.Command(ctx, o)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) && ctx.Err() == nil {
		return fmt.Errorf("%s: %w", filepath.Base(cmd.Path), err)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("the machine was ended: %w", ctx.Err())
	}
	return err
}

// workingCopy returns a copy of the board's image that the machine may write
// to. Its name has the image's hash: another image has another copy.
func workingCopy(ctx context.Context, out, board string) (string, error) {
	m, err := image.ReadManifest(filepath.Join(out, board+".json"))
	if err != nil {
		return "", err
	}
	path := filepath.Join(out, board, fmt.Sprintf("disk-%.12s.img", m.Image.SHA256))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	old, err := filepath.Glob(filepath.Join(out, board, "disk-*.img*"))
	if err != nil {
		return "", err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			return "", err
		}
	}
	if _, err := sparseCopy(ctx, filepath.Join(out, m.Image.Name), path+".tmp"); err != nil {
		return "", err
	}
	return path, os.Rename(path+".tmp", path)
}

// sparseCopy copies an image to a file, with its holes, which io.Copy fills.
func sparseCopy(ctx context.Context, image, to string) (string, error) {
	if msg, err := exec.CommandContext(ctx, "cp", "--sparse=always", image, to).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy the image: %w: %s", err, msg)
	}
	return to, nil
}
