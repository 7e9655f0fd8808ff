// Package product tells Exosite, as the owner of a product, which devices may be
// activated.
package product

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/exosite"
)

// Owner is the owner of a product.
type Owner struct {
	client  *exosite.Client
	product string
}

// limit is for all that is to be done for one serial number: a production line
// waits for it.
const limit = 2 * time.Minute

// ReadCredential reads the owner's credential, a CIK. No error has it.
func ReadCredential(file string) (string, error) {
	f, err := os.Open(file) // may be a pipe, from where such secrets are kept
	if err != nil {
		return "", fmt.Errorf("the owner's credential: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<10))
	if err != nil {
		return "", fmt.Errorf("the owner's credential: %w", err)
	}
	cik := strings.TrimSpace(string(text))
	if !exosite.IsCIK(cik) {
		return "", fmt.Errorf("the owner's credential: %s does not have 40 letters and digits, and nothing else", file)
	}
	return cik, nil
}

// New returns the owner, with this credential, of the product that gateways with
// these settings are of, at the server that they talk to.
func New(p config.Provision, cik string) (*Owner, error) {
	if p.Product == "" {
		return nil, errors.New("the settings have no product, whose serial numbers these are: set it in provision.yaml")
	}
	o := exosite.Options{Server: cmp.Or(p.Exosite.Host, exosite.ServerOf(p.Product)), CIK: cik} // as the gateway's engine has it
	if p.Exosite.CA != "" {
		o.Trust = &exosite.Trust{Roots: x509.NewCertPool()}
		if !o.Trust.Roots.AppendCertsFromPEM([]byte(p.Exosite.CA)) {
			return nil, errors.New("exosite.ca of the settings has no certificate")
		}
	}
	client, err := exosite.New(o)
	if err != nil {
		return nil, err
	}
	return &Owner{client, p.Product}, nil
}

// ErrActivated is when a device with this serial number has its credential already.
var ErrActivated = errors.New("a unit with this serial number is activated already: find out which one has it by right before it is enabled")

// Enable lets a device with this serial number be activated once, and adds it to
// the product before if it is not there. If it has a credential already, the error is
// ErrActivated, unless this is to be done again: then that does not count any more.
// done says what was done, for a person.
func (o *Owner) Enable(ctx context.Context, serial string, again bool) (done string, err error) {
	if !config.IsSerial(serial) {
		return "", fmt.Errorf("enable %.64q: want a serial number as in provision.yaml: letters, digits and -._:@", serial)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	device := []string{"model", o.product, serial}
	status, err := o.client.Manage(ctx, "look up "+serial, device, nil)
	status, _, _ = strings.Cut(strings.TrimSpace(status), ",") // RID and more
	switch {
	case isStatus(err, http.StatusNotFound):
		add := url.Values{"add": {"true"}, "sn": {serial}}
		_, err = o.client.Manage(ctx, "add "+serial+" to product "+o.product, []string{"model", o.product, ""}, add)
		if err != nil && !isStatus(err, http.StatusConflict) { // it is there: the first answer got lost
			return "", err
		}
		done = "added and enabled"
	case err != nil:
		return "", err
	case status == "": // nobody has used it
		done = "enabled"
	case status == "activated" && !again:
		return "", ErrActivated
	case status == "activated":
		done = "enabled again: its old credential no longer counts"
	case status == "notactivated":
		done = "enabled again: it was not activated yet"
	default: // disabled, expired
		done = fmt.Sprintf("enabled again: it was %.20q", status)
	}
	if _, err = o.client.Manage(ctx, "enable "+serial, device, url.Values{"enable": {"true"}}); err != nil {
		return "", err
	}
	return done, nil
}

// isStatus tells whether the server has answered with this status.
func isStatus(err error, code int) bool {
	status := (*exosite.StatusError)(nil)
	return errors.As(err, &status) && status.Code == code
}
