package mqtt_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/exositetest"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/broker"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
	"github.com/exosite/gwe/gweinit/exosite/mqtt"
)

// emulator stands for Exosite in the example.
func emulator() (s *exositetest.Server, port string, stop func()) {
	c, err := cloud.Open(cloud.Options{})
	if err != nil {
		log.Fatal(err)
	}
	if s, err = exositetest.Start(exositetest.Options{Cloud: c, HTTPS: "127.0.0.1:0"}); err != nil {
		log.Fatal(err)
	}
	b, err := broker.Start(s, "127.0.0.1:0", nil)
	if err != nil {
		log.Fatal(err)
	}
	_, port, _ = net.SplitHostPort(b.Addr())
	return s, port, func() {
		b.Close()
		s.Close()
		c.Close()
	}
}

// A gateway reports, and takes a command when it is given.
func Example() {
	server, port, stop := emulator() // Exosite's is a1b2c3d4e5f60000.m2.exosite.io, port 8883
	defer stop()
	server.AddDevice("GW-000123")
	roots := x509.NewCertPool() // with Exosite's own certificates this is not needed
	roots.AppendCertsFromPEM(server.CA())

	c, err := exosite.New(exosite.Options{Server: server.HTTPSAddr(), Trust: &exosite.Trust{Roots: roots}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	s := mqtt.New(c, mqtt.Options{Port: port, Name: "example"})
	defer s.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := s.Activate(ctx, "GW-000123"); err != nil {
		log.Fatal(err)
	}
	if err := s.Write(ctx, exosite.Value{Alias: "device_info", Value: `{"uname": "Linux"}`}); err != nil {
		log.Fatal(err)
	}
	// Somebody on the product's side.
	if err := server.Cloud().Set(server.Product(), "GW-000123", "update_interval", "60"); err != nil {
		log.Fatal(err)
	}
	value, _, err := s.Wait(ctx, "update_interval", time.Unix(0, 0), time.Minute)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(value)
	// Output: 60
}
