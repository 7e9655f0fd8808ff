package gateway

import (
	"strings"
	"testing"
)

func TestINIValue(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"k = v", "v"}, {"k=v", "v"}, {"k: v", "v"}, {"k:v", "v"}, {"  k\t=\t v \t", "v"}, {"K = v", "v"}, {`"k" = v`, "v"},
		{"k = a b", "a b"}, {"k = a=b:c", "a=b:c"}, {"k = http://h:80/", "http://h:80/"}, {"k =", ""}, {"k = ", ""},
		{"k = ''", ""}, {`k = ""`, ""}, {"k = 'a b'", "a b"}, {`k = " a "`, " a "}, {`k = "it's"`, "it's"},
		{"k = v ; c", "v"}, {"k = v\t# c", "v"}, {"k = a ; b # c", "a"}, {"k = v;w#x", "v;w#x"}, {"k = ; c", ""}, {"k =#v", "#v"},
		{"k = 'a ; b' ; c", "a ; b"}, {"k = 'a';c", "a"}, {"k = 'a' b", "'a' b"}, {"k = 'a", "'a"}, {"k = a'", "a'"}, {"k = '", "'"},
		{`k = a\`, `a\`}, {"k = %(k)s", "%(k)s"}, {"k = `v`", "`v`"}, {"k = ü", "ü"}, {"k = \xfc", "\xfc"},
		{"k = v\r", "v"}, {"k = 'v'\r", "v"}, {"k = a\x00b", ""}, {"k v", ""}, {"= v", ""}, {"; k = v", ""}, {"# k = v", ""}, {"kk = v", ""},
		{"k = a\nk = b", "b"}, {"k = a\n[x]\nk = c\n[s]\nk = b", "b"}, {"[x]\nk = v", ""}, {"[s\nk = v", ""}, {"[x\nk = v", ""},
		{"[ S ] ; c\nk = v", "v"}, {"junk\nk = v", "v"}, {"\x00\x00\nk = v", "v"},
	} {
		for _, text := range []string{"[s]\n" + c.line, "\ufeff[s]\r\n" + c.line + "\r\n[t]\r\nk = t\r\n"} {
			f := ParseINI([]byte(text))
			if got := f.Value("s", "k"); got != c.want {
				t.Errorf("%q: %q, want %q", text, got, c.want)
			}
			if got := string(f.Text()); got != text {
				t.Errorf("%q becomes %q", text, got)
			}
		}
	}
}

func TestINISet(t *testing.T) {
	for _, c := range []struct{ text, value, want string }{
		{"", "v", "[s]\nk = v\n"},
		{"", "", "[s]\nk = ''\n"},
		{"[s]", "v", "[s]\nk = v\n"},
		{"# mine\n\n[s]\na=1\n\n; t's\n[t]\nk=w\n", "v", "# mine\n\n[s]\na=1\n\n; t's\nk = v\n[t]\nk=w\n"},
		{"[t]\nk=w", "v", "[t]\nk=w\n\n[s]\nk = v\n"},
		{"[t]\n\n", "v", "[t]\n\n[s]\nk = v\n"},
		{"[s]\r\na=1\r\n[t]\r\n", "v", "[s]\r\na=1\r\nk = v\r\n[t]\r\n"},
		{"[s]\r\nk=1\r\n", "v", "[s]\r\nk=v\r\n"},
		{"\ufeff[s]\nk=1", "v", "\ufeff[s]\nk=v"},
		{"\ufeff", "v", "\ufeff[s]\nk = v\n"},
		{"[s]\n  K : 'a b'  ; why\n", "v", "[s]\n  K : v  ; why\n"},
		{"[s]\nk = 'a';why\n", "v", "[s]\nk = v ;why\n"},
		{"[s]\nk = ; why\n", "v", "[s]\nk = v ; why\n"},
		{"[s]\nk =\n", "v", "[s]\nk = v\n"},
		{"[s]\nk=\n", "v", "[s]\nk=v\n"},
		{"[s]\nk = a ; why\n", "", "[s]\nk = '' ; why\n"},
		{"[s]\nk = 'v'\n", "v", "[s]\nk = 'v'\n"},
		{"[s]\nk = a\nk = b\n", "v", "[s]\nk = a\nk = v\n"},
		{"[s]\na=1\n[t]\n[s]\nb=1\n", "v", "[s]\na=1\n[t]\n[s]\nb=1\nk = v\n"},
		{"[s]\njunk\n\x00\x00\nk = a\n", "v", "[s]\njunk\nk = v\n"},
		{"[s]\n\x00\nk = v\n", "v", "[s]\n\x00\nk = v\n"},
		{"\x00\x00\x00", "v", "[s]\nk = v\n"},
		{"[s]\nk = a\n", "a;b#c", "[s]\nk = a;b#c\n"},
		{"[s]\nk = a\n", "a ;b", "[s]\nk = 'a ;b'\n"},
		{"[s]\nk = a\n", " it's ", "[s]\nk = \" it's \"\n"},
		{"[s]\nk = a\n", "'a' \"b\"", "[s]\nk = 'a' \"b\"\n"},
		{"[s]\nk = a\n", ";v", "[s]\nk = ';v'\n"},
	} {
		f := ParseINI([]byte(c.text))
		if err := f.Set("s", "k", c.value); err != nil {
			t.Errorf("%q: %v", c.text, err)
		}
		if got := string(f.Text()); got != c.want {
			t.Errorf("%q becomes %q, want %q", c.text, got, c.want)
		}
		if f.Value("s", "k") != c.value || ParseINI(f.Text()).Value("s", "k") != c.value {
			t.Errorf("%q: %q reads back as %q", c.text, c.value, f.Value("s", "k"))
		}
	}
	for _, value := range []string{"a\nb", "a\rb", "a\x00", "'a ;\"", `" ;'`} {
		f := ParseINI([]byte("[s]\n\x00\nk = a\n"))
		if err := f.Set("s", "k", value); err == nil || !strings.Contains(err.Error(), "[s] k") || string(f.Text()) != "[s]\n\x00\nk = a\n" {
			t.Errorf("%q: %v, %q", value, err, f.Text())
		}
	}
}

func TestINIDelete(t *testing.T) {
	f := ParseINI([]byte("[s]\nk = a\n; mine\nK = b\nl = c\n[t]\nk = d"))
	f.Delete("s", "k")
	f.Delete("s", "none")
	if got := string(f.Text()); got != "[s]\n; mine\nl = c\n[t]\nk = d" {
		t.Errorf("%q", got)
	}
}

// FuzzINI: setting an option changes that option.
func FuzzINI(f *testing.F) {
	f.Add("[s]\nk = a\n[t]\nk = b ; c\r\n", "v")
	f.Add("\ufeff[s]\nk:'a' ;\n[s\nl=\"\n", " ;'")
	f.Add("\x00\n k==#\n[ S]k=\n", "#")
	f.Fuzz(func(t *testing.T, text, value string) {
		ini, before := ParseINI([]byte(text)), ParseINI([]byte(text))
		if got := string(ini.Text()); got != text {
			t.Fatalf("%q becomes %q", text, got)
		}
		if ini.Set("s", "k", value) != nil {
			return
		}
		after := ParseINI(ini.Text())
		if ini.Value("s", "k") != value || after.Value("s", "k") != value {
			t.Errorf("%q with %q becomes %q", text, value, ini.Text())
		}
		for _, at := range [][2]string{{"s", "l"}, {"t", "k"}, {"", "k"}} {
			if got, want := after.Value(at[0], at[1]), before.Value(at[0], at[1]); got != want {
				t.Errorf("%q with %q becomes %q: %s of %s is %q, was %q", text, value, ini.Text(), at[1], at[0], got, want)
			}
		}
		if err := after.Set("s", "k", after.Value("s", "k")); err != nil {
			t.Errorf("%q: its own value: %v", ini.Text(), err)
		}
		after.Delete("s", "k")
		if got := ParseINI(after.Text()).Value("s", "k"); got != "" {
			t.Errorf("%q: deleted, the value is %q", after.Text(), got)
		}
	})
}
