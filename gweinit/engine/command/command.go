// Package command takes what the cloud orders by engine_fetch, and has it done
// once, whatever the network and the power do.
//
// A command is known by when it was written and by its text. Taking it is one
// durable write, after which the value in the cloud is cleared; one that comes
// again, since the clearing failed or the server pushed it twice, is known. What
// is begun is noted before, so that who installs learns after a power cut that
// it may have been there already.
package command

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits of a command.
const (
	maxValue = 64 << 10 // bytes of engine_fetch
	maxItems = 32
	maxName  = 200 // bytes; a file of this name has room for what is added to it
)

// What is to be done with an item, as its key in the command says.
const (
	Install   = "" // in a file: other firmware knows nothing else
	Uninstall = "uninstall"
	Rollback  = "rollback"
)

// Item is one thing that is to be done: a content of the product to install, or an
// app to remove or to change back to the version before.
type Item struct {
	Do     string `json:"do,omitempty"`
	Name   string `json:"name"`
	SHA256 string `json:"sha256,omitempty"` // of the content, in hexadecimal; "": not told
}

// label is the item for a person.
func (i Item) label() string {
	if i.Do == Install {
		return i.Name
	}
	return i.Do + " " + i.Name
}

// keys are those of a command, in the order in which they are done.
var keys = []struct{ key, do string }{{"uninstall", Uninstall}, {"rollback", Rollback}, {"install", Install}}

// Parse reads the value of engine_fetch, {"install": [{"name": "NAME"}, ...]}. Beside
// or instead of install there may be uninstall and rollback, whose entries can also
// be just the names of apps. The error says what is wrong with it, for the person who
// wrote it.
func Parse(value string) ([]Item, error) {
	if len(value) > maxValue {
		return nil, fmt.Errorf("the command has %d bytes, at most %d are taken", len(value), maxValue)
	}
	if !utf8.ValidString(value) {
		return nil, errors.New("the command is not UTF-8")
	}
	d := json.NewDecoder(strings.NewReader(value))
	var given map[string]json.RawMessage
	if err := d.Decode(&given); err != nil {
		return nil, fmt.Errorf(`the command is no JSON object such as {"install": [{"name": "NAME.v1.tar.gz"}]}: %w`, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("there is something behind the command's closing brace")
	}
	var items []Item
	for _, k := range keys {
		text, ok := given[k.key]
		delete(given, k.key)
		if !ok {
			continue
		}
		list, err := parseItems(k.key, k.do, text)
		if err != nil {
			return nil, err
		}
		items = append(items, list...)
	}
	for key := range given {
		return nil, fmt.Errorf("unknown command %.60q; this firmware knows install, uninstall and rollback", key)
	}
	switch {
	case len(items) == 0:
		return nil, errors.New("the command says nothing to install")
	case len(items) > maxItems:
		return nil, fmt.Errorf("the command has %d entries, at most %d are taken", len(items), maxItems)
	}
	return items, nil
}

func parseItems(key, do string, text json.RawMessage) (items []Item, err error) {
	var entries []json.RawMessage
	if err := json.Unmarshal(text, &entries); err != nil {
		return nil, fmt.Errorf(`%s: want a list such as [{"name": "NAME"}]: %w`, key, err)
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%s: the list is empty", key)
	}
	if len(entries) > maxItems {
		return nil, fmt.Errorf("%s: %d entries, at most %d are taken", key, len(entries), maxItems)
	}
	seen := map[string]bool{}
	for i, entry := range entries {
		item, err := parseItem(do, entry)
		if err != nil {
			return nil, fmt.Errorf(`%s: want a list such as [{"name": "NAME"}]: entry %d: %w`, key, i+1, err)
		}
		if err := item.check(); err != nil {
			return nil, fmt.Errorf("%s: entry %d: %w", key, i+1, err)
		}
		if seen[item.Name] {
			return nil, fmt.Errorf("%s: %.200q is there twice", key, item.Name)
		}
		seen[item.Name] = true
		item.SHA256 = strings.ToLower(item.SHA256)
		items = append(items, item)
	}
	return items, nil
}

func parseItem(do string, text json.RawMessage) (Item, error) {
	item := Item{Do: do}
	if do != Install && json.Unmarshal(text, &item.Name) == nil {
		return item, nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if do == Install {
		var entry struct{ Name, SHA256 string }
		err := d.Decode(&entry)
		return Item{Name: entry.Name, SHA256: entry.SHA256}, err
	}
	var entry struct{ Name string }
	err := d.Decode(&entry)
	return Item{Do: do, Name: entry.Name}, err
}

// check says whether the item can be one: its name becomes that of a file.
func (i Item) check() error {
	switch {
	case i.Name == "":
		return errors.New("it has no name")
	case len(i.Name) > maxName:
		return fmt.Errorf("the name has %d bytes, at most %d are taken", len(i.Name), maxName)
	case strings.HasPrefix(i.Name, ".") || strings.HasPrefix(i.Name, "-") || strings.ContainsFunc(i.Name, func(r rune) bool {
		return r == '/' || r == '\\' || r == utf8.RuneError || !unicode.IsPrint(r)
	}):
		return fmt.Errorf("%.200q is no name of a file: it begins with a dot or a dash, or has a slash or what cannot be printed in it", i.Name)
	}
	if sum, err := hex.DecodeString(i.SHA256); i.SHA256 != "" && (err != nil || len(sum) != sha256.Size) {
		return fmt.Errorf("sha256 of %.200q: %.80q is none: want 64 hexadecimal digits", i.Name, i.SHA256)
	}
	return nil
}

// Job is what an Installer is to do: items of one command, all or none.
type Job struct {
	// ID is the same each time that this is tried, and never that of another.
	ID    string
	Items []Item
	// Again says that an earlier Install of this ID did not come to its end:
	// the power went, or it returned what is worth another try. It may have
	// done all of its work, and must not do that twice.
	Again bool
	// Starts is how often the work on this was begun, with this time, and not ended
	// by an answer: what takes the gateway down must not do so for ever.
	Starts int
	// Fetch downloads an item, and returns the path of the file, which is
	// removed when the command is done. Its error is to be returned.
	Fetch func(ctx context.Context, item Item) (path string, err error)
	// Tell lets fetch_status say how it goes, if the network is there. It is to be
	// used sparingly.
	Tell func(text string)
}

// Installer installs a kind of content. The installers of a gateway are few; who
// has them all decides by Takes.
type Installer interface {
	// Takes says whether this is one of its.
	Takes(item Item) bool
	// Install does the job as one transaction, and returns what there is to
	// tell about it: it goes to fetch_status. It returns soon when ctx ends.
	// For a Job that is done already it returns what it returned then. An
	// error made by Later has it called again, any other is final.
	Install(ctx context.Context, job Job) (output string, err error)
}

// later is an error that another try may not bring.
type later struct{ error }

func (l later) Unwrap() error { return l.error }

// Later marks err as one that may pass: the network's, for instance. No error
// stays none.
func Later(err error) error {
	if err == nil {
		return nil
	}
	return later{err}
}

// IsLater says whether an error was marked so.
func IsLater(err error) bool { return errors.As(err, new(later)) }

// timed says whether a time is known. 1970 comes from a server that has none.
func timed(at time.Time) bool { return at.Unix() > 0 }

// key is by what a command is known.
func key(value string, at time.Time) string {
	sum := sha256.Sum256([]byte(value))
	seconds := int64(0)
	if timed(at) {
		seconds = at.Unix() // HTTP has no more
	}
	return fmt.Sprintf("%d-%s", seconds, hex.EncodeToString(sum[:8]))
}
