package conf

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the results into testdata/cases.golden")

// testCase is a configuration of testdata/cases.txt, written to a folder.
type testCase struct {
	name, kind string
	main       string // path
	deviation  string // why Supervisor has another result
}

// readCases writes the cases, each to its folder. "== NAME" begins one, maybe
// with "| DEVIATION" after it, "-- FILE" another file of it. If a case does not
// begin with "raw" and has no [supervisord], it gets one at its end.
func readCases(t *testing.T) (cases []testCase) {
	t.Helper()
	data, err := os.ReadFile("testdata/cases.txt")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for i, body := range strings.Split("\n"+string(data), "\n== ")[1:] {
		title, body, _ := strings.Cut(body, "\n")
		name, deviation, _ := strings.Cut(title, " | ")
		folder := filepath.Join(root, fmt.Sprint(i))
		c := testCase{name: name, kind: "config", main: folder + "/main.conf", deviation: deviation}
		if strings.HasPrefix(name, "client") {
			c.kind = "client"
		} else if !strings.HasPrefix(name, "raw") && !strings.Contains(body, "[supervisord]") {
			main, others, _ := strings.Cut("\n"+body, "\n-- ")
			body = main[1:] + "\n[supervisord]\n"
			if others != "" {
				body += "-- " + others
			}
		}
		for j, part := range strings.Split("\n"+body, "\n-- ") {
			file, text := c.main, strings.TrimPrefix(part, "\n")
			if j > 0 {
				file, text, _ = strings.Cut(part, "\n")
				file = filepath.Join(folder, file)
			}
			text = strings.NewReplacer(`<CR>`, "\r", `<BOM>`, "\ufeff", `<FF>`, "\xff", `<NUL>`, "\x00").Replace(text)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cases = append(cases, c)
	}
	return cases
}

// The results, warnings and errors of all cases, to be read by people.
func TestCases(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for _, c := range readCases(t) {
		fmt.Fprintf(&got, "== %s\n", c.name)
		var text bytes.Buffer
		if c.kind == "client" {
			client, err := LoadClient(c.main, Options{Environ: environ})
			fmt.Fprintf(&text, "%+v\n", client)
			writeErrors(t, &text, err)
		} else {
			config, err := Load(c.main, Options{Environ: environ})
			writeConfig(&text, config)
			writeErrors(t, &text, err)
		}
		got.WriteString(strings.NewReplacer(filepath.Dir(c.main), "DIR", here, "CWD", "<"+hostname()+">", "<HOST>").Replace(text.String()))
	}
	const golden = "testdata/cases.golden"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	a, b := strings.Split(got.String(), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			t.Fatalf("%s:%d:\ngot  %s\nwant %s", golden, i+1, a[i], b[i])
		}
	}
	if len(a) != len(b) {
		t.Fatalf("%d lines, not %d", len(a), len(b))
	}
}

func writeErrors(t *testing.T, b *bytes.Buffer, err error) {
	if err != nil {
		for _, e := range err.(Errors) {
			if strings.Contains(e.Error()+e.Value, "secret") {
				t.Errorf("a password: %v", e)
			}
			fmt.Fprintf(b, "  error: %v\n", e)
		}
	}
}

// writeConfig writes what is not as it is by default.
func writeConfig(b *bytes.Buffer, c *Config) {
	if text := differences(c.Supervisord, newSupervisord()); text != "" {
		fmt.Fprintf(b, "  supervisord%s\n", text)
	}
	if c.Socket != nil {
		fmt.Fprintf(b, "  socket%s\n", differences(*c.Socket, Socket{Chmod: 0o700, UID: -1, GID: -1}))
	}
	log := Log{Auto: true, MaxBytes: 50 << 20, Backups: 10}
	for _, g := range c.Groups {
		fmt.Fprintf(b, "  group %s %d\n", g.Name, g.Priority)
		for _, p := range g.Programs {
			fmt.Fprintf(b, "    %s%s\n", p.Name, differences(p, Program{
				Name: p.Name, Group: g.Name, Section: p.Name, Umask: -1, Priority: 999, Autostart: true,
				Autorestart: Unexpected, StartSecs: 1, StartRetries: 3, StopWaitSecs: 10, ExitCodes: []int{0},
				StopSignal: 15, Stdout: log, Stderr: log, Command: "c"}))
		}
	}
	for _, w := range c.Warnings {
		fmt.Fprintf(b, "  warning: %s\n", w)
	}
}

// differences returns the fields of a that are not as in b.
func differences(a, b any) (text string) {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range x.NumField() {
		v := x.Field(i)
		if reflect.DeepEqual(v.Interface(), y.Field(i).Interface()) || v.Kind() == reflect.Map && v.Len() == 0 {
			continue
		}
		switch v := v.Interface().(type) {
		case *Credential:
			text += fmt.Sprintf(" Credential=%+v", *v)
		case map[string]string:
			for _, key := range slices.Sorted(maps.Keys(v)) {
				text += fmt.Sprintf(" %s=%q", key, v[key])
			}
		case string:
			text += fmt.Sprintf(" %s=%q", x.Type().Field(i).Name, v)
		default:
			text += fmt.Sprintf(" %s=%+v", x.Type().Field(i).Name, v)
		}
	}
	return text
}
