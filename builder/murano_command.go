package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/exosite/gwe/gweinit/durable"
	"github.com/exosite/gwe/gweinit/exosite/exositetest"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/broker"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/page"
	"github.com/exosite/gwe/gweinit/exosite/spec"
)

const muranoUsage = `Stands in for Exosite's cloud, for gateways and applications in development:
the device API by HTTP and MQTT, the management of products, content and serial
numbers, and a page that shows all of it. It runs until Ctrl-C.

What it keeps is in the -data folder: also ca.pem, the certificate that clients
have to trust, and owner, the credential of product management. Port 0 is any
free one; an empty address switches a listener off.

  builder murano
  builder murano -http 127.0.0.1:0 -https '' -mqtts '' -spec resources.yaml
  curl http://127.0.0.1:8080/timestamp
`

func muranoCommand(ctx context.Context, flags *flag.FlagSet, args []string) (err error) {
	httpAddr := flags.String("http", "127.0.0.1:8080", "`address` of the page, and of the API without TLS")
	httpsAddr := flags.String("https", "127.0.0.1:8443", "`address` of the API")
	mqttsAddr := flags.String("mqtts", "127.0.0.1:8883", "`address` of the API by MQTT")
	data := flags.String("data", "out/murano", "`folder` to keep everything in")
	specFile := flags.String("spec", "", "spec `file` with the resources of the devices (default: those of a gateway)")
	product := flags.String("product", exositetest.DefaultProduct, "`ID` of the product that is meant by hosts that are none's")
	owner := flags.String("owner", "", "`CIK` of product management (default: the one before, or a new one)")
	asJSON := flags.Bool("json", false, "print the addresses as JSON, then requests, one on each line")
	if err := parse(flags, args); err != nil {
		return err
	}
	var resources []spec.Resource
	if *specFile != "" {
		text, err := durable.ReadFile(*specFile, 1<<20)
		if err != nil {
			return err
		}
		if resources, err = spec.Parse(text); err != nil {
			return fmt.Errorf("%s: %w", *specFile, err)
		}
	}
	c, err := cloud.Open(cloud.Options{Dir: *data, Resources: resources, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return fmt.Errorf("take up the state in %s: %w", *data, err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if *owner != "" {
		if err := c.SetOwner(*owner); err != nil {
			return fmt.Errorf("-owner: %w", err)
		}
	}
	if err := durable.WriteFile(filepath.Join(*data, "owner"), []byte(c.Owner()+"\n"), 0o600); err != nil {
		return err
	}
	out := os.Stdout // which tests replace
	lines := make(queue, 1000)
	handler := slog.Handler(slog.NewTextHandler(lines, nil))
	if *asJSON {
		handler = slog.NewJSONHandler(lines, nil)
	}
	log := slog.New(handler)
	server, err := exositetest.Start(exositetest.Options{
		Cloud: c, Product: *product, HTTP: *httpAddr, HTTPS: *httpsAddr, Dir: *data, Log: log, Page: page.New(c, *product),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	mqtts := ""
	if *mqttsAddr != "" {
		b, err := broker.Start(server, *mqttsAddr, log)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.Close()) }()
		mqtts = b.Addr()
	}
	at := muranoAddresses{
		Product: *product, HTTP: server.HTTPAddr(), HTTPS: server.HTTPSAddr(), MQTTS: mqtts,
		CA: filepath.Join(*data, "ca.pem"), Owner: filepath.Join(*data, "owner"),
	}
	if err := at.print(out, *asJSON); err != nil {
		return err
	}
	go lines.print(out) // not before
	<-ctx.Done()
	return nil
}

// queue takes lines for a writer that may not take them: devices do not wait for
// a terminal that has been stopped. Too many are dropped.
type queue chan []byte

func (q queue) print(w io.Writer) {
	for line := range q {
		w.Write(line)
	}
}

func (q queue) Write(line []byte) (int, error) {
	select {
	case q <- slices.Clone(line):
	default:
	}
	return len(line), nil
}

// muranoAddresses is where the emulator is.
type muranoAddresses struct {
	Product string `json:"product"`
	HTTP    string `json:"http,omitempty"`
	HTTPS   string `json:"https,omitempty"`
	MQTTS   string `json:"mqtts,omitempty"`
	CA      string `json:"ca"`
	Owner   string `json:"owner"` // the file
}

func (a muranoAddresses) print(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(a)
	}
	text := "Exosite's emulator, with product " + a.Product + "\n"
	for _, line := range []struct{ name, before, address, after string }{
		{"page", "http://", a.HTTP, "/"}, {"http", "", a.HTTP, ""}, {"https", "", a.HTTPS, ", with certificates of " + a.CA},
		{"mqtts", "", a.MQTTS, ", likewise"}, {"owner", "", a.Owner, " has the credential of product management"},
	} {
		if line.address != "" {
			text += fmt.Sprintf("  %-6s %s%s%s\n", line.name, line.before, line.address, line.after)
		}
	}
	_, err := io.WriteString(out, text+"Ctrl-C ends it. Requests:\n")
	return err
}
