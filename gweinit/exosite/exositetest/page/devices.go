package page

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// device is what the page sees of one.
type device struct {
	SN        string           `json:"sn"`
	Extra     string           `json:"extra,omitzero"`
	RID       string           `json:"rid,omitzero"`
	Status    cloud.Status     `json:"status"`
	CIK       string           `json:"cik,omitzero"` // the first 8 characters and *
	Activated time.Time        `json:"activated,omitzero"`
	Seen      time.Time        `json:"seen,omitzero"`
	Reports   map[string]point `json:"reports,omitzero"` // the newest ones, by alias
	Log       []entry          `json:"log,omitzero"`
}

type point struct {
	Time  time.Time `json:"time"`
	Value string    `json:"value"`
}

type entry struct {
	Time time.Time `json:"time"`
	From string    `json:"from"`
	Text string    `json:"text"`
}

func deviceOf(i cloud.DeviceInfo) device {
	return device{SN: i.SN, Extra: i.Extra, RID: i.RID, Status: i.Status, CIK: cloud.Mask(i.CIK), Activated: i.Activated, Seen: i.Seen}
}

// maxLimit is the number of devices in one answer.
const maxLimit = 200

// inList are the reports that the list of devices tells something of, and
// maxInList is the longest such report that comes with the list, in bytes. The
// page reads them itself: it can, as it shows them whole for a single device.
var inList = []string{"engine_report", "device_info"}

const maxInList = 16 << 10

// listDevices has those that match a filter, from offset on.
func (p *page) listDevices(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	offset, err := number(q.Get("offset"), 0)
	if err != nil {
		return fmt.Errorf("offset %w", err)
	}
	limit, err := number(q.Get("limit"), 50)
	if err != nil {
		return fmt.Errorf("limit %w", err)
	}
	all := p.cloud.Devices(p.product)
	list := matching(all, q.Get("filter"))
	switch sort := q.Get("sort"); sort {
	case "", "sn":
	case "seen": // the newest first
		slices.SortStableFunc(list, func(a, b cloud.DeviceInfo) int { return b.Seen.Compare(a.Seen) })
	case "status":
		slices.SortStableFunc(list, func(a, b cloud.DeviceInfo) int { return cmp.Compare(a.Status, b.Status) })
	default:
		return fmt.Errorf("sort by %.40q: %w, want sn, seen or status", sort, cloud.ErrInvalid)
	}
	found := len(list)
	list = list[min(offset, found):]
	list = list[:min(limit, maxLimit, len(list))]
	devices := []device{}
	for _, i := range list {
		d := deviceOf(i)
		d.Reports = map[string]point{}
		for _, alias := range inList {
			// Products that are not for gateways, and devices that were removed just
			// now, have none.
			points, _ := p.cloud.History(p.product, i.SN, alias)
			if len(points) == 0 {
				continue
			}
			if newest := points[len(points)-1]; len(newest.Value) <= maxInList {
				d.Reports[alias] = point{newest.Time, newest.Value}
			}
		}
		devices = append(devices, d)
	}
	return answer(w, http.StatusOK, map[string]any{"total": len(all), "found": found, "offset": offset, "devices": devices, "now": p.cloud.Now()})
}

func number(s string, missing int) (int, error) {
	if s == "" {
		return missing, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%.40q: %w, want a number from 0 on", s, cloud.ErrInvalid)
	}
	return n, nil
}

// matching are the devices with the text in what the list shows of them.
func matching(list []cloud.DeviceInfo, text string) []cloud.DeviceInfo {
	text = strings.ToLower(strings.TrimSpace(text))
	if text == "" {
		return list
	}
	var found []cloud.DeviceInfo
	for _, i := range list {
		for _, s := range []string{i.SN, i.Extra, string(i.Status)} {
			if strings.Contains(strings.ToLower(s), text) {
				found = append(found, i)
				break
			}
		}
	}
	return found
}

// addDevice adds a serial number and allows its activation.
func (p *page) addDevice(w http.ResponseWriter, r *http.Request) error {
	var o struct {
		SN    string `json:"sn"`
		Extra string `json:"extra"`
	}
	if err := decode(w, r, &o); err != nil {
		return err
	}
	if err := p.cloud.AddSerials(p.product, cloud.Serial{SN: o.SN, Extra: o.Extra}); err != nil {
		return err
	}
	return done(w, p.cloud.Enable(p.product, o.SN, r.RemoteAddr))
}

type serials struct {
	SN []string `json:"sn"`
}

func (p *page) enable(w http.ResponseWriter, r *http.Request) error {
	return p.each(w, r, p.cloud.Enable)
}

func (p *page) disable(w http.ResponseWriter, r *http.Request) error {
	return p.each(w, r, p.cloud.Disable)
}

// each changes all devices that it can.
func (p *page) each(w http.ResponseWriter, r *http.Request, change func(product, sn, from string) error) error {
	var o serials
	if err := decode(w, r, &o); err != nil {
		return err
	}
	var failed []error
	for _, sn := range o.SN {
		if err := change(p.product, sn, r.RemoteAddr); err != nil {
			failed = append(failed, err)
		}
	}
	return done(w, errors.Join(failed...))
}

// remove removes all devices or none.
func (p *page) remove(w http.ResponseWriter, r *http.Request) error {
	var o serials
	if err := decode(w, r, &o); err != nil {
		return err
	}
	return done(w, p.cloud.RemoveSerials(p.product, o.SN...))
}

// showDevice has a device without its resources.
func (p *page) showDevice(w http.ResponseWriter, r *http.Request) error {
	sn := r.URL.Query().Get("sn")
	i, err := p.cloud.Device(p.product, sn)
	if err != nil {
		return err
	}
	log, err := p.cloud.Log(p.product, sn)
	if err != nil {
		return err
	}
	d := deviceOf(i)
	for _, e := range log {
		d.Log = append(d.Log, entry(e))
	}
	return answer(w, http.StatusOK, map[string]any{"device": d, "now": p.cloud.Now()})
}

// showHistory has what is kept of a resource, oldest first.
func (p *page) showHistory(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	history, err := p.cloud.History(p.product, q.Get("sn"), q.Get("alias"))
	if err != nil {
		return err
	}
	points := make([]point, len(history))
	for i, h := range history {
		points[i] = point{h.Time, h.Value}
	}
	return answer(w, http.StatusOK, map[string]any{"points": points})
}

// setValue writes a settable resource, as the product's side does.
func (p *page) setValue(w http.ResponseWriter, r *http.Request) error {
	value, err := io.ReadAll(http.MaxBytesReader(w, r.Body, cloud.MaxValue))
	if err != nil {
		return fmt.Errorf("the value: %w", err)
	}
	q := r.URL.Query()
	return done(w, p.cloud.Set(p.product, q.Get("sn"), q.Get("alias"), string(value)))
}
