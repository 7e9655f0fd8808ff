package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/reaper"
	"github.com/exosite/gwe/gweinit/supervisor/conf"
	"github.com/exosite/gwe/gweinit/supervisor/logfile"
)

const (
	drainWait = 100 * time.Millisecond // for the last output: a child may hold the pipe
	stdinWait = 5 * time.Second        // for a program to read its standard input
)

// launch starts the process. An error that has to do with the program is written
// into its log, too, as Supervisor does it.
func (p *process) launch() error {
	leave, err := p.prepare()
	if err != nil {
		return err
	}
	defer func() {
		if p.running == nil {
			leave()
		}
	}()
	path, argv, err := p.executable()
	if err != nil {
		return err
	}
	p.readAhead(path)
	for _, l := range []*logfile.Log{p.out, p.err} {
		if l != nil {
			go l.Open() // for tail, before there is output; what is wrong it tells itself
		}
	}
	pipes, err := p.pipes()
	if err != nil {
		return fmt.Errorf("make pipes for '%s': %w", p.conf.Name, err)
	}
	attr := &syscall.ProcAttr{
		Dir: p.conf.Directory, Env: p.environment(), Files: pipes.child[:],
		Sys: &syscall.SysProcAttr{Setpgid: true, Chroot: p.conf.RootDirectory},
	}
	if attr.Dir == "" && p.conf.RootDirectory != "" {
		attr.Dir = "/"
	}
	if c := p.conf.Credential; c != nil && c.UID != os.Getuid() {
		attr.Sys.Credential = credential(c)
	}
	p.renewCgroup()
	p.cgroup.attach(attr.Sys)
	running, err := startWith(p.s.opt.Reaper, p.conf.Umask, path, argv, attr)
	pipes.closeChild()
	if err != nil {
		pipes.closeOurs()
		err = p.blame(path, argv[0], err)
		if p.err != nil {
			fmt.Fprintf(p.err, "supervisor: %v\nsupervisor: child process was not spawned\n", err)
		}
		return err
	}
	p.running, p.stdin, p.pgid, p.leave = running, pipes.stdin, running.PID, leave
	if pipes.stdout != nil {
		p.readers = append(p.readers, p.out.Follow(pipes.stdout))
	}
	if pipes.stderr != nil {
		p.readers = append(p.readers, p.err.Follow(pipes.stderr))
	}
	return nil
}

// renewCgroup makes a group without what an earlier run has made of it: other
// limits, groups below, a freeze.
func (p *process) renewCgroup() {
	p.cgroup.remove()
	var err error
	if p.cgroup, err = p.s.makeCgroup(p.conf); err != nil {
		p.log().Warn(fmt.Sprintf("cgroup of '%s': %v", p.conf.Name, err))
	}
}

// readAhead has the kernel read what a start needs: the program, the interpreter
// of a script, the folders. While a disk keeps exec(2) waiting Go's garbage
// collector cannot run, and that would be the end of PID 1; here it keeps waiting
// nobody but us.
func (p *process) readAhead(path string) {
	if dir := p.conf.Directory; dir != "" {
		if f, err := p.open(".", unix.O_PATH|unix.O_DIRECTORY); err == nil {
			f.Close()
		}
	}
	for range 4 { // as many interpreters of interpreters as the kernel takes
		f, err := p.open(path, unix.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			return
		}
		start := make([]byte, os.Getpagesize())
		n, _ := f.Read(start)
		f.Close()
		line, ok := strings.CutPrefix(string(start[:n]), "#!")
		if !ok {
			return
		}
		line, _, _ = strings.Cut(line, "\n")
		words := strings.Fields(line)
		if len(words) == 0 {
			return
		}
		path = words[0]
	}
}

// blame says which step to a new process has failed: the kernel only says how.
func (p *process) blame(path, name string, err error) error {
	var errno syscall.Errno
	if errors.Is(err, reaper.ErrClosed) || !errors.As(err, &errno) {
		return err
	}
	if c := p.conf.Credential; c != nil && c.UID != os.Getuid() && os.Getuid() != 0 {
		return fmt.Errorf("couldn't setuid to %d: can't drop privilege as nonroot user", c.UID)
	}
	if dir := p.conf.Directory; dir != "" && p.conf.RootDirectory == "" {
		if info, statErr := os.Stat(dir); statErr != nil || !info.IsDir() {
			return fmt.Errorf("couldn't chdir to %s: %s", dir, unix.ErrnoName(errno))
		}
		if errno == unix.EACCES && p.conf.Credential != nil {
			return fmt.Errorf("couldn't chdir to %s or exec %s as user %d: EACCES", dir, name, p.conf.Credential.UID)
		}
	}
	switch errno {
	case unix.EAGAIN:
		return fmt.Errorf("too many processes in process table to spawn '%s'", p.conf.Name)
	case unix.ENOENT: // the file itself has been found
		return fmt.Errorf("couldn't exec %s: ENOENT: %s or the interpreter that it names is missing", name, path)
	}
	return fmt.Errorf("couldn't exec %s: %s", name, unix.ErrnoName(errno))
}

// startWith starts a process with an umask of its own, unless it is negative.
func startWith(r *reaper.Reaper, umask int, path string, argv []string, attr *syscall.ProcAttr) (*reaper.Process, error) {
	if umask < 0 {
		return r.Start(path, argv, attr)
	}
	type result struct {
		p   *reaper.Process
		err error
	}
	done := make(chan result, 1)
	go func() {
		// The umask is all threads' unless one has its own; that one must not run
		// anything else later, and ends with the goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS)
		if err != nil {
			done <- result{nil, fmt.Errorf("set the umask: %w", err)}
			return
		}
		unix.Umask(umask)
		p, err := r.Start(path, argv, attr)
		done <- result{p, err}
	}()
	got := <-done
	return got.p, got.err
}

// pipes are the standard files of a process, and our ends of them.
type pipes struct {
	child                 [3]uintptr
	stdin, stdout, stderr *os.File // nil: there is no pipe
}

func (p *process) pipes() (*pipes, error) {
	ps := &pipes{child: [3]uintptr{^uintptr(0), ^uintptr(0), ^uintptr(0)}}
	err := func() (err error) {
		if ps.child[0], ps.stdin, err = pipe(false); err != nil {
			return err
		}
		if ps.child[1], ps.stdout, err = output(p.out != nil); err != nil {
			return err
		}
		if p.conf.RedirectStderr {
			ps.child[2] = ps.child[1]
			return nil
		}
		ps.child[2], ps.stderr, err = output(p.err != nil)
		return err
	}()
	if err != nil {
		ps.closeChild()
		ps.closeOurs()
		return nil, err
	}
	return ps, nil
}

// output returns the child's end and ours of a pipe, or /dev/null if nobody reads.
func output(read bool) (uintptr, *os.File, error) {
	if read {
		return pipe(true)
	}
	fd, err := syscall.Open(os.DevNull, syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	return uintptr(fd), nil, err
}

// pipe makes a pipe of which we read, or write. Only our end does not block:
// many programs do not expect that.
func pipe(read bool) (child uintptr, ours *os.File, err error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		return ^uintptr(0), nil, err
	}
	r, w := fds[0], fds[1]
	if !read {
		r, w = w, r
	}
	if err := syscall.SetNonblock(r, true); err != nil {
		syscall.Close(r)
		syscall.Close(w)
		return ^uintptr(0), nil, err
	}
	return uintptr(w), os.NewFile(uintptr(r), "pipe"), nil
}

func (ps *pipes) closeChild() {
	for i, fd := range ps.child {
		if fd != ^uintptr(0) && !slices.Contains(ps.child[:i], fd) {
			syscall.Close(int(fd))
		}
	}
}

func (ps *pipes) closeOurs() {
	for _, f := range []*os.File{ps.stdin, ps.stdout, ps.stderr} {
		if f != nil {
			f.Close()
		}
	}
}

func credential(c *conf.Credential) *syscall.Credential {
	groups := make([]uint32, len(c.Groups))
	for i, g := range c.Groups {
		groups[i] = uint32(g)
	}
	return &syscall.Credential{Uid: uint32(c.UID), Gid: uint32(c.GID), Groups: groups, NoSetGroups: os.Getuid() != 0}
}

// environment is that of the supervisor, with what Supervisor adds and the
// program's own. The last of a name counts.
func (p *process) environment() []string {
	vars := map[string]string{}
	for _, v := range p.s.opt.Environ {
		if name, value, ok := strings.Cut(v, "="); ok {
			vars[name] = value
		}
	}
	path := vars["PATH"]
	vars["SUPERVISOR_ENABLED"] = "1"
	if url := p.serverURL(); url != "" {
		vars["SUPERVISOR_SERVER_URL"] = url
	}
	vars["SUPERVISOR_PROCESS_NAME"] = p.conf.Name
	vars["SUPERVISOR_GROUP_NAME"] = p.conf.Group
	for name, value := range p.conf.Environment {
		vars[name] = value
	}
	if own, ok := p.conf.Environment["PATH"]; ok {
		vars["PATH"] = expandPath(own, path)
	}
	env := make([]string, 0, len(vars))
	for name, value := range vars {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

func (p *process) serverURL() string {
	if p.conf.ServerURL != "" {
		return p.conf.ServerURL
	}
	return p.s.opt.ServerURL
}

// expandPath puts the supervisor's PATH where a program's has $PATH. Supervisor
// expands nothing there, but configurations in the field expect it, and no folder
// has that name.
func expandPath(own, inherited string) string {
	dirs := strings.Split(own, ":")
	for i, dir := range dirs {
		if dir == "$PATH" || dir == "${PATH}" {
			dirs[i] = inherited
		}
	}
	return strings.Join(dirs, ":")
}

// defaultPath is where Supervisor looks for programs without a PATH.
const defaultPath = "/bin:/usr/bin:/usr/local/bin"

// executable returns the file of the program's command, inside of its root
// directory, and its arguments. What the program's own PATH lacks is looked for
// in the supervisor's. An error that wraps fs.ErrNotExist is about a file.
func (p *process) executable() (string, []string, error) {
	argv, err := conf.Split(p.conf.Command)
	if err != nil {
		return "", nil, fmt.Errorf("can't parse command %q: %w", p.conf.Command, err)
	}
	if len(argv) == 0 {
		return "", nil, errors.New("command is empty")
	}
	name := argv[0]
	if strings.Contains(name, "/") {
		return name, argv, p.checkExecutable(name)
	}
	inherited := lookup(p.s.opt.Environ, "PATH")
	if inherited == "" {
		inherited = defaultPath
	}
	dirs := []string{}
	if own, ok := p.conf.Environment["PATH"]; ok {
		dirs = strings.Split(expandPath(own, inherited), ":")
	}
	// The first that is there counts, as with Supervisor, even if it cannot be
	// executed: the error says so then.
	for _, dir := range append(dirs, strings.Split(inherited, ":")...) {
		path := filepath.Join(dir, name)
		if !strings.Contains(path, "/") { // an empty entry is the current folder
			path = "./" + path
		}
		if err := p.checkExecutable(path); !errors.Is(err, fs.ErrNotExist) {
			return path, argv, err
		}
	}
	return "", nil, notFound(name)
}

// notFound is the error of a command that is not there.
type notFound string

func (n notFound) Error() string      { return fmt.Sprintf("can't find command '%s'", string(n)) }
func (notFound) Is(target error) bool { return target == fs.ErrNotExist }

// checkExecutable reports why a file in the root directory cannot be executed.
func (p *process) checkExecutable(path string) error {
	var info unix.Stat_t
	if err := p.stat(path, &info); err != nil {
		return notFound(path)
	}
	switch {
	case info.Mode&unix.S_IFMT == unix.S_IFDIR:
		return fmt.Errorf("command at '%s' is a directory", path)
	case info.Mode&0o111 == 0:
		return fmt.Errorf("command at '%s' is not executable", path)
	case p.conf.RootDirectory == "" && unix.Access(p.fromDirectory(path), unix.X_OK) != nil:
		return fmt.Errorf("no permission to run command '%s'", path)
	}
	return nil
}

// fromDirectory is the path as the program will see it: it is started in its
// directory.
func (p *process) fromDirectory(path string) string {
	if filepath.IsAbs(path) || p.conf.Directory == "" {
		return path
	}
	return filepath.Join(p.conf.Directory, path)
}

// open opens a file in the root directory: links do not lead out of it.
func (p *process) open(path string, flags uint64) (*os.File, error) {
	path = p.fromDirectory(path)
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC}
	root := unix.AT_FDCWD
	if p.conf.RootDirectory != "" {
		fd, err := unix.Open(p.conf.RootDirectory, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		root, how.Resolve = fd, unix.RESOLVE_IN_ROOT
	}
	fd, err := unix.Openat2(root, path, &how)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// stat is that of a file in the root directory.
func (p *process) stat(path string, info *unix.Stat_t) error {
	f, err := p.open(path, unix.O_PATH)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fstat(int(f.Fd()), info)
}

// lookup returns the value of the last NAME=VALUE.
func lookup(environ []string, name string) (value string) {
	for _, v := range environ {
		if rest, ok := strings.CutPrefix(v, name+"="); ok {
			value = rest
		}
	}
	return value
}

// tenants are those programs of an app that are up or about to be: while there are
// any, its root directory stays as it is.
type tenants struct {
	mu    sync.Mutex // held while the root directory is made, so that each sees those before it
	count atomic.Int32
}

// prepare makes the root directory of an app's program, which stays as it is until
// leave is called.
func (p *process) prepare() (leave func(), err error) {
	if p.conf.App == "" || p.s.opt.Prepare == nil {
		return func() {}, nil
	}
	t := p.s.tenantsOf(p.conf.App)
	t.mu.Lock()
	defer t.mu.Unlock()
	stays := false
	out := func() { t.count.Add(-1) } // waits for no other whose root directory hangs on a disk
	defer func() {
		if !stays {
			out()
		}
	}()
	if err := p.s.opt.Prepare(p.conf, t.count.Add(1) == 1); err != nil {
		return nil, fmt.Errorf("make the root directory of the app %s: %w", p.conf.App, err)
	}
	stays = true
	return out, nil
}

func (s *Supervisor) tenantsOf(app string) *tenants {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tenants[app]
	if t == nil {
		t = &tenants{}
		s.tenants[app] = t
	}
	return t
}
