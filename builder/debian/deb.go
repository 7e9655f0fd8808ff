package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
)

// ErrStop, returned by a visitor, ends a Walk early and without an error.
const ErrStop = remedy("stop the walk")

// Walk calls visit for each member of a .deb file's data, in its order, but not for the root
// directory. Names, and the targets of hard links, have no leading "./" or "/". The reader is
// valid during the call. Names can still be hostile: a clean name never leads out of the root,
// but may pass through a symbolic link.
func Walk(ctx context.Context, deb string, visit func(h *tar.Header, r io.Reader) error) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("reading package %s: %w", deb, err)
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			err = fmt.Errorf("%s: %w", err, errNoDebian)
		}
		return fmt.Errorf("reading package %s: %w", deb, err)
	}
	readErr, visitErr := walkTar(out, visit)
	out.Close() // ends dpkg-deb and its children, should they still be writing
	waitErr := cmd.Wait()
	switch {
	case errors.Is(visitErr, ErrStop):
		return nil
	case visitErr != nil:
		return visitErr
	case ctx.Err() != nil:
		return fmt.Errorf("reading package %s: %w", deb, ctx.Err())
	case waitErr != nil && (readErr == nil || stderr.Len() > 0):
		return fmt.Errorf("reading package %s: dpkg-deb: %s: %w: delete the file to have it fetched again", deb, complaints(stderr.String()), waitErr)
	case readErr != nil:
		return fmt.Errorf("reading package %s: %w: delete the file to have it fetched again", deb, readErr)
	}
	return nil
}

func walkTar(in io.Reader, visit func(h *tar.Header, r io.Reader) error) (readErr, visitErr error) {
	clean := func(name string) string { return path.Clean("/" + name)[1:] }
	tr := tar.NewReader(in)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			_, err = io.Copy(io.Discard, in) // the padding: dpkg-deb shall write to its end
			return err, nil
		}
		if err != nil {
			return err, nil
		}
		if h.Name = clean(h.Name); h.Name == "" {
			continue
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = clean(h.Linkname)
		}
		if err := visit(h, tr); err != nil {
			return nil, err
		}
	}
}
