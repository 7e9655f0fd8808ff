package exosite

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// ErrNotOwner is when a product may not be managed with the credential.
var ErrNotOwner = errors.New("the server does not take the credential for that of the product's owner: are both, and the host, the right ones?")

const managePath = "/provision/manage"

// Manage makes a call of the API's other side, where products are managed, for
// programs of their owner: the CIK is the owner's. path has the elements behind
// /provision/manage/, which get escaped. The call is a GET, or, with a form, a
// POST; name is what errors call it. The answer to it is one of 2xx, with this
// text. Errors: ErrNotOwner, others as a *StatusError.
func (c *Client) Manage(ctx context.Context, name string, path []string, form url.Values) (text string, err error) {
	var b strings.Builder
	b.WriteString(managePath)
	for _, element := range path {
		b.WriteByte('/')
		escape(&b, element)
	}
	k := call{name: name, method: http.MethodGet, path: b.String(), limit: 64 << 10}
	if form != nil {
		k.method, k.body = http.MethodPost, form.Encode()
	}
	err = c.do(ctx, &k, func(a answer) error {
		switch {
		case a.code/100 == 2:
			text = a.body
			return nil
		case a.code == http.StatusUnauthorized, a.code == http.StatusForbidden:
			return ErrNotOwner
		}
		return errStatus
	})
	return text, err
}
