package cga

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// project makes the files of an app, from their names and texts; those that begin
// with #! can be executed, and what ends with / is a folder.
func project(t testing.TB, files map[string]string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "my_app")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
			continue
		}
		mode := os.FileMode(0o600)
		if strings.HasPrefix(text, "#!") {
			mode = 0o711
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// members returns the entries of a tarball: name, mode and content.
func members(t testing.TB, tarball string) (names []string) {
	t.Helper()
	f, err := os.Open(tarball)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if z.Name != "" || !z.ModTime.IsZero() {
		t.Errorf("gzip says %q, %v", z.Name, z.ModTime)
	}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || !h.ModTime.Equal(epoch) || h.Format != tar.FormatUSTAR {
			t.Errorf("%+v", h)
		}
		names = append(names, strings.TrimSuffix(fmt.Sprintf("%s %o %s", h.Name, h.Mode, body)+h.Linkname, " "))
	}
}

func TestBuild(t *testing.T) {
	dir := project(t, map[string]string{
		"install.sh": "#!/bin/sh\n", "supervisor.conf": "[supervisord]\ncommand = x\n", "app.py": "a", "app.pyc": "c", ".git/config": "g", ".env": "e",
		"lib/x.py": "x", "lib/x.pyc": "c", "lib/.hidden": "h", "lib/__pycache__/y": "y", "empty/": "", "docs/a/b/c.md": "m", "docs/a/d.txt": "d",
		"my_app.v0.tar.gz": "old", "build/my_app.v0.9.tar.gz": "old", "other.v1.tar.gz": "kept",
	})
	if err := os.Symlink("x.py", filepath.Join(dir, "lib/link.py")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, BuildfileName)
	build := func(includes, excludes string) string {
		t.Helper()
		text := fmt.Sprintf(`{"name": "my_app", "version": "1.0", "includes": [%s], "excludes": [%s]}`, includes, excludes)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		tarball, err := Build(t.Context(), file, Options{Env: []string{"PATH=" + os.Getenv("PATH")}})
		if err != nil || tarball != filepath.Join(dir, "my_app.v1.0.tar.gz") {
			t.Fatalf("%s: %q, %v", includes, tarball, err)
		}
		return tarball
	}
	const flat = "app.py 644 a|install.sh 755 #!/bin/sh\n|supervisor.conf 644 [supervisord]\ncommand = x\n"
	for _, c := range []struct{ includes, excludes, want string }{
		{`"install.sh", "supervisor.conf", "app.py"`, ``, flat},
		{`"./install.sh", "*.py", "*.conf", "install.sh"`, ``, flat},
		{`"*"`, `"*.pyc", "__pycache__", "docs", "build/", "empty"`, "app.py 644 a|install.sh 755 #!/bin/sh\n|lib/ 755|lib/.hidden 644 h|lib/link.py 777 x.py|lib/x.py 644 x|other.v1.tar.gz 644 kept|supervisor.conf 644 [supervisord]\ncommand = x\n"},
		{`"install.sh", "empty"`, ``, "empty/ 755|install.sh 755 #!/bin/sh\n"},
		{`"install.sh", "**/*.md"`, ``, "docs/ 755|docs/a/ 755|docs/a/b/ 755|docs/a/b/c.md 644 m|install.sh 755 #!/bin/sh\n"},
		{`"**/*.sh", "docs/**"`, `"docs/a/b"`, "docs/ 755|docs/a/ 755|docs/a/d.txt 644 d|install.sh 755 #!/bin/sh\n"},
		{`"install.sh", "lib"`, `".*", "lib/*.pyc", "lib/__pycache__/*"`, "install.sh 755 #!/bin/sh\n|lib/ 755|lib/__pycache__/ 755|lib/link.py 777 x.py|lib/x.py 644 x"},
		{`"install.sh", ".env", "my_app.v0.tar.gz"`, ``, ".env 644 e|install.sh 755 #!/bin/sh\n|my_app.v0.tar.gz 644 old"},
	} {
		if got := strings.Join(members(t, build(c.includes, c.excludes)), "|"); got != c.want {
			t.Errorf("%s without %s:\n%q, want\n%q", c.includes, c.excludes, got, c.want)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".my_app-*")); err != nil || len(left) > 0 {
		t.Errorf("%q, %v", left, err)
	}
}

// The same files give the same bytes: in another folder, at another time, by
// another user, in another order.
func TestReproducible(t *testing.T) {
	files := map[string]string{"install.sh": "#!/bin/sh\n", "lib/a": strings.Repeat("text ", 10000), "lib/b": "b"}
	var first []byte
	for i := range 3 {
		dir := project(t, files)
		text := `{"name": "a", "version": "1", "includes": ["lib/*", "install.sh"]}`
		if i > 0 {
			text = `{"version": 1, "includes": ["install.sh", "lib", "lib/b"], "name": "a"}`
		}
		if err := os.WriteFile(filepath.Join(dir, "b.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(int64(1e9+i*1e6), 0)
		if err := errors.Join(os.Chtimes(filepath.Join(dir, "lib/a"), when, when), os.Chown(filepath.Join(dir, "lib/b"), i, i), os.Chmod(filepath.Join(dir, "lib/b"), 0o640)); err != nil {
			t.Fatal(err)
		}
		tarball, err := Build(t.Context(), filepath.Join(dir, "b.json"), Options{Out: filepath.Join(dir, "out")})
		if err != nil || filepath.Dir(tarball) != filepath.Join(dir, "out") {
			t.Fatalf("%q, %v", tarball, err)
		}
		data, err := os.ReadFile(tarball)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = data
		} else if !bytes.Equal(first, data) {
			t.Errorf("build %d has other bytes", i)
		}
	}
}

func TestCommands(t *testing.T) {
	dir := project(t, map[string]string{})
	file := filepath.Join(dir, "b.json")
	write := func(pre, post string) {
		t.Helper()
		text := fmt.Sprintf(`{"name": "a", "version": "1", "includes": ["install.sh"], "pre_build_cmds": [%s], "post_build_cmds": [%s]}`, pre, post)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// As of the field: the first command makes what is packed, the last removes it.
	write(`"echo '#!/bin/sh' > install.sh; chmod +x install.sh; echo to $GREETING >&2", "echo $APP_NAME $APP_VERSION in $(pwd)"`, `"ls $APP_TARBALL && rm install.sh"`)
	if findings, err := CheckBuildfile(file); err != nil || Failed(findings) || len(findings) != 2 || !strings.Contains(FindingsError(findings).Error(), "unless pre_build_cmds make it") {
		t.Errorf("%v, %v", findings, err)
	}
	var out bytes.Buffer
	env := []string{"PATH=" + os.Getenv("PATH"), "GREETING=you", "SOURCE_DATE_EPOCH=1500000000"}
	tarball, err := Build(t.Context(), file, Options{Version: "2", Env: env, Output: &out})
	want := fmt.Sprintf("to you\na 2 in %s\n%s\n", dir, filepath.Join(dir, "a.v2.tar.gz"))
	if err != nil || out.String() != want || tarball != filepath.Join(dir, "a.v2.tar.gz") {
		t.Errorf("%q, %v, %q, want %q", tarball, err, out.String(), want)
	}
	if _, err := os.Stat(filepath.Join(dir, "install.sh")); !os.IsNotExist(err) {
		t.Errorf("the last command did not run: %v", err)
	}
	data, err := os.ReadFile(tarball)
	if err != nil {
		t.Fatal(err)
	}
	if _, findings, err, scratch := both(t, data, DefaultLimits); err != nil || len(findings) > 0 || !strings.HasSuffix(list(t, scratch)["install.sh"], "in time") {
		t.Errorf("%v, %v, %q", findings, err, list(t, scratch))
	}

	for _, c := range []struct{ pre, post, err, out string }{
		{`"echo one; exit 3", "echo two"`, ``, `run "echo one; exit 3": exit status 3`, "one\n"},
		{`"echo '#!/bin/sh' > install.sh; chmod +x install.sh"`, `"false", "echo two"`, `run "false": exit status 1`, ""},
		{`"rm install.sh"`, ``, `"install.sh" in "includes" matches nothing`, ""},
		{`"touch install.sh"`, ``, "install.sh: its x bit is not set", ""},
		{`"rm install.sh; mkfifo install.sh"`, ``, "install.sh is included, and is no file, folder or link", ""},
		{`"rm install.sh; ln -s /etc/passwd install.sh"`, ``, "install.sh: the link points out of the archive, to /etc/passwd", ""},
	} {
		write(c.pre, c.post)
		out.Reset()
		tarball, err := Build(t.Context(), file, Options{Output: &out})
		if err == nil || tarball != "" || !strings.Contains(err.Error(), c.err) || out.String() != c.out {
			t.Errorf("%s: %q, %v, %q, want %s", c.pre, tarball, err, out.String(), c.err)
		}
	}
	if _, err := Build(t.Context(), file, Options{Env: []string{"SOURCE_DATE_EPOCH=today"}}); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH=today") {
		t.Errorf("%v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("%q, %v", left, err)
	}
}

func TestBuildfile(t *testing.T) {
	const rest = `"version": "1", "includes": ["install.sh"]`
	for text, want := range map[string]string{
		`{"name": "a", ` + rest + `}`: "",
		`{"name": "a", "version": 1.10, "includes": ["install.sh"], "excludes": null}`: "",
		"\ufeff{\"name\": \"a\",\r\n " + rest + "}":                                    "",
		``:                       "error: line 1: this is no JSON: unexpected end",
		"{\n\"name\": \"a\",\n}": "error: line 3: this is no JSON: invalid character '}'",
		"{\n\n\"name\": 'a'}":    "error: line 3: this is no JSON: invalid character '\\''",
		`[]`:                     "error: line 1: want a JSON object",
		`null`:                   "error: line 1: want a JSON object",
		`{"name": "a"} {}`:       "error: line 1: this is no JSON: invalid character '{'",
		"{\"name\": \"a\",\n\"include\": [], " + rest + "}":                                      `warning: line 2: there is no key "include"; it is ignored`,
		"{\"name\": \"b\",\n\"name\": \"a\", " + rest + "}":                                      `warning: line 2: "name" is given in line 1 too`,
		"{\"name\": \"a\",\n\"includes\": \"install.sh\"}":                                       `error: line 2: "includes": want a list of texts`,
		`{"name": 1, ` + rest + `}`:                                                              `error: line 1: "name": want a text`,
		`{` + rest + `}`:                                                                         "error: the app's name is empty",
		`{"name": "gwe", ` + rest + `}`:                                                          `error: line 1: the app's name "gwe" is taken`,
		`{"name": "a", "version": "1.v2", "includes": ["install.sh"]}`:                           "error: line 1: a.v1.v2.tar.gz would be read as version 2 of a.v1",
		`{"name": "a", "version": "1"}`:                                                          `error: "includes" says nothing to put into the tarball`,
		"{\"name\": \"a\", \"version\": \"1\",\n\"includes\": [\"install.sh\", \"../x\"]}":       `error: line 2: "../x" in "includes": it leads out of the buildfile's folder`,
		`{"name": "a", "version": "1", "includes": ["install.sh", "/etc/passwd"]}`:               `error: line 1: "/etc/passwd" in "includes": it leads out`,
		`{"name": "a", "version": "1", "includes": ["install.sh", "a[b"]}`:                       `error: line 1: "a[b" in "includes": it is no pattern`,
		`{"name": "a", "version": "1", "includes": ["install.sh", ""]}`:                          `error: line 1: "" in "includes": it is empty`,
		`{"name": "a", "version": "1", "includes": ["install.sh", "none.py"]}`:                   `error: line 1: "none.py" in "includes" matches nothing`,
		`{"name": "a", "version": "1", "includes": ["install.sh", "*.none"]}`:                    `warning: line 1: "*.none" in "includes" matches nothing`,
		`{"name": "a", "version": "1", "includes": ["none.py"], "pre_build_cmds": ["true"]}`:     `warning: line 1: "none.py" in "includes" matches nothing, unless pre_build_cmds`,
		`{"name": "a", "version": "1", "includes": ["readme"]}`:                                  "error: there is no install.sh in what is included",
		`{"name": "a", "version": "1", "includes": ["*"], "excludes": ["install.sh", "readme"]}`: "error: there is no install.sh",
	} {
		dir := project(t, map[string]string{"install.sh": "#!/bin/sh\n", "readme": "x", "b.json": text})
		findings, err := CheckBuildfile(filepath.Join(dir, "b.json"))
		all := FindingsError(findings).Error()
		if err != nil || !strings.Contains(all, want) || want == "" && all != "" || Failed(findings) != strings.HasPrefix(want, "error") {
			t.Errorf("%s: %s, %v, want %s", text, all, err, want)
		}
	}
	if _, err := CheckBuildfile(t.TempDir()); err == nil {
		t.Error("a folder is no buildfile")
	}
}

func TestCreateBuildfile(t *testing.T) {
	dir := project(t, map[string]string{"install.sh": "#!/bin/sh\n", "supervisor.conf": "[supervisord]\n"})
	file, err := CreateBuildfile(dir, "", "")
	if err != nil || file != filepath.Join(dir, "gwe-buildfile.json") {
		t.Fatalf("%q, %v", file, err)
	}
	text, err := os.ReadFile(file)
	var b map[string]any
	if err = errors.Join(err, json.Unmarshal(text, &b)); err != nil || len(b) != 6 || b["name"] != "my_app" || b["version"] != "1" || fmt.Sprint(b["includes"]) != "[install.sh supervisor.conf]" || fmt.Sprint(b["excludes"]) != "[]" {
		t.Errorf("%s, %v", text, err)
	}
	if findings, err := CheckBuildfile(file); err != nil || len(findings) > 0 {
		t.Errorf("%v, %v", findings, err)
	}
	if _, err := CreateBuildfile(dir, "b", "2"); !os.IsExist(err) {
		t.Errorf("over another one: %v", err)
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := CreateBuildfile(t.TempDir(), "a b", ""); err == nil {
		t.Error("a name that is none")
	}
}

func FuzzBuildfile(f *testing.F) {
	for _, s := range []string{`{"name": "a", "version": 1.0, "includes": ["*", "**/x", "a[b-c]?"], "excludes": ["**", ".*"], "pre_build_cmds": ["x"]}`, "{\n\"x\":\n{}}", `{"name":"a","name":[]}`,
		`{"name":"a","version":"1","includes":["**/**/a/**/**/b"]}`, "\ufeff{}", `{"includes":["\u0000","a//b","./","."]}`} {
		f.Add([]byte(s))
	}
	dir := project(f, map[string]string{"install.sh": "#!/bin/sh\n", "a/b/c/d/e/f": "x", ".h/x": "y"})
	f.Fuzz(func(t *testing.T, text []byte) {
		b, findings := parseBuildfile(text)
		if Failed(findings) {
			return
		}
		if findings := b.check(Name{b.Name, b.Version}); Failed(findings) {
			return
		}
		members, err := b.collect(filepath.Join(dir, "b.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range members {
			if name, err := cleanName(m.name); err != nil || name != m.name || m.file != filepath.Join(dir, m.name) {
				t.Errorf("%+v", m)
			}
		}
		if !slices.IsSortedFunc(members, func(x, y member) int { return strings.Compare(x.name, y.name) }) {
			t.Errorf("%+v", members)
		}
	})
}
