package apps

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/exosite/gwe/gweinit/cga/generation"
	"github.com/exosite/gwe/gweinit/cga/layer"
	"github.com/exosite/gwe/gweinit/supervisor/conf"
)

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
	store, dirs := r.store(), []string(nil)
	for _, l := range store.Layers(g) {
		dirs = append(dirs, l.Dir)
	}
	needed, err := layer.Accounts(r.base(), dirs, accounts)
	if err != nil {
		texts[err.Error()] = true
	}
	users := accounts
	if !needed {
		users = r.base()
	}
	apps := store.Programs(g, users)
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
