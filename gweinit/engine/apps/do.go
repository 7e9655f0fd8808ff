package apps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/exosite/gwe/gweinit/cga"
	"github.com/exosite/gwe/gweinit/cga/generation"
	"github.com/exosite/gwe/gweinit/cga/layer"
	"github.com/exosite/gwe/gweinit/cga/sandbox"
	"github.com/exosite/gwe/gweinit/cga/view"
	"github.com/exosite/gwe/gweinit/engine/command"
	"github.com/exosite/gwe/gweinit/gateway"
	"github.com/exosite/gwe/gweinit/supervisor/conf"
	"github.com/exosite/gwe/gweinit/update"
)

// spare is what an installer has to leave free on /data, in bytes.
const spare = 4 << 20

// change is one of those that are made together.
type change struct {
	do   string // as command.Item has it
	app  string
	name cga.Name // of what is installed
	file string   // the tarball
}

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

// change makes one of the changes.
func (r *run) change(ctx context.Context, c change, contents cga.Contents) error {
	switch c.do {
	case command.Uninstall:
		return r.tx.Uninstall(c.app)
	case command.Rollback:
		return r.tx.Rollback(c.app)
	}
	if len(r.changes) > 1 {
		fmt.Fprintf(r.out, "%s:\n", c.name.File())
	}
	l, err := r.tx.Layer()
	if err != nil {
		return err
	}
	if err := r.unpack(ctx, c.file, l.Scratch()); err != nil {
		return err
	}
	seen, others, err := r.accounts(c.app, l.Dir)
	if err != nil {
		return err
	}
	if err := r.install(ctx, c, contents, l, seen); err != nil {
		return err
	}
	if err := layer.Check(l.Dir, r.base()); err != nil {
		return err
	}
	if err := layer.Inherit(l.Dir, r.base(), others, seen); err != nil {
		return err
	}
	app := generation.App{Name: c.app, Version: c.name.Version}
	if app.Program, err = r.configure(c.app, contents.Conf, l.Root()); err != nil {
		return err
	}
	empty, err := layer.Empty(l.Dir, r.base())
	if err != nil {
		return err
	}
	if app.Program || !empty {
		app.Layer = l.Number
		if err := layer.Describe(l.Dir, r.base(), r.Version, others); err != nil {
			return err
		}
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(l.Dir, accountsFolder)), r.tx.Install(app)); err != nil {
		return err
	}
	r.pending = append(r.pending, l.Dir)
	return nil
}

// accountsFolder is in the folder of a layer, as long as its installer needs it.
const accountsFolder = "accounts"

// accounts makes the users and groups that an app's installer finds: those of the
// firmware, of the other apps, and of the app's own version before, so that an ID stays
// the same. Others are without the last. "" for those of the firmware alone.
func (r *run) accounts(app, dir string) (seen, others string, err error) {
	var dirs []string
	for _, number := range r.tx.Below(app) {
		dirs = append(dirs, r.layerFolder(number, ""))
	}
	merge := func(name string) string {
		to := filepath.Join(dir, accountsFolder, name)
		needed, mergeErr := layer.Accounts(r.base(), dirs, to)
		if err = errors.Join(err, mergeErr); !needed {
			return ""
		}
		return to
	}
	others = merge("others")
	if before, ok := r.tx.Generation().App(app); ok && before.Layer > 0 {
		dirs = append(dirs, r.layerFolder(before.Layer, ""))
	}
	return merge("seen"), others, err
}

func (r *run) unpack(ctx context.Context, file, to string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if _, err := cga.Unpack(ctx, f, to, cga.DefaultLimits); err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(file), err)
	}
	return nil
}

// install runs the installer on the layer, with these accounts.
func (r *run) install(ctx context.Context, c change, contents cga.Contents, l generation.Layer, accounts string) error {
	lower := r.lower(c.app)
	if accounts != "" {
		lower = append(lower, accounts)
	}
	i := sandbox.Installer{
		Gateway: r.Root, Layer: l.Dir, Lower: lower, Pending: r.pending,
		Tarball: l.Scratch(), Dir: contents.Dir, Argv: []string{"./" + contents.Entry},
		Limit: r.Limit, Spare: spare, Output: r.out, PID1: r.Host.Control(),
	}
	if contents.Entry != "install.sh" {
		i.Argv = []string{"python", contents.Entry, "install"}
	}
	ended, err := i.Run(ctx)
	if len(ended.Killed) > 0 {
		fmt.Fprintf(r.out, "gwe: what the installer has started and left was stopped: %s\n", strings.Join(ended.Killed, ", "))
	}
	if err == nil {
		r.wishes = append(r.wishes, ended.Wish)
		r.settings = append(r.settings, settingsDiffer(ended.Before, ended.Settings)...)
	}
	return errors.Join(err, i.Tidy())
}

// lower is what an app's installer has below it.
func (r *run) lower(app string) []string {
	lower := []string{r.base()}
	for _, number := range r.tx.Below(app) {
		lower = append(lower, r.layerFolder(number, layer.Root))
	}
	return lower
}

func (r *run) layerFolder(number int, below string) string {
	return filepath.Join(r.path("data/apps"), fmt.Sprint(number), below)
}

// configure writes the app's configuration into its layer, and says whether it has
// one: its installer may have written one by itself.
func (r *run) configure(app string, text []byte, root string) (bool, error) {
	dir, err := os.OpenRoot(root) // links of the installer's do not lead out of it
	if err != nil {
		return false, err
	}
	defer dir.Close()
	if text != nil {
		var warnings []string
		text, warnings, err = cga.ProgramConf(app, text)
		if errors.Is(err, cga.ErrNoSection) { // GWE passes over it, too
			fmt.Fprintf(r.out, "supervisor.conf is passed over: %v\n", err)
		} else if err != nil {
			return false, fmt.Errorf("supervisor.conf: %w", err)
		}
		for _, w := range warnings {
			fmt.Fprintf(r.out, "supervisor.conf: %s\n", w)
		}
	}
	if text != nil {
		file := filepath.Join(conf.AppConfigs, app+".conf")
		if err := dir.MkdirAll(conf.AppConfigs, 0o755); err != nil {
			return false, fmt.Errorf("supervisor.conf: %w", err)
		}
		dir.Remove(file)
		if err := dir.WriteFile(file, text, 0o644); err != nil {
			return false, fmt.Errorf("supervisor.conf: %w", err)
		}
	}
	folder, err := dir.Open(conf.AppConfigs)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer folder.Close()
	entries, err := folder.ReadDir(-1)
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return e.Type().IsRegular() && filepath.Ext(e.Name()) == ".conf"
	}), err
}

// checkConfigs says what is wrong with the configurations of the programs that was not
// before.
func (r *run) checkConfigs(before map[string]bool) error {
	texts, odd := r.wrong(r.tx.Generation())
	for _, text := range odd {
		fmt.Fprintln(r.out, text)
	}
	var wrong []error
	for text := range texts {
		if !before[text] {
			wrong = append(wrong, errors.New(text))
		}
	}
	slices.SortFunc(wrong, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(wrong...)
}

// wrong are the errors in the configurations of all apps of a generation, and what is
// only odd about those that are changed.
func (r *run) wrong(g generation.Generation) (texts map[string]bool, odd []string) {
	texts = map[string]bool{}
	accounts, err := os.MkdirTemp(r.path("run"), "accounts-")
	if err != nil {
		return map[string]bool{err.Error(): true}, nil
	}
	defer os.RemoveAll(accounts)
	var dirs []string
	var apps []conf.App
	for _, a := range g.Apps {
		if a.Layer > 0 {
			dirs = append(dirs, r.layerFolder(a.Layer, ""))
		}
		if a.Program {
			apps = append(apps, conf.App{
				Name: a.Name, Folder: r.layerFolder(a.Layer, layer.Root), Root: view.ProgramRoot(r.Root, a.Name), Accounts: accounts,
				Log: func(path string) string { return view.LogFile(r.Root, path) },
			})
		}
	}
	needed, err := layer.Accounts(r.base(), dirs, accounts)
	if err != nil {
		texts[err.Error()] = true
	}
	if !needed {
		for n := range apps {
			apps[n].Accounts = r.base()
		}
	}
	config, err := conf.Load(filepath.Join(r.base(), "etc/supervisor/supervisord.conf"), conf.Options{Environ: os.Environ(), Apps: apps})
	// Of is an app by the file of a message, and the message as the app's maker
	// knows the file.
	of := func(text string) (app, rest string) {
		for _, a := range apps {
			if rest, ok := strings.CutPrefix(text, a.Folder+"/"); ok {
				return a.Name, a.Name + ": " + rest
			}
		}
		return "", text
	}
	for _, w := range config.Warnings {
		if app, text := of(w); slices.Contains(r.apps(), app) {
			odd = append(odd, text)
		}
	}
	var list conf.Errors
	errors.As(err, &list)
	for _, e := range list {
		if app, text := of(e.Error()); app != "" {
			texts[text] = true
		}
	}
	return texts, odd
}

// all is what all installers have asked for.
func all(wishes []sandbox.Wish) (sum sandbox.Wish) {
	for _, w := range wishes {
		sum.Restart = append(sum.Restart, w.Restart...)
		sum.Signals = append(sum.Signals, w.Signals...)
		sum.All = sum.All || w.All
		sum.Reboot = sum.Reboot || w.Reboot
		sum.Poweroff = sum.Poweroff || w.Poweroff
	}
	slices.Sort(sum.Restart)
	sum.Restart = slices.Compact(sum.Restart)
	return sum
}

// sequel is what comes after the commit. It is in the generation until it is done, so
// that a power cut in between loses nothing of it.
type sequel struct {
	Settings []gateway.Change `json:"settings,omitempty"`
	Wish     sandbox.Wish     `json:"wish"`
	Apps     []string         `json:"apps"` // that were changed
}

// maxSequel is its longest text, in bytes: the generation's file has a limit.
const maxSequel = 8 << 10

// encode returns its text, "" if there is nothing to do.
func (s sequel) encode() (string, error) {
	if len(s.Settings) == 0 && len(s.Wish.Restart) == 0 && len(s.Wish.Signals) == 0 && !s.Wish.All {
		return "", nil
	}
	text, err := json.Marshal(s)
	if err == nil && len(text) > maxSequel {
		err = fmt.Errorf("the installers want more than this can note: %d settings to be changed, %d programs restarted, %d signals sent", len(s.Settings), len(s.Wish.Restart), len(s.Wish.Signals))
	}
	return string(text), err
}

// follow does what comes after the commit. What fails is told; programs that were not
// restarted are so by the next boot.
func (i *Installer) follow(ctx context.Context, done generation.Done, tell func(format string, args ...any)) {
	problem := func(err error) {
		if err != nil {
			tell("%v", err)
		}
	}
	var s sequel
	if done.Follow != "" {
		problem(json.Unmarshal([]byte(done.Follow), &s))
	}
	if len(s.Settings) > 0 {
		if err := (gateway.Files{Dir: i.path(gateway.Dir)}).Set(s.Settings...); err != nil {
			problem(err)
			return // it is tried again when the engine starts
		}
		problem(i.Host.KeepIdentity(ctx, ""))
	}
	problem(i.Host.SwitchGeneration(ctx))
	if done.Follow == "" {
		return
	}
	if done.Boot == bootID() && !done.Reboot { // a boot has started all programs
		problem(i.restart(ctx, s))
		for _, signal := range s.Wish.Signals {
			_, err := i.Host.Call(ctx, "supervisor.signalProcess", signal.Process, signal.Name)
			problem(err)
		}
	}
	tx, err := i.store().Begin()
	if err == nil {
		done.Follow = ""
		tx.Done(done)
		err = tx.Commit()
	}
	problem(err)
}

// own are Gateway Engine's programs, which no installer stops.
var own = []string{"gwe", "gmq"}

// restart restarts what installers have started or stopped, but for what they have
// just brought.
func (i *Installer) restart(ctx context.Context, s sequel) error {
	wish := s.Wish
	if len(wish.Restart) == 0 && !wish.All {
		return nil
	}
	answer, err := i.Host.Call(ctx, "supervisor.getAllProcessInfo")
	if err != nil {
		return err
	}
	list, _ := answer.([]any)
	var errs []error
	for _, item := range list {
		p, _ := item.(map[string]any)
		group, _ := p["group"].(string)
		name, _ := p["name"].(string)
		full := name
		if group != name {
			full = group + ":" + name
		}
		asked := slices.ContainsFunc(wish.Restart, func(w string) bool { return w == full || w == group+":*" || w == group })
		up := p["statename"] == "RUNNING" || p["statename"] == "STARTING" || p["statename"] == "BACKOFF"
		fresh := slices.Contains(s.Apps, group)
		if slices.Contains(own, group) || fresh || !asked && !(wish.All && up) {
			continue
		}
		if up {
			_, err := i.Host.Call(ctx, "supervisor.stopProcess", full, true)
			errs = append(errs, err)
		}
		_, err := i.Host.Call(ctx, "supervisor.startProcess", full, false)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// bootID is one for each boot.
func bootID() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text))
}

// tail keeps the end of what is written to it.
type tail struct {
	also io.Writer // gets all; nil: nobody
	data []byte
	cut  bool
}

// maxOutput is what is kept, in bytes. The queue has no room for more.
const maxOutput = 7 << 10

func (t *tail) Write(p []byte) (int, error) {
	if t.also != nil {
		t.also.Write(p)
	}
	t.data = append(t.data, p[max(0, len(p)-2*maxOutput):]...)
	if len(t.data) > 2*maxOutput {
		t.data, t.cut = append(t.data[:0], t.data[len(t.data)-maxOutput:]...), true
	}
	return len(p), nil
}

func (t *tail) text() string {
	data := t.data
	if len(data) > maxOutput {
		data, t.cut = data[len(data)-maxOutput:], true
	}
	if !t.cut {
		return string(data)
	}
	for len(data) > 0 && !utf8.RuneStart(data[0]) {
		data = data[1:]
	}
	return "...\n" + string(data)
}
