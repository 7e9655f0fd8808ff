package cga

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// entry is an entry of a test's archive; a file if its type is 0.
type entry struct {
	name, body string
	mode       int64
	kind       byte
	link       string
	pax        map[string]string
}

var script = entry{name: "install.sh", body: "#!/bin/sh\n", mode: 0o755}

// packed makes an archive. After the entries come raw bytes, uncompressed.
func packed(t testing.TB, raw []byte, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: cmp.Or(e.mode, 0o644), Typeflag: cmp.Or(e.kind, tar.TypeReg), Linkname: e.link,
			Uid: 501, Gid: 20, Uname: "dev", ModTime: time.Unix(1500000000, 0), PAXRecords: e.pax}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(e.body))
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			h = &tar.Header{Typeflag: h.Typeflag, Name: e.name, PAXRecords: e.pax}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
	}
	if raw == nil {
		w.Close()
	} else {
		w.Flush()
		z.Write(raw)
	}
	z.Close()
	return b.Bytes()
}

// both inspects and unpacks an archive, which have to agree.
func both(t testing.TB, archive []byte, l Limits) (Contents, []Finding, error, string) {
	t.Helper()
	c, findings, err := Inspect(t.Context(), bytes.NewReader(archive), l)
	if err != nil {
		t.Fatalf("inspect: %v", err)
	}
	outside := t.TempDir()
	dir := filepath.Join(outside, "scratch")
	before := list(t, outside)
	d, err := Unpack(t.Context(), bytes.NewReader(archive), dir, l)
	after := list(t, outside)
	for name := range after {
		if name != "scratch" && !strings.HasPrefix(name, "scratch/") && before[name] == "" {
			t.Errorf("%s is outside", name)
		}
	}
	if err == nil && (d.Entries != c.Entries || d.Bytes != c.Bytes || d.Dir != c.Dir || d.Entry != c.Entry || !bytes.Equal(d.Conf, c.Conf)) {
		t.Errorf("inspect: %+v, unpack: %+v", c, d)
	}
	if err != nil && !Failed(findings) {
		t.Errorf("unpack: %v; inspect has found nothing but %v", err, findings)
	}
	return c, findings, err, dir
}

// list describes what is below a folder.
func list(t testing.TB, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch info.Mode().Type() {
		case 0:
			body, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if text += " " + string(body); info.ModTime().Unix() == 1500000000 {
				text += " in time"
			}
		case fs.ModeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text = "-> " + to
		}
		rel, err := filepath.Rel(root, path)
		found[rel] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// The archives that people have.
func TestUnpack(t *testing.T) {
	dir := func(name string, mode int64) entry { return entry{name: name, mode: mode, kind: tar.TypeDir} }
	long := strings.Repeat("d/", 60) + strings.Repeat("n", 120)
	for name, c := range map[string]struct {
		entries []entry
		want    Contents
		files   map[string]string
		warning string
	}{
		"flat": {entries: []entry{script, {name: "supervisor.conf", body: "[supervisord]\n"}, {name: "app.py", body: "x", mode: 0o600}},
			want:  Contents{Entries: 3, Bytes: 3 * 4096, Entry: "install.sh", Conf: []byte("[supervisord]\n")},
			files: map[string]string{"install.sh": "-rwxr-xr-x #!/bin/sh\n in time", "supervisor.conf": "-rw-r--r-- [supervisord]\n in time", "app.py": "-rw------- x in time"}},
		"with ./": {entries: []entry{dir("./", 0o700), {name: "./install.sh", body: "#!/bin/sh", mode: 0o755}, dir("./lib", 0o2555), {name: "./lib/./x"}},
			want:    Contents{Entries: 3, Bytes: 2 * 4096, Entry: "install.sh"},
			files:   map[string]string{"install.sh": "-rwxr-xr-x #!/bin/sh in time", "lib": "drwxr-xr-x", "lib/x": "-rw-r--r--  in time"},
			warning: "lib: its set-gid bit is not kept"},
		"a folder, without its entry": {entries: []entry{{name: "app/install.sh", body: "#! /bin/sh -e\n", mode: 0o700}, {name: "app/supervisor.conf", body: ""}},
			want:  Contents{Entries: 3, Bytes: 2 * 4096, Dir: "app", Entry: "install.sh", Conf: []byte{}},
			files: map[string]string{"app": "drwxr-xr-x", "app/install.sh": "-rwx------ #! /bin/sh -e\n in time", "app/supervisor.conf": "-rw-r--r--  in time"}},
		"of macOS": {entries: []entry{{name: "./._app", body: "Mac OS X"}, dir("./app/", 0o755), {name: "./app/._install.sh", body: "Mac OS X", mode: 0o755},
			{name: "./app/install.sh", body: "#!/bin/sh\n", mode: 0o755, pax: map[string]string{"LIBARCHIVE.xattr.com.apple.quarantine": "MDA4", "SCHILY.xattr.com.apple.x": "y"}}, {name: ".DS_Store", body: "x"}},
			want:  Contents{Entries: 3, Bytes: 3 * 4096, Dir: "app", Entry: "install.sh"},
			files: map[string]string{"app": "drwxr-xr-x", "app/install.sh": "-rwxr-xr-x #!/bin/sh\n in time", ".DS_Store": "-rw-r--r-- x in time"}},
		"of git archive": {entries: []entry{{name: "pax_global_header", kind: tar.TypeXGlobalHeader, pax: map[string]string{"comment": "abc"}}, dir("app-1/", 0o775), {name: "app-1/setup.py", body: "x"}},
			want:    Contents{Entries: 2, Bytes: 2 * 4096, Dir: "app-1", Entry: "setup.py"},
			files:   map[string]string{"app-1": "drwxrwxr-x", "app-1/setup.py": "-rw-r--r-- x in time"},
			warning: "app-1/setup.py: without an install.sh the gateway needs a Python"},
		"links": {entries: []entry{{name: "lib/libx.so.1.2", body: "x"}, {name: "lib/libx.so.1", kind: tar.TypeSymlink, link: "libx.so.1.2"}, {name: "lib/libx.so", kind: tar.TypeSymlink, link: "libx.so.1"},
			{name: "up", kind: tar.TypeSymlink, link: "lib/../lib/./libx.so"}, {name: "hard", kind: tar.TypeLink, link: "./lib/libx.so.1.2"}, {name: "soon", kind: tar.TypeSymlink, link: "later/x"},
			{name: "bin/go.sh", body: "#!/bin/sh", mode: 0o755}, {name: "install.sh", kind: tar.TypeSymlink, link: "bin/go.sh"}},
			want: Contents{Entries: 10, Bytes: 4 * 4096, Entry: "install.sh"},
			files: map[string]string{"lib": "drwxr-xr-x", "lib/libx.so.1.2": "-rw-r--r-- x in time", "lib/libx.so.1": "-> libx.so.1.2", "lib/libx.so": "-> libx.so.1", "up": "-> lib/../lib/./libx.so",
				"hard": "-rw-r--r-- x in time", "soon": "-> later/x", "bin": "drwxr-xr-x", "bin/go.sh": "-rwxr-xr-x #!/bin/sh in time", "install.sh": "-> bin/go.sh"}},
		"a folder behind what is in it": {entries: []entry{{name: "a/b/c", body: "x"}, dir("a/b/", 0o750), dir("a", 0o700), script},
			want:  Contents{Entries: 4, Bytes: 4 * 4096, Entry: "install.sh"},
			files: map[string]string{"a": "drwx------", "a/b": "drwxr-x---", "a/b/c": "-rw-r--r-- x in time", "install.sh": "-rwxr-xr-x #!/bin/sh\n in time"}},
		"the top level before folders": {entries: []entry{{name: "other/install.sh", body: "x"}, {name: "other/supervisor.conf", body: "x"}, script},
			want:    Contents{Entries: 4, Bytes: 4 * 4096, Entry: "install.sh"},
			files:   map[string]string{"other": "drwxr-xr-x", "other/install.sh": "-rw-r--r-- x in time", "other/supervisor.conf": "-rw-r--r-- x in time", "install.sh": "-rwxr-xr-x #!/bin/sh\n in time"},
			warning: "other/supervisor.conf: it is not beside"},
		"long": {entries: []entry{script, {name: long, body: "x"}},
			want: Contents{Entries: 62, Bytes: 62 * 4096, Entry: "install.sh"}},
	} {
		got, findings, err, scratch := both(t, packed(t, nil, c.entries...), DefaultLimits)
		all := FindingsError(findings).Error()
		if err != nil || !strings.Contains(all, c.warning) || c.warning == "" && all != "" || Failed(findings) {
			t.Errorf("%s: %v, %s, want %q", name, err, all, c.warning)
		}
		if !slices.Equal(got.Conf, c.want.Conf) || (got.Conf == nil) != (c.want.Conf == nil) {
			t.Errorf("%s: supervisor.conf is %q, want %q", name, got.Conf, c.want.Conf)
		}
		got.Conf, c.want.Conf = nil, nil
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		if files := list(t, scratch); c.files != nil && !maps.Equal(files, c.files) {
			t.Errorf("%s: %q, want %q", name, files, c.files)
		}
	}
}

// header makes a header of its own, for what no writer writes.
func header(name string, kind byte, size string) []byte {
	h := make([]byte, tarBlock)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], size)
	copy(h[136:], "00000000000\x00        ")
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// Everything here is refused as a whole, by its entry.
func TestHostile(t *testing.T) {
	link := func(name, to string) entry { return entry{name: name, kind: tar.TypeSymlink, link: to} }
	hard := func(name, to string) entry { return entry{name: name, kind: tar.TypeLink, link: to} }
	of := func(name string, kind byte) entry { return entry{name: name, kind: kind} }
	file := func(name string) entry { return entry{name: name, body: "x"} }
	for name, c := range map[string]struct {
		entries []entry
		want    string
	}{
		"absolute":            {[]entry{file("/etc/cron")}, "/etc/cron: it is an absolute path"},
		"parent":              {[]entry{file("../evil")}, `../evil: it has ".." in it`},
		"parent within":       {[]entry{file("a/../../evil")}, `a/../../evil: it has ".." in it`},
		"harmless parent":     {[]entry{file("a/../b")}, `a/../b: it has ".." in it`},
		"link out":            {[]entry{link("out", "../x")}, "out: the link points out of the archive, to ../x"},
		"link out, deeper":    {[]entry{link("a/b/out", "../../../x")}, "a/b/out: the link points out"},
		"link out and in":     {[]entry{link("out", "../scratch/x")}, "out: the link points out"},
		"link to root":        {[]entry{link("py", "/usr/bin/python")}, "py: the link points out of the archive, to /usr/bin/python"},
		"through a link":      {[]entry{{name: "d", kind: tar.TypeDir}, link("l", "d"), file("l/evil")}, "l/evil: l, which it is below, is a link"},
		"folder over a link":  {[]entry{link("l", "d"), of("l/", tar.TypeDir)}, "l: it is there twice"},
		"chained":             {[]entry{link("a/l", "."), link("m", "a/l/../..")}, "m: the link leads through a/l, which is a link too"},
		"chained, backwards":  {[]entry{link("m", "a/l/x"), link("a/l", "../b")}, "m: the link leads through a/l"},
		"hard link out":       {[]entry{hard("h", "/etc/shadow")}, "h: the hard link's target: it is an absolute path"},
		"hard link up":        {[]entry{hard("h", "../x")}, "h: the hard link's target"},
		"hard link to none":   {[]entry{hard("h", "none")}, "h: it is a hard link to none, which is no file"},
		"hard link to a link": {[]entry{link("l", "install.sh"), hard("h", "l")}, "h: it is a hard link to l"},
		"hard link to later":  {[]entry{hard("h", "x"), file("x")}, "h: it is a hard link to x"},
		"hard link to itself": {[]entry{hard("h", "h")}, "h: it is a hard link to h"},
		"hard link to folder": {[]entry{{name: "d", kind: tar.TypeDir}, hard("h", "d")}, "h: it is a hard link to d"},
		"character device":    {[]entry{of("null", tar.TypeChar)}, "null: it is a device"},
		"block device":        {[]entry{of("sda", tar.TypeBlock)}, "sda: it is a device"},
		"FIFO":                {[]entry{of("pipe", tar.TypeFifo)}, "pipe: it is a FIFO"},
		"set-uid":             {[]entry{{name: "su", mode: 0o4755}}, "su: it is set-uid or set-gid"},
		"set-gid":             {[]entry{{name: "sg", mode: 0o2755}}, "sg: it is set-uid"},
		"twice":               {[]entry{file("x"), file("x")}, "x: it is there twice"},
		"twice but for ./":    {[]entry{file("x"), file("./x")}, "x: it is there twice"},
		"twice but for //":    {[]entry{file("a/x"), file("a//./x")}, "a/x: it is there twice"},
		"folder twice":        {[]entry{of("d/", tar.TypeDir), of("./d", tar.TypeDir)}, "d: it is there twice"},
		"file, then folder":   {[]entry{file("x"), of("x/", tar.TypeDir)}, "x: it is there twice"},
		"below a file":        {[]entry{file("x"), file("x/y")}, "x/y: x, which it is below, is a file"},
		"folder, then file":   {[]entry{file("x/y"), file("x")}, "x: it is there twice, as a folder and as a file"},
		"folder, then link":   {[]entry{file("x/y"), link("x", "z")}, "x: it is there twice, as a folder and as a link"},
		"line feed":           {[]entry{file("a\nb")}, `"a\nb": the name has control characters`},
		"escape":              {[]entry{file("a\x1b[2Jb")}, "the name has control characters"},
		"DEL":                 {[]entry{file("a\x7f")}, "the name has control characters"},
		"C1":                  {[]entry{file("a\u009bb")}, "the name has control characters"},
		"no UTF-8":            {[]entry{file("a\xffb")}, `"a\xffb": the name is not UTF-8`},
		"link with control":   {[]entry{link("l", "a\nb")}, "l: what the link points to: the name has control characters"},
		"long part":           {[]entry{file(strings.Repeat("n", 256))}, "a part of the name has 256 bytes, at most 255"},
		"long path":           {[]entry{file(strings.Repeat("n/", 500) + "x")}, "the path has 1001 bytes, at most 1000"},
		"long link":           {[]entry{link("l", strings.Repeat("n", 1001))}, "l: what the link points to: the path has 1001 bytes"},
		"a file as top level": {[]entry{file("./.")}, "./.: it has no name"},
		"conf as a link":      {[]entry{file("x"), link("supervisor.conf", "x")}, "supervisor.conf: it is a link"},
		"conf as a hard link": {[]entry{file("x"), hard("supervisor.conf", "x")}, "supervisor.conf: it is a link"},
		"a large conf":        {[]entry{{name: "supervisor.conf", body: strings.Repeat("x", maxConf+1)}}, "supervisor.conf: it has more than 65536 bytes"},
		"a volume":            {[]entry{{name: "v", kind: 'V'}}, "v: it is of a kind ('V')"},
	} {
		// Entries behind it are looked at too.
		archive := packed(t, nil, append(c.entries, script)...)
		_, findings, err, _ := both(t, archive, DefaultLimits)
		var refused *RefusedError
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, &refused) {
			t.Errorf("%s: unpack: %v, want %s", name, err, c.want)
		}
		if all := FindingsError(findings).Error(); !strings.Contains(all, "error: "+c.want) && !strings.Contains(all, c.want) || strings.Contains(all, "there is no install.sh") {
			t.Errorf("%s: inspect: %s, want %s", name, all, c.want)
		}
	}
}

// An app that could not be installed.
func TestApp(t *testing.T) {
	sh := func(line string) []entry { return []entry{{name: "install.sh", body: line, mode: 0o755}} }
	for name, c := range map[string]struct {
		entries []entry
		refused bool
		want    string
	}{
		"empty":                 {nil, true, "the archive is empty"},
		"nothing to run":        {[]entry{{name: "a"}}, true, "there is no install.sh and no setup.py"},
		"too deep":              {[]entry{{name: "a/b/install.sh", mode: 0o755}}, true, "there is no install.sh"},
		"two folders":           {[]entry{{name: "a/install.sh", mode: 0o755}, {name: "b/install.sh", mode: 0o755}}, true, "there is no install.sh"},
		"a folder of that name": {[]entry{{name: "install.sh/", kind: tar.TypeDir}}, true, "there is no install.sh"},
		"not executable":        {[]entry{{name: "app/install.sh", body: "#!/bin/sh"}}, true, "app/install.sh: its x bit is not set"},
		"a link to no file":     {[]entry{{name: "install.sh", kind: tar.TypeSymlink, link: "none"}}, true, "install.sh: the link does not lead to a file"},
		"links in a circle": {[]entry{{name: "install.sh", kind: tar.TypeSymlink, link: "b"}, {name: "b", kind: tar.TypeSymlink, link: "install.sh"}}, true,
			"install.sh: the link does not lead to a file"},
		"a link to no program":  {[]entry{{name: "x"}, {name: "install.sh", kind: tar.TypeSymlink, link: "x"}}, true, "install.sh: its x bit is not set"},
		"no shebang":            {sh("echo\n"), false, "error: install.sh: its first line is not #!/bin/sh"},
		"empty script":          {sh(""), false, "error: install.sh: its first line is not"},
		"CRLF":                  {sh("#!/bin/sh\r\necho\r\n"), false, "error: install.sh: its lines end with CR and LF"},
		"BOM":                   {sh("\ufeff#!/bin/sh\n"), false, "error: install.sh: it begins with a byte order mark"},
		"no interpreter":        {sh("#!\n"), false, "error: install.sh: its first line has to name an interpreter"},
		"relative interpreter":  {sh("#!sh\n"), false, "error: install.sh: its first line has to name"},
		"another interpreter":   {sh("#!/usr/bin/env python\n"), false, "warning: install.sh: its interpreter /usr/bin/env has to be"},
		"binary":                {sh("\x7fELF\x01\x01"), false, "warning: install.sh: it is a binary"},
		"conf beside something": {append(sh("#!/bin/sh"), entry{name: "d/supervisor.conf"}), false, "warning: d/supervisor.conf: it is not beside"},
	} {
		_, findings, err, _ := both(t, packed(t, nil, c.entries...), DefaultLimits)
		all := FindingsError(findings).Error()
		if !strings.Contains(all, c.want) || len(findings) != 1 || (err != nil) != c.refused || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v, want %s", name, all, err, c.want)
		}
	}
}

// A small archive can be a large one, or one without end.
func TestBombs(t *testing.T) {
	l := Limits{Entries: 100, Bytes: 1 << 20}
	zeros := make([]byte, 8<<20)
	many := func(n int, name string) (list []entry) {
		for i := range n {
			list = append(list, entry{name: fmt.Sprintf(name, i)})
		}
		return list
	}
	pax := packed(t, nil, entry{name: "x", pax: map[string]string{"GWE.x": strings.Repeat("y", 1000)}})
	z, err := gzip.NewReader(bytes.NewReader(pax))
	if err != nil {
		t.Fatal(err)
	}
	headers := make([]byte, 3*tarBlock) // its pax header and records
	if _, err := io.ReadFull(z, headers); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"a large file":          {packed(t, nil, entry{name: "big", body: string(zeros)}), "big: with it the archive takes more than 1048576 bytes"},
		"a large claim":         {packed(t, append(header("big", '0', "77777777777\x00"), zeros[:1<<10]...)), "big: with it the archive takes more"},
		"the largest claim":     {packed(t, header("big", '0', "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff")), "big: with it the archive takes more"},
		"a negative claim":      {packed(t, header("big", '0', "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")), "the archive is broken"},
		"many entries":          {packed(t, nil, many(101, "f%d")...), "f100: there are more than 100 entries"},
		"many folders in paths": {packed(t, nil, many(4, "%d/"+strings.Repeat("d/", 30)+"x")...), "there are more than 100 entries"},
		"blocks":                {packed(t, nil, append(many(1, "f%d"), entry{name: "g", body: string(zeros[:1<<20-4095])}, entry{name: "h", body: "x"})...), "h: with it the archive takes more"},
		"zeros behind it":       {packed(t, zeros), "from here the archive is longer than all that it may have"},
		"headers without end":   {packed(t, bytes.Repeat(headers, 2000)), "from here the archive is longer"},
		"a content of headers":  {packed(t, append(header("p", 'x', "00040000000\x00"), zeros...)), "the archive is broken at its beginning"},
		"sparse":                {packed(t, append(header("s", 'S', "00000000000\x00"), zeros[:1<<10]...)), "the archive"},
		"AppleDouble":           {packed(t, nil, entry{name: "._x", body: string(zeros)}), "from here the archive is longer"},
		"broken by its size":    {packed(t, nil, entry{name: "d/..", body: string(zeros)}), "it has \"..\" in it"},
	} {
		start := time.Now()
		_, findings, err, _ := both(t, c.archive, l)
		if all := FindingsError(findings).Error(); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(all, c.want) {
			t.Errorf("%s: %v; %s; want %s", name, err, all, c.want)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("%s: it took %v", name, d)
		}
	}
	// Names are kept, and have a limit of their own.
	long := many(2200, strings.Repeat("n", 200)+"/"+strings.Repeat("o", 200)+"/"+strings.Repeat("p", 200)+"/"+strings.Repeat("q", 200)+"/"+strings.Repeat("r", 190)+"%d")
	if _, _, err, _ := both(t, packed(t, nil, append(long, many(1, "f%d")...)...), DefaultLimits); err == nil || !strings.Contains(err.Error(), "names of all entries have more than") {
		t.Errorf("names: %v", err)
	}
	// What is wrong with all of many entries is not a bomb either.
	_, findings, err := Inspect(t.Context(), bytes.NewReader(packed(t, nil, many(5000, "../f%d")...)), DefaultLimits)
	if err != nil || len(findings) != maxFindings+1 || findings[maxFindings].Text != "there is more than is listed" {
		t.Errorf("%d findings, %v", len(findings), err)
	}
}

// sparse files count by what they are, not by what is stored of them.
func TestSparse(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	err := errors.Join(os.WriteFile(big, []byte("x"), 0o644), os.Truncate(big, 8<<20), os.WriteFile(filepath.Join(dir, "install.sh"), []byte("#!/bin/sh"), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "pax"} {
		archive := filepath.Join(t.TempDir(), "x.tar.gz")
		if out, err := exec.Command("tar", "czSf", archive, "--format="+format, "-C", dir, "big", "install.sh").CombinedOutput(); err != nil {
			t.Fatalf("tar: %v: %s", err, out)
		}
		data, err := os.ReadFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err, _ := both(t, data, Limits{Entries: 10, Bytes: 1 << 20}); err == nil || !strings.Contains(err.Error(), "big: with it the archive takes more") {
			t.Errorf("%s: %v", format, err)
		}
		c, findings, err, scratch := both(t, data, DefaultLimits)
		if got, err2 := os.ReadFile(filepath.Join(scratch, "big")); err != nil || err2 != nil || len(got) != 8<<20 || got[0] != 'x' || c.Bytes != 8<<20+4096 || len(findings) > 0 {
			t.Errorf("%s: %v, %v, %d bytes, %+v, %v", format, err, err2, len(got), c, findings)
		}
	}
}

// What a network or an editor does to an archive.
func TestBroken(t *testing.T) {
	body := make([]byte, 1<<10) // not one that is the same if a distance in it is another
	rand.NewChaCha8([32]byte{}).Read(body)
	good := packed(t, nil, script, entry{name: "x", body: string(body)})
	for name, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"nothing":          {nil, "this is no gzip archive"},
		"text":             {[]byte("<html>404</html>"), "this is no gzip archive"},
		"garbage behind":   {append(slices.Clone(good), "garbage!!!!"...), "there is something behind the archive's end"},
		"a few bytes":      {append(slices.Clone(good), "x"...), "the archive is cut off"},
		"another behind":   {packed(t, append(make([]byte, 1024), header("evil", '0', "0")...), script), "there is something behind the archive's end, as when two"},
		"two archives":     {append(slices.Clone(good), good...), "there is something behind the archive's end"},
		"no tar":           {packed(t, bytes.Repeat([]byte("abc "), 1000)), "the archive is broken at its beginning"},
		"a lie in a size":  {packed(t, append(header("x", '0', "00000000001\x00"), bytes.Repeat([]byte("abcd"), 512)...), script), "the archive is broken behind x"},
		"a size too large": {packed(t, append(header("x", '0', "00000010000\x00"), "abc"...), script), "the archive is cut off behind x"},
	} {
		_, findings, err, _ := both(t, c.archive, DefaultLimits)
		if all := FindingsError(findings).Error(); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(all, c.want) {
			t.Errorf("%s: %v; %s; want %s", name, err, all, c.want)
		}
	}
	plain := func(archive []byte) []byte {
		z, err := gzip.NewReader(bytes.NewReader(archive))
		if err != nil {
			return nil
		}
		data, _ := io.ReadAll(z)
		return data
	}
	all := plain(good)
	for n := range len(good) {
		if _, findings, err := Inspect(t.Context(), bytes.NewReader(good[:n]), DefaultLimits); err != nil || !Failed(findings) {
			t.Errorf("the first %d bytes: %v, %v", n, findings, err)
		}
		bad := slices.Clone(good)
		bad[n] ^= 0x10
		if _, findings, err := Inspect(t.Context(), bytes.NewReader(bad), DefaultLimits); err != nil || !Failed(findings) && !bytes.Equal(plain(bad), all) {
			t.Errorf("byte %d is another: %v, %v", n, findings, err)
		}
	}
	// Several streams of gzip are one archive.
	var b bytes.Buffer
	for part := range slices.Chunk(all, 700) {
		z := gzip.NewWriter(&b)
		z.Write(part)
		z.Close()
	}
	if c, findings, err, _ := both(t, b.Bytes(), DefaultLimits); err != nil || len(findings) > 0 || c.Entries != 2 {
		t.Errorf("streams: %+v, %v, %v", c, findings, err)
	}
	// An archive that ends without a mark may be all that there is.
	_, findings, err, _ := both(t, packed(t, []byte{}, script), DefaultLimits)
	if all := FindingsError(findings).Error(); err != nil || all != "warning: the archive has no end: it may have been cut off before it was compressed" {
		t.Errorf("%v, %s", err, all)
	}
}

// What is not the archive's fault is an error.
func TestErrors(t *testing.T) {
	archive := packed(t, nil, script, entry{name: "x", body: strings.Repeat("abc", 500)})
	away := errors.New("the network is away")
	for n := range len(archive) {
		r := io.MultiReader(bytes.NewReader(archive[:n]), iotest.ErrReader(away))
		if _, _, err := Inspect(t.Context(), r, DefaultLimits); !errors.Is(err, away) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Inspect(ctx, bytes.NewReader(archive), DefaultLimits); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	var refused *RefusedError
	_, err := Unpack(ctx, bytes.NewReader(archive), filepath.Join(t.TempDir(), "x"), DefaultLimits)
	if !errors.Is(err, context.Canceled) || errors.As(err, &refused) {
		t.Errorf("%v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Unpack(t.Context(), bytes.NewReader(archive), dir, DefaultLimits); !errors.Is(err, fs.ErrExist) || errors.As(err, &refused) {
		t.Errorf("a file in the way: %v", err)
	}
	if _, err := Unpack(t.Context(), bytes.NewReader(archive), filepath.Join(dir, "no/where"), DefaultLimits); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// Tools that are in use write archives in their ways.
func TestTools(t *testing.T) {
	dir := t.TempDir()
	err := errors.Join(os.WriteFile(filepath.Join(dir, "install.sh"), []byte("#!/bin/sh\n"), 0o755), os.MkdirAll(filepath.Join(dir, "lib/ü"), 0o755),
		os.WriteFile(filepath.Join(dir, "lib/ü", strings.Repeat("n", 200)), []byte("x"), 0o640), os.Symlink("ü", filepath.Join(dir, "lib/u")), os.Link(filepath.Join(dir, "install.sh"), filepath.Join(dir, "same.sh")))
	if err != nil {
		t.Fatal(err)
	}
	want := list(t, dir)
	for _, args := range []string{"--format=gnu .", "--format=pax .", "--format=posix install.sh same.sh lib", "--format=gnu same.sh install.sh lib"} {
		archive := filepath.Join(t.TempDir(), "x.tar.gz")
		if out, err := exec.Command("tar", append([]string{"czf", archive, "-C", dir}, strings.Fields(args)...)...).CombinedOutput(); err != nil {
			t.Fatalf("tar: %v: %s", err, out)
		}
		data, err := os.ReadFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		c, findings, err, scratch := both(t, data, DefaultLimits)
		if got := list(t, scratch); err != nil || len(findings) > 0 || c.Entry != installScript || c.Entries != 6 || !maps.Equal(got, want) {
			t.Errorf("%s: %+v, %v, %v, %q, want %q", args, c, findings, err, got, want)
		}
	}
}

// The fuzzer's archives are not compressed, and their headers get the checksums
// that they need to be looked at.
func FuzzTarball(f *testing.F) {
	for _, entries := range [][]entry{
		{script, {name: "supervisor.conf", body: "[supervisord]\n"}},
		{script, {name: "l", kind: tar.TypeSymlink, link: "../x"}, {name: "l/x"}},
		{script, {name: "d/", kind: tar.TypeDir}, {name: "l", kind: tar.TypeSymlink, link: "d"}, {name: "l/x", body: "x"}, {name: "m", kind: tar.TypeSymlink, link: "l/.."}},
		{{name: "a/l", kind: tar.TypeSymlink, link: "."}, {name: "m", kind: tar.TypeSymlink, link: "a/l/../.."}, {name: "m/sentinel", body: "evil"}},
		{{name: "sentinel", body: "x"}, {name: "h", kind: tar.TypeLink, link: "sentinel"}, {name: "../sentinel"}},
		{{name: "app/install.sh", kind: tar.TypeSymlink, link: "x"}, {name: "app/x", body: "#!/bin/sh", mode: 0o755, pax: map[string]string{"GWE.x": "y"}}},
		{{name: strings.Repeat("n/", 100), kind: tar.TypeDir}, {name: "su", mode: 0o6755}, {name: "p", kind: tar.TypeFifo}},
	} {
		z, err := gzip.NewReader(bytes.NewReader(packed(f, nil, entries...)))
		if err != nil {
			f.Fatal(err)
		}
		data, err := io.ReadAll(z)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = slices.Clone(data)
		for block := range slices.Chunk(data, tarBlock) {
			if len(block) == tarBlock && bytes.HasPrefix(block[257:], []byte("ustar")) {
				copy(block[148:156], "        ")
				sum := 0
				for _, b := range block {
					sum += int(b)
				}
				copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
			}
		}
		var b bytes.Buffer
		z, _ := gzip.NewWriterLevel(&b, gzip.NoCompression)
		z.Write(data)
		z.Close()
		data = b.Bytes()
		l := Limits{Entries: 50, Bytes: 1 << 20}
		outside := t.TempDir()
		sentinel := filepath.Join(outside, "sentinel")
		if err := os.WriteFile(sentinel, []byte("here"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, findings, err := Inspect(t.Context(), bytes.NewReader(data), l)
		if err != nil {
			t.Fatal(err)
		}
		scratch := filepath.Join(outside, "scratch")
		c, err := Unpack(t.Context(), bytes.NewReader(data), scratch, l)
		var refused *RefusedError
		if err != nil && (!errors.As(err, &refused) || !Failed(findings)) {
			t.Errorf("%v; inspect: %v", err, findings)
		}
		if c.Bytes > l.Bytes {
			t.Errorf("%+v", c)
		}
		found := list(t, outside)
		if found["sentinel"] != "-rw------- here" {
			t.Errorf("the sentinel: %q", found["sentinel"])
		}
		for name, text := range found {
			if name != "sentinel" && name != "scratch" && !strings.HasPrefix(name, "scratch/") {
				t.Errorf("%s is outside", name)
			}
			to, ok := strings.CutPrefix(text, "-> ")
			if ok && err == nil {
				if at, err := filepath.EvalSymlinks(filepath.Join(outside, name)); err == nil && at != scratch && !strings.HasPrefix(at, scratch+"/") {
					t.Errorf("%s leads to %s, %s", name, to, at)
				}
			}
		}
	})
}
