package apps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/exosite/gwe/gweinit/cga"
	"github.com/exosite/gwe/gweinit/cga/generation"
	"github.com/exosite/gwe/gweinit/cga/sandbox"
	"github.com/exosite/gwe/gweinit/engine/command"
	"github.com/exosite/gwe/gweinit/gateway"
	"github.com/exosite/gwe/gweinit/update"
)

// spare is what an installer has to leave free on /data, in bytes.
const spare = 4 << 20

// task is changes that are all made, or none.
type task struct {
	id      string
	changes []change
	handled []string
	show    io.Writer // gets the output as it comes; nil: nobody looks on
}

// result is how a task ended.
type result struct {
	output string
	reboot bool
}

// run is a task on its way.
type run struct {
	*Installer
	task
	tx       *generation.Tx
	out      *tail
	wishes   []sandbox.Wish
	settings []gateway.Change
	pending  []string // folders of the layers made so far
}

// do does a task. After an error nothing is changed.
func (i *Installer) do(ctx context.Context, t task) (result, error) {
	if err := i.checkPlace(); err != nil {
		return result{}, err
	}
	store := i.store()
	unlock, err := store.Lock(ctx, func() {
		if t.show != nil {
			fmt.Fprintln(t.show, "another install is running; waiting for its end")
		}
	})
	if err != nil {
		return result{}, err
	}
	defer unlock()
	current, err := store.Current()
	if errors.Is(err, generation.ErrUnknown) {
		return result{}, command.Later(err)
	}
	if err != nil {
		i.log("read which apps are installed: %v", err)
	}
	if done, ok := current.Job(t.id); ok {
		// It may have been cut off after the commit.
		i.follow(context.WithoutCancel(ctx), done, i.log)
		return result{output: done.Output, reboot: done.Reboot && done.Boot == bootID()}, nil
	}
	if err := i.noTrial(ctx); err != nil {
		return result{}, err
	}
	r := &run{Installer: i, task: t, out: &tail{also: t.show}}
	done, err := r.commit(ctx, store)
	if err != nil {
		return result{output: r.out.text()}, err
	}
	i.follow(context.WithoutCancel(ctx), done, func(format string, args ...any) { fmt.Fprintf(r.out, "gwe: "+format+"\n", args...) })
	return result{output: r.out.text(), reboot: done.Reboot}, nil
}

// commit makes the changes, all or none.
func (r *run) commit(ctx context.Context, store *generation.Store) (done generation.Done, err error) {
	contents, err := r.inspect(ctx)
	if err != nil {
		return done, err
	}
	if bytes, entries := room(contents); entries > 0 {
		// Nothing is given up to which this very command goes back.
		var keep []string
		for _, c := range r.changes {
			if c.do == command.Rollback {
				keep = append(keep, c.app)
			}
		}
		if err := store.MakeRoom(bytes, entries, keep...); err != nil {
			return done, err
		}
	}
	if r.tx, err = store.Begin(); err != nil {
		return done, err
	}
	defer r.tx.Abort()
	before, _ := r.wrong(r.tx.Generation())
	for n, c := range r.changes {
		if err := r.change(ctx, c, contents[n]); err != nil {
			if len(r.changes) > 1 {
				err = fmt.Errorf("%s: %w", c.app, err)
			}
			return done, err
		}
	}
	if err := r.checkConfigs(before); err != nil {
		return done, err
	}
	if err := ctx.Err(); err != nil {
		return done, err
	}
	kept, err := r.tx.Yield()
	if err != nil {
		return done, err
	}
	for n, file := range kept {
		if n == maxTold {
			fmt.Fprintf(r.out, "gwe: and %d more files\n", len(kept)-n)
			break
		}
		fmt.Fprintf(r.out, "gwe: %s stays as a program has written it meanwhile\n", file)
	}
	wish := all(r.wishes)
	done = generation.Done{ID: r.id, Output: r.out.text(), Reboot: wish.Reboot || wish.Poweroff, Boot: bootID()} // a gateway that is off cannot be reached
	if done.Follow, err = (sequel{r.settings, wish, r.apps()}).encode(); err != nil {
		return done, err
	}
	r.tx.Done(done)
	for _, file := range r.handled {
		r.tx.Handled(file)
	}
	return done, r.tx.Commit()
}

// maxTold is how many files are named that an installer's change is not taken of.
const maxTold = 10

// apps are those that are changed.
func (r *run) apps() (names []string) {
	for _, c := range r.changes {
		names = append(names, c.app)
	}
	return names
}

// noTrial says whether apps may be changed: not while the firmware is on trial, since
// the one that may follow would meet apps that it has not left.
func (i *Installer) noTrial(ctx context.Context) error {
	st, err := i.Host.Firmware(ctx)
	if err != nil {
		return command.Later(fmt.Errorf("ask PID 1 whether the firmware is on trial: %w", err))
	}
	if u := st.Update; u != nil && u.State == update.Trial {
		return command.Later(fmt.Errorf("the firmware %s is on trial; apps wait for its end", u.Version))
	}
	return nil
}

// inspect looks at all tarballs before anything is written. What installs needs no
// room is nil.
func (r *run) inspect(ctx context.Context) ([]cga.Contents, error) {
	contents := make([]cga.Contents, len(r.changes))
	for n, c := range r.changes {
		if c.do != command.Install {
			continue
		}
		f, err := os.Open(c.file)
		if err != nil {
			return nil, err
		}
		var findings []cga.Finding
		contents[n], findings, err = cga.Inspect(ctx, f, cga.DefaultLimits)
		f.Close()
		if err == nil && cga.Failed(findings) {
			err = cga.FindingsError(findings)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name.File(), err)
		}
		for _, finding := range findings {
			fmt.Fprintf(r.out, "%s: %v\n", c.name.File(), finding)
		}
	}
	return contents, nil
}

// room is what installs need, in bytes and files: an installer mostly copies what was
// unpacked, and that is gone before the next one.
func room(contents []cga.Contents) (bytes, entries int64) {
	var mostBytes, mostEntries int64
	for _, c := range contents {
		bytes, entries = bytes+c.Bytes, entries+int64(c.Entries)
		mostBytes, mostEntries = max(mostBytes, c.Bytes), max(mostEntries, int64(c.Entries))
	}
	return bytes + mostBytes + spare, entries + mostEntries
}
