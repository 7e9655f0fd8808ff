package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/exosite/gwe/builder/image"
	"github.com/exosite/gwe/builder/signing"
)

// builder runs the command line and returns what it printed.
func builder(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	oldOut, oldErr := os.Stdout, os.Stderr
	defer func() { os.Stdout, os.Stderr = oldOut, oldErr }()
	var files [2]*os.File
	for i := range files {
		f, err := os.Create(filepath.Join(t.TempDir(), "output"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	os.Stdout, os.Stderr = files[0], files[1]
	status = run(t.Context(), args)
	var text [2]string
	for i, f := range files {
		data, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		text[i] = string(data)
	}
	return status, text[0], text[1]
}

// project changes to the folder of a project with the board "shell", whose
// machine is sh and whose image is a script.
func project(t *testing.T, script string) {
	t.Helper()
	text, err := os.ReadFile("../boards/qemu-arm64/board.yaml")
	if err != nil {
		t.Fatal(err)
	}
	board := regexp.MustCompile(`(?s)\nmachine:.*`).ReplaceAllString(string(text), "\nmachine:\n  memory: 64\n  command:\n    - sh {image} {memory}\n")
	t.Chdir(t.TempDir())
	for file, data := range map[string]string{
		"boards/shell/board.yaml": board, "boards/shell/boot.cmd": "bootm", "out/shell/u-boot.bin": "",
	} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	built(t, script)
}

// built makes script the image of the board "shell", as a build would.
func built(t *testing.T, script string) {
	t.Helper()
	file := image.File{Name: "shell.img", SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(script)))}
	m := image.Manifest{Image: file, Compressed: file, UBoot: image.UBoot{SHA256: file.SHA256}}
	var manifest strings.Builder
	if err := m.Encode(&manifest); err != nil {
		t.Fatal(err)
	}
	for file, data := range map[string]string{"out/shell.img": script, "out/shell.json": manifest.String()} {
		if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCommandLine(t *testing.T) {
	t.Chdir("..") // the project's folder
	empty, file := t.TempDir(), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "own.key")
	if _, err := signing.Create(key, nil); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args   string // separated by blanks
		status int
		stdout string // contains, or nothing if ""
		stderr string
	}{
		{"", 2, "usage: builder COMMAND", ""},
		{"-h", 0, "list the boards", ""},
		{"--help", 0, "boot an image", ""},
		{"help", 0, "Run it in the project's folder.", ""},
		{"biuld", 2, "", `builder: unknown command "biuld"` + "\n\nusage: builder COMMAND"},
		{"image -h", 0, "", "builder image -board qemu-mipsel -overlays"},
		{"boot -h", 0, "", "-until 'gweinit: ready'"},
		{"boards -h", 0, "", "builder boards -json\n"},
		{"setup -h", 0, "", "builder setup -board qemu-arm64\n"},
		{"boards -jsno", 2, "", "not defined: -jsno\nbuilder boards: list the boards\n"},
		{"boot -m much", 2, "", `invalid value "much" for flag -m`},
		{"boards qemu-arm64", 2, "", `builder boards: unexpected argument "qemu-arm64"`},
		{"image -out " + empty, 1, "", "which board? One of: qemu-arm, qemu-arm64, "},
		{"image -board rpi9 -out " + empty, 1, "", `unknown board "rpi9": there is no boards/rpi9/board.yaml. Known: qemu-arm, qemu-arm64, `},
		{"image -board qemu-arm64 -overlays bsae -out " + empty, 1, "", `unknown overlay "bsae"`},
		{"image -board qemu-arm64 -apps apps/none -out " + empty, 1, "", "app apps/none: there is no such folder or tarball"},
		{"image -board qemu-arm64 -release -out " + empty, 1, "", "release: name your own key with key=FILE"},
		{"image -board qemu-arm64 -overlays dev -release -key " + key + " -out " + empty, 1, "", "overlay dev is not for a release image"},
		{"image -board qemu-arm64 -version v1 -out " + empty, 1, "", `version "v1"`},
		{"image -board qemu-arm64 -out " + file, 1, "", "folder for the image: mkdir " + file},
		{"image -board qemu-arm64 -lock " + file + " -out " + empty, 1, "", "builder image: lock: " + file + ": no JSON object"},
		{"image -board qemu-arm64 -lock nowhere.json -out " + empty, 1, "", "builder image: lock: open nowhere.json: no such file or directory"},
		{"sources -h", 0, "", "builder sources -board qemu-arm64 -list\n"},
		{"sources", 1, "", "builder sources: which board?"},
		{"sources -board qemu-arm64 -out " + empty, 1, "", "qemu-arm64.json: no such file or directory: build it first: make board=qemu-arm64 image"},
		{"sources -board qemu-arm64 -list -out " + empty, 1, "", "qemu-arm64.json: no such file or directory: build it first: make board=qemu-arm64 image"},
		{"setup -board rpi9", 1, "", `unknown board "rpi9"`},
		{"boot", 1, "", "builder boot: which board? One of: qemu-arm, qemu-arm64, "},
		{"boot -board qemu-arm64 -until (", 1, "", "builder boot: -until: error parsing regexp: missing closing )"},
		{"boot -board qemu-arm64 -out " + empty, 1, "", "qemu-arm64.json: no such file or directory: build it first: make board=qemu-arm64 image"},
		{"boot -board qemu-mipsel -snapshot -out " + empty, 1, "", "qemu-mipsel.img: no such file or directory: build it first: make board=qemu-mipsel image"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			status, stdout, stderr := builder(t, strings.Fields(tt.args)...)
			wrong := func(got, want string) bool { return !strings.Contains(got, want) || want == "" && got != "" }
			if status != tt.status || wrong(stdout, tt.stdout) || tt.stderr != "" && wrong(stderr, tt.stderr) || tt.stderr == "" && stderr != "" {
				t.Errorf("status %d, want %d\nstdout %q\nwant   %q\nstderr %q\nwant   %q", status, tt.status, stdout, tt.stdout, stderr, tt.stderr)
			}
		})
	}
	if left, _ := os.ReadDir(empty); len(left) > 0 {
		t.Errorf("failed builds left %v", left)
	}
}

func TestBoards(t *testing.T) {
	t.Chdir("..")
	status, text, stderr := builder(t, "boards")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if status != 0 || stderr != "" || len(lines) < 2 ||
		!regexp.MustCompile(`(?m)^qemu-arm64 +arm64 +linux-image-arm64 +QEMU's 64-bit`).MatchString(text) ||
		!regexp.MustCompile(`(?m)^qemu-mipsel +mipsel +linux-image-4kc-malta +QEMU's MIPS`).MatchString(text) {
		t.Errorf("status %d, stderr %q\n%s", status, stderr, text)
	}
	_, text, _ = builder(t, "boards", "-json")
	var rows []map[string]string
	if err := json.Unmarshal([]byte(text), &rows); err != nil || len(rows) != len(lines) || rows[1]["name"] != "qemu-arm64" || rows[1]["kernel"] != "linux-image-arm64" {
		t.Errorf("-json: %v\n%s", err, text)
	}
}

// Somewhere else the builder says where to go, and leaves nothing behind.
func TestOutsideOfTheProject(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, args := range []string{"boards", "image -board qemu-arm64", "boot -board qemu-arm64", "setup -board qemu-arm64"} {
		status, stdout, stderr := builder(t, strings.Fields(args)...)
		if status != 1 || stdout != "" || !strings.Contains(stderr, "run in the project's folder") {
			t.Errorf("%s: status %d, stdout %q, stderr %q", args, status, stdout, stderr)
		}
		if left, _ := os.ReadDir("."); len(left) > 0 {
			t.Errorf("%s: left %v", args, left)
			os.RemoveAll("out")
		}
	}
}

func TestBoot(t *testing.T) {
	const ready = "echo gweinit: ready version=$1; "
	for _, tt := range []struct {
		name, script, args string
		status             int
		stdout, stderr     string
	}{
		{"seen", ready + "exec sleep 1000", "-until ready.version=(.*)", 0, "gweinit: ready version=64\n", "seen after"},
		{"with other memory", ready + "exec sleep 1000", "-m 32 -until version=32", 0, "version=32\n", "seen after"},
		{"snapshot", ready + "exec sleep 1000", "-snapshot -until ready", 0, "gweinit: ready", "seen after"},
		{"ended before", ready, "-until login", 3, "gweinit: ready", `not seen: "login": the machine has ended`},
		{"not in time", ready + "exec sleep 1000", "-until login -timeout 300ms", 3, "", `not seen: "login" within 300ms`},
		{"powered off", ready, "", 0, "gweinit: ready", ""},
		{"QEMU fails", "exit 7", "", 1, "", "builder boot: sh: exit status 7"},
		{"time is over", "exec sleep 1000", "-timeout 100ms", 1, "", "the machine was ended: context deadline exceeded"},
		{"another image", "exit 7", "-image boards/shell/boot.cmd", 1, "", "exit status 127"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			project(t, tt.script)
			status, stdout, stderr := builder(t, append([]string{"boot", "-board", "shell"}, strings.Fields(tt.args)...)...)
			if status != tt.status || !strings.Contains(stdout, tt.stdout) || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("status %d, want %d\nstdout %q\nwant   %q\nstderr %q\nwant   %q", status, tt.status, stdout, tt.stdout, stderr, tt.stderr)
			}
		})
	}
}

// What the machine writes stays, in a copy, until the image is built again.
func TestBootKeepsWhatIsWritten(t *testing.T) {
	const script = "echo boot $(grep -c booted $0); echo '# booted' >> $0; exit\n"
	project(t, script)
	for _, want := range []string{"boot 1\n", "boot 2\n", "boot 3\n"} {
		if _, stdout, stderr := builder(t, "boot", "-board", "shell"); stdout != want {
			t.Errorf("got %q, %q, want %q", stdout, stderr, want)
		}
	}
	if text, err := os.ReadFile("out/shell.img"); err != nil || string(text) != script {
		t.Errorf("the built image has been written to: %q, %v", text, err)
	}
	built(t, "echo new")
	if _, stdout, stderr := builder(t, "boot", "-board", "shell"); stdout != "new\n" {
		t.Errorf("built again: got %q, %q", stdout, stderr)
	}
}
