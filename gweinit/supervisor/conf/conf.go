// Package conf reads the configuration of programs as Supervisor 4.2.5 reads
// supervisord.conf (supervisord.org), with an error for each problem.
//
// Supervisor refuses a configuration that has an error. Load returns what is
// good, because a gateway has to start with it, and the caller decides. These
// are the other differences, all of them meant:
//
//   - A program, group or file with an error is left out; the others stay.
//   - A conversion without a name (%s, %d) is an error, and so are c, r, a and
//     the conversions of floating-point numbers.
//   - Log files and the environment of [supervisord] are expanded once.
//     Supervisor does it twice, which needs %%%% for a per cent sign.
//   - %(here)s is the folder of the file in which the option stands, also with
//     a width or precision, and %%(here)s is not expanded. Supervisor replaces
//     the text %(here)s where there are includes. %(here)s, %(host_node_name)s
//     and, where there is one, %(group_name)s can be used in each option.
//   - A byte order mark at the beginning is skipped. Values must be UTF-8
//     without NUL, names also without other control characters, and not empty.
//   - An option that begins with "[" is a section header without its "]".
//   - Numbers have limits: no negative ones except for priorities, no more than
//     1000 processes for a program and 10000 in all, umask and chmod up to 0777,
//     signals that exist and not 0. Digits are ASCII.
//   - A command that is empty or cannot be split is an error here, not when the
//     program starts. A log file that is a folder is an error.
//   - Names are checked for " ", ":" and "/" after their expansion too.
//   - A name in environment that has quotes or is not a word is an error.
//   - Two processes of the same name in a group and two groups of the same name
//     are errors. Supervisor drops one of them without a word.
//   - An included file that cannot be read is an error, not ignored. No file
//     has more than 1 MiB, and all have to be regular files.
//   - Event listeners, FastCGI programs, the TCP server, plugins and names of
//     unix_http_server are not supported: a warning.
//   - The user of a program is looked up in the files of its root_directory,
//     and users known only to a directory service do not exist.
//   - An empty username of the socket is an error. An empty serverurl is AUTO.
//   - The server of supervisorctl is empty if it is not given: no TCP port.
//   - The files that supervisord writes by default into its working folder
//     (logfile, pidfile) and childlogdir are empty if they are not given.
package conf

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
	"syscall"
)

// Options are what a configuration depends on besides its files.
type Options struct {
	Environ     []string // NAME=VALUE, for %(ENV_NAME)s and ~; the last of a name wins
	LogMaxBytes int64    // default of *_logfile_maxbytes in bytes; 0: Supervisor's 50 MB
	LogBackups  int      // default of *_logfile_backups if LogMaxBytes is set; otherwise 10
	Apps        []App
}

// Config is what a file and its includes say, without what is wrong in them.
type Config struct {
	File        string
	Supervisord Supervisord
	Socket      *Socket  // nil: none
	Groups      []Group  // by priority, then name
	Warnings    []string // with file and line where they are known
}

// Supervisord is the section of the same name.
type Supervisord struct {
	Logfile, Pidfile, ChildLogDir          string // "": not given
	LogMaxBytes                            int64  // 0: no limit
	LogBackups                             int
	LogLevel                               string // critical, error, warn, info, debug, trace or blather
	Umask                                  int
	Nodaemon, Silent, NoCleanup, StripANSI bool
	MinFDs, MinProcs                       int
	Identifier                             string
	Directory                              string // "": not given
	Credential                             *Credential
	Environment                            map[string]string
}

// Socket is [unix_http_server].
type Socket struct {
	File               string      // absolute
	Chmod              fs.FileMode // its permissions
	UID, GID           int         // its owner; -1: unchanged
	Username, Password string      // both or none
}

// Group is a group of processes: [group:x], or a program that is in none.
type Group struct {
	Name     string
	Priority int
	Programs []Program // by priority, then name
}

// Restart says when a program that exits is started again.
type Restart int

// The values of autorestart: false, unexpected (the default) and true.
const (
	Never Restart = iota
	Unexpected
	Always
)

// Program is one process of a [program:x]; numprocs makes several.
type Program struct {
	Name, Group                           string
	Section                               string // x of [program:x]
	Command                               string // for Split
	Directory                             string // "": not given; within RootDirectory
	Umask                                 int    // -1: not given
	Priority                              int
	Autostart                             bool
	Autorestart                           Restart
	StartSecs, StartRetries, StopWaitSecs int
	ExitCodes                             []int // those expected
	StopSignal                            syscall.Signal
	StopAsGroup, KillAsGroup              bool
	Credential                            *Credential // nil: as PID 1
	RedirectStderr                        bool
	Stdout, Stderr                        Log
	Environment                           map[string]string // with that of [supervisord]
	ServerURL                             string            // "": that of the socket

	// These are not Supervisor's.
	RootDirectory string // absolute; "": none
	App           string // whose program it is; "": the gateway's
	Revision      string // of the app
	MemoryLimit   int64  // bytes; 0: none
	CPUWeight     int    // 1 to 10000, as cgroup v2's cpu.weight; 0: none
	PidsLimit     int    // 0: none
}

// Log is where an output of a program goes: a file, or if Auto, one that is
// made up; and the syslog.
type Log struct {
	File            string // "": none
	Auto, Syslog    bool
	MaxBytes        int64 // 0: no limit
	Backups         int
	CaptureMaxBytes int64
	Events          bool
}

// Credential is a user of the passwd and group files of a root directory.
// Groups has GID first, as Supervisor sets it.
type Credential struct {
	UID, GID   int
	Groups     []int
	Name, Home string
}

// Files returns where a configuration is looked for if none is named: never in
// the current folder, as root runs this everywhere.
func Files() []string {
	return []string{"/etc/supervisord.conf", "/etc/supervisor/supervisord.conf"}
}

// Client is [supervisorctl].
type Client struct {
	ServerURL                  string // "": not given; Supervisor's default is a TCP port
	Username, Password, Prompt string
	HistoryFile                string // "": none
}

// Errors are the problems of a configuration, by file and line.
type Errors []*Error

func (e Errors) Error() string {
	text := make([]string, len(e))
	for i, err := range e {
		text[i] = err.Error()
	}
	return strings.Join(text, "; ")
}

// Unwrap makes the errors known to errors.Is and errors.As.
func (e Errors) Unwrap() []error {
	list := make([]error, len(e))
	for i, err := range e {
		list[i] = err
	}
	return list
}

func (e Errors) sort() {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
}

// Error is one problem. What is not known is empty. Value is how the value in
// the file begins, and empty if it can be secret: a password or environment.
type Error struct {
	File                   string
	Line                   int
	Section, Option, Value string
	Err                    error
}

func (e *Error) Unwrap() error { return e.Err }

// Error returns "FILE:LINE: [SECTION] OPTION = VALUE: what is wrong".
func (e *Error) Error() string {
	text := place(e.File, e.Line, e.Section, e.Option)
	if e.Option != "" && e.Value != "" {
		text = strings.TrimSuffix(text, ": ") + " = " + short(e.Value) + ": "
	}
	return text + e.Err.Error()
}

// place returns where something is in front of what is said about it.
func place(file string, line int, section, option string) string {
	var b strings.Builder
	if file != "" {
		b.WriteString(file)
		if line > 0 && line < math.MaxInt32 {
			fmt.Fprintf(&b, ":%d", line)
		}
		b.WriteString(": ")
	}
	if section != "" {
		b.WriteString("[" + printable(section) + "]")
		if option != "" {
			b.WriteString(" " + printable(option))
		}
		b.WriteString(": ")
	}
	return b.String()
}

// short returns a value for a message on one line.
func short(value string) string {
	if len(value) > maxValue+len("...") {
		value = strings.ToValidUTF8(value[:maxValue], "") + "..."
	}
	return printable(value)
}

// printable returns text that cannot garble a terminal or split a line.
func printable(text string) string {
	if strings.ContainsFunc(text, unprintable) {
		return fmt.Sprintf("%q", text)
	}
	return text
}

// Equal says whether an update leaves the group as it is, as Supervisor
// compares configurations.
func (g Group) Equal(h Group) bool {
	return g.Name == h.Name && g.Priority == h.Priority &&
		slices.EqualFunc(g.Programs, h.Programs, Program.Equal)
}

// Equal says whether an update leaves the program as it is. Two AUTO logs are
// equal. Unlike in Supervisor AUTO and a file are not. Of the user only the UID
// counts, as in Supervisor: a change of /etc/group restarts nothing.
func (p Program) Equal(q Program) bool {
	if (p.Credential == nil) != (q.Credential == nil) ||
		p.Credential != nil && p.Credential.UID != q.Credential.UID {
		return false
	}
	return p.Name == q.Name && p.Group == q.Group && p.Section == q.Section &&
		p.Command == q.Command && p.Directory == q.Directory &&
		p.Umask == q.Umask && p.Priority == q.Priority &&
		p.Autostart == q.Autostart && p.Autorestart == q.Autorestart &&
		p.StartSecs == q.StartSecs && p.StartRetries == q.StartRetries &&
		p.StopWaitSecs == q.StopWaitSecs && slices.Equal(p.ExitCodes, q.ExitCodes) &&
		p.StopSignal == q.StopSignal && p.StopAsGroup == q.StopAsGroup &&
		p.KillAsGroup == q.KillAsGroup && p.RedirectStderr == q.RedirectStderr &&
		p.Stdout == q.Stdout && p.Stderr == q.Stderr &&
		maps.Equal(p.Environment, q.Environment) && p.ServerURL == q.ServerURL &&
		p.RootDirectory == q.RootDirectory && p.MemoryLimit == q.MemoryLimit &&
		p.App == q.App && p.Revision == q.Revision &&
		p.CPUWeight == q.CPUWeight && p.PidsLimit == q.PidsLimit
}
