package engine

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/durable"
	"github.com/exosite/gwe/gweinit/engine/apps"
	"github.com/exosite/gwe/gweinit/engine/command"
	"github.com/exosite/gwe/gweinit/engine/firmware"
	"github.com/exosite/gwe/gweinit/engine/report"
	"github.com/exosite/gwe/gweinit/engine/support"
	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/download"
	"github.com/exosite/gwe/gweinit/exosite/mqtt"
	"github.com/exosite/gwe/gweinit/exosite/usage"
	"github.com/exosite/gwe/gweinit/gateway"
)

// Below the root. What is in /run is forgotten when the gateway is switched off.
const (
	runFolder      = "/run/gwe"
	lockFile       = runFolder + "/lock" // of the running engine, with its process
	commandsFile   = gateway.Dir + "/commands.json"
	downloadFolder = gateway.Dir + "/download"
	// stoppedFile is there if the engine was stopped, and not the power.
	stoppedFile = gateway.Dir + "/stopped"
)

const (
	// spareRoom is what a download has to leave free, for all others.
	spareRoom = 8 << 20
	// downloadPatience is for calls of a download that are not its bytes.
	downloadPatience = 3 * time.Minute
)

// assembled is an engine on real files, the real cloud and PID 1.
type assembled struct {
	*Engine
	mqttPort string          // "": MQTT's; tests have others
	apps     *apps.Installer // nil: not on a gateway
	client   atomic.Pointer[exosite.Client]
}

func assemble(root string, log io.Writer) *assembled {
	level := new(slog.LevelVar)
	b := &assembled{Engine: &Engine{
		root: root, version: version(root), level: level,
		log:      slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: level})),
		host:     newMachine(root),
		files:    gateway.Files{Dir: filepath.Join(cmp.Or(root, "/"), gateway.Dir)},
		meter:    new(exosite.Meter),
		schedule: newSchedule(),
		notices:  make(chan notice), kick: make(chan struct{}, 1),
		problems: map[string]string{}, sent: map[string]sentReport{},
		unkept: true, // by the engine before, maybe
		// Until they can be read.
		settings: gateway.Settings{UpdateInterval: gateway.DefaultUpdateInterval, ActivationRetry: gateway.DefaultActivationRetry},
	}}
	b.connect = b.dial
	var installers []command.Installer // a workstation installs nothing
	if gateway.Here(root) {
		b.apps = newInstaller(root, func(format string, args ...any) { b.log.Error(fmt.Sprintf(format, args...)) })
		b.installed = (&installed{root: root, version: b.version}).list
		installers = []command.Installer{b.firmware(newMachine(root)), b.apps}
	}
	kick := func() {
		select {
		case b.kick <- struct{}{}:
		default:
		}
	}
	b.queue = &command.Queue{
		Path: filepath.Join(root, commandsFile), Installers: installers, Fetch: b.fetchItem, Log: b.log,
		Forget: func(id string) { os.RemoveAll(filepath.Join(root, downloadFolder, id)) },
		Told: func(line string) {
			b.progress.Store(&line)
			kick()
			b.log.Info(line)
			if gateway.Here(root) {
				printConsole(line)
			}
		},
		Changed: func() {
			kick()
			if b.apps != nil {
				b.orderBaked()
			}
		},
	}
	return b
}

// firmware is what installs firmware.
func (b *assembled) firmware(host machine) *firmware.Installer {
	return &firmware.Installer{
		Gateway: firmware.Gateway{Host: host, Root: b.root},
		Source: func(name string) (firmware.Source, error) {
			client := b.client.Load()
			if client == nil {
				return nil, command.Later(errors.New("the gateway has no connection yet"))
			}
			return firmware.Content(client, name), nil
		},
		Settings: func() (time.Duration, string) {
			s, _, err := b.files.Load() // as they are by then
			if err != nil {
				return gateway.DefaultTrial, ""
			}
			return s.Trial, s.Window
		},
	}
}

// open reads what the engine before has left.
func (b *assembled) open() error {
	if err := durable.MakeFolder(filepath.Join(b.root, gateway.Dir), 0o700); err != nil {
		return err
	}
	b.problem("commands", b.queue.Open())
	left, err := os.ReadDir(filepath.Join(b.root, downloadFolder))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	for _, f := range left {
		if !b.queue.Holds(f.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(b.root, downloadFolder, f.Name())))
		}
	}
	b.problem("downloads", err)
	if b.apps != nil {
		go b.startApps()
	}
	return nil
}

// dial makes the client that the settings ask for, and the watcher.
func (b *assembled) dial(s gateway.Settings) (cloud, watcher, error) {
	if s.Host == "" && s.Vendor == "" {
		return nil, nil, errors.New(`the gateway has no product: set one ("gwe --set-product-id ID"), or provision the gateway`)
	}
	o := exosite.Options{
		Server: cmp.Or(s.Host, exosite.ServerOf(s.Vendor)), Vendor: s.Vendor, Model: cmp.Or(s.Model, s.Vendor), CIK: s.CIK,
		UserAgent: cmp.Or(s.UserAgent, "GatewayEngine-v"+b.version), Meter: b.meter, Consumer: "gwe",
	}
	ca := s.CA
	if ca != "" {
		ca = filepath.Join(b.root, ca)
	}
	var err error
	if o.Trust, err = exosite.GatewayTrust(b.root, ca); err != nil {
		return nil, nil, err
	}
	if s.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(b.root, s.Certificate), filepath.Join(b.root, cmp.Or(s.Key, s.Certificate)))
		if err != nil {
			return nil, nil, fmt.Errorf("certificate and key of the gateway: %w", err)
		}
		o.Certificate = &pair
	}
	client, err := exosite.New(o)
	if err != nil {
		return nil, nil, err
	}
	b.client.Store(client)
	switch s.Push {
	case "poll":
		return client, &poller{cloud: client, schedule: b.schedule}, nil
	case "mqtt":
		return client, &pusher{open: func() *mqtt.Session { return mqtt.New(client, mqtt.Options{Name: "gwe", Port: b.mqttPort}) }, schedule: b.schedule}, nil
	}
	return client, nil, nil
}

// fetchItem downloads what a command names. A file that is there is whole.
func (b *assembled) fetchItem(ctx context.Context, id string, item command.Item) (string, error) {
	if b.apps != nil {
		if file, ok := b.apps.BakedFile(id, item); ok {
			return file, nil
		}
	}
	dir := filepath.Join(b.root, downloadFolder, id, item.Name) // of its own, for what a download has beside
	if err := durable.MakeFolder(dir, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(dir, item.Name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	client := b.client.Load()
	if client == nil {
		return "", command.Later(errors.New("the gateway has no connection yet"))
	}
	_, err := download.Download{
		Client: client, ID: item.Name, SHA256: item.SHA256, Patience: downloadPatience,
		Room: func(size int64) error { return room(dir, size) },
	}.File(ctx, path)
	if err == nil {
		return path, nil
	}
	if errors.As(err, new(noRoom)) || download.Permanent(err) {
		return "", err
	}
	return "", command.Later(err)
}

// noRoom is the error of a download for which there is none.
type noRoom struct{ error }

// room says whether there is room for size bytes.
func room(dir string, size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * int64(st.Bsize); size > free-spareRoom {
		return noRoom{fmt.Errorf("there is no room: it has %d kB to come, and of %d kB that are free %d are to stay so; remove what is not needed", size>>10, free>>10, spareRoom>>10)}
	}
	return nil
}

// serve runs the engine below root, or checks in once.
func serve(root string, once bool, out, errs io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintf(errs, "gwe: %v\n", err)
		return 1
	}
	if err := durable.MakeFolder(filepath.Join(root, runFolder), 0o755); err != nil {
		return fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1) // from before the lock tells others whom to ask
	unlock, pid, err := lock(filepath.Join(root, lockFile))
	switch {
	case err != nil:
		return fail(err)
	case unlock == nil && once:
		if err := askRunning(ctx, root, pid); err != nil {
			return fail(err)
		}
		fmt.Fprintln(out, "checked in, by the engine that is running")
		return 0
	case unlock == nil:
		return fail(fmt.Errorf("the engine is running already, as process %d", pid))
	}
	defer unlock()

	b := assemble(root, errs)
	if err := b.open(); err != nil {
		return fail(err)
	}
	if !gateway.Here(root) { // a gateway is waiting for its settings, a person is not
		err := b.load()
		if err == nil {
			_, err = b.serial(ctx)
		}
		if err != nil {
			return fail(err)
		}
	}
	if once {
		if err := b.once(ctx); err != nil {
			return fail(err)
		}
		fmt.Fprintln(out, "checked in")
		if waiting := b.queue.Status(); len(waiting) > 0 {
			fmt.Fprintf(out, "%d commands wait; the first: %s\n", len(waiting), waiting[0].Error)
		}
		return 0
	}
	if b.changes, err = folderChanges(ctx, b.files.Dir); err != nil {
		b.problem("settings", fmt.Errorf("changes count when the engine is started again: %w", err))
	}
	b.asked = asked
	spread := bootSpread
	stopped := filepath.Join(root, stoppedFile)
	if exists(filepath.Join(root, lastFile)) || exists(stopped) || onTrial(b.host.Status(ctx)) {
		spread = startSpread
	}
	b.problem("note the start", durable.Remove(stopped))
	b.log.Info("Gateway Engine", "version", b.version, "pid", os.Getpid())
	b.Run(ctx, spread)
	if err := durable.WriteFile(stopped, nil, 0o600); err != nil {
		b.log.Error("note the end", "err", err)
	}
	return 0
}

// printConsole tells who looks on, if the console takes it at once.
func printConsole(line string) {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	f.WriteString(line + "\r\n")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// slogLevel is a level of the settings.
func slogLevel(name string) slog.Level {
	switch name {
	case "DEBUG":
		return slog.LevelDebug
	case "WARNING":
		return slog.LevelWarn
	case "ERROR":
		return slog.LevelError
	case "CRITICAL":
		return slog.LevelError + 4
	}
	return slog.LevelInfo
}

// lock has one engine run below a root. If another one does, unlock is nil, and
// pid its process.
func lock(path string) (unlock func(), pid int, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		text, _ := io.ReadAll(io.LimitReader(f, 20))
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return nil, pid, nil
	}
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err == nil {
		fmt.Fprintln(f, os.Getpid())
	}
	return func() { f.Close() }, 0, nil
}

// askRunning has the running engine check in, and waits for that.
func askRunning(ctx context.Context, root string, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, checkInLimit)
	defer cancel()
	before := readLast(root)
	if pid <= 0 { // it has just been started
		return errors.New("the running engine does not say which process it is; try again")
	}
	if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
		return fmt.Errorf("ask the running engine, process %d: %w", pid, err)
	}
	for ctx.Err() == nil {
		now := readLast(root)
		if now.PID == pid && (before.PID != pid || now.Attempts > before.Attempts) {
			if now.Error != "" {
				return fmt.Errorf("the running engine: %s", now.Error)
			}
			return nil
		}
		if err := unix.Kill(pid, 0); err != nil {
			return fmt.Errorf("the running engine, process %d, has ended", pid)
		}
		sleep(ctx, 100*time.Millisecond)
	}
	return fmt.Errorf("the running engine, process %d, has not checked in: %w", pid, context.Cause(ctx))
}

// readLast returns how the last check-in went; nothing if that is not known.
func readLast(root string) (l last) {
	if text, err := durable.ReadFile(filepath.Join(root, lastFile), 64<<10); err == nil {
		json.Unmarshal(text, &l)
	}
	return l
}

// keepIdentity has PID 1 keep the settings in the identity record.
func keepIdentity(root string) error { return newMachine(root).KeepIdentity(context.Background(), "") }

// supportLimit is for a gateway on which much hangs.
const supportLimit = 5 * time.Minute

// supportBundle writes one to file, "-" is out, or into the folder for temporary
// files, and prints its path.
func supportBundle(root, file string, out, errs io.Writer) int {
	ctx, cancel := context.WithTimeout(context.Background(), supportLimit)
	defer cancel()
	if file == "" {
		file = filepath.Join(os.TempDir(), "gwe-support-"+time.Now().UTC().Format("20060102T150405Z")+".tar.gz")
	}
	fail := func(err error) int {
		fmt.Fprintf(errs, "gwe: write a support bundle: %v\n", err)
		return 1
	}
	m := newMachine(root)
	o := support.Options{Root: cmp.Or(root, "/"), Call: m.call, Reports: reportsNow(ctx, root, m)}
	if s, _, err := (gateway.Files{Dir: filepath.Join(root, gateway.Dir)}).Load(); err == nil && s.CIK != "" {
		o.Secrets = append(o.Secrets, s.CIK)
	}
	if file == "-" {
		if err := support.Write(ctx, out, o); err != nil {
			return fail(err)
		}
		return 0
	}
	part := file + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	if err = support.Write(ctx, f, o); err == nil {
		err = f.Close()
	}
	if err == nil {
		err = os.Rename(part, file)
	}
	if err != nil {
		os.Remove(part)
		return fail(err)
	}
	fmt.Fprintln(out, file)
	return 0
}

// reportsNow returns the reports as the engine would send them, as far as they
// can be made.
func reportsNow(ctx context.Context, root string, m machine) map[string]string {
	texts := map[string]string{}
	if r, err := report.Device(cmp.Or(root, "/")); err == nil {
		texts[deviceInfo] = r.Text
	}
	state := report.Engine{Version: version(root), Status: m.Status(ctx), Programs: m.Programs(ctx)}
	if r, err := state.Report(); err == nil {
		texts[engineReport] = r.Text
	}
	if used, err := usage.Add(filepath.Join(root, usage.File), nil); err == nil {
		if text, err := json.Marshal(used); err == nil {
			texts[usageReport] = string(text)
		}
	}
	return texts
}
