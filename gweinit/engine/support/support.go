// Package support writes the support bundle: one tarball with what a support
// engineer wants to see of a gateway, without its secrets.
package support

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options say what is in a bundle.
type Options struct {
	Root string // files are below it: "/"
	// Call asks PID 1, as control.Client's does; nil: there is none.
	Call    func(ctx context.Context, method string, args ...any) (any, error)
	Reports map[string]string // as the engine would send them now, by their names
	// Secrets that must not be in it, such as CIKs. Those of less than 6
	// characters are not looked for.
	Secrets []string
}

const (
	folder = "gwe-support/"
	// The bundle's files are read one at a time, into memory: the gateway has
	// little of it.
	maxFile     = 512 << 10
	maxLogs     = 8 << 20 // bytes of all logs
	mostLogs    = 500
	mostEntries = 10000            // of a folder
	callLimit   = 10 * time.Second // for an answer of PID 1
	readLimit   = 5 * time.Second  // for a file
	mostHangs   = 3                // reads after which no more are tried
)

// Write writes a gzip'd tar with the folder gwe-support. What cannot be read is
// not in it, and its README.txt says why. An error is one of w, or of ctx. It
// needs about 6 MiB of memory.
func Write(ctx context.Context, w io.Writer, o Options) error {
	if o.Root == "" {
		o.Root = "/"
	}
	z := gzip.NewWriter(w)
	b := &bundle{o: o, ctx: ctx, tar: tar.NewWriter(z), mask: newMask(o.Secrets), now: time.Now(), names: map[string]bool{}}
	for _, part := range []func(){
		b.addReports, b.addCalls, b.addState, b.addKeys, b.addSystem, b.addProcesses, b.addGroups, b.addPrograms, b.addKernelLog, b.addLogs, b.addIndex,
	} {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("write the support bundle: %w", err)
		}
		part()
		if b.err != nil {
			return fmt.Errorf("write the support bundle: %w", b.err)
		}
	}
	if err := b.tar.Close(); err != nil {
		return fmt.Errorf("write the support bundle: %w", err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("write the support bundle: %w", err)
	}
	return nil
}

// bundle is one that is written.
type bundle struct {
	o     Options
	ctx   context.Context
	tar   *tar.Writer
	mask  *mask
	now   time.Time
	buf   []byte          // of maxFile, to read into
	hangs int             // reads that did not end
	names map[string]bool // that are taken
	err   error           // of the tar: nothing more can be written

	index, missing []string // lines of README.txt
	more           int      // that were too many for missing
}

const mostMissing = 200

// miss notes what is not there and why.
func (b *bundle) miss(what string, why error) {
	if len(b.missing) == mostMissing {
		b.more++
		return
	}
	b.missing = append(b.missing, b.printable(what)+": "+b.printable(why.Error()))
}

// printable is a text without secrets, on one line.
func (b *bundle) printable(s string) string {
	return oneLine(b.mask.line(s))
}

func oneLine(s string) string {
	quoted := strconv.Quote(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// add adds a text after its secrets are masked. note says something about it.
func (b *bundle) add(name string, text []byte, modified time.Time, note string) {
	b.addPublic(name, b.mask.text(text), modified, note)
}

// addPublic adds a text that has no secrets, and may look as if it had: the
// letters of a public key may be those of a CIK.
func (b *bundle) addPublic(name string, text []byte, modified time.Time, note string) {
	if b.err != nil {
		return
	}
	if b.err = b.ctx.Err(); b.err != nil {
		return
	}
	name = b.unique(name)
	header := tar.Header{Typeflag: tar.TypeReg, Name: folder + name, Size: int64(len(text)), Mode: 0o644, ModTime: modified.Truncate(time.Second)}
	if b.err = b.tar.WriteHeader(&header); b.err != nil {
		return
	}
	if _, b.err = b.tar.Write(text); b.err != nil {
		return
	}
	line := fmt.Sprintf("%8d  %s", len(text), name)
	if note != "" {
		line += "  (" + b.printable(note) + ")"
	}
	b.index = append(b.index, line)
}

// unique makes a name that every tar can unpack and that is not taken.
func (b *bundle) unique(name string) string {
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\\' || r == '\uFFFD' {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(b.mask.line(name), "_"))
	base := name
	for i := 2; b.names[name]; i++ {
		name = base + "~" + strconv.Itoa(i)
	}
	b.names[name] = true
	return name
}

func (b *bundle) addReports() {
	for _, name := range slices.Sorted(maps.Keys(b.o.Reports)) {
		safe := strings.ReplaceAll(strings.TrimLeft(name, "."), "/", "_")
		b.add("reports/"+strings.TrimSuffix(safe, ".json")+".json", []byte(b.o.Reports[name]), b.now, "as it would be sent now")
	}
}

// addCalls adds what PID 1 tells.
func (b *bundle) addCalls() {
	for _, c := range []struct{ method, name string }{
		{"gweinit.status", "state/gweinit.status.json"},
		{"gweinit.firmware", "state/gweinit.firmware.json"},
		{"supervisor.getAllProcessInfo", "state/programs.json"},
		{"supervisor.getState", "state/supervisor.json"},
	} {
		if b.o.Call == nil {
			b.miss(c.name, errors.New("there is no PID 1 to ask"))
			continue
		}
		text, err := b.call(c.method)
		if err != nil {
			b.miss(c.name, err)
			continue
		}
		b.add(c.name, text, b.now, "")
	}
}

func (b *bundle) call(method string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(b.ctx, callLimit)
	defer cancel()
	answer, err := b.o.Call(ctx, method)
	if err != nil {
		return nil, err
	}
	if text, ok := answer.(string); ok {
		return []byte(text + "\n"), nil
	}
	text, err := json.MarshalIndent(answer, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("call %s: the answer: %w", method, err)
	}
	return append(text, '\n'), nil
}

// addIndex adds README.txt, the last file: it lists all others.
func (b *bundle) addIndex() {
	text := "Support bundle of a gateway, " + b.now.UTC().Format(time.RFC3339) + `

CIKs are masked to their first 8 characters, passwords and the like to "*".
Private keys are not in it.

Size and name of each file:
` + strings.Join(b.index, "\n") + "\n"
	if len(b.missing) > 0 {
		text += "\nWhat is not in it, and why:\n" + strings.Join(b.missing, "\n") + "\n"
	}
	if b.more > 0 {
		text += fmt.Sprintf("... and %d more\n", b.more)
	}
	b.add("README.txt", []byte(text), b.now, "")
}
