package conf

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// question is a case for testdata/reference.py.
type question struct {
	Kind  string         `json:"kind"`
	Text  string         `json:"text"`
	Name  string         `json:"name"`
	Names map[string]any `json:"names,omitempty"`
}

type answer struct {
	OK    bool
	Value json.RawMessage
	Error string
}

// environ is the environment of both implementations.
var environ = []string{"HOME=/tmp", "PATH=/usr/bin:/bin", "A=apple", "EMPTY=", "DIR=/tmp",
	"QUOTED=a'b", "COMMA=a,b", "PERCENT=50%", "NUMBER=7", "LOG=syslog"}

// ask runs Supervisor once.
func ask(t *testing.T, questions []question) []answer {
	t.Helper()
	if _, err := os.Stat("/usr/lib/python3/dist-packages/supervisor"); err != nil {
		t.Fatalf("%v: run make setup", err)
	}
	input, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "-W", "ignore", "testdata/reference.py")
	cmd.Env = append(slices.Clone(environ), "PYTHONDONTWRITEBYTECODE=1", "PYTHONUTF8=1")
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var answers []answer
	if err := json.Unmarshal(output, &answers); err != nil || len(answers) != len(questions) {
		t.Fatalf("%d answers to %d questions, %v", len(answers), len(questions), err)
	}
	return answers
}

func decode[T any](t *testing.T, a answer) (v T) {
	t.Helper()
	if err := json.Unmarshal(a.Value, &v); err != nil {
		t.Fatalf("%s: %v", a.Value, err)
	}
	return v
}

// ours is what this package makes of a question. A deviation is the reason why
// Supervisor can have another result.
type ours struct {
	value     any
	err       error
	deviation string
}

// answerers decode Supervisor's answer to a type of ours, and make ours.
var answerers = map[string]func(t *testing.T, q question, a answer) (theirs any, o ours){
	"ini":         compareINI,
	"split":       compareSplit,
	"environment": compareEnvironment,
	"format":      compareFormat,
	"fnmatch": func(t *testing.T, q question, a answer) (any, ours) {
		ok, err := filepath.Match(goPattern(q.Text), q.Name)
		return decode[bool](t, a), ours{value: ok && err == nil} // as in glob
	},
	"integer": func(t *testing.T, q question, a answer) (any, ours) {
		n, err := parseInt(q.Text, 10)
		if !a.OK {
			return nil, ours{err: err}
		}
		return decode[json.Number](t, a).String(), ours{value: fmt.Sprint(n), err: err, deviation: big(err)}
	},
	"octal":     compareValue(func(to *int) setter { return permissions(to) }, "not from 0"),
	"size":      compareValue(size, "negative or too big"),
	"boolean":   compareValue(boolean),
	"restart":   compareValue(restart),
	"exitcodes": compareValue(exitCodes),
	"signal":    compareValue(stopSignal, "not the n"),
	"name": func(t *testing.T, q question, a answer) (any, ours) {
		s, err := checkName(q.Text)
		return decode[string](t, a), ours{value: s, err: err, deviation: contains(err, "the name is empty", "control")}
	},
	"owner": func(t *testing.T, q question, a answer) (any, ours) {
		o := make([]int, 2)
		err := newLoader("", Options{}).owner(&o[0], &o[1])(q.Text)
		return decode[[]int](t, a), ours{value: o, err: err}
	},
	"home": func(t *testing.T, q question, a answer) (any, ours) {
		return decode[string](t, a), ours{value: newLoader("", Options{Environ: environ}).home(q.Text)}
	},
	"hostname": func(t *testing.T, q question, a answer) (any, ours) {
		return decode[string](t, a), ours{value: hostname()}
	},
}

func big(err error) string { return contains(err, "too big") }

func contains(err error, parts ...string) string {
	for _, part := range parts {
		if err != nil && strings.Contains(err.Error(), part) {
			return part
		}
	}
	return ""
}

func compareValue[T any](set func(*T) setter, deviations ...string) func(*testing.T, question, answer) (any, ours) {
	return func(t *testing.T, q question, a answer) (any, ours) {
		var v T
		err := set(&v)(q.Text)
		o := ours{value: v, err: err, deviation: contains(err, deviations...)}
		if o.deviation != "" || !a.OK {
			return nil, o
		}
		return decode[T](t, a), o
	}
}

func compareSplit(t *testing.T, q question, a answer) (any, ours) {
	words, err := Split(q.Text)
	if words == nil {
		words = []string{}
	}
	return decode[[]string](t, a), ours{value: words, err: err}
}

func compareEnvironment(t *testing.T, q question, a answer) (any, ours) {
	env, _, err := parseEnvironment(q.Text)
	return decode[map[string]string](t, a), ours{env, err, contains(err, "a name with other")}
}

func compareFormat(t *testing.T, q question, a answer) (any, ours) {
	n := names{text: map[string]string{}, numbers: map[string]int{}}
	for name, value := range q.Names {
		switch v := value.(type) {
		case string:
			n.text[name] = v
		case int:
			n.numbers[name] = v
		}
	}
	s, err := expand(q.Text, n)
	return decode[string](t, a), ours{s, err, contains(err, "without (NAME)", "not s or d", "too big")}
}

func compareINI(t *testing.T, q question, a answer) (any, ours) {
	doc, errs := parseINI("x", q.Text)
	return iniShape(decode[struct {
		Sections [][2]json.RawMessage
		Defaults map[string]string
	}](t, a)), ours{ourShape(doc), asError(errs), contains(asError(errs), "without ]")}
}

func asError(errs Errors) error {
	if len(errs) == 0 {
		return nil
	}
	return errs
}

// iniShape makes the same of Python's answer as ourShape of ours.
func iniShape(v struct {
	Sections [][2]json.RawMessage
	Defaults map[string]string
}) string {
	text := fmt.Sprintf("%q", v.Defaults)
	for _, s := range v.Sections {
		var name string
		var options map[string]string
		_ = json.Unmarshal(s[0], &name)
		_ = json.Unmarshal(s[1], &options)
		text += fmt.Sprintf("\n%q %q", name, options)
	}
	return text
}

func ourShape(doc *document) string {
	values := func(s *section) map[string]string {
		m := map[string]string{}
		for key, o := range s.options {
			m[key] = o.value
		}
		return m
	}
	text := fmt.Sprintf("%q", values(doc.defaults))
	for _, s := range doc.sections {
		text += fmt.Sprintf("\n%q %q", s.name, values(s))
	}
	return text
}

// check compares the answers to values, and returns how many were values.
func check(t *testing.T, questions []question) (good int) {
	t.Helper()
	wrong := 0
	for i, a := range ask(t, questions) {
		q := questions[i]
		if !a.OK {
			a.Value = json.RawMessage("null")
		} else {
			good++
		}
		theirs, o := answerers[q.Kind](t, q, a)
		switch {
		case o.deviation != "":
			continue
		case !a.OK && o.err != nil:
			continue
		case a.OK && o.err == nil && reflect.DeepEqual(theirs, o.value):
			continue
		}
		if wrong++; wrong <= 20 {
			t.Errorf("%s %q %q:\nours   %#v, %v\ntheirs %#v, %s", q.Kind, q.Text, q.Name, o.value, o.err, theirs, a.Error)
		}
	}
	return good
}

// The values that people write, as Supervisor understands them.
func TestReferenceValues(t *testing.T) {
	values := map[string][]string{
		"integer": {"0", "7", "-7", "+7", " 7 ", "1_000", "_1", "1_", "1__0", "", " ", "- 7", "--7", "+-7", "007",
			"0x10", "1.5", "1e3", "99999999999999999999", "a", "7a", "\u00a07", "0_0", "-0"},
		"octal": {"22", "022", "0o22", "0O22", "0o_22", "0_22", "8", "", "0o", "777", "0777", "-1", "1000", "+22", "0x7", " 22", "o22"},
		"size": {"0", "1", "1kb", "1KB", "1 kb", "2Mb", "3GB", "50MB", "1.5MB", "50M", "MB", "", "-1", "1_0kb", "kb1",
			"1kbkb", "9999999999GB", " 7 MB ", "7mb ", "1B", "+1KB"},
		"boolean":   {"true", "True", "YES", "on", "1", "no", "off", "false", "0", "", "2", "t", " true", "y", "enabled"},
		"restart":   {"true", "unexpected", "Unexpected", "false", "OFF", "1", "0", "", "always", "never", "no"},
		"exitcodes": {"0", "0,2", "0, 2", "", "0,", ",", "256", "-1", "255", "a", "1 2", "1_0", "0,0"},
		"signal": {"TERM", "term", "SIGTERM", "sigterm", " TERM ", "15", "9", "KILL", "HUP", "USR1", "usr2", "INT", "QUIT",
			"CLD", "IOT", "POLL", "RTMIN", "RTMAX", "RTMIN+1", "34", "64", "35", "65", "FOO", "", "SIG", "SIGSIGTERM",
			"-1", "100", "WINCH", "STOP", "0", "_BLOCK", "SIG_DFL", "1_5", "4294967305"},
		"name": {"a", " a ", "a b", "a:b", "a/b", "", "a\tb", "\u00e4", "a_%(x)s", "\ta"},
		"owner": {"root", "0", "root:root", "root:0", "0:0", "nobody", "nobody:nogroup", "nosuch", "root:nosuch", "", "root:",
			":root", "99999", "root:99999", " 0", "+0:0", "root:root:x", "-1", "daemon:tty", "4294967295"},
		"home":     {"~", "~/a", "~root", "~root/b", "~nosuch/c", "a~", "/~", "~daemon/x", "~/", "~root/", "", "~~", "~nosuch"},
		"hostname": {""},
	}
	var questions []question
	for kind, texts := range values {
		for _, text := range texts {
			questions = append(questions, question{Kind: kind, Text: text})
		}
	}
	if good := check(t, questions); good < 60 {
		t.Errorf("only %d values", good)
	}
}

// Random texts, from what matters to each parser.
func TestReferenceRandom(t *testing.T) {
	const each = 3000
	rnd := rand.New(rand.NewPCG(1, 2))
	names := map[string]any{"s": "abc", "n": 7, "": "empty", "a(b)c": "nest", "N": -42, "u": "äöü€", "big": 123456789}
	parts := map[string][]string{
		"split": {"a", "b c", `"`, `'`, `\`, ` `, "\n", "\t", `\"`, "#x", "ä", "$A", `""`, "''", "\u00a0", "\v"},
		"environment": {"A", "B", "=", ",", `"`, "'", " ", "\n", "#", "x y", "/.+-():", "ä", "$", "A=b", ",C=", `"q,r"`,
			"\\", "A=1", "%", ",", "=", "D='e f'"},
		"format": {"%", "%%", "%(s)", "%(n)", "%(N)", "%(u)", "%(big)", "%()", "%(a(b)c)", "(", ")", "s", "d", "i", "u", "o", "x", "X",
			"-", "+", " ", "#", "0", "5", "12", ".", ".3", "l", "h", "text", "%(no)s", "*", "%(s)s", "%(n)d", "%(n)02d", "ä", "y"},
		"fnmatch": {"a", "b", "*", "?", "[", "]", "!", "-", "^", "\\", "ab", "[ab]", "[!a]", ".", "[a-c]", "ä"},
		"ini": {"[a]", "[b]", "[DEFAULT]", "\n", "\n", "\n", "x", "Y", "=", ":", " = ", "v1", "v2 ", " ", "  ", "\t", ";", "#", " ;c",
			" # d", "\n  more", "\nx=1", "\ny : 2\n", "\r\n", "\r", "ä", "\u00a0", "\u2003", "\x1c", "\v", "]", "[", "\n[a]\n", "\u0085", "\n\n"},
	}
	for kind, part := range parts {
		var questions []question
		for range each {
			q := question{Kind: kind}
			if kind == "ini" && rnd.IntN(4) > 0 {
				q.Text = "[a]\n"
			}
			for range rnd.IntN(14) {
				q.Text += part[rnd.IntN(len(part))]
			}
			switch kind {
			case "format":
				q.Names = names
			case "fnmatch":
				for range rnd.IntN(5) {
					q.Name += []string{"a", "b", "c", "-", "]", "[", "\\", "^", "!", ".", "ä"}[rnd.IntN(11)]
				}
			}
			questions = append(questions, q)
		}
		if good := check(t, questions); good < each/10 {
			t.Errorf("%s: only %d of %d are good", kind, good, each)
		} else {
			t.Logf("%s: %d of %d are good", kind, good, each)
		}
	}
}

// forComparison leaves out of our configuration what Supervisor does not have.
func forComparison(c *Config) {
	uid := func(p **Credential) {
		if *p != nil {
			*p = &Credential{UID: (*p).UID}
		}
	}
	uid(&c.Supervisord.Credential)
	if c.Supervisord.Environment == nil {
		c.Supervisord.Environment = map[string]string{}
	}
	for _, g := range c.Groups {
		for i := range g.Programs {
			p := &g.Programs[i]
			uid(&p.Credential)
			p.Section = ""
		}
	}
}

// The configurations of testdata/cases.txt, whole. Those that are marked as a
// deviation must have another result than Supervisor's.
func TestReferenceCases(t *testing.T) {
	cases := readCases(t)
	var questions []question
	for _, c := range cases {
		questions = append(questions, question{Kind: c.kind, Text: c.main})
	}
	good := 0
	for i, a := range ask(t, questions) {
		c := cases[i]
		var ours, theirs any
		var err error
		if c.kind == "client" {
			var client Client
			client, err = LoadClient(c.main, Options{Environ: environ})
			client.ServerURL = cmp.Or(client.ServerURL, "http://localhost:9001") // Supervisor's default
			ours = client
		} else {
			config, e := Load(c.main, Options{Environ: environ})
			forComparison(config)
			ours, err = Config{Supervisord: config.Supervisord, Socket: config.Socket, Groups: config.Groups}, e
		}
		switch {
		case a.OK && c.kind == "client":
			theirs = decode[Client](t, a)
		case a.OK:
			theirs = theirConfig(t, a)
		}
		same := a.OK == (err == nil) && (!a.OK || equalJSON(ours, theirs))
		if same == (c.deviation != "") {
			t.Errorf("%s: deviation %q\nours   %s\n       %v\ntheirs %s\n       %s", c.name, c.deviation, toJSON(ours), err, toJSON(theirs), a.Error)
		}
		if a.OK {
			good++
		}
	}
	t.Logf("%d cases, of which Supervisor accepts %d", len(cases), good)
}

func theirConfig(t *testing.T, a answer) Config {
	v := decode[Config](t, a)
	for _, g := range v.Groups {
		for i := range g.Programs {
			if g.Programs[i].StopSignal == syscall.Signal(0) {
				t.Error("a program without stopsignal")
			}
		}
	}
	return v
}

func toJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// equalJSON compares without the difference between no and empty lists.
func equalJSON(a, b any) bool {
	text := func(v any) string { return strings.ReplaceAll(toJSON(v), ":[]", ":null") }
	return text(a) == text(b)
}
