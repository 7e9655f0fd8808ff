package page

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

type content struct {
	ID        string    `json:"id"`
	Type      string    `json:"type"`
	Meta      string    `json:"meta"`
	Size      int64     `json:"size"` // bytes
	Updated   time.Time `json:"updated"`
	Protected bool      `json:"protected"`
	Uploaded  bool      `json:"uploaded"`
}

func (p *page) listContents(w http.ResponseWriter, r *http.Request) error {
	list, err := p.cloud.Contents(p.product)
	if err != nil {
		return err
	}
	contents := []content{}
	for _, c := range list {
		contents = append(contents, content{c.ID, c.Type, c.Meta, c.Size, c.Updated, c.Protected, c.Uploaded})
	}
	return answer(w, http.StatusOK, map[string]any{"contents": contents, "now": p.cloud.Now()})
}

// upload makes the content if there is none; its meta information is only for
// that. Else it replaces the bytes.
func (p *page) upload(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	id := q.Get("id")
	err := p.cloud.CreateContent(p.product, id, q.Get("meta"), false)
	created := err == nil
	if err != nil && !errors.Is(err, cloud.ErrExists) {
		return err
	}
	kind := r.Header.Get("Content-Type")
	if kind == "" {
		kind = "application/octet-stream"
	}
	err = p.cloud.Upload(p.product, id, kind, r.Body)
	if err != nil && created {
		err = errors.Join(err, p.cloud.DeleteContent(p.product, id))
	}
	return done(w, err)
}

func (p *page) download(w http.ResponseWriter, r *http.Request) error {
	f, c, err := p.cloud.OpenContent(p.product, r.URL.Query().Get("id"))
	if err != nil {
		return err
	}
	defer f.Close()
	h := w.Header()
	// An upload may be a page with scripts: it is for saving, not for looking at.
	h.Set("Content-Security-Policy", policy+"; sandbox")
	h.Set("Content-Type", "application/octet-stream")
	disposition := mime.FormatMediaType("attachment", map[string]string{"filename": c.ID})
	if disposition == "" {
		return fmt.Errorf("content %s: %w as a file's name", c.ID, cloud.ErrInvalid)
	}
	h.Set("Content-Disposition", disposition)
	http.ServeContent(w, r, "", c.Updated, f)
	return nil
}

func (p *page) deleteContent(w http.ResponseWriter, r *http.Request) error {
	return done(w, p.cloud.DeleteContent(p.product, r.URL.Query().Get("id")))
}
