// Package page is the emulator's web page: a product's devices with their
// reports, their commands, and the product's content, for people who write
// apps or build gateways. It shows what cloud has, as it changes.
//
// The page is static and works without another host. It gets its data as JSON
// from below /page/.
package page

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

//go:embed web
var web embed.FS

// types are those of the files in web. What the machine has for them doesn't
// count: browsers take scripts of the right type only.
var types = map[string]string{
	".css":  "text/css; charset=utf-8",
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// policy lets the page use what it brings along and nothing else. Devices and
// uploads say what they like: with trusted types even a mistake of ours can't
// make markup or code of it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

type page struct {
	cloud   *cloud.Cloud
	product string
	pace    time.Duration // between messages with changes
	beat    time.Duration // between messages without one
}

// New makes the page of a product. It answers at / and below /page/. Who may
// use it is for the server to check: it shows and changes everything, but CIKs
// only by their first 8 characters.
func New(c *cloud.Cloud, product string) http.Handler {
	return (&page{cloud: c, product: product, pace: 250 * time.Millisecond, beat: 15 * time.Second}).handler()
}

func (p *page) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", file("index.html"))
	entries, err := web.ReadDir("web")
	if err != nil {
		panic(err) // of what is built in
	}
	for _, e := range entries {
		mux.Handle("GET /page/"+e.Name(), file(e.Name()))
	}
	for pattern, c := range map[string]call{
		"GET /page/product":          p.showProduct,
		"GET /page/devices":          p.listDevices,
		"POST /page/devices":         p.addDevice,
		"POST /page/devices/enable":  p.enable,
		"POST /page/devices/disable": p.disable,
		"POST /page/devices/remove":  p.remove,
		"GET /page/device":           p.showDevice,
		"GET /page/history":          p.showHistory,
		"PUT /page/value":            p.setValue,
		"GET /page/contents":         p.listContents,
		"GET /page/content":          p.download,
		"PUT /page/content":          p.upload,
		"DELETE /page/content":       p.deleteContent,
		"GET /page/events":           p.follow,
	} {
		mux.Handle(pattern, c)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	})
}

func file(name string) http.Handler {
	data, err := web.ReadFile("web/" + name)
	if err != nil {
		panic(err) // of what is built in
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", types[path.Ext(name)])
		w.Write(data)
	})
}

// call is a handler whose errors are the answer.
type call func(w http.ResponseWriter, r *http.Request) error

func (f call) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := f(w, r)
	if err == nil {
		return
	}
	code := http.StatusInternalServerError
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		code = http.StatusRequestEntityTooLarge
	case errors.Is(err, cloud.ErrUnknown):
		code = http.StatusNotFound
	case errors.Is(err, cloud.ErrExists):
		code = http.StatusConflict
	case errors.Is(err, cloud.ErrForbidden):
		code = http.StatusForbidden
	case errors.Is(err, cloud.ErrInvalid):
		code = http.StatusBadRequest
	}
	answer(w, code, map[string]string{"error": err.Error()})
}

func answer(w http.ResponseWriter, code int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v) // an error is the browser's, which has gone
	return nil
}

// done is the answer to a change.
func done(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

// maxRequest is that of JSON, in bytes: the serial numbers of a page full of
// devices fit.
const maxRequest = 256 << 10

func decode(w http.ResponseWriter, r *http.Request, v any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("the request's JSON: %w: %w", cloud.ErrInvalid, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("the request's JSON: %w: there is something behind it", cloud.ErrInvalid)
	}
	return nil
}

type resource struct {
	Alias    string `json:"alias"`
	Format   string `json:"format"`
	Settable bool   `json:"settable"`
}

func (p *page) showProduct(w http.ResponseWriter, r *http.Request) error {
	var resources []resource
	for _, r := range p.cloud.Resources() {
		resources = append(resources, resource{r.Alias, r.Format, r.Settable})
	}
	return answer(w, http.StatusOK, map[string]any{"product": p.product, "resources": resources})
}
