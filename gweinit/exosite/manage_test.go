package exosite_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/exosite"
)

func TestManage(t *testing.T) {
	const owner = "abcdefghijklmnopqrstuvwxyz0123456789ABCD"
	seen, status, answer := "", 0, ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		seen = r.Method + " " + r.RequestURI + " " + r.PostForm.Encode()
		if r.Header.Get("X-Exosite-CIK") != owner {
			t.Errorf("%s: %v", seen, r.Header)
		}
		w.WriteHeader(status)
		w.Write([]byte(answer))
	}))
	defer s.Close()
	c := newClient(t, exosite.Options{Server: s.URL, CIK: owner, Tries: 1})
	for _, tt := range []struct {
		path   []string
		form   url.Values
		status int
		answer string
		seen   string
		err    string
	}{
		{[]string{"model", "p", "a:b@c/d?e %"}, nil, 200, "activated,r,", "GET /provision/manage/model/p/a%3Ab%40c%2Fd%3Fe%20%25 ", ""},
		{[]string{"model", "p", ""}, url.Values{"add": {"true"}, "sn": {"a:b&c"}}, 205, "", "POST /provision/manage/model/p/ add=true&sn=a%3Ab%26c", ""},
		{[]string{"model"}, url.Values{}, 204, "", "POST /provision/manage/model ", ""},
		{[]string{"model"}, nil, 401, owner, "GET /provision/manage/model ", exosite.ErrNotOwner.Error()},
		{[]string{"model"}, nil, 403, owner, "GET /provision/manage/model ", exosite.ErrNotOwner.Error()},
		{[]string{"model"}, nil, 409, "clash of " + owner, "GET /provision/manage/model ", `409 Conflict: it clashes with what is there; the server says: "clash of abcdefgh*"`},
		{[]string{"model"}, nil, 500, owner, "GET /provision/manage/model ", "500"},
		{[]string{"model"}, nil, 302, "", "GET /provision/manage/model ", "302"},
	} {
		status, answer = tt.status, tt.answer
		text, err := c.Manage(t.Context(), "ask", tt.path, tt.form)
		if seen != tt.seen || err == nil && text != tt.answer {
			t.Errorf("%v: %q, %q", tt, seen, text)
		}
		if (err == nil) != (tt.err == "") || err != nil && (!strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), owner) || !strings.HasPrefix(err.Error(), "ask on ")) {
			t.Errorf("%v: %v", tt, err)
		}
		if errors.Is(err, exosite.ErrNotOwner) != (tt.status == 401 || tt.status == 403) {
			t.Errorf("%v: %v", tt, err)
		}
	}
}
