// Package provision applies provision.yaml, once: PID 1 does when /data is
// mounted and before it starts programs, so that nobody else writes meanwhile.
//
// The new settings are committed by one write of the identity record, with a
// note of which files are to follow. Until those are in /data/gwe and
// provision.yaml is overwritten, every boot goes on with that. A power cut at
// any moment thus leaves a gateway that has not been provisioned yet or one
// that will be completely, and a provision.yaml that cannot be overwritten is
// not applied again and again.
package provision

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/durable"
	"github.com/exosite/gwe/gweinit/gateway"
	"github.com/exosite/gwe/gweinit/identity"
)

const (
	// noteFile is in the record as long as there is something left to do: the
	// SHA-256 of the document, and the names of the files that follow from it,
	// one a line.
	noteFile = "provision.applied"

	// errorFile below /data/gwe says why provision.yaml was not applied.
	errorFile = "provision-error.txt"

	maxFile = 64 << 10 // of provision.yaml, as an editor may leave it, and of files below /data/gwe
)

// Gateway is where provision.yaml is, and what it changes.
type Gateway struct {
	Boot   File
	Store  *identity.Store
	Dir    string // /data/gwe
	Memory bool   // /data is memory: what is written there is gone at the next boot
}

// AskReset asks for a factory reset at the next boot, or before: of the kind
// config.ResetSettings or config.ResetEverything. Once it has returned without
// an error, Reset does it.
func (g Gateway) AskReset(kind string) error {
	if kind != config.ResetSettings && kind != config.ResetEverything {
		return fmt.Errorf("a factory reset of %q, want %s or %s", kind, config.ResetSettings, config.ResetEverything)
	}
	record, err := g.load()
	if err != nil {
		return err
	}
	// The CIK may be in /data only, as it was put there by hand.
	_, owed := note(record)
	if own := g.existing(record, owed)[gatewayFile]; own != nil {
		record.Files = maps.Clone(record.Files)
		if record.Files == nil {
			record.Files = map[string][]byte{}
		}
		record.Files[gatewayFile] = own
	}
	record.Reset = kind
	return g.Store.Save(record)
}

// Reset does the factory reset that somebody has asked for, if so: wipe makes
// /data, which must not be mounted, empty, and the record keeps what the gateway
// was when it left the factory. The wish goes last: when the power does, the
// next boot begins again.
func (g Gateway) Reset(wipe func(kind string) error) error {
	record, err := g.load()
	if err != nil || record.Reset == "" {
		return err
	}
	switch record.Reset {
	case config.ResetSettings, config.ResetEverything:
	default: // of a later firmware: the other slot's
		return fmt.Errorf("a factory reset of %q is asked for, which this firmware does not know", record.Reset)
	}
	if err := wipe(record.Reset); err != nil {
		return err
	}
	record = factory(record, record.Reset == config.ResetEverything)
	record.Reset = ""
	return g.Store.Save(record)
}

// kept is the sum in the note of files that follow from no document, but from
// Keep: /data could not take them.
const kept = "kept"

// Keep puts Gateway.cfg and Engine.config, as they are in Dir, into the record:
// whoever has changed them, with a new CIK for instance, has it called. One that
// is missing or garbled stays in the record as it was, and so does one that
// provisioning still has to write. If Dir does not take a new Gateway.cfg, its text
// is given: the next boot writes it, as it does with all if Dir is in memory.
func (g Gateway) Keep(gatewayText string) error {
	record, err := g.load()
	if err != nil {
		return err
	}
	sum, owed := note(record)
	own := sum == kept || owed == nil
	record.Files = maps.Clone(record.Files)
	if record.Files == nil {
		record.Files = map[string][]byte{}
	}
	var errs []error
	for _, name := range []string{gatewayFile, engineFile} {
		data, err := readFile(filepath.Join(g.Dir, name))
		later := g.Memory
		if name == gatewayFile && gatewayText != "" {
			data, err, later = []byte(gatewayText), nil, true
		}
		isOwed := slices.Contains(owed, name)
		switch {
		case errors.Is(err, fs.ErrNotExist) || isOwed && !own && !later:
			continue
		case err != nil:
			errs = append(errs, err)
			continue
		case identity.Garbled(data) || len(bytes.TrimSpace(data)) == 0:
			errs = append(errs, fmt.Errorf("%s is empty or garbled, and not recorded", filepath.Join(g.Dir, name)))
			continue
		}
		if later && !isOwed && !bytes.Equal(record.Files[name], data) {
			owed = append(owed, name)
		} else if !later && isOwed {
			owed = slices.DeleteFunc(owed, func(n string) bool { return n == name })
		}
		record.Files[name] = data
	}
	switch {
	case own && len(owed) == 0:
		delete(record.Files, noteFile)
	case own:
		record.Files[noteFile] = []byte(kept + "\n" + strings.Join(owed, "\n") + "\n")
	default:
		record.Files[noteFile] = []byte(strings.Join(append([]string{sum}, owed...), "\n") + "\n")
	}
	return errors.Join(append(errs, g.Store.Save(record))...)
}

// Pending is a provision.yaml that is to be applied, or to be finished with.
type Pending struct {
	// FactoryReset, config.ResetSettings or config.ResetEverything, is what
	// has to be done before Commit, if it isn't "".
	FactoryReset string
	// Applied says that the settings were applied at an earlier boot, and only
	// the rest is left.
	Applied bool

	gateway  Gateway
	file     []byte // as Read found it
	settings config.Provision
	sum      string // of the document
}

// Read returns what is to be done, or nil. When provision.yaml cannot be
// applied it returns an error, which wraps a *config.Error if that is the
// fault of the document; nothing is changed then, but the error is in
// Dir/provision-error.txt too, until there is none any more.
func (g Gateway) Read() (*Pending, error) {
	p, err := g.read()
	if err != nil || p == nil {
		err = g.report(err)
	}
	return p, err
}

func (g Gateway) read() (*Pending, error) {
	file, err := g.Boot.Read()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	record, err := g.load()
	if err != nil {
		return nil, err
	}
	text, ok := config.Text(file)
	p := &Pending{gateway: g, file: file}
	if ok {
		sum := sha256.Sum256(text)
		p.sum = hex.EncodeToString(sum[:])
	}
	noted, names := note(record)
	if names != nil && (!ok || p.sum == noted) {
		p.Applied = true
		return p, nil
	}
	if !ok {
		if _, settings := config.Marked(file); settings {
			return nil, &config.Error{Lines: []string{`line 1: this line says that the gateway is provisioned; remove it, and the settings below count`}}
		}
		return nil, nil
	}
	if p.settings, err = config.ParseProvision(text); err != nil {
		if names != nil && !g.Memory { // what an earlier one owes does not wait for this one
			_, err2 := g.write(names, record)
			err = errors.Join(err, err2)
		}
		return nil, err
	}
	p.FactoryReset = p.settings.FactoryReset
	if p.FactoryReset != "" && g.Memory {
		return nil, errors.New("factory_reset: the data partition cannot be used now; nothing was changed, the next boot tries again")
	}
	return p, nil
}

// load returns the identity record, an empty one if there is none.
func (g Gateway) load() (identity.Record, error) {
	record, err := g.Store.Load()
	if errors.Is(err, identity.ErrNone) {
		return identity.Record{}, nil
	}
	return record, err
}

// note returns what is noted in the record; names is nil if nothing is.
func note(r identity.Record) (sum string, names []string) {
	if text, ok := r.Files[noteFile]; ok {
		names = strings.Fields(string(text) + " -")
		sum, names = names[0], names[1:len(names)-1]
	}
	return sum, names
}

// Commit applies what Read has found, after the factory reset, and returns the
// names of the files in Dir that it has changed. As long as it returns an
// error, Read at the next boot finds it again: as it was if the record could
// not be saved, and nothing was changed then, else as Applied.
func (p *Pending) Commit() (changed []string, err error) {
	changed, err = p.commit()
	return changed, p.gateway.report(err)
}

func (p *Pending) commit() (changed []string, err error) {
	g := p.gateway
	record, err := g.load() // again: the reset may have changed it
	if err != nil {
		return nil, err
	}
	if !p.Applied {
		if err := p.apply(&record); err != nil {
			return nil, err
		}
		if err := g.Store.Save(record); err != nil {
			return nil, fmt.Errorf("save the settings, nothing was changed: %w", err)
		}
	}
	sum, names := note(record)
	if changed, err = g.write(names, record); err != nil {
		return changed, err
	}
	marked, _ := config.Marked(p.file)
	if p.sum != "" || marked && !bytes.Equal(p.file, config.Done(len(p.file))) {
		if err := overwrite(g.Boot, p.file); err != nil {
			err = fmt.Errorf("the settings are applied, but provision.yaml still has them: %w", err)
			if len(names) > 0 && !g.Memory {
				// It may stay so for years, in which the files change again.
				record.Files[noteFile] = []byte(sum + "\n")
				err = errors.Join(err, g.Store.Save(record))
			}
			return changed, err
		}
	}
	if g.Memory { // the files have to get to the real /data
		return changed, nil
	}
	delete(record.Files, noteFile)
	if err := g.Store.Save(record); err != nil {
		return changed, err
	}
	return changed, durable.Remove(filepath.Join(g.Dir, noteFile)) // the record was restored with it
}

// Fail is for what went wrong before Commit: it is reported like an error of
// that, and returned.
func (p *Pending) Fail(err error) error { return p.gateway.report(err) }

// apply changes the record.
func (p *Pending) apply(record *identity.Record) error {
	_, names := note(*record)
	files := Files(p.settings, p.gateway.existing(*record, names))
	if text, ok := files[settingsFile]; ok {
		if _, err := config.ParseProvision(text); err != nil {
			return fmt.Errorf("these settings and those from before cannot be kept together, nothing was changed: %w", err)
		}
	}
	names = slices.Compact(slices.Sorted(slices.Values(slices.AppendSeq(names, maps.Keys(files)))))
	record.Files = maps.Clone(record.Files)
	if record.Files == nil {
		record.Files = map[string][]byte{}
	}
	maps.Copy(record.Files, files)
	record.Files[noteFile] = []byte(strings.Join(append([]string{p.sum}, names...), "\n") + "\n")
	return nil
}

// existing returns the files that settings are put into: those in Dir count,
// but the record's if they have not got there yet or the others are garbled.
func (g Gateway) existing(r identity.Record, owed []string) map[string][]byte {
	files := map[string][]byte{}
	for name, good := range map[string]func([]byte) bool{
		settingsFile: func(text []byte) bool { _, err := config.ParseProvision(text); return err == nil },
		gatewayFile:  isINI,
		engineFile:   isINI,
	} {
		files[name] = r.Files[name]
		if own, err := readFile(filepath.Join(g.Dir, name)); err == nil && !slices.Contains(owed, name) && (good(own) || !good(files[name])) {
			files[name] = own
		}
	}
	return files
}

func isINI(text []byte) bool {
	return len(gateway.ParseINI(text).Problems()) == 0 && len(bytes.TrimSpace(text)) > 0
}

// write makes files in Dir what they are in the record, and returns the names
// of those that were not. One that fails does not keep the others out.
func (g Gateway) write(names []string, r identity.Record) (changed []string, err error) {
	var errs []error
	for _, name := range names {
		data, ok := r.Files[name]
		path := filepath.Join(g.Dir, name)
		if own, err := readFile(path); !ok || err == nil && bytes.Equal(own, data) {
			if err := durable.Tidy(path); err != nil { // the power went while it was written, and the record has put it back
				errs = append(errs, err)
			}
			continue
		}
		if err := errors.Join(makeFolder(filepath.Dir(path)), durable.WriteFile(path, data, 0o600)); err != nil {
			errs = append(errs, err)
			continue
		}
		changed = append(changed, name)
	}
	return changed, errors.Join(errs...)
}

// makeFolder makes a folder durably, if it is not there.
func makeFolder(path string) error {
	err := os.Mkdir(path, 0o700)
	if err == nil {
		return durable.SyncFolder(filepath.Dir(path))
	}
	if info, err2 := os.Lstat(path); err2 != nil || !info.IsDir() {
		return err
	}
	return nil
}

func readFile(path string) ([]byte, error) { return durable.ReadFile(path, maxFile) }

// report leaves err in errorFile, or removes that, and returns err with what
// went wrong then. What is there already is not written again at each boot.
func (g Gateway) report(err error) error {
	path := filepath.Join(g.Dir, errorFile)
	if err == nil {
		return durable.Remove(path)
	}
	lines := []string{err.Error()}
	if doc := (*config.Error)(nil); errors.As(err, &doc) {
		lines = doc.Lines
		err = fmt.Errorf("provision.yaml: %w", err)
	}
	text := []byte(strings.Join(lines, "\n") + "\n")
	if there, err2 := readFile(path); err2 == nil && bytes.Equal(there, text) {
		return err
	}
	return errors.Join(err, durable.WriteFile(path, text, 0o644))
}
