package supervisor

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/exosite/gwe/gweinit/supervisor/conf"
	"github.com/exosite/gwe/gweinit/supervisor/logfile"
)

// withAutoLogs gives a program the files for those of its logs that are AUTO, or of
// an app and behind a link.
func (s *Supervisor) withAutoLogs(c conf.Program) conf.Program {
	s.mu.Lock()
	d := s.config.Supervisord
	s.mu.Unlock()
	for _, l := range []struct {
		log     *conf.Log
		channel string
	}{{&c.Stdout, "stdout"}, {&c.Stderr, "stderr"}} {
		if c.App != "" && l.log.File != "" && logfile.Linked(l.log.File) {
			s.opt.Log.Warn(fmt.Sprintf("log for %s of '%s': a symbolic link leads to %s; it gets another one", l.channel, c.Name, l.log.File))
			l.log.File, l.log.Auto = "", true
		}
		if !l.log.Auto {
			continue
		}
		dir := d.ChildLogDir
		if c.App != "" { // its logs have no links in their paths
			if real, err := filepath.EvalSymlinks(cmp.Or(dir, os.TempDir())); err == nil {
				dir = real
			}
		}
		f, err := os.CreateTemp(dir, fmt.Sprintf("%s-%s---%s-*.log", c.Name, l.channel, d.Identifier))
		if err != nil {
			s.opt.Log.Error(fmt.Sprintf("make the log for %s of '%s': %v", l.channel, c.Name, err))
			continue
		}
		l.log.File = f.Name()
		f.Close()
	}
	return c
}

// removeAutoLogs removes those that an earlier supervisor has made.
func (s *Supervisor) removeAutoLogs(d conf.Supervisord) {
	ours := regexp.MustCompile(`.+?---` + regexp.QuoteMeta(d.Identifier) + `-\S+\.log\.?\d{0,4}$`)
	dir := cmp.Or(d.ChildLogDir, os.TempDir())
	entries, err := os.ReadDir(dir)
	if err != nil {
		s.opt.Log.Warn("Could not clear childlog dir", "error", err)
		return
	}
	for _, e := range entries {
		if ours.MatchString(e.Name()) && e.Type().IsRegular() {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				s.opt.Log.Warn(fmt.Sprintf("Failed to clean up '%s'", e.Name()), "error", err)
			}
		}
	}
}

// logs returns where the two outputs of a program go.
func (s *Supervisor) logs(c conf.Program) (out, err *logfile.Log) {
	out = s.takeLog(c, c.Stdout)
	if c.RedirectStderr {
		return out, out
	}
	return out, s.takeLog(c, c.Stderr)
}

// logKey is what outputs have in common that share a log.
type logKey struct {
	file    string
	noLinks bool
}

// keyOf returns that of an output. What apps call a path may be something else for
// us: a link of theirs could lead to a file of the gateway.
func keyOf(c conf.Program, l conf.Log) logKey { return logKey{filepath.Clean(l.File), c.App != ""} }

// takeLog returns the log of an output. Outputs with the same file share it.
func (s *Supervisor) takeLog(c conf.Program, l conf.Log) *logfile.Log {
	if l.File == "" && !l.Syslog {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := keyOf(c, l)
	if shared := s.logFiles[key]; shared != nil && l.File != "" {
		shared.users++
		return shared.log
	}
	opt := logfile.Options{
		Path: l.File, MaxBytes: l.MaxBytes, Backups: l.Backups, NoLinks: key.noLinks,
		StripANSI: s.config.Supervisord.StripANSI,
		Problem:   func(err error) { s.opt.Log.Error(fmt.Sprintf("log of '%s': %v", c.Name, err)) },
	}
	if l.Syslog {
		opt.Line = func(line []byte) { s.syslog.send(c.Name, line) }
	}
	log := logfile.New(opt)
	if l.File != "" {
		s.logFiles[key] = &sharedLog{log: log, users: 1}
	}
	return log
}

// dropLogs lets go of the logs of a process.
func (s *Supervisor) dropLogs(p *process) {
	var unused []*logfile.Log
	s.mu.Lock()
	drop := func(l conf.Log, log *logfile.Log) {
		key := keyOf(p.conf, l)
		if shared := s.logFiles[key]; shared != nil && shared.log == log {
			if shared.users--; shared.users > 0 {
				return
			}
			delete(s.logFiles, key)
		}
		unused = append(unused, log)
	}
	if p.out != nil {
		drop(p.conf.Stdout, p.out)
	}
	if p.err != nil && !p.conf.RedirectStderr {
		drop(p.conf.Stderr, p.err)
	}
	s.mu.Unlock()
	for _, log := range unused {
		log.Close() // it waits for the disk
	}
}

// ReopenLogs opens the logs of all programs again: somebody has moved them.
func (s *Supervisor) ReopenLogs() {
	for _, p := range s.all() {
		for _, l := range []*logfile.Log{p.out, p.err} {
			if l == nil {
				continue
			}
			if err := l.Reopen(); err != nil {
				p.log().Error(fmt.Sprintf("reopen the log of '%s': %v", p.conf.Name, err))
			}
		}
	}
}

// syslogger sends lines to the system's log (RFC 3164, as syslog(3) does), and
// drops them if it takes none.
type syslogger struct {
	path string // of its socket

	mu     sync.Mutex
	conn   net.Conn
	failed time.Time
}

const (
	devLog     = "/dev/log"
	userInfo   = 1<<3 | 6 // facility user, severity info
	syslogWait = 100 * time.Millisecond
	syslogRest = time.Second // after a failure: programs must not wait for each line
)

func (l *syslogger) send(name string, text []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.failed) < syslogRest {
		return
	}
	packet := fmt.Appendf(nil, "<%d>%s %s: %s", userInfo, time.Now().Format(time.Stamp), name, text)
	for range 2 { // the second time over a new connection: the log was started again
		if l.conn == nil {
			conn, err := net.Dial("unixgram", l.path)
			if err != nil {
				break
			}
			l.conn = conn
		}
		l.conn.SetWriteDeadline(time.Now().Add(syslogWait))
		if _, err := l.conn.Write(packet); err == nil {
			return
		}
		l.conn.Close()
		l.conn = nil
	}
	l.failed = time.Now()
}
