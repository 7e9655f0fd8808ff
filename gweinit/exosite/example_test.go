package exosite_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/exositetest"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
	"github.com/exosite/gwe/gweinit/exosite/spec"
)

// emulator stands for Exosite in these examples: a product whose devices have
// other resources than a gateway's.
func emulator() (s *exositetest.Server, url string, stop func()) {
	c, err := cloud.Open(cloud.Options{
		Resources: []spec.Resource{{Alias: "temperature", Format: "number"}, {Alias: "setpoint", Format: "number", Settable: true}, {Alias: "command", Settable: true}},
		Now:       func() time.Time { return time.Date(2026, 7, 14, 2, 40, 0, 0, time.UTC) },
	})
	if err != nil {
		log.Fatal(err)
	}
	s, err = exositetest.Start(exositetest.Options{Cloud: c, HTTP: "127.0.0.1:0"})
	if err != nil {
		log.Fatal(err)
	}
	s.AddDevice("GW-000123")
	return s, "http://" + s.HTTPAddr(), func() {
		s.Close()
		c.Close()
	}
}

// credential is that of the gateway.
func credential(s *exositetest.Server) string {
	cik, err := s.Cloud().Activate(s.Product(), "GW-000123", "", nil)
	if err != nil {
		log.Fatal(err)
	}
	return cik
}

// An app reports a value with the gateway's credential.
func Example() {
	server, url, stop := emulator() // Exosite's is a1b2c3d4e5f60000.m2.exosite.io or the like
	defer stop()
	server.Cloud().Set(server.Product(), "GW-000123", "setpoint", "20.5")

	c, err := exosite.New(exosite.Options{
		Server: url,
		CIK:    credential(server), // what "gwe -C" prints
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
	_, url, stop := emulator()
	defer stop()

	c, err := exosite.New(exosite.Options{Server: url})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	cik, err := c.Activate(context.Background(), "GW-000123")
	switch {
	case errors.Is(err, exosite.ErrUnknownDevice), errors.Is(err, exosite.ErrNotEnabled):
		fmt.Println("somebody has to add or enable it in the product; try again in five minutes")
	case err != nil:
		log.Fatal(err)
	default:
		fmt.Println("store it, all", len(cik), "characters")
	}
	// Output: store it, all 40 characters
}

// An app waits for commands.
func ExampleClient_Wait() {
	server, url, stop := emulator()
	defer stop()
	server.Cloud().Set(server.Product(), "GW-000123", "command", "blink")

	c, err := exosite.New(exosite.Options{Server: url, CIK: credential(server)})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	seen := time.Unix(0, 0) // a zero Time: what is written from now on
	for range 2 {
		command, at, err := c.Wait(context.Background(), "command", seen, time.Second)
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
	// blink of 2026-07-14 02:40:00 +0000 UTC
	// no other command yet
}

// A download that ended early is taken up where it ended.
func ExampleClient_Content() {
	server, url, stop := emulator()
	defer stop()
	server.Cloud().CreateContent(server.Product(), "app.v1.tar.gz", "", false)
	server.Cloud().Upload(server.Product(), "app.v1.tar.gz", "text/plain", strings.NewReader("0123456789"))

	c, err := exosite.New(exosite.Options{Server: url, CIK: credential(server)})
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
