package spec

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestForms(t *testing.T) {
	want := `resources:
  - alias: engine_report
    format: string
  - alias: device_info
    format: string
  - alias: usage_report
    format: string
  - alias: engine_fetch
    format: string
  - alias: fetch_status
    format: string
  - alias: update_interval
    format: string
`
	if got := string(Older(GWE())); got != want {
		t.Errorf("older form:\n%s\nwant:\n%s", got, want)
	}
	want = `engine_report:
  format: string
  settable: false
device_info:
  format: string
  settable: false
usage_report:
  format: string
  settable: false
engine_fetch:
  format: string
  settable: true
fetch_status:
  format: string
  settable: false
update_interval:
  format: string
  settable: true
`
	if got := string(Current(GWE())); got != want {
		t.Errorf("current form:\n%s\nwant:\n%s", got, want)
	}
}

func TestParse(t *testing.T) {
	settable := GWE()
	for i := range settable {
		settable[i].Settable = true
	}
	cases := map[string]struct {
		text string
		want []Resource
		err  string
	}{
		"older form":           {text: string(Older(GWE())), want: settable},
		"current form":         {text: string(Current(GWE())), want: GWE()},
		"flow style":           {text: "resources: [{alias: usage_report, format: string}]", want: []Resource{{"usage_report", "string", true}}},
		"under resources":      {text: "resources:\n  t: {format: float}", want: []Resource{{"t", "float", false}}},
		"a list alone":         {text: "- alias: t\n  unit: C\n  name: Temperature\n", want: []Resource{{"t", "string", true}}},
		"settable said":        {text: "- {alias: t, settable: false}", want: []Resource{{"t", "string", false}}},
		"current, no format":   {text: "t: {settable: true}", want: []Resource{{"t", "string", true}}},
		"empty":                {text: "", err: "is empty"},
		"comments only":        {text: "# nothing\n", err: "is empty"},
		"no resource":          {text: "resources: []", err: "has no resource"},
		"not YAML":             {text: "a: [", err: "is not YAML"},
		"a word":               {text: "engine_fetch", err: "want a list"},
		"null":                 {text: "resources:\n", err: "want a list"},
		"a list of words":      {text: "resources:\n  - usage_report\n", err: `line 2: "usage_report" is no resource`},
		"no alias":             {text: "resources:\n  - format: string\n", err: `line 2: alias ""`},
		"an empty alias":       {text: `"": {format: string}`, err: "line 1: a resource without an alias"},
		"a bad alias":          {text: "a b: {format: string}", err: `alias "a b"`},
		"a bad format":         {text: "t: {format: text}", err: `format "text" of t: want one of string`},
		"settable is no word":  {text: "t: {settable: often}", err: "line 1"},
		"twice":                {text: "resources:\n- alias: t\n- alias: t\n", err: "line 3: t is there twice"},
		"too many":             {text: "resources:\n" + manyAliases(), err: "more than 1000"},
		"a very long alias":    {text: strings.Repeat("a", 129) + ": {}", err: "want 1 to 128"},
		"the longest alias":    {text: strings.Repeat("a", 128) + ": {}", want: []Resource{{strings.Repeat("a", 128), "string", false}}},
		"an alias to an alias": {text: "a: &x {format: integer}\nb: *x", want: []Resource{{"a", "integer", false}, {"b", "integer", false}}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(c.text))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, %v, want an error with %q", got, err, c.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, %v, want %v", got, err, c.want)
			}
		})
	}
}

func manyAliases() string {
	var b strings.Builder
	for i := range 1001 {
		b.WriteString("- alias: a" + strings.Repeat("x", i%100) + string(rune('a'+i/100)) + "\n")
	}
	return b.String()
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		format, value string
		ok            bool
	}{
		{"string", "\x00 any", true}, {"number", "1.5e3", true}, {"number", "abc", false}, {"float", "-0", true}, {"integer", "12", true},
		{"integer", "1.2", false}, {"boolean", "true", true}, {"boolean", "1", false}, {"boolean", "", true}, {"number", "", true},
	} {
		err := Resource{Alias: "a", Format: c.format}.Check(c.value)
		if (err == nil) != c.ok {
			t.Errorf("%q as %s: %v", c.value, c.format, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Older(GWE()))
	f.Add(Current(GWE()))
	f.Add([]byte("- alias: t\n  unit: C\n"))
	f.Add([]byte("a: &x {format: integer}\nb: *x"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(Current(got))
		if err != nil || !slices.Equal(again, got) {
			t.Errorf("%q is %v, and that written and read again %v, %v", text, got, again, err)
		}
	})
}
