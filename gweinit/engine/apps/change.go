package apps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/exosite/gwe/gweinit/cga"
	"github.com/exosite/gwe/gweinit/cga/generation"
	"github.com/exosite/gwe/gweinit/cga/layer"
	"github.com/exosite/gwe/gweinit/cga/sandbox"
	"github.com/exosite/gwe/gweinit/engine/command"
	"github.com/exosite/gwe/gweinit/supervisor/conf"
)

// change is one of those that are made together.
type change struct {
	do   string // as command.Item has it
	app  string
	name cga.Name // of what is installed
	file string   // the tarball
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
		dirs = append(dirs, r.store().Layer(number).Dir)
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
		dirs = append(dirs, r.store().Layer(before.Layer).Dir)
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
		lower = append(lower, r.store().Layer(number).Root())
	}
	return lower
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
