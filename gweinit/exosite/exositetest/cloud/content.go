package cloud

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// Content is a file that a product has for its devices.
type Content struct {
	ID        string
	Type      string // Content-Type
	Meta      string
	Size      int64
	Updated   time.Time
	Protected bool // devices don't see it
	Uploaded  bool // has bytes
	File      int64
}

// MaxContent is the longest content, in bytes.
const MaxContent = 4 << 30

// contentDir has the bytes, in files with numbers for names: IDs can be
// anything.
const contentDir = "content"

func (c *Cloud) fileName(number int64) string {
	return filepath.Join(c.dir, contentDir, strconv.FormatInt(number, 10))
}

func (c *Cloud) removeFile(content *Content) {
	if content.Uploaded {
		if err := os.Remove(c.fileName(content.File)); err != nil && !errors.Is(err, os.ErrNotExist) {
			c.log.Warn("a file that is not needed stays", "error", err)
		}
	}
}

// checkFiles makes files and what the journal says of them agree.
func (c *Cloud) checkFiles() {
	wanted := map[string]bool{}
	for id, p := range c.products {
		for _, content := range p.contents {
			if !content.Uploaded {
				continue
			}
			name := c.fileName(content.File)
			if info, err := os.Stat(name); err != nil || info.Size() != content.Size {
				c.log.Warn("content has lost its bytes and has to be uploaded again", "product", id, "content", content.ID, "error", err)
				content.Uploaded, content.Size = false, 0
				continue
			}
			wanted[filepath.Base(name)] = true
		}
	}
	entries, err := os.ReadDir(filepath.Join(c.dir, contentDir))
	if err != nil {
		c.log.Warn("the content's files cannot be listed", "error", err)
	}
	for _, e := range entries {
		if !wanted[e.Name()] {
			os.Remove(filepath.Join(c.dir, contentDir, e.Name()))
		}
	}
}

func (c *Cloud) content(product, id string) (*Content, error) {
	p, err := c.product(product)
	if err != nil {
		return nil, err
	}
	content := p.contents[id]
	if content == nil {
		return nil, fmt.Errorf("content %.64q of product %s: %w", id, product, ErrUnknown)
	}
	return content, nil
}

// Contents are those of a product, by ID.
func (c *Cloud) Contents(product string) ([]Content, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.product(product)
	if err != nil {
		return nil, err
	}
	var list []Content
	for _, content := range p.contents {
		list = append(list, *content)
	}
	slices.SortFunc(list, func(a, b Content) int { return cmp.Compare(a.ID, b.ID) })
	return list, nil
}

// ContentInfo has one of them.
func (c *Cloud) ContentInfo(product, id string) (Content, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	content, err := c.content(product, id)
	if err != nil {
		return Content{}, err
	}
	return *content, nil
}

// CreateContent makes an entry; its bytes come with Upload.
func (c *Cloud) CreateContent(product, id, meta string, protected bool) error {
	return c.change(func() (op, error) {
		p, err := c.product(product)
		switch {
		case err != nil:
			return op{}, err
		case id == "" || !isText(id):
			return op{}, fmt.Errorf("content %.64q: %w, want 1 to %d printable characters, no comma", id, ErrInvalid, maxText)
		case !isText(meta):
			return op{}, fmt.Errorf("meta information %.64q of content %s: %w, want at most %d printable characters, no comma", meta, id, ErrInvalid, maxText)
		case p.contents[id] != nil:
			return op{}, fmt.Errorf("content %s %w", id, ErrExists)
		}
		return op{Op: opContent, Product: product, Content: &Content{ID: id, Meta: meta, Protected: protected, Updated: c.now()}}, nil
	})
}

// Upload stores the bytes of an entry. If r fails, the ones it had stay.
func (c *Cloud) Upload(product, id, contentType string, r io.Reader) error {
	if _, err := c.ContentInfo(product, id); err != nil {
		return err
	}
	if !isText(contentType) {
		return fmt.Errorf("content type %.64q: %w", contentType, ErrInvalid)
	}
	f, err := os.CreateTemp(filepath.Join(c.dir, contentDir), "upload-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // if it has not got another name
	size, err := io.Copy(f, io.LimitReader(r, MaxContent+1))
	if err == nil && size > MaxContent {
		err = fmt.Errorf("more than %d bytes: %w", int64(MaxContent), ErrInvalid)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("upload content %s: %w", id, err)
	}
	return c.change(func() (op, error) {
		content, err := c.content(product, id) // may have been deleted meanwhile
		if err != nil {
			return op{}, err
		}
		next := *content
		c.lastFile++
		next.File, next.Size, next.Type, next.Updated, next.Uploaded = c.lastFile, size, contentType, c.now(), true
		if err := os.Rename(f.Name(), c.fileName(next.File)); err != nil {
			return op{}, err
		}
		return op{Op: opContent, Product: product, Content: &next}, syncDir(filepath.Join(c.dir, contentDir))
	})
}

// OpenContent has the bytes as they are now, whatever is uploaded later.
func (c *Cloud) OpenContent(product, id string) (*os.File, Content, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	content, err := c.content(product, id)
	if err != nil {
		return nil, Content{}, err
	}
	if !content.Uploaded {
		return nil, *content, fmt.Errorf("content %s has not been uploaded: %w", id, ErrUnknown)
	}
	f, err := os.Open(c.fileName(content.File))
	return f, *content, err
}

// DeleteContent deletes an entry and its bytes.
func (c *Cloud) DeleteContent(product, id string) error {
	return c.change(func() (op, error) {
		content, err := c.content(product, id)
		return op{Op: opNoContent, Product: product, Content: content}, err
	})
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
