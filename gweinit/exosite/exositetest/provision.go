package exositetest

import (
	"net/http"
	"slices"
	"strings"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// asNew finds out which device wants to be activated, for the log and for
// faults. What is malformed in it is told by activate.
func (s *Server) asNew(r *http.Request, x *exchange) error {
	product, sn, err := s.identity(r, x)
	x.Product, x.Serial = short(product), short(sn)
	return err
}

// identity reads the body of an activation: vendor, model and sn in the older
// form, id in the current one.
func (s *Server) identity(r *http.Request, x *exchange) (product, sn string, err error) {
	fields, err := x.form(r)
	if err != nil {
		return "", "", err
	}
	host, named := s.hostProduct(r)
	vendor, model, serial, id := value(fields, "vendor"), value(fields, "model"), value(fields, "sn"), value(fields, "id")
	switch {
	case serial == "" && id != "":
		return host, id, nil
	case serial == "":
		return "", "", wrong("no serial number: the body has to be vendor=PRODUCT&model=PRODUCT&sn=SERIAL, or id=SERIAL")
	case vendor == "" || model == "":
		return "", "", wrong("sn=%.64q: vendor and model are missing, both are the product's ID", serial)
	case vendor != model:
		return model, serial, refuse(http.StatusNotFound, "vendor %.64q is not model %.64q: both are the product's ID", vendor, model)
	case named && model != host:
		return model, serial, refuse(http.StatusNotFound, "model %.64q is not the product %.64q, which the Host %.80s names", model, host, r.Host)
	}
	return model, serial, nil
}

// value is the first one of a name, "" if there is none.
func value(fields []field, name string) string {
	for _, f := range fields {
		if f.name == name {
			return f.value
		}
	}
	return ""
}

func (s *Server) activate(w http.ResponseWriter, r *http.Request, x *exchange) error {
	product, sn, err := s.identity(r, x)
	if err != nil {
		return err
	}
	cik, err := s.cloud.Activate(product, sn, r.RemoteAddr, certificateOf(r))
	if err != nil {
		return err
	}
	x.CIK = cloud.Mask(cik)
	answer(w, http.StatusOK, plainType, cik)
	return nil
}

func downloadCall(r *http.Request) string {
	switch query := r.URL.Query(); {
	case query.Get("id") == "":
		return "contentlist"
	case isTrue(query.Get("info")):
		return "contentinfo"
	}
	return "content"
}

func isTrue(s string) bool { return strings.EqualFold(s, "true") || s == "1" }

// download is for devices: the list of content, information about one, and its
// bytes.
func (s *Server) download(w http.ResponseWriter, r *http.Request, x *exchange) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	product := x.device.Product()
	vendor, model := value(query, "vendor"), value(query, "model")
	if vendor != model {
		return refuse(http.StatusForbidden, "vendor %.64q is not model %.64q: both are the product's ID, or left out", vendor, model)
	}
	if model != "" && model != product {
		return refuse(http.StatusForbidden, "model %.64q: the device is one of product %s", model, product)
	}
	id := value(query, "id")
	if id == "" {
		contents, err := s.cloud.Contents(product)
		if err != nil {
			return err
		}
		contents = slices.DeleteFunc(contents, func(c cloud.Content) bool { return c.Protected })
		answer(w, http.StatusOK, csvType, listOf(contents))
		return nil
	}
	content, err := s.cloud.ContentInfo(product, id)
	switch {
	case err != nil:
		return err
	case content.Protected:
		return refuse(http.StatusForbidden, "content %.64q is protected", id)
	case x.Call == "contentinfo":
		answer(w, http.StatusOK, csvType, infoOf(content))
		return nil
	}
	return s.serveContent(w, r, product, id)
}

// parseQuery reads parameters in a URL.
func parseQuery(r *http.Request) ([]field, error) {
	query, err := parseForm(r.URL.RawQuery)
	if err != nil {
		return nil, wrong("query: %w", err)
	}
	return query, nil
}
