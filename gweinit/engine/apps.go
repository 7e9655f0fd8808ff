package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/exosite/gwe/gweinit/cga/generation"
	"github.com/exosite/gwe/gweinit/cga/layer"
	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/engine/apps"
	"github.com/exosite/gwe/gweinit/engine/report"
	"github.com/exosite/gwe/gweinit/gateway"
)

// switchWait is for the programs to stop and start.
const switchWait = 5 * time.Minute

// SwitchGeneration has PID 1 run the apps that are installed by now.
func (m machine) SwitchGeneration(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, switchWait)
	defer cancel()
	_, err := m.control.Call(ctx, "gweinit.switchGeneration")
	return err
}

// Call calls a method of PID 1.
func (m machine) Call(ctx context.Context, method string, args ...any) (any, error) {
	return m.call(ctx, method, args...)
}

// Control is where PID 1 listens.
func (m machine) Control() control.Client { return m.control }

// startApps has PID 1 run what is installed, and orders what came with the firmware.
func (b *assembled) startApps() {
	if err := b.apps.Start(context.Background()); err != nil {
		b.log.Error("start the apps", "err", err)
	}
	b.orderBaked()
}

// orderBaked orders the next app that came with the firmware: one at a time, so that
// commands of the cloud find their place between.
func (b *assembled) orderBaked() {
	next, err := b.apps.NextBaked(context.Background())
	if err == nil && next != nil {
		err = b.queue.Order(next.ID, next.Item)
	}
	if err != nil {
		b.log.Error("install the apps of the firmware", "err", err)
	}
}

// installed are the apps for a report. What of the firmware they hide is looked for
// once for each generation.
type installed struct {
	root    string
	version string // of the firmware

	number int
	stale  map[int][]string // by layer
}

// list is for the engine's goroutine.
func (i *installed) list() (list []report.App, err error) {
	store := generation.Store{Root: i.root}
	current, err := store.Current()
	if i.stale == nil || i.number != current.Number {
		i.number, i.stale = current.Number, map[int][]string{}
		for _, l := range store.Layers(current) {
			paths, staleErr := layer.Stale(l.Dir, "/", i.version)
			err = errors.Join(err, staleErr)
			i.stale[l.Number] = paths
		}
	}
	for _, a := range current.Apps {
		list = append(list, report.App{Name: a.Name, Version: a.Version, Stale: i.stale[a.Layer]})
	}
	return list, err
}

// changeApps does something about apps by hand.
func changeApps(root string, out, errs io.Writer, do func(context.Context, *apps.Installer) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := error(nil)
	if root != "" && !gateway.Here(root) {
		err = errors.New(`apps are installed on a gateway; a workstation has "gwe --check-tarball"`)
	} else {
		err = do(ctx, newInstaller(root, func(format string, args ...any) { fmt.Fprintf(errs, "gwe: "+format+"\n", args...) }))
	}
	if err != nil {
		fmt.Fprintf(errs, "gwe: %v\n", err)
		return 1
	}
	return 0
}

func newInstaller(root string, log func(format string, args ...any)) *apps.Installer {
	return &apps.Installer{Root: root, Host: newMachine(root), Version: version(root), Log: log}
}

func installApps(root string, files []string, out, errs io.Writer) int {
	return changeApps(root, out, errs, func(ctx context.Context, i *apps.Installer) error { return i.InstallFiles(ctx, files, out) })
}

func uninstallApps(root string, names []string, out, errs io.Writer) int {
	return changeApps(root, out, errs, func(ctx context.Context, i *apps.Installer) error { return i.Uninstall(ctx, names, out) })
}

func rollbackApps(root string, names []string, out, errs io.Writer) int {
	return changeApps(root, out, errs, func(ctx context.Context, i *apps.Installer) error { return i.Rollback(ctx, names, out) })
}

func listApps(root string, asJSON bool, out, errs io.Writer) int {
	return changeApps(root, out, errs, func(_ context.Context, i *apps.Installer) error {
		list, err := i.List()
		apps.Print(list, asJSON, out)
		return err
	})
}
