package exositetest

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

func listOf(contents []cloud.Content) string {
	rows := make([][]string, len(contents))
	for i, c := range contents {
		rows[i] = []string{c.ID}
	}
	return formatCSV(rows...)
}

// infoOf is "<type>,<size>,<updated>,<meta>", without a line's end: clients of
// the older generation take the rest as the meta information.
func infoOf(c cloud.Content, more ...string) string {
	row := append([]string{c.Type, strconv.FormatInt(c.Size, 10), strconv.FormatInt(c.Updated.Unix(), 10), c.Meta}, more...)
	return oneLine(row...)
}

func oneLine(row ...string) string {
	line := formatCSV(row)
	return line[:len(line)-1]
}

// serveContent sends the bytes, or the range of them that is asked for.
func (s *Server) serveContent(w http.ResponseWriter, r *http.Request, product, id string) error {
	f, content, err := s.cloud.OpenContent(product, id)
	if err != nil {
		return err
	}
	defer f.Close()
	contentType := content.Type
	if contentType == "" {
		contentType = "application/octet-stream" // not a guess by net/http
	}
	w.Header().Set("Content-Type", contentType)
	http.ServeContent(w, r, "", content.Updated, f)
	return nil
}

// The owner's side.

func (s *Server) listContent(w http.ResponseWriter, r *http.Request, x *exchange) error {
	contents, err := s.cloud.Contents(modelOf(r))
	if err != nil {
		return err
	}
	answerList(w, listOf(contents))
	return nil
}

// changeContent makes an entry, or deletes one.
func (s *Server) changeContent(w http.ResponseWriter, r *http.Request, x *exchange) error {
	fields, err := x.form(r)
	if err != nil {
		return err
	}
	id, meta := value(fields, "id"), value(fields, "meta")
	if meta == "" {
		meta = value(fields, "description") // as the older generation's tools have it
	}
	switch {
	case id == "":
		return wrong("no id: want id=NAME&meta=TEXT, or delete=true&id=NAME")
	case isTrue(value(fields, "delete")):
		err = s.cloud.DeleteContent(modelOf(r), id)
	default:
		err = s.cloud.CreateContent(modelOf(r), id, meta, isTrue(value(fields, "protected")))
	}
	return done(w, err)
}

// ownContent has information about content, or its bytes.
func (s *Server) ownContent(w http.ResponseWriter, r *http.Request, x *exchange) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	if isTrue(value(query, "download")) {
		return s.serveContent(w, r, modelOf(r), r.PathValue("id"))
	}
	content, err := s.cloud.ContentInfo(modelOf(r), r.PathValue("id"))
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, csvType, infoOf(content, strconv.FormatBool(content.Protected)))
	return nil
}

func (s *Server) upload(w http.ResponseWriter, r *http.Request, x *exchange) error {
	if r.ContentLength > cloud.MaxContent {
		return &http.MaxBytesError{Limit: cloud.MaxContent}
	}
	body := &source{Reader: http.MaxBytesReader(w, r.Body, cloud.MaxContent)}
	err := s.cloud.Upload(modelOf(r), r.PathValue("id"), r.Header.Get("Content-Type"), body)
	var tooLong *http.MaxBytesError
	if body.err != nil && !errors.As(body.err, &tooLong) {
		return wrong("the content has not come to its end, what was there before stays: %w", body.err)
	}
	return done(w, err)
}

// source tells the failure of a client from one of the disk.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func (s *Server) deleteContent(w http.ResponseWriter, r *http.Request, x *exchange) error {
	return done(w, s.cloud.DeleteContent(modelOf(r), r.PathValue("id")))
}
