package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/supervisor/conf"
)

// cgroup is the control group (v2) of one process and all that it starts, made
// anew for each start. A nil one is where there are none: what a program leaves
// behind is then known by its process group.
type cgroup struct {
	path string
	dir  *os.File
}

// newCgroup makes the group at path, with the limits of a program. Limits that
// the kernel does not know are an error, but the group is there.
func newCgroup(path string, c conf.Program) (*cgroup, error) {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	g := &cgroup{path: path, dir: dir}
	var errs []error
	set := func(file string, value int64, none string) {
		text := none // one from before may have had a limit
		if value > 0 {
			text = strconv.FormatInt(value, 10)
		}
		err := os.WriteFile(filepath.Join(path, file), []byte(text), 0)
		if err != nil && value > 0 {
			errs = append(errs, fmt.Errorf("set the limit %s=%s: %w", file, text, err))
		}
	}
	set("memory.max", c.MemoryLimit, "max")
	set("cpu.weight", int64(c.CPUWeight), "100")
	set("pids.max", int64(c.PidsLimit), "max")
	// One from before that could not be removed may be frozen: what starts in it
	// would keep us waiting.
	os.WriteFile(filepath.Join(path, "cgroup.freeze"), []byte("0"), 0)
	return g, errors.Join(errs...)
}

// attach has a process start in the group.
func (g *cgroup) attach(attr *syscall.SysProcAttr) {
	if g != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, int(g.dir.Fd())
	}
}

// occupied reports whether there are processes, in groups below, too.
func (g *cgroup) occupied() bool {
	events, err := os.ReadFile(filepath.Join(g.path, "cgroup.events"))
	return err == nil && bytes.Contains(events, []byte("populated 1"))
}

// signal sends a signal to all processes of the group.
func (g *cgroup) signal(sig syscall.Signal) {
	if sig == unix.SIGKILL && os.WriteFile(filepath.Join(g.path, "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	// Linux before 5.14 has no cgroup.kill: the caller comes again for what was
	// forked meanwhile.
	filepath.WalkDir(g.path, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		pids, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for _, pid := range strings.Fields(string(pids)) {
			if n, err := strconv.Atoi(pid); err == nil && n > 0 {
				unix.Kill(n, sig)
			}
		}
		return nil
	})
}

// outOfMemory reports whether the kernel has killed in this group for lack of
// memory.
func (g *cgroup) outOfMemory() bool {
	if g == nil {
		return false
	}
	events, err := os.ReadFile(filepath.Join(g.path, "memory.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(events)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strings.TrimSpace(n) != "0"
		}
	}
	return false
}

// remove removes the group, and those that its processes have made below it.
func (g *cgroup) remove() {
	if g == nil {
		return
	}
	g.dir.Close()
	var dirs []string
	filepath.WalkDir(g.path, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		unix.Rmdir(dirs[i])
	}
}

const (
	leftoverWait = time.Second      // for what a program leaves behind to end by itself
	leftoverMost = 10 * time.Second // whatever the program's stopwaitsecs are
	killWait     = 2 * time.Second
)

// endLeftovers ends what a process that is not up any more has left behind: it
// is asked to end, and killed at the deadline, but has leftoverWait at least and
// leftoverMost at most.
func (p *process) endLeftovers(deadline time.Time) {
	left := p.leftovers()
	if left == nil {
		return
	}
	p.log().Info(fmt.Sprintf("ending what %s has left behind", p.conf.Name))
	wait := min(max(time.Until(deadline), leftoverWait), leftoverMost)
	left.signal(p.conf.StopSignal)
	if !gone(left, wait, 0) && !gone(left, killWait, unix.SIGKILL) {
		p.log().Error(fmt.Sprintf("processes of %s do not end, not even by SIGKILL", p.conf.Name))
	}
	p.leftovers()
}

// gone waits for leftovers to end, and meanwhile sends them a signal if it is not
// 0: they may fork.
func gone(left leftovers, wait time.Duration, sig syscall.Signal) bool {
	end := time.Now().Add(wait)
	for pause := time.Millisecond; left.occupied(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
		if sig != 0 {
			left.signal(sig)
		}
		time.Sleep(pause)
	}
	return true
}

// leftovers are processes that a program has left behind.
type leftovers interface {
	occupied() bool
	signal(syscall.Signal)
}

// leftovers returns those of the process, nil if there are none.
func (p *process) leftovers() leftovers {
	var left leftovers = processGroup(p.pgid)
	if p.cgroup != nil {
		left = p.cgroup
	} else if p.pgid == 0 {
		return nil
	}
	if !left.occupied() {
		p.pgid = 0 // the kernel may give the number to others
		return nil
	}
	return left
}

// processGroup is a process group, by its number.
type processGroup int

func (g processGroup) occupied() bool            { return !errors.Is(unix.Kill(-int(g), 0), unix.ESRCH) }
func (g processGroup) signal(sig syscall.Signal) { unix.Kill(-int(g), sig) }
