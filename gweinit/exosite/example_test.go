package exosite_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
)

// newServer stands for Exosite's in these examples.
func newServer() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.RequestURI() {
		case "POST /provision/activate":
			fmt.Fprint(w, "0123456789abcdef0123456789abcdef01234567")
		case "GET /onep:v1/stack/alias?setpoint&unknown":
			fmt.Fprint(w, "setpoint=20.5")
		case "GET /onep:v1/stack/alias?command":
			if r.Header.Get("If-Modified-Since") != "" {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			w.Header().Set("Last-Modified", "Fri, 14 Jul 2017 02:40:00 GMT")
			fmt.Fprint(w, "command=blink")
		case "GET /provision/download?id=app.v1.tar.gz":
			w.Header().Set("Content-Type", "text/plain")
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader("0123456789"))
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}))
}

// An app reports a value with the gateway's credential.
func Example() {
	server := newServer() // Exosite's is a1b2c3d4e5f60000.m2.exosite.io or the like
	defer server.Close()

	c, err := exosite.New(exosite.Options{
		Server: server.URL,
		CIK:    "0123456789abcdef0123456789abcdef01234567", // what "gwe -C" prints
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Write(ctx, exosite.Value{Alias: "temperature", Value: "21.5"}); err != nil {
		log.Fatal(err)
	}
	values, err := c.Read(ctx, "setpoint", "unknown")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(values)
	// Output: map[setpoint:20.5]
}

// A device that is one of its own gets its credential once, and keeps it.
func ExampleClient_Activate() {
	server := newServer()
	defer server.Close()

	c, err := exosite.New(exosite.Options{Server: server.URL})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	cik, err := c.Activate(context.Background(), "00:2F:AC:43:55:A0")
	switch {
	case errors.Is(err, exosite.ErrUnknownDevice), errors.Is(err, exosite.ErrNotEnabled):
		fmt.Println("somebody has to add or enable it in the product; try again in five minutes")
	case err != nil:
		log.Fatal(err)
	default:
		fmt.Println("store it:", cik[:8]+"*")
	}
	// Output: store it: 01234567*
}

// An app waits for commands.
func ExampleClient_Wait() {
	server := newServer()
	defer server.Close()

	c, err := exosite.New(exosite.Options{Server: server.URL, CIK: "0123456789abcdef0123456789abcdef01234567"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	var seen time.Time // zero: from now on
	for range 2 {
		command, at, err := c.Wait(context.Background(), "command", seen, 5*time.Minute)
		if errors.Is(err, exosite.ErrNotModified) {
			fmt.Println("no other command yet")
			continue
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(command, "of", at.UTC())
		seen = at
	}
	// Output:
	// blink of 2017-07-14 02:40:00 +0000 UTC
	// no other command yet
}

// A download that ended early is taken up where it ended.
func ExampleClient_Content() {
	server := newServer()
	defer server.Close()

	c, err := exosite.New(exosite.Options{Server: server.URL, CIK: "0123456789abcdef0123456789abcdef01234567"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	have := int64(4) // bytes, from before
	content, err := c.Content(context.Background(), "app.v1.tar.gz", exosite.Range{From: have})
	if err != nil {
		log.Fatal(err)
	}
	defer content.Close()
	if !content.Partial {
		have = 0 // the server sends all of it
	}
	rest, err := io.ReadAll(content)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s from byte %d of %d\n", rest, content.Offset, content.Size)
	// Output: 456789 from byte 4 of 10
}
