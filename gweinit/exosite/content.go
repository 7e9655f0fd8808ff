package exosite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Range is a part of a content, in bytes, like a slice of Go: Range{10, 20} is
// ten bytes. The zero Range is all of it.
type Range struct {
	From int64 // less than 0: the last -From bytes; To must be 0 then
	To   int64 // the first byte that is not in the range; 0: up to the end
}

// header is the range in HTTP, "" for all.
func (r Range) header() (string, error) {
	switch {
	case r == Range{}:
		return "", nil
	case r.From < 0 && r.To == 0:
		return "bytes=" + strconv.FormatInt(r.From, 10), nil
	case r.From < 0 || r.To < 0 || r.To != 0 && r.To <= r.From:
		return "", fmt.Errorf("there is no range from %d to %d", r.From, r.To)
	case r.To == 0:
		return fmt.Sprintf("bytes=%d-", r.From), nil
	}
	return fmt.Sprintf("bytes=%d-%d", r.From, r.To-1), nil
}

// matches tells whether bytes first to last, of size or -1, are what was asked
// for.
func (r Range) matches(first, last, size int64) bool {
	switch {
	case r == Range{}:
		return false // a part was not asked for
	case size < 0 && r.From < 0:
		return last-first+1 <= -r.From
	case size < 0:
		return first == r.From && (r.To == 0 || last < r.To)
	case r.From < 0:
		return first == max(size+r.From, 0) && last == size-1
	case r.To == 0 || r.To > size:
		return first == r.From && last == size-1
	}
	return first == r.From && last == r.To-1
}

// Content is what is downloaded. Reading it ends with io.EOF when all is there,
// and else with an error, io.ErrUnexpectedEOF for instance: ask for the rest, by
// its range, then. It has to be closed.
type Content struct {
	io.ReadCloser
	Offset  int64  // of the first byte, in the whole
	Size    int64  // of the whole; -1: unknown
	Type    string // MIME type
	Partial bool   // it is the range that was asked for; if not, it is the whole
}

// Content downloads a content, or a range of it. A server may answer with the
// whole to a range, see Content.Partial. What is read is not kept in memory;
// while reading, nothing is tried again; package download does that.
//
// If the server redirects, this is followed, three times at most, and to https
// only (from http also to http). Another host gets neither the CIK nor the
// device's certificate.
func (c *Client) Content(ctx context.Context, id string, r Range) (content *Content, err error) {
	bytes, err := r.header()
	if err == nil && id == "" {
		err = errors.New("the name is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("content on %s: %w", c.host, err)
	}
	k := call{name: "content", method: http.MethodGet, path: downloadPath, query: c.download(id)}
	k.header = func(h http.Header, _ int) {
		if bytes != "" {
			h["Range"] = []string{bytes}
		}
	}
	err = c.retry(ctx, &k, func(try int) (again bool, err error) {
		resp, u, err := c.follow(ctx, &k, try)
		if err != nil {
			return mayPass(err), err
		}
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
			defer resp.Body.Close()
			return passes(resp.StatusCode), c.statusError(&k, resp, u)
		}
		if content, err = newContent(resp, r); err != nil {
			resp.Body.Close()
			return false, err
		}
		content.ReadCloser.(*contentBody).what = fmt.Sprintf("content %s on %s", id, c.host)
		return false, nil
	})
	return content, err
}

// follow sends a request, and others to where the server says that it is. It
// returns the URL of the last of these, nil if there was no other.
func (c *Client) follow(ctx context.Context, k *call, try int) (resp *http.Response, u *url.URL, err error) {
	for range maxHops + 1 {
		if resp, err = c.send(ctx, k, try, u); err != nil {
			return nil, nil, err
		}
		switch resp.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			return resp, u, nil
		}
		resp.Body.Close()
		// Errors do not have the URL: it may be one that lets anybody download.
		next, err := url.Parse(resp.Header.Get("Location"))
		if err != nil || resp.Header.Get("Location") == "" {
			return nil, nil, &permanentError{errors.New("the server redirects to a malformed URL")}
		}
		if u == nil {
			u = &url.URL{Scheme: c.scheme, Host: c.host, Path: k.path}
		}
		next = u.ResolveReference(next)
		next.Fragment, next.Host = "", strings.ToLower(next.Host)
		if next.Scheme != "https" && next.Scheme != c.scheme || next.Host == "" || next.User != nil {
			return nil, nil, &permanentError{fmt.Errorf("the server redirects to %s://%s, which is not followed", next.Scheme, next.Host)}
		}
		u = next
	}
	return nil, nil, &permanentError{fmt.Errorf("the server redirects more than %d times", maxHops)}
}

// newContent checks the answer's header.
func newContent(resp *http.Response, r Range) (*Content, error) {
	content := &Content{Size: resp.ContentLength, Type: resp.Header.Get("Content-Type")}
	left := resp.ContentLength
	if resp.StatusCode == http.StatusPartialContent {
		first, last, size, err := parseContentRange(resp.Header.Get("Content-Range"))
		if err != nil {
			return nil, err
		}
		left = last - first + 1
		switch {
		case !r.matches(first, last, size):
			return nil, fmt.Errorf("the server sends bytes %d-%d of %d; asked for were %+v", first, last, size, r)
		case resp.ContentLength >= 0 && resp.ContentLength != left:
			return nil, fmt.Errorf("the server sends bytes %d-%d, and says that these are %d", first, last, resp.ContentLength)
		}
		content.Offset, content.Size, content.Partial = first, size, true
	}
	content.ReadCloser = &contentBody{ReadCloser: resp.Body, left: left}
	return content, nil
}

// contentBody is as long as the header said.
type contentBody struct {
	io.ReadCloser
	left int64 // bytes; less than 0: not known
	what string
}

func (b *contentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left >= 0 {
		if int64(n) > b.left {
			n, err = int(b.left), errors.New("the server sends more than it said")
		}
		b.left -= int64(n)
		if err == io.EOF && b.left > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%s: %w", b.what, err)
	}
	return n, err
}
