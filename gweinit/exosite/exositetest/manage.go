package exositetest

import (
	"crypto/subtle"
	"net/http"
	"strconv"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// asOwner checks the credential of the product's side.
func (s *Server) asOwner(r *http.Request, x *exchange) error {
	x.Product, x.Serial = short(r.PathValue("model")), short(r.PathValue("sn"))
	header := "X-Exosite-CIK"
	key := r.Header.Get(header)
	if key == "" {
		header = "X-Exosite-Token"
		key = r.Header.Get(header)
	}
	if key == "" {
		return refuse(http.StatusUnauthorized, "no credential: want the owner's in a header X-Exosite-CIK or X-Exosite-Token")
	}
	x.CIK = cloud.Mask(key)
	if subtle.ConstantTimeCompare([]byte(key), []byte(s.cloud.Owner())) == 0 {
		return refuse(http.StatusForbidden, "%s: %s is not the owner's", header, x.CIK)
	}
	return nil
}

// modelOf is the product that a path names.
func modelOf(r *http.Request) string { return r.PathValue("model") }

// done answers a change.
func done(w http.ResponseWriter, err error) error {
	if err == nil {
		answer(w, http.StatusResetContent, "", "")
	}
	return err
}

// answerList answers with lines, of which there may be none.
func answerList(w http.ResponseWriter, lines string) {
	if lines == "" {
		answer(w, http.StatusNoContent, "", "")
		return
	}
	answer(w, http.StatusOK, csvType, lines)
}

// known is the error for a product that is not there.
func (s *Server) known(product string) error {
	_, err := s.cloud.Contents(product)
	return err
}

// Models are products.

func (s *Server) listModels(w http.ResponseWriter, r *http.Request, x *exchange) error {
	var rows [][]string
	for _, id := range s.cloud.Products() {
		rows = append(rows, []string{id})
	}
	answerList(w, formatCSV(rows...))
	return nil
}

// changeModels makes a product, or deletes one.
func (s *Server) changeModels(w http.ResponseWriter, r *http.Request, x *exchange) error {
	fields, err := x.form(r)
	if err != nil {
		return err
	}
	model := value(fields, "model")
	x.Product = short(model)
	switch {
	case model == "":
		return wrong("no model: want model=ID, or delete=true&model=ID")
	case isTrue(value(fields, "delete")):
		err = s.cloud.DeleteProduct(model)
	default:
		err = s.cloud.CreateProduct(model)
	}
	return done(w, err)
}

// modelInfo has the model's template and options in Exosite's form. Here all
// devices have the same resources, so that there is one template, without a name.
func (s *Server) modelInfo(w http.ResponseWriter, r *http.Request, x *exchange) error {
	if err := s.known(modelOf(r)); err != nil {
		return err
	}
	answer(w, http.StatusOK, formType, "rid=")
	return nil
}

// updateModel takes a template and options, and has no use for them.
func (s *Server) updateModel(w http.ResponseWriter, r *http.Request, x *exchange) error {
	if _, err := x.form(r); err != nil {
		return err
	}
	return done(w, s.known(modelOf(r)))
}

func (s *Server) deleteModel(w http.ResponseWriter, r *http.Request, x *exchange) error {
	return done(w, s.cloud.DeleteProduct(modelOf(r)))
}

const minLimit, maxLimit = 5, 1000 // lines of a list

func (s *Server) listSerials(w http.ResponseWriter, r *http.Request, x *exchange) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	offset, err := number(query, "offset", 0)
	if err != nil {
		return err
	}
	limit, err := number(query, "limit", maxLimit)
	if err != nil {
		return err
	}
	if err := s.known(modelOf(r)); err != nil {
		return err
	}
	devices := s.cloud.Devices(modelOf(r))
	devices = devices[min(offset, len(devices)):]
	devices = devices[:min(max(limit, minLimit), maxLimit, len(devices))]
	rows := make([][]string, len(devices))
	for i, d := range devices {
		rows[i] = []string{d.SN, d.RID, d.Extra}
		if isTrue(value(query, "status")) {
			rows[i] = append(rows[i], string(d.Status))
		}
	}
	answerList(w, formatCSV(rows...))
	return nil
}

func number(query []field, name string, otherwise int) (int, error) {
	text := value(query, name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, wrong("%s=%.20q: want a number, 0 or more", name, text)
	}
	return int(n), nil
}

// changeSerials adds serial numbers, or removes some.
func (s *Server) changeSerials(w http.ResponseWriter, r *http.Request, x *exchange) error {
	if checkType(r, "text/csv") == nil && r.Header.Get("Content-Type") != "" {
		serials, err := parseSerials(x.body)
		if err != nil {
			return err
		}
		return done(w, s.cloud.AddSerials(modelOf(r), serials...))
	}
	fields, err := x.form(r)
	if err != nil {
		return err
	}
	var sns []string
	for _, f := range fields {
		if (f.name == "sn" || f.name == "sn[]") && f.value != "" {
			sns = append(sns, f.value)
		}
	}
	if len(sns) == 0 {
		return wrong("no serial numbers: want add=true&sn=SN&extra=TEXT, add=true&sn[]=SN&sn[]=SN, the same with remove=true, or lines of SN,EXTRA as text/csv")
	}
	x.Serial = short(sns[0])
	if isTrue(value(fields, "remove")) || isTrue(value(fields, "delete")) {
		return done(w, s.cloud.RemoveSerials(modelOf(r), sns...))
	}
	serials := make([]cloud.Serial, len(sns))
	for i, sn := range sns {
		serials[i] = cloud.Serial{SN: sn, Extra: value(fields, "extra")}
	}
	return done(w, s.cloud.AddSerials(modelOf(r), serials...))
}

// removeSerials removes those on the lines of the body.
func (s *Server) removeSerials(w http.ResponseWriter, r *http.Request, x *exchange) error {
	if err := checkType(r, "text/csv"); err != nil {
		return err
	}
	serials, err := parseSerials(x.body)
	if err != nil {
		return err
	}
	sns := make([]string, len(serials))
	for i, serial := range serials {
		sns[i] = serial.SN
	}
	return done(w, s.cloud.RemoveSerials(modelOf(r), sns...))
}

// serialInfo has what is known of a serial number, or what happened to it.
func (s *Server) serialInfo(w http.ResponseWriter, r *http.Request, x *exchange) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	switch show := value(query, "show"); show {
	case "":
		device, err := s.cloud.Device(modelOf(r), r.PathValue("sn"))
		if err != nil {
			return err
		}
		if device.Status == cloud.Unused {
			answer(w, http.StatusNoContent, "", "")
			return nil
		}
		answer(w, http.StatusOK, csvType, oneLine(string(device.Status), device.RID, device.Extra))
	case "log":
		entries, err := s.cloud.Log(modelOf(r), r.PathValue("sn"))
		if err != nil {
			return err
		}
		rows := make([][]string, len(entries))
		for i, e := range entries {
			rows[i] = []string{strconv.FormatInt(e.Time.Unix(), 10), e.From, e.Text}
		}
		answerList(w, formatCSV(rows...))
	default:
		return wrong("show=%.20q: want log, or nothing", show)
	}
	return nil
}

// changeSerial enables or disables a device.
func (s *Server) changeSerial(w http.ResponseWriter, r *http.Request, x *exchange) error {
	fields, err := x.form(r)
	if err != nil {
		return err
	}
	sn := r.PathValue("sn")
	enable, disable, old := isTrue(value(fields, "enable")), isTrue(value(fields, "disable")), value(fields, "oldsn")
	switch {
	case enable == disable:
		return wrong("want one of enable=true, enable=true&oldsn=SN, and disable=true")
	case disable:
		return done(w, s.cloud.Disable(modelOf(r), sn, r.RemoteAddr))
	case old != "":
		return done(w, s.cloud.Replace(modelOf(r), sn, old, r.RemoteAddr))
	case value(fields, "owner") != "":
		return s.createClient(w, r, x, sn)
	}
	return done(w, s.cloud.Enable(modelOf(r), sn, r.RemoteAddr))
}

// createClient enables a device for the first time, and tells its client's RID.
func (s *Server) createClient(w http.ResponseWriter, r *http.Request, x *exchange, sn string) error {
	device, err := s.cloud.Device(modelOf(r), sn)
	if err == nil && device.RID != "" {
		return refuse(http.StatusConflict, "serial number %.64q has a client already: enable it without owner", sn)
	}
	if err == nil {
		err = s.cloud.Enable(modelOf(r), sn, r.RemoteAddr)
	}
	if err == nil {
		device, err = s.cloud.Device(modelOf(r), sn)
	}
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, csvType, device.RID)
	return nil
}

func (s *Server) removeSerial(w http.ResponseWriter, r *http.Request, x *exchange) error {
	return done(w, s.cloud.RemoveSerials(modelOf(r), r.PathValue("sn")))
}
