package cga

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/exosite/gwe/gweinit/supervisor/conf"
)

// FindingsError are the findings of a check that has failed.
type FindingsError []Finding

func (e FindingsError) Error() string {
	var lines []string
	for _, f := range e {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

// Failed says whether there is an error among findings.
func Failed(findings []Finding) bool {
	for _, f := range findings {
		if f.Severity == Error {
			return true
		}
	}
	return false
}

// CheckTarball says what is wrong with the tarball in a file: its name, all that
// Inspect looks at, and its supervisor.conf. The error is that of the file or ctx.
func CheckTarball(ctx context.Context, file string) ([]Finding, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, &os.PathError{Op: "check", Path: file, Err: errors.New("no regular file")}
	}
	name, err := ParseName(filepath.Base(file))
	if err == nil {
		return check(ctx, f, name.App)
	}
	findings, more := check(ctx, f, "app")
	return append([]Finding{{Severity: Error, Text: err.Error()}}, findings...), more
}

// check inspects the tarball of an app.
func check(ctx context.Context, r io.Reader, app string) ([]Finding, error) {
	contents, findings, err := Inspect(ctx, r, DefaultLimits)
	if err != nil || contents.Conf == nil {
		return findings, err
	}
	more, err := checkConf(app, contents.Conf)
	for i := range more {
		more[i].Entry = path.Join(contents.Dir, supervisorConf)
	}
	return append(findings, more...), err
}

// checkConf says what the supervisor will think of a supervisor.conf.
func checkConf(app string, text []byte) (findings []Finding, err error) {
	program, warnings, err := ProgramConf(app, text)
	if err != nil {
		return []Finding{{Severity: Error, Text: err.Error()}}, nil
	}
	for _, w := range warnings {
		findings = append(findings, Finding{Text: w})
	}
	dir, err := os.MkdirTemp("", "gwe-check-")
	if err != nil {
		return findings, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "program.conf")
	// Its lines are those of the app's file, as the section it needs is behind them.
	if err := os.WriteFile(file, append(program, "[supervisord]\n"...), 0o600); err != nil {
		return findings, err
	}
	config, err := conf.Load(file, conf.Options{Environ: os.Environ()})
	for _, w := range config.Warnings {
		if text, ok := strings.CutPrefix(w, file+":"); ok && startsWithDigit(text) {
			w = "line " + text
		}
		findings = append(findings, Finding{Text: w})
	}
	var errs conf.Errors
	errors.As(err, &errs)
	for _, e := range errs {
		f := Finding{Severity: Error}
		if ofGateway(e) {
			f.Severity = Warning
		}
		// Without the file, which is not the developer's.
		here := *e
		here.File = ""
		f.Text = here.Error()
		if e.Line > 0 && e.Line < math.MaxInt32 { // of what says that there is more
			f.Text = "line " + strconv.Itoa(e.Line) + ": " + f.Text
		}
		findings = append(findings, f)
	}
	return findings, nil
}

// ofGateway says whether an error is about what a gateway can have, and the
// machine on which the check runs has not: users, folders and the environment.
func ofGateway(e *conf.Error) bool {
	switch e.Option {
	case "user", "root_directory", "stdout_logfile", "stderr_logfile":
		return true
	}
	return strings.Contains(e.Value, "%(ENV_")
}
