// Package apps is Gateway Engine's side of custom gateway applications: it installs,
// removes and rolls them back, as one transaction for all that a command names.
//
// What has to survive is in the generation (package generation): its file is the
// commit, and has which jobs are done. So after a power cut a job is as if it had
// never been begun, or done, and then only what follows the commit is done again.
package apps

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/bundle"
	"github.com/exosite/gwe/gweinit/cga"
	"github.com/exosite/gwe/gweinit/cga/generation"
	"github.com/exosite/gwe/gweinit/cga/view"
	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/engine/command"
	"github.com/exosite/gwe/gweinit/gateway"
	"github.com/exosite/gwe/gweinit/update"
)

// Host is PID 1, which mounts and runs what is installed.
type Host interface {
	Firmware(ctx context.Context) (update.Status, error)
	// SwitchGeneration has the programs be those of the newest generation.
	SwitchGeneration(ctx context.Context) error
	KeepIdentity(ctx context.Context, gatewayText string) error
	Reboot(ctx context.Context) error
	// Call calls a method of the supervisor, and Control is where.
	Call(ctx context.Context, method string, args ...any) (any, error)
	Control() control.Client
}

// Installer installs apps.
type Installer struct {
	Root    string // of the gateway's files; "" on the gateway itself
	Base    string // the firmware's root
	Host    Host
	Version string        // of the firmware
	Limit   time.Duration // of an installer; 0: the default
	// Log is called with what went wrong and did not stop anything.
	Log func(format string, args ...any)
}

// Baked is the folder with the apps that came with the firmware.
const Baked = "/usr/share/gweinit/apps"

// bakedID begins the ID of a command that installs one of those.
const bakedID = "firmware-"

func (i *Installer) path(file string) string { return filepath.Join(cmp.Or(i.Root, "/"), file) }

func (i *Installer) base() string { return cmp.Or(i.Base, "/") }

func (i *Installer) log(format string, args ...any) {
	if i.Log != nil {
		i.Log(format, args...)
	}
}

func (i *Installer) store() *generation.Store { return &generation.Store{Root: i.Root, Log: i.Log} }

// Takes says whether an item is about apps.
func (i *Installer) Takes(item command.Item) bool {
	return item.Do != command.Install || strings.HasSuffix(item.Name, ".tar.gz")
}

// maxStarts is how often an installer may take the gateway or the engine down before it
// is given up: commands behind it wait, and among them may be its cure.
const maxStarts = 3

// Install does a job of the queue.
func (i *Installer) Install(ctx context.Context, job command.Job) (output string, err error) {
	output, err = i.install(ctx, job)
	if err != nil && ctx.Err() == nil && !command.IsLater(err) && strings.HasPrefix(job.ID, bakedID) {
		// It will not be better at the next boot.
		err = errors.Join(err, i.handle(ctx, names(job)))
	}
	return output, err
}

func names(job command.Job) (list []string) {
	for _, item := range job.Items {
		list = append(list, item.Name)
	}
	return list
}

func (i *Installer) install(ctx context.Context, job command.Job) (output string, err error) {
	t := task{id: job.ID}
	g, err := i.store().Current()
	if errors.Is(err, generation.ErrUnknown) {
		return "", command.Later(err)
	}
	if _, done := g.Job(job.ID); !done { // one that is done must not depend on a download
		if job.Starts > maxStarts {
			return "", fmt.Errorf("given up: %d times the gateway or its engine went down in the middle of it", maxStarts)
		}
		if t.changes, err = changes(ctx, job); err != nil {
			return "", err
		}
	}
	if strings.HasPrefix(job.ID, bakedID) {
		t.handled = names(job)
	}
	result, err := i.do(ctx, t)
	if err != nil {
		return result.output, err
	}
	if result.reboot {
		// The outcome is told by the next boot, and only then.
		if err := i.Host.Reboot(ctx); err != nil {
			return result.output, fmt.Errorf("it is installed, and asks for a reboot: %w", err)
		}
		<-ctx.Done()
		return "", ctx.Err()
	}
	return result.output, nil
}

// changes are those that a job asks for, with all files at hand.
func changes(ctx context.Context, job command.Job) (list []change, err error) {
	for _, item := range job.Items {
		c := change{do: item.Do, app: item.Name}
		if item.Do == command.Install {
			name, err := cga.ParseName(item.Name)
			if err != nil {
				return nil, err
			}
			c.name, c.app = name, name.App
			if c.file, err = job.Fetch(ctx, item); err != nil {
				return nil, err
			}
			if err := verify(c.file, item); err != nil {
				return nil, err
			}
		}
		list = append(list, c)
	}
	return list, nil
}

// verify checks the hash that a command may have.
func verify(file string, item command.Item) error {
	if item.SHA256 == "" {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != item.SHA256 {
		return fmt.Errorf("%s has the SHA-256 %s, and the command wants %s", item.Name, got, item.SHA256)
	}
	return nil
}

// Start is called when the engine starts: what an engine before has begun after a commit
// is ended, and PID 1 runs what is installed.
func (i *Installer) Start(ctx context.Context) error {
	unlock, err := i.store().Lock(ctx, func() {})
	if err != nil {
		return err
	}
	defer unlock()
	g, err := i.store().Current()
	if errors.Is(err, generation.ErrUnknown) {
		return err
	}
	for _, done := range g.Done {
		if done.Follow != "" {
			i.follow(ctx, done, i.log)
		}
	}
	return i.Host.SwitchGeneration(ctx)
}

// NextBaked returns the command for the next app that came with the firmware and is not
// installed yet, or in an older version (by Debian's rules); nil if there is none. One
// that failed is not the next any more.
func (i *Installer) NextBaked(ctx context.Context) (*Order, error) {
	files, err := filepath.Glob(filepath.Join(i.base(), Baked, "*.tar.gz"))
	if err != nil || len(files) == 0 {
		return nil, err
	}
	current, err := i.store().Current()
	if errors.Is(err, generation.ErrUnknown) {
		return nil, err
	}
	var old []string
	var next *Order
	for _, file := range files {
		name := filepath.Base(file)
		if slices.Contains(current.Handled, name) {
			continue
		}
		n, nameErr := cga.ParseName(name)
		app, there := current.App(n.App)
		switch {
		case nameErr != nil:
			err = errors.Join(err, nameErr)
		case there && bundle.CompareVersions(app.Version, n.Version) >= 0:
			old = append(old, name) // or it would come back when this is uninstalled
		case next == nil:
			next = &Order{ID: bakedID + name, Item: command.Item{Name: name}}
		}
	}
	return next, errors.Join(err, i.handle(ctx, old))
}

// handle notes that apps of the firmware need not be installed.
func (i *Installer) handle(ctx context.Context, files []string) error {
	if len(files) == 0 {
		return nil
	}
	unlock, err := i.store().Lock(ctx, func() {})
	if err != nil {
		return err
	}
	defer unlock()
	tx, err := i.store().Begin()
	if err != nil {
		return err
	}
	defer tx.Abort()
	for _, file := range files {
		tx.Handled(file)
	}
	return tx.Commit()
}

// Order is a command of the gateway's own.
type Order struct {
	ID   string
	Item command.Item
}

// BakedFile returns the file of a command that NextBaked has returned.
func (i *Installer) BakedFile(id string, item command.Item) (file string, ok bool) {
	if !strings.HasPrefix(id, bakedID) {
		return "", false
	}
	return filepath.Join(i.base(), Baked, item.Name), true
}

// ErrInApp is the error of a change that is asked for inside an app's view, where no
// layers are.
var ErrInApp = errors.New("apps are installed and removed by the gateway, not in an app or its installer: send the command to engine_fetch, or use the gateway's own shell")

// checkPlace says whether apps can be changed here.
func (i *Installer) checkPlace() error {
	if _, err := os.Stat(i.path(view.Marker)); err == nil {
		return ErrInApp
	}
	return nil
}

// settingsDiffer returns what an installer has changed in the gateway's settings.
func settingsDiffer(before, after string) (changes []gateway.Change) {
	for _, file := range []string{gateway.GatewayFile, gateway.EngineFile} {
		old, _ := os.ReadFile(filepath.Join(before, file))
		new, err := os.ReadFile(filepath.Join(after, file))
		if err == nil {
			changes = append(changes, gateway.Differences(file, old, new)...)
		}
	}
	return changes
}
