package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the documentation of Gateway Engine does, from the first to the last
// command. What programs read is the last line of the standard output.
func TestBuildApp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "my_app")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	lab := tasks{createBuildfile: createBuildfile, checkBuildfile: checkBuildfile, buildApp: buildApp, checkTarball: checkTarball}
	step := func(want int, last string, args ...string) (all, errs string) {
		t.Helper()
		var out, e strings.Builder
		status := run(args, t.TempDir(), lab, &out, &e)
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if status != want || lines[len(lines)-1] != last {
			t.Fatalf("gwe %s: %d, %q, %q, want %d, %q", args, status, out.String(), e.String(), want, last)
		}
		return out.String(), e.String()
	}
	step(0, filepath.Join(dir, "gwe-buildfile.json"), "--create-buildfile")
	step(1, "", "--create-buildfile")
	if out, _ := step(1, "[FAIL]", "--check-buildfile", "gwe-buildfile.json"); !strings.Contains(out, `"install.sh" in "includes" matches nothing`) {
		t.Errorf("%q", out)
	}
	if err := os.WriteFile("install.sh", []byte("echo"), 0o644); err != nil {
		t.Fatal(err)
	}
	step(0, "[PASS]", "--check-buildfile", "gwe-buildfile.json")
	if out, errs := step(1, "", "--build-app", "gwe-buildfile.json"); out != "" || !strings.Contains(errs, "error: install.sh: its x bit is not set") {
		t.Errorf("%q, %q", out, errs)
	}
	if err := os.Chmod("install.sh", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, errs := step(1, "", "--build-app", "gwe-buildfile.json"); !strings.Contains(errs, "its first line is not #!/bin/sh") {
		t.Errorf("%q", errs)
	}
	if err := os.WriteFile("install.sh", []byte("#!/bin/sh\necho\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	tarball := filepath.Join(dir, "my_app.v1.tar.gz")
	if out, _ := step(0, tarball, "--build-app", "gwe-buildfile.json", "-d", "DEBUG"); out != tarball+"\n" {
		t.Errorf("more than the path: %q", out)
	}
	step(0, filepath.Join(dir, "other.v2.0.tar.gz"), "-y", "gwe-buildfile.json", "-n", "other", "-s", "2.0")
	step(0, "[PASS]", "--check-tarball", "my_app.v1.tar.gz")
	if err := os.Rename(tarball, "my_app.tar.gz"); err != nil {
		t.Fatal(err)
	}
	step(1, "[FAIL]", "-z", "my_app.tar.gz")
	step(1, "[FAIL]", "-z", "none.v1.tar.gz")
	step(1, "[FAIL]", "-w", "none.json")
}
