// Command sine is an app in Go: it writes a sine wave to the resource "sine", as
// the gateway that it runs on.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/gateway"
)

func main() {
	every := flag.Duration("every", 10*time.Second, "`time` between two values")
	period := flag.Duration("period", 5*time.Minute, "`time` of a whole wave")
	alias := flag.String("alias", "sine", "`resource` that is written to")
	flag.Parse()
	if *every < time.Second || *period <= 0 {
		fmt.Fprintln(os.Stderr, "sine: -every is at least 1s, and -period more than 0")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r := reporter{root: os.Getenv("GWE_ROOT"), log: os.Stdout}
	defer r.close()
	for start := time.Now(); ctx.Err() == nil; {
		value := 100 * math.Sin(2*math.Pi*time.Since(start).Seconds()/period.Seconds())
		if err := r.write(ctx, *alias, strconv.FormatFloat(value, 'f', 1, 64)); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "sine:", err)
		}
		select {
		case <-time.After(*every):
		case <-ctx.Done():
		}
	}
}

// reporter writes values as the gateway whose files are below root.
type reporter struct {
	root     string
	log      io.Writer
	settings gateway.Settings
	client   *exosite.Client // by those settings; nil: not yet
}

var errNotYet = errors.New("the gateway is not activated yet")

func (r *reporter) write(ctx context.Context, alias, value string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := r.connect(); err != nil {
		return err
	}
	if err := r.client.Write(ctx, exosite.Value{Alias: alias, Value: value}); err != nil {
		return err
	}
	fmt.Fprintf(r.log, "%s=%s\n", alias, value)
	return nil
}

// connect takes the settings that the gateway has now: it may have got a new
// credential, or another server.
func (r *reporter) connect() error {
	s, _, err := gateway.Files{Dir: filepath.Join(r.root, gateway.Dir)}.Load() // what is wrong in them gwe tells
	if err != nil {
		return err
	}
	if s.CIK == "" {
		return errNotYet
	}
	if r.client != nil && s == r.settings {
		return nil
	}
	o := exosite.Options{
		Server: cmp.Or(s.Host, exosite.ServerOf(s.Vendor)), Vendor: s.Vendor, Model: cmp.Or(s.Model, s.Vendor), CIK: s.CIK, UserAgent: "sine",
	}
	ca := ""
	if s.CA != "" {
		ca = filepath.Join(r.root, s.CA)
	}
	if o.Trust, err = exosite.GatewayTrust(r.root, ca); err != nil {
		return err
	}
	if s.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(r.root, s.Certificate), filepath.Join(r.root, cmp.Or(s.Key, s.Certificate)))
		if err != nil {
			return fmt.Errorf("certificate of the gateway: %w", err)
		}
		o.Certificate = &pair
	}
	client, err := exosite.New(o)
	if err != nil {
		return err
	}
	r.close()
	r.client, r.settings = client, s
	return nil
}

func (r *reporter) close() {
	if r.client != nil {
		r.client.Close()
	}
}
