package engine

import (
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/exosite/spec"
)

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args   string
		status int
		out    string
		errs   string
	}{
		{args: "--spec", out: string(spec.Current(spec.GWE()))},
		{args: "--spec=current", out: string(spec.Current(spec.GWE()))},
		{args: "--spec=older", out: string(spec.Older(spec.GWE()))},
		{args: "--spec=portals", status: 2, errs: "--spec=portals: want current or older"},
		{args: "--spec older", status: 2, errs: `unexpected argument "older"`},
		{args: "", status: 2, errs: "nothing to do"},
		{args: "--no-such", status: 2, errs: "unknown flag: --no-such"},
	} {
		var out, errs strings.Builder
		status := run(strings.Fields(c.args), &out, &errs)
		if status != c.status || out.String() != c.out || !strings.Contains(errs.String(), c.errs) || c.errs == "" && errs.Len() > 0 {
			t.Errorf("gwe %s: %d, %q, %q", c.args, status, out.String(), errs.String())
		}
	}
	var out strings.Builder
	if status := run([]string{"-h"}, &out, nil); status != 0 || !strings.Contains(out.String(), "--spec") || !strings.Contains(out.String(), "Exit status") {
		t.Errorf("help: %d, %s", status, out.String())
	}
}
