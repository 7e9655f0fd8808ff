package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/exosite/gwe/gweinit/durable"
)

// maxFile is how long a file is at most. What is longer nobody has written: it
// counts as garbled from end to end.
const maxFile = 64 << 10

// Files are the files in a folder. Links in their place are refused: a change
// would replace them.
type Files struct{ Dir string }

// Change is what an option becomes.
type Change struct{ File, Section, Key, Value string }

// Load returns the settings. What the files say wrong are problems, and the
// default counts then; only files that cannot be read are an error.
func (f Files) Load() (s Settings, problems []error, err error) {
	files := map[string]*INI{}
	for _, name := range []string{GatewayFile, EngineFile} {
		text, long, err := f.read(name)
		if err != nil {
			return Settings{}, nil, fmt.Errorf("settings: %w", err)
		}
		if long {
			problems = append(problems, fmt.Errorf("%s: it has more than %d bytes and is passed over", name, maxFile))
		}
		files[name] = ParseINI(text)
	}
	s, more := parse(files)
	return s, append(problems, more...), nil
}

// Set makes changes, and returns when they are on the disk.
func (f Files) Set(changes ...Change) error {
	_, err := f.Update(func(Settings) []Change { return changes })
	return err
}

// Update makes the changes that decide wants to be made to the settings from
// before, and returns them when they are on the disk. Nobody else changes
// the settings meanwhile: the engine and the command line do at the same time.
// A value that cannot be written is an error, and nothing is changed then. Each
// file is written at most once, Gateway.cfg first, and not at all if nothing in
// it changes.
func (f Files) Update(decide func(Settings) []Change) ([]Change, error) {
	changes, err := f.update(decide)
	if err != nil {
		return nil, fmt.Errorf("change settings in %s: %w", f.Dir, err)
	}
	return changes, nil
}

func (f Files) update(decide func(Settings) []Change) ([]Change, error) {
	if err := durable.MakeFolder(f.Dir, 0o700); err != nil {
		return nil, err
	}
	unlock, err := lock(f.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	names := []string{GatewayFile, EngineFile}
	before, files := map[string][]byte{}, map[string]*INI{}
	for _, name := range names {
		text, _, err := f.read(name)
		if err != nil {
			return nil, err
		}
		before[name], files[name] = text, ParseINI(text)
	}
	s, _ := parse(files)
	changes := decide(s)
	texts := map[string][]byte{}
	for _, name := range names {
		text, err := changed(before[name], name, changes)
		if err == nil && len(text) > maxFile {
			text, err = changed(nil, name, changes)
		}
		if err != nil {
			return nil, err
		}
		texts[name] = text
	}
	for _, c := range changes {
		if _, ok := texts[c.File]; !ok {
			return nil, fmt.Errorf("%s: no such file of settings", c.File)
		}
	}
	for _, name := range names {
		if bytes.Equal(texts[name], before[name]) {
			continue
		}
		if err := durable.WriteFile(filepath.Join(f.Dir, name), texts[name], 0o600); err != nil {
			return nil, err
		}
	}
	return changes, nil
}

// Text returns what a file would be with changes, for who cannot Set them.
func (f Files) Text(name string, changes ...Change) ([]byte, error) {
	text, _, err := f.read(name)
	if err != nil {
		return nil, err
	}
	return changed(text, name, changes)
}

// changed returns the text of a file with the changes to it.
func changed(text []byte, name string, changes []Change) ([]byte, error) {
	f := ParseINI(text)
	for _, c := range changes {
		if c.File != name {
			continue
		}
		if err := f.Set(c.Section, c.Key, c.Value); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return f.Text(), nil
}

// read returns the text of a file, nothing if there is none or it is too long.
func (f Files) read(name string) (text []byte, long bool, err error) {
	path := filepath.Join(f.Dir, name)
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() > maxFile {
		return nil, true, nil
	}
	text, err = durable.ReadFile(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return text, false, err
}

// lock waits until nobody else has locked the folder. The lock ends with the
// process, if not before: a crash leaves none behind.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { d.Close() }, nil
}
