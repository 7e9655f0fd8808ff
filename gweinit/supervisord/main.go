// Package supervisord is the supervisor without PID 1: in the foreground of a
// workstation or a test.
package supervisord

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/reaper"
	"github.com/exosite/gwe/gweinit/supervisor"
	"github.com/exosite/gwe/gweinit/supervisor/conf"
	"github.com/exosite/gwe/gweinit/supervisor/logfile"
)

const usage = `usage: gweinit supervisord [-n] [-c FILE]

Runs the programs of a configuration of Supervisor (supervisord.org), in the
foreground, until it gets TERM, INT or QUIT. HUP restarts it with a new
configuration, USR2 opens the logs again.

  -c, --configuration FILE  the configuration (default /etc/supervisord.conf or
                            /etc/supervisor/supervisord.conf)
  -n, --nodaemon            for those who are used to it: it never is a daemon
  -h, --help                this text

  gweinit supervisord -n -c supervisord.conf
  gweinit supervisorctl -c supervisord.conf status

Exit status: 0 asked to end, 1 failed, 2 a bad command line or configuration.
`

// Main is the program "supervisord".
func Main(args []string) int {
	file, err := parse(args)
	switch {
	case errors.Is(err, errHelp):
		fmt.Print(usage)
		return 0
	case err != nil:
		return fail(2, err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fail(1, fmt.Errorf("become the parent of orphans: %w", err))
	}
	// What came from our parent is not for programs.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) {
		return fail(1, fmt.Errorf("keep open files to ourselves: %w", err))
	}
	d := &daemon{
		file:    file,
		reaper:  reaper.New(),
		signals: make(chan os.Signal, 8),
		asked:   make(chan syscall.Signal, 8),
	}
	signal.Notify(d.signals, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR2)
	for {
		again, err := d.run()
		if bad := (conf.Errors{}); errors.As(err, &bad) {
			return fail(2, err)
		} else if err != nil {
			return fail(1, err)
		}
		if !again {
			return 0
		}
	}
}

func fail(status int, err error) int {
	fmt.Fprintf(os.Stderr, "Error: %v\nFor help, use gweinit supervisord -h\n", err)
	return status
}

var errHelp = errors.New("help is wanted")

// parse returns the file with the configuration.
func parse(args []string) (file string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "-h" || arg == "--help":
			return "", errHelp
		case arg == "-n" || arg == "--nodaemon":
		case (arg == "-c" || arg == "--configuration") && len(args) > 0:
			file, args = args[0], args[1:]
		default:
			return "", fmt.Errorf("the argument %s is not known, or lacks its value", arg)
		}
	}
	if file != "" {
		return filepath.Abs(file) // the configuration may change the folder
	}
	for _, file := range conf.Files() {
		if _, err := os.Stat(file); err == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("no configuration in %v; -c names one", conf.Files())
}

// daemon runs a supervisor, again and again.
type daemon struct {
	file    string
	reaper  *reaper.Reaper
	signals chan os.Signal
	asked   chan syscall.Signal // by a call: what the signal means
}

// run runs the programs until it is asked to end, or to do so again.
func (d *daemon) run() (again bool, err error) {
	load := func() (*conf.Config, error) { return conf.Load(d.file, conf.Options{Environ: os.Environ()}) }
	config, err := load()
	if err != nil {
		return false, err
	}
	own := config.Supervisord
	if err := d.become(own); err != nil {
		return false, err
	}
	mainLog, err := filepath.Abs(cmp.Or(own.Logfile, "supervisord.log"))
	if err != nil {
		return false, err
	}
	file := logfile.New(logfile.Options{
		Path: mainLog, MaxBytes: own.LogMaxBytes, Backups: own.LogBackups,
		Problem: func(err error) { fmt.Fprintln(os.Stderr, "Error:", err) },
	})
	defer file.Close()
	log := slog.New(newHandler(own, file))
	for _, w := range config.Warnings {
		log.Warn(w)
	}

	opt := supervisor.Options{
		Load: load, Reaper: d.reaper, Log: log, Environ: os.Environ(),
		MainLog: mainLog, ClearMainLog: file.Clear,
		Shutdown: func() { d.ask(unix.SIGTERM) }, Restart: func() { d.ask(unix.SIGHUP) },
	}
	group, err := makeCgroup()
	if err != nil {
		log.Info("no cgroups; what programs leave behind is found by process group", "error", err)
	} else {
		opt.Cgroup = group
		defer unix.Rmdir(group)
	}
	if config.Socket != nil {
		opt.ServerURL = "unix://" + config.Socket.File
	}
	// Who calls now waits until the programs are known.
	l, err := listen(config.Socket)
	if err != nil {
		return false, err
	}
	remove, err := writePID(cmp.Or(own.Pidfile, "supervisord.pid"))
	if err != nil {
		log.Error("could not write pidfile", "error", err)
	}
	defer remove()
	log.Info(fmt.Sprintf("supervisord started with pid %d", os.Getpid()))
	unix.Umask(own.Umask) // not before the socket is there: it has a mode of its own
	s := supervisor.New(opt)
	s.Start(config)
	defer serve(s, l, config.Socket, log)()
	if err := releaseMemory(); err != nil {
		log.Warn("give memory back", "error", err)
	}
	again = d.wait(s, file, log)
	if err := s.Stop(context.Background()); err != nil {
		log.Error("stop the programs", "error", err)
	}
	return again, nil
}

func (d *daemon) ask(sig syscall.Signal) {
	select {
	case d.asked <- sig:
	default: // as it has been asked already
	}
}

// wait waits until it is asked to end. again: and to start again.
func (d *daemon) wait(s *supervisor.Supervisor, file *logfile.Log, log *slog.Logger) (again bool) {
	for {
		var sig os.Signal
		select {
		case sig = <-d.asked:
		case sig = <-d.signals:
			log.Warn("received " + unix.SignalName(sig.(syscall.Signal)))
		}
		switch sig {
		case unix.SIGHUP:
			return true
		case unix.SIGUSR2:
			if err := file.Reopen(); err != nil {
				log.Error("reopen the log", "error", err)
			}
			s.ReopenLogs()
		default:
			return false
		}
	}
}

// become makes this process what [supervisord] says.
func (d *daemon) become(own conf.Supervisord) error {
	if own.MinFDs > defaultFiles {
		// Not by x/sys: programs get the limit that the standard library knows.
		limit := syscall.Rlimit{Cur: uint64(own.MinFDs), Max: uint64(own.MinFDs)}
		if err := syscall.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return fmt.Errorf("set the limit of open files to minfds = %d: %w", own.MinFDs, err)
		}
	}
	if own.Directory != "" {
		if err := os.Chdir(own.Directory); err != nil {
			return err
		}
	}
	c := own.Credential
	if c == nil || c.UID == os.Getuid() {
		return nil
	}
	if err := syscall.Setgroups(c.Groups); err != nil {
		return fmt.Errorf("become user %d: %w", c.UID, err)
	}
	if err := syscall.Setgid(c.GID); err != nil {
		return fmt.Errorf("become group %d: %w", c.GID, err)
	}
	if err := syscall.Setuid(c.UID); err != nil {
		return fmt.Errorf("become user %d: %w", c.UID, err)
	}
	return nil
}

// defaultFiles is Supervisor's minfds, and the kernel's default.
const defaultFiles = 1024

// listen makes the socket, if there is to be one.
func listen(c *conf.Socket) (net.Listener, error) {
	if c == nil {
		return nil, nil
	}
	return control.Listen(c.File, c.Chmod, c.UID, c.GID)
}

// serve takes calls. end closes the socket.
func serve(s *supervisor.Supervisor, l net.Listener, c *conf.Socket, log *slog.Logger) (end func()) {
	if l == nil {
		return func() {}
	}
	if c.Username == "" {
		log.Info("the control socket asks for no password; its mode says who may", "socket", c.File)
	}
	server := &control.Server{Methods: s.Methods(), Pages: s.Pages(), User: c.Username, Password: c.Password, Log: log}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(ctx, l); ctx.Err() == nil {
			log.Error("control", "error", err)
		}
	}()
	return func() {
		cancel()
		<-ended
		os.Remove(c.File)
	}
}

// writePID writes the file with our PID.
func writePID(file string) (remove func(), err error) {
	file, err = filepath.Abs(file)
	if err == nil {
		err = os.WriteFile(file, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644)
	}
	if err != nil {
		return func() {}, err
	}
	return func() { os.Remove(file) }, nil
}
