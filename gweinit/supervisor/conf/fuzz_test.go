package conf

import (
	"os"
	"strings"
	"testing"
)

func FuzzINI(f *testing.F) {
	data, err := os.ReadFile("testdata/cases.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, body := range strings.Split(string(data), "\n== ") {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l := newLoader("/x/main.conf", Options{Environ: environ})
		l.parse(text)
		l.doc.remove("include") // other files are not the fuzzer's
		c := l.config(Options{LogMaxBytes: 1 << 20})
		if len(l.errs) > maxMessages+1 || len(c.Warnings) > maxMessages+1 {
			t.Errorf("%d errors, %d warnings", len(l.errs), len(c.Warnings))
		}
		checkConfig(t, c)
		if err := l.result(); err != nil && err.Error() == "" {
			t.Error("an error without a text")
		}
	})
}

// checkConfig checks what PID 1 relies on.
func checkConfig(t *testing.T, c *Config) {
	t.Helper()
	processes := 0
	groups := map[string]bool{}
	for _, g := range c.Groups {
		if groups[g.Name] || g.Name == "" {
			t.Errorf("group %q", g.Name)
		}
		groups[g.Name] = true
		names := map[string]bool{}
		for _, p := range g.Programs {
			words, err := Split(p.Command)
			if err != nil || len(words) == 0 || words[0] == "" {
				t.Errorf("command %q: %q, %v", p.Command, words, err)
			}
			if names[p.Name] || p.Name == "" || strings.ContainsAny(p.Name, " :/\x00\n") || p.Group != g.Name {
				t.Errorf("process %q of %q in %q", p.Name, p.Group, g.Name)
			}
			names[p.Name] = true
			if p.StartSecs < 0 || p.StopWaitSecs < 0 || p.StartRetries < 0 || p.StopSignal <= 0 ||
				p.Stdout.MaxBytes < 0 || p.Stderr.Backups < 0 || p.Umask < -1 || p.MemoryLimit < 0 {
				t.Errorf("%+v", p)
			}
			for name, value := range p.Environment {
				if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
					t.Errorf("environment %q=%q", name, value)
				}
			}
			processes++
		}
	}
	if processes > maxProcesses {
		t.Errorf("%d processes", processes)
	}
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"%(s)s", "%(n)05d", "%%", "%(a(b)c)s", "%(n)-+ #012.3X", "%", "%(s", "%(ENV_A)s", "%(n)1048576d%(n)1048576d",
		"%(s).3ls", "%(n)99999999999999d", "%(s)\xff"} {
		f.Add(s)
	}
	n := names{text: map[string]string{"s": "strüng", "a(b)c": "nested"}, numbers: map[string]int{"n": -42},
		env: []map[string]string{{"A": "apple"}}}
	f.Fuzz(func(t *testing.T, format string) {
		s, err := expand(format, n)
		if len(s) > maxExpanded || err != nil && s != "" {
			t.Errorf("%d bytes, %v", len(s), err)
		}
		if err == nil && !strings.Contains(format, "%") && s != format {
			t.Errorf("%q", s)
		}
	})
}

func FuzzSplit(f *testing.F) {
	for _, s := range []string{`a "b c" 'd'`, `\`, `"\""`, "a\\\nb", `''`, `a"`, "\xff ü"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, command string) {
		words, _ := Split(command)
		if n := len(strings.Join(words, "")); n > len(command) || len(words) > len(command)+1 {
			t.Errorf("%d bytes in %d words", n, len(words))
		}
	})
}

func FuzzEnvironment(f *testing.F) {
	for _, s := range []string{`A=b,C="d,e"`, `PATH="$PATH:/usr/local/bin"`, "A=1,\n# x\nB=2,", `A='`, `=,=`, "A=\xff", `a"b=c`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		env, _, err := parseEnvironment(text)
		if err != nil && env != nil {
			t.Errorf("%v, %v", env, err)
		}
		for name, value := range env {
			if name == "" || strings.ContainsAny(name, `='",`) || len(name)+len(value) > len(text) {
				t.Errorf("%q=%q", name, value)
			}
		}
	})
}
