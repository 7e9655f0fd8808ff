//go:build qemu

package stories

import (
	"context"
	"io"
	"time"

	"crypto/sha256"
	"encoding/hex"
	"github.com/exosite/gwe/builder/qemu"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Every command of the README works as it stands there. A boot without
// "until" is used as a person would: log in, look, power off.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(project, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	// In a copy: what somebody has built here is not ours to replace.
	dir := t.TempDir()
	copy := exec.Command("sh", "-c", `cp -a --no-preserve=ownership $(ls -A | grep -vx out) "$0"`, dir)
	copy.Dir = project
	if out, err := copy.CombinedOutput(); err != nil {
		t.Fatalf("copy the project: %v: %s", err, out)
	}
	ran := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(block[1]) {
			command, _, _ := strings.Cut(strings.TrimSpace(line), "  #")
			switch {
			case command == "", command == "make test", command == "make bench": // the first is this run
				continue
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			cmd := exec.CommandContext(ctx, "sh", "-c", command)
			cmd.Dir = dir
			console := qemu.NewConsole(nil)
			cmd.Stdout, cmd.Stderr = console, console
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() {
				ended <- cmd.Wait()
				console.Close() // or a boot that fails would be waited for
			}()
			if strings.HasSuffix(command, " boot") && !strings.Contains(command, "until=") {
				if _, err := console.Expect(ctx, prompt); err != nil {
					t.Errorf("%s: %v", command, err)
					cancel()
				}
				io.WriteString(stdin, "poweroff\n")
			}
			if err := <-ended; err != nil {
				t.Errorf("%s: %v\n%s", command, err, console.Tail(40))
			}
			cancel()
			ran++
		}
	}
	if ran < 5 {
		t.Errorf("the README has %d commands", ran)
	}
}
