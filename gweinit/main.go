// Command gweinit is all programs of the device in one binary: the name under
// which it is called, or its first argument, says which.
package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/exosite/gwe/gweinit/boot"
	"github.com/exosite/gwe/gweinit/cga/sandbox"
	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/engine"
	"github.com/exosite/gwe/gweinit/gdc"
	"github.com/exosite/gwe/gweinit/modules"
	"github.com/exosite/gwe/gweinit/supervisorctl"
	"github.com/exosite/gwe/gweinit/supervisord"
)

// programs are the names, each with its main function. It gets the arguments
// behind the name and returns the exit status.
func programs() map[string]func(args []string) int {
	return map[string]func([]string) int{
		sandbox.Program: sandbox.Main,
		"call":          control.Main,
		"gdc":           gdc.Main,
		"gwe":           engine.Main,
		"init":          boot.Main,
		"modprobe":      modules.Main,
		"supervisorctl": supervisorctl.Main,
		"supervisord":   supervisord.Main,
	}
}

func main() {
	args := os.Args
	if len(args) > 0 && filepath.Base(args[0]) == "gweinit" {
		args = args[1:]
	}
	name := ""
	if len(args) > 0 {
		name, args = filepath.Base(args[0]), args[1:]
	}
	run, ok := programs()[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "usage: gweinit NAME [ARGUMENT...]\nNAME: %s\n", strings.Join(slices.Sorted(maps.Keys(programs())), ", "))
		os.Exit(2)
	}
	os.Exit(run(args))
}
