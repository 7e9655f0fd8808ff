package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/term"

	"github.com/exosite/gwe/builder/signing"
)

const keyUsage = `Makes a key pair of minisign that signs firmware: FILE, the secret one, and
FILE.pub. On a terminal it asks for a password; without one everyone who can read
the file can sign. It has to be outside of out/, which make clean deletes.

  builder key -out acme.key
`

func keyCommand(_ context.Context, flags *flag.FlagSet, args []string) error {
	out := flags.String("out", "", "`file` for the secret key; the public one is beside it, as FILE.pub")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *out == "" {
		return errors.New("which file? Say -out FILE, or make key=FILE key; and keep it outside of the project's folder")
	}
	if inOutput(*out) {
		return fmt.Errorf("%s is in out/, which make clean deletes: keep it outside of out/, best outside of the project's folder", *out)
	}
	password, err := newPassword()
	if err != nil {
		return err
	}
	key, err := signing.Create(*out, password)
	if err != nil {
		return err
	}
	fmt.Printf(`%s
%s
  The public key, for everyone. make board=BOARD key=%[3]s bundle builds an image
  that trusts it and firmware that it signs; firmware_keys in provision.yaml
  takes the line above.
%[3]s
  The secret key. Who has it can make firmware for your gateways, and nobody can
  without it: keep a copy, and both of them out of git.
`, key, *out+".pub", *out)
	if len(password) == 0 {
		fmt.Printf("  It has no password.\n")
	}
	return nil
}

// inOutput says whether a file would be in the folder that make clean deletes.
func inOutput(file string) bool {
	real := func(dir string) string {
		if abs, err := filepath.Abs(dir); err == nil {
			dir = abs
		}
		if target, err := filepath.EvalSymlinks(dir); err == nil { // else it is not there
			dir = target
		}
		return dir
	}
	below, err := filepath.Rel(real("out"), filepath.Join(real(filepath.Dir(file)), filepath.Base(file)))
	return err == nil && filepath.IsLocal(below)
}

// newPassword asks on a terminal for a new password; elsewhere there is none.
func newPassword() ([]byte, error) {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return nil, nil
	}
	first, err := askPassword("Password of the new key (empty: none): ")
	if err != nil || len(first) == 0 {
		return nil, err
	}
	second, err := askPassword("The same again: ")
	if err == nil && !bytes.Equal(first, second) {
		err = errors.New("these were two passwords: try again")
	}
	return first, err
}

// askPassword asks on the terminal.
func askPassword(question string) ([]byte, error) {
	stdin := int(os.Stdin.Fd())
	if !term.IsTerminal(stdin) {
		return nil, errors.New("the key has a password, and there is no terminal to ask for it on")
	}
	fmt.Fprint(os.Stderr, question)
	password, err := term.ReadPassword(stdin)
	fmt.Fprintln(os.Stderr)
	if err != nil {
		return nil, fmt.Errorf("read the password: %w", err)
	}
	return password, nil
}
