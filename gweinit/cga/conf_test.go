package cga

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/supervisor/conf"
)

const filled = `redirect_stderr = true
stdout_logfile = /var/log/my.app.log
stdout_logfile_maxbytes = 200KB
stdout_logfile_backups = 1
`

func TestProgramConf(t *testing.T) {
	for name, c := range map[string]struct{ text, want, warnings, err string }{
		"documented": {text: "[supervisord]\ncommand = /bin/sh /usr/local/bin/example.sh\n",
			want: "[program:my.app]\ncommand = /bin/sh /usr/local/bin/example.sh\n" + filled},
		"bare": {text: "[supervisord]", want: "[program:my.app]\ncommand = command\n" + filled, warnings: "there is no command"},
		"real": {text: "[supervisord]\ncommand = python -u /usr/local/bin/app.py A B\nstdout_logfile = /var/log/x.log\n" +
			"environment = PATH=\"$PATH:/usr/local/bin\"\nredirect_stderr = true\nstdout_logfile_maxbytes = 200KB\nstdout_logfile_backups = 1\nenvironment = PYTHONUNBUFFERED=NONEMPTYSTRING\n\n",
			want: "[program:my.app]\ncommand = python -u /usr/local/bin/app.py A B\nstdout_logfile = /var/log/x.log\n" +
				"environment = PATH=\"$PATH:/usr/local/bin\"\nredirect_stderr = true\nstdout_logfile_maxbytes = 200KB\nstdout_logfile_backups = 1\nenvironment = PYTHONUNBUFFERED=NONEMPTYSTRING\n\n",
			warnings: "line 8: environment is given in line 4 too"},
		"comments, CRLF, BOM": {text: "\ufeff; of the team\r\n[supervisord] ; here\r\n# why\r\nCommand: run ; not = this\r\n  --more\r\n\r\n",
			want: "; of the team\n[program:my.app]\n# why\nCommand: run ; not = this\n  --more\n\n" + filled},
		"an indented section": {text: "  [supervisord]\n  command=x\n   [not a section]\n", want: "[program:my.app]\n  command=x\n   [not a section]\n" + filled},
		"upper case":          {text: "[supervisord]\nCOMMAND=x\nRedirect_Stderr = false\n", want: "[program:my.app]\nCOMMAND=x\nRedirect_Stderr = false\n" + strings.Replace(filled, "redirect_stderr = true\n", "", 1)},
		"its own program":     {text: "[program:my.app]\ncommand=x\n", want: "[program:my.app]\ncommand=x\n" + filled},
		"the section twice":   {text: "[supervisord]\ncommand=x\n[supervisord]\nuser=root\n", want: "[program:my.app]\ncommand=x\n[program:my.app]\nuser=root\n" + filled},
		"a comment with Latin 1": {text: "[supervisord]\n; caf\xe9\ncommand=x\n",
			want: "[program:my.app]\n; caf\xe9\ncommand=x\n" + filled},

		"empty":               {text: "", err: ErrNoSection.Error()},
		"comments only":       {text: "; nothing\n", err: ErrNoSection.Error()},
		"no section":          {text: "\ncommand = x\n", err: "line 2: there is no section [supervisord] before it"},
		"another program":     {text: "[program:x]\ncommand=x\n", err: "line 1: [program:x] is another program's: there is no section [supervisord]"},
		"both":                {text: "[supervisord]\ncommand=x\n[program:my.app]\n", err: "line 3: [supervisord] and [program:my.app] are the same program"},
		"a group":             {text: "[supervisord]\ncommand=x\n[group:g]\nprograms=my.app\n", err: "line 3: [group:g]: want one section"},
		"defaults for others": {text: "[DEFAULT]\nuser=root\n[supervisord]\n", err: "line 1: [DEFAULT]: want one section"},
		"an open header":      {text: "[supervisord\ncommand=x\n", err: "line 1: a section header without"},
		"a line of nothing":   {text: "[supervisord]\ncommand\n", err: "line 2: a line without = or :"},
		"no name":             {text: "[supervisord]\n= x\n", err: "line 2: no name before ="},
	} {
		got, warnings, err := ProgramConf("my.app", []byte(c.text))
		all := strings.Join(warnings, "\n")
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) || got != nil {
				t.Errorf("%s: %q, %v, want %s", name, got, err, c.err)
			}
		case err != nil || string(got) != c.want || !strings.Contains(all, c.warnings) || c.warnings == "" && all != "":
			t.Errorf("%s:\n%s%q, %v; want\n%s%q", name, got, warnings, err, c.want, c.warnings)
		default:
			if names := programs(t, got); !slices.Equal(names, []string{"my.app"}) {
				t.Errorf("%s: the supervisor has %q", name, names)
			}
		}
		if c.err == ErrNoSection.Error() && !errors.Is(err, ErrNoSection) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := ProgramConf("a]\n[x", []byte("[supervisord]\n")); err == nil {
		t.Error("a name that is none")
	}
}

// programs returns the sections of programs that the supervisor reads from an
// included file.
func programs(t *testing.T, text []byte) (names []string) {
	dir := t.TempDir()
	main := filepath.Join(dir, "main.conf")
	err := errors.Join(os.WriteFile(main, []byte("[supervisord]\n[include]\nfiles = app.conf\n"), 0o600), os.WriteFile(filepath.Join(dir, "app.conf"), text, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	c, err := conf.Load(main, conf.Options{})
	for _, g := range c.Groups {
		names = append(names, g.Name)
	}
	// A value that is wrong leaves the program out, and the error has its section.
	var errs conf.Errors
	errors.As(err, &errs)
	for _, e := range errs {
		name, ok := strings.CutPrefix(e.Section, "program:")
		if !ok {
			t.Errorf("%q: an error outside of the program: %v", text, e)
		} else if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func FuzzProgramConf(f *testing.F) {
	for _, s := range []string{"[supervisord]\ncommand = x\n", "\ufeff[supervisord]\r\n  a=b\r\n c", "[supervisord] ;c\n[program:my.app]\n", "[supervisord]\na;b ;c #d\n",
		"[supervisord]\n\x1c[x]\n", "  [supervisord]\n a=\n  [program:x]\n", "[supervisord]\nnumprocs=2\nprocess_name=%(process_num)d\ncommand=x", "[supervisord]]\n", "[supervisord]\n\u00a0x=1\n[DEFAULT]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > maxConf {
			return
		}
		got, _, err := ProgramConf("my.app", text)
		if err != nil {
			if got != nil {
				t.Errorf("%q with %v", got, err)
			}
			return
		}
		if names := programs(t, got); !slices.Equal(names, []string{"my.app"}) {
			t.Errorf("%q: the supervisor has %q", text, names)
		}
	})
}

func TestCheckConf(t *testing.T) {
	for text, want := range map[string]string{
		"command = x":                                  "",
		"command = x\nautostart = maybe":               "error: line 3: [program:app] autostart = maybe",
		"command = x\nautostrat = true":                "warning: line 3: [program:app] autostrat: there is no such option",
		"command = date +%s":                           "error: line 2: [program:app] command = date +%s",
		"command = x\nuser = only_there":               "warning: line 3: [program:app] user = only_there",
		"command = %(ENV_ONLY_THERE)s":                 "warning: line 2: [program:app] command",
		"command = x\nstdout_logfile = /only/there/x":  "warning: line 3: [program:app] stdout_logfile",
		"command = 'x":                                 "error: line 2: [program:app] command",
		"command = x\n[eventlistener:y]\ncommand = y":  "error: line 3: [eventlistener:y]",
		"user = root":                                  "warning: there is no command",
		"command = x\nstdout_logfile_maxbytes = 1 MiB": "error: line 3: [program:app] stdout_logfile_maxbytes",
	} {
		findings, err := checkConf("app", []byte("[supervisord]\n"+text+"\n"))
		all := FindingsError(findings).Error()
		if err != nil || !strings.Contains(all, want) || want == "" && all != "" {
			t.Errorf("%q: %s, %v, want %s", text, all, err, want)
		}
		if strings.HasPrefix(want, "warning") && Failed(findings) {
			t.Errorf("%q: %s", text, all)
		}
	}
}
