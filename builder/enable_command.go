package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/exosite/gwe/builder/image"
	"github.com/exosite/gwe/builder/product"
	"github.com/exosite/gwe/gweinit/config"
)

const enableUsage = `Lets gateways with these serial numbers activate at Exosite: it adds those that
the product does not have, and enables each of them, for one activation. A unit
whose card is flashed again has lost its credential, and cannot get another one
(409) before this. One that has its credential still has to activate again, which
it does by itself.

Product, host and certificates are those of the cards' provision.yaml; -owner is
the credential of product management, a CIK.

Exit status 1 if one failed; the others are enabled all the same.

  builder enable -owner acme.cik -provision line.yaml GW-000123 GW-000124
  builder enable -owner acme.cik -provision line.yaml 00:2F:AC:43:55:A0
  xargs builder enable -owner acme.cik -provision line.yaml -json < serials.txt
`

// enabled is what the command tells of a serial number.
type enabled struct {
	Serial string `json:"serial"`
	Done   string `json:"done,omitempty"`
	Error  string `json:"error,omitempty"`
}

func enableCommand(ctx context.Context, flags *flag.FlagSet, args []string) error {
	ownerFile := flags.String("owner", "", "`file` with the CIK of the product's owner")
	provision := flags.String("provision", "", "provision.yaml `file` that the cards get")
	asJSON := flags.Bool("json", false, "print a JSON object on a line for each serial number")
	serials, err := parseArguments(flags, args)
	switch {
	case err != nil:
		return err
	case *ownerFile == "":
		return errors.New("whose product is it? Say -owner FILE, with the owner's CIK in it")
	case *provision == "":
		return errors.New("which product and server? Say -provision FILE, the provision.yaml that the cards get")
	case len(serials) == 0:
		return errors.New("which serial numbers?")
	}
	owner, err := readOwner(*ownerFile, *provision)
	if err != nil {
		return err
	}
	failed := 0
	for _, serial := range serials {
		done, err := owner.Enable(ctx, serial, true)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted at %s", serial)
		}
		e := enabled{Serial: serial, Done: done}
		if err != nil {
			failed++
			e.Error = err.Error()
		}
		switch {
		case *asJSON:
			err = json.NewEncoder(os.Stdout).Encode(e)
		case err != nil:
			_, err = fmt.Printf("%s: failed: %v\n", serial, err)
		default:
			_, err = fmt.Printf("%s: %s\n", serial, done)
		}
		if err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d serial numbers failed", failed, len(serials))
	}
	return nil
}

// readOwner returns the owner of the product that a provision.yaml names.
func readOwner(file, provision string) (*product.Owner, error) {
	cik, err := product.ReadCredential(file)
	if err != nil {
		return nil, err
	}
	text, err := image.ReadProvision(provision)
	if err != nil {
		return nil, err
	}
	settings, err := config.ParseProvision(text)
	if err != nil {
		return nil, err
	}
	owner, err := product.New(settings, cik)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", provision, err)
	}
	return owner, nil
}
