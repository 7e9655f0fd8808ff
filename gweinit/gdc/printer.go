package gdc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/exosite/gwe/gweinit/exosite"
)

// printer prints results as the older gdc did, or as one JSON object a line.
type printer struct {
	json      bool
	out, errs io.Writer
}

// result prints text, or fields as JSON.
func (p printer) result(text string, fields map[string]any) error {
	if !p.json {
		_, err := fmt.Fprintln(p.out, text)
		return err
	}
	line, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.out, "%s\n", line)
	return err
}

// status prints an answer that has no data.
func (p printer) status(code int, text string) error {
	return p.result(fmt.Sprintf("[%d] %s", code, text), map[string]any{"status": code})
}

// fail prints an error, if there is one, and returns the exit status.
func (p printer) fail(err error) int {
	code := status(err)
	if code == done || code == nothing { // has been printed
		return code
	}
	if p.json {
		fields := map[string]any{"error": err.Error()}
		var answer *exosite.StatusError
		var clash *exosite.ConflictError
		switch {
		case errors.As(err, &answer):
			fields["status"] = answer.Code
		case errors.As(err, &clash):
			fields["status"] = 409
			times := map[string][]float64{}
			for alias, list := range clash.Times {
				for _, t := range list {
					times[alias] = append(times[alias], float64(t.UnixMicro())/1e6)
				}
			}
			fields["clashes"] = times
		case code == badCIK:
			fields["status"] = 401
		}
		p.result("", fields)
		return code
	}
	hint := ""
	if code == badUsage {
		hint = `; "gdc --help" shows what there is`
	}
	fmt.Fprintf(p.errs, "gdc: %v%s\n", err, hint)
	return code
}
