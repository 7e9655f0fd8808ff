// Package sandbox runs the installer of an app where it cannot harm: in a root
// directory whose changes all go to the app's layer, with processes of its own,
// with limits, and with a stand-in for PID 1 that notes what it asks for.
//
// What the installer starts ends with it. It runs as root, and is not kept from
// what root can do to devices: apps are trusted, their mistakes are not.
package sandbox

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/cga/view"
	"github.com/exosite/gwe/gweinit/control"
)

// Limits that an installer has unless told otherwise.
const (
	DefaultLimit = 15 * time.Minute
	threads      = 512 // at most
	// memoryShare is the part of the memory that it may have: the gateway's own
	// programs and the other apps go on.
	memoryShare = 2
	spareFiles  = 500 // that it has to leave to others on /data
)

// Scratch is where the unpacked tarball is, in the installer's world.
const Scratch = "/tmp/install"

// Installer is one run.
type Installer struct {
	Gateway string   // below which its files are; "" on the gateway itself
	Layer   string   // folder of the layer; root in it may have something already
	Lower   []string // the firmware and the layers beneath, the lowest first
	Pending []string // folders of layers that are committed together with this one
	Tarball string   // folder of what is unpacked; it is used up
	Dir     string   // in that, where the command runs; "": at its top
	Argv    []string
	Limit   time.Duration // 0: DefaultLimit
	Spare   int64         // bytes that it has to leave free on /data
	// Output gets what it writes to its standard output and error.
	Output io.Writer
	// PID1 answers what does not change anything.
	PID1 control.Client
}

// Wish is what an installer has asked of PID 1, to be done once the app is there.
type Wish struct {
	Restart  []string // processes that it has stopped, started or restarted
	All      bool     // all of them
	Signals  []Signal
	Reboot   bool
	Poweroff bool
}

// Signal is one that a process is to get.
type Signal struct{ Process, Name string }

// Result is how an installer ended.
type Result struct {
	Wish   Wish
	Killed []string // processes that it had left behind
	// Settings is the folder with the gateway's settings as the installer has left
	// them; Before that as they were.
	Settings, Before string
}

// Places in the layer's folder that exist as long as the installer runs.
var temporary = []string{"mnt", "run", "tmp", "work", "gwe", "gwe.before"}

// Run runs the installer to its end. A non-zero status is an error, as is an end by
// a limit or by ctx. The caller removes the layer then, and after all is done calls
// Tidy.
func (i Installer) Run(ctx context.Context) (result Result, err error) {
	name := strings.TrimPrefix(i.Argv[0], "./")
	if err := i.prepare(); err != nil {
		return result, fmt.Errorf("prepare to run %s: %w", name, err)
	}
	result.Settings, result.Before = filepath.Join(i.Layer, "gwe"), filepath.Join(i.Layer, "gwe.before")
	recorder := newRecorder(i.PID1)
	stop, err := recorder.listen(filepath.Join(i.Layer, "run", filepath.Base(control.Socket)))
	if err != nil {
		return result, fmt.Errorf("prepare to run %s: %w", name, err)
	}
	defer stop()

	limit := cmp.Or(i.Limit, DefaultLimit)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(limit, func() { cancel(fmt.Errorf("%s did not end within %v, and was killed", name, limit)) })
	defer timer.Stop()
	watched := make(chan struct{})
	go func() { defer close(watched); i.watchRoom(ctx, cancel, name) }()
	end, err := i.run(ctx)
	cause := context.Cause(ctx)
	cancel(nil)
	<-watched
	stop()
	result.Wish, result.Killed = recorder.wish(), end.Left
	result.Wish.Reboot = result.Wish.Reboot || end.Reboot
	result.Wish.Poweroff = result.Wish.Poweroff || end.Poweroff
	switch {
	case cause != nil:
		return result, cause
	case err != nil:
		return result, fmt.Errorf("run %s: %w", name, err)
	case end.Error != "":
		return result, fmt.Errorf("run %s: %s", name, end.Error)
	case end.Signal != "":
		return result, fmt.Errorf("%s was ended by %s", name, end.Signal)
	case i.Spare > 0 && i.full(name) != nil: // faster than watchRoom looked
		return result, i.full(name)
	case end.Status != 0:
		return result, fmt.Errorf("%s ended with status %d", name, end.Status)
	}
	return result, nil
}

// Tidy removes what only the run needed.
func (i Installer) Tidy() error {
	var errs []error
	for _, dir := range temporary {
		errs = append(errs, os.RemoveAll(filepath.Join(i.Layer, dir)))
	}
	return errors.Join(errs...)
}

// prepare makes what the mounts need.
func (i Installer) prepare() error {
	if err := i.Tidy(); err != nil {
		return err
	}
	for _, dir := range temporary {
		if err := os.Mkdir(filepath.Join(i.Layer, dir), 0o755); err != nil {
			return err
		}
	}
	tmp := filepath.Join(i.Layer, "tmp")
	if err := os.Chmod(tmp, fs.ModeSticky|0o777); err != nil {
		return err
	}
	if err := os.Rename(i.Tarball, filepath.Join(tmp, filepath.Base(Scratch))); err != nil {
		return err
	}
	gateway := cmp.Or(i.Gateway, "/")
	// resolv.conf and the like; sockets and folders are those of others.
	if err := copyFiles(filepath.Join(gateway, "run"), filepath.Join(i.Layer, "run")); err != nil {
		return err
	}
	for _, to := range []string{"gwe", "gwe.before"} {
		if err := copyTree(filepath.Join(gateway, view.Shown), filepath.Join(i.Layer, to)); err != nil {
			return err
		}
	}
	return os.Mkdir(filepath.Join(i.Layer, "run", "gwe"), 0o755)
}

// copyTree copies the settings. PID 1 may replace a file meanwhile.
func copyTree(from, to string) (err error) {
	for range 5 {
		if err = os.RemoveAll(to); err != nil {
			return err
		}
		if err = os.CopyFS(to, os.DirFS(from)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

const maxCopied = 256 << 10 // bytes of one file

// copyFiles copies the small files and links of a folder.
func copyFiles(from, to string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		source, target := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		info, err := e.Info()
		switch {
		case err != nil: // it has gone
		case e.Type() == fs.ModeSymlink:
			if link, err := os.Readlink(source); err == nil {
				os.Symlink(link, target)
			}
		case e.Type().IsRegular() && info.Size() <= maxCopied:
			data, err := os.ReadFile(source)
			if err != nil {
				continue
			}
			if err := os.WriteFile(target, data, info.Mode().Perm()); err != nil {
				return err
			}
		}
	}
	return nil
}

// watchRoom ends the installer before it takes the last room on /data.
func (i Installer) watchRoom(ctx context.Context, cancel context.CancelCauseFunc, name string) {
	if i.Spare == 0 {
		return
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := i.full(name); err != nil {
			cancel(err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// full is the error of an installer that has left too little room.
func (i Installer) full(name string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(i.Layer, &st); err != nil {
		return nil
	}
	if free := int64(st.Bavail) * int64(st.Bsize); free < i.Spare {
		return fmt.Errorf("%s filled /data up to the last %d KB", name, free>>10)
	}
	if st.Files > 0 && st.Ffree < spareFiles {
		return fmt.Errorf("%s filled /data up to the last %d files", name, st.Ffree)
	}
	return nil
}

// spec is what the first process of the new world has to know.
type spec struct {
	Root   string // folder where the root is made
	Mounts []view.Mount
	Dir    string
	Argv   []string
	Env    []string
}

// ending is what it tells.
type ending struct {
	Error            string // it could not be run
	Status           int
	Signal           string
	Left             []string
	Reboot, Poweroff bool
}

// Program is the name under which this binary is the first process of the world.
const Program = "app-installer"

// run runs the command in a world of its own.
func (i Installer) run(ctx context.Context) (end ending, err error) {
	// Pdeathsig is about the thread that has started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	mounts, err := view.Installer(i.Gateway, i.Layer, i.Lower, i.Pending)
	if err != nil {
		return end, err
	}
	order, err := json.Marshal(spec{
		Root: filepath.Join(i.Layer, "mnt"), Mounts: mounts,
		Dir: filepath.Join(Scratch, i.Dir), Argv: i.Argv,
		Env: []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp",
			// Else each module of the firmware that it imports would be in the layer.
			"PYTHONDONTWRITEBYTECODE=1",
		},
	})
	if err != nil {
		return end, err
	}
	told, tell, err := os.Pipe()
	if err != nil {
		return end, err
	}
	defer told.Close()
	group, err := makeGroup()
	if err != nil {
		tell.Close()
		return end, err
	}
	defer group.remove()
	cmd := exec.Cmd{
		Path: "/proc/self/exe", Args: []string{Program}, Env: os.Environ(), Dir: "/",
		Stdin: bytes.NewReader(order), Stdout: i.Output, Stderr: i.Output,
		ExtraFiles: []*os.File{tell},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS, Setsid: true, Pdeathsig: syscall.SIGKILL,
		},
		WaitDelay: time.Second,
	}
	group.attach(cmd.SysProcAttr)
	err = cmd.Start()
	tell.Close()
	if err != nil {
		return end, err
	}
	done := context.AfterFunc(ctx, func() { cmd.Process.Kill() }) // and all others with it
	defer done()
	text, readErr := io.ReadAll(io.LimitReader(told, 64<<10))
	err = cmd.Wait()
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case ctx.Err() != nil:
		return end, ctx.Err()
	// What reboot(2) does in a PID namespace.
	case status.Signaled() && status.Signal() == syscall.SIGHUP:
		return ending{Reboot: true}, nil
	case status.Signaled() && status.Signal() == syscall.SIGINT:
		return ending{Poweroff: true}, nil
	case readErr != nil:
		return end, readErr
	case len(text) == 0:
		return end, fmt.Errorf("the process that was to run it ended without a word: %w", cmp.Or(err, errors.New("status 0")))
	}
	return end, json.Unmarshal(text, &end)
}

// group is the control group that limits an installer; the zero value is none.
type group struct {
	dir string
	fd  *os.File
}

// programsGroup is PID 1's for all programs.
const programsGroup = "/sys/fs/cgroup/programs"

func makeGroup() (g group, err error) {
	if _, err := os.Stat(programsGroup); err != nil {
		return g, nil // a workstation
	}
	old, _ := filepath.Glob(filepath.Join(programsGroup, "installer-*"))
	for _, dir := range old {
		os.Remove(dir) // unless there is a process in it
	}
	g.dir = filepath.Join(programsGroup, fmt.Sprintf("installer-%d", os.Getpid()))
	if err := os.Mkdir(g.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return g, err
	}
	// What the kernel lacks of these does not limit.
	limit := threads
	if text, err := os.ReadFile(filepath.Join(programsGroup, "pids.max")); err == nil {
		if all, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			limit = min(limit, all/2) // Go ends a program that cannot have one, and gwe is one
		}
	}
	os.WriteFile(filepath.Join(g.dir, "pids.max"), []byte(strconv.Itoa(limit)), 0)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		total := uint64(info.Totalram) * uint64(info.Unit)
		os.WriteFile(filepath.Join(g.dir, "memory.max"), strconv.AppendUint(nil, total/memoryShare, 10), 0)
	}
	g.fd, err = os.Open(g.dir)
	return g, err
}

func (g group) attach(attr *syscall.SysProcAttr) {
	if g.fd != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, int(g.fd.Fd())
	}
}

// remove removes the group, once its last process has gone.
func (g group) remove() {
	if g.fd == nil {
		return
	}
	g.fd.Close()
	for range 50 {
		if err := os.Remove(g.dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// sorted returns a list sorted, with each once.
func sorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}
