package supervisorctl

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/exosite/gwe/gweinit/control"
)

// With the variable set the test is the program, for tests that need one.
func TestMain(m *testing.M) {
	if os.Getenv("SUPERVISORCTL_TEST_MAIN") != "" {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// gateway is a server that does nothing but what its script says. Names are
// part of the script: f20 is a process or group for which the answer is fault
// 20, and g80-60 a group of two processes with these results.
type gateway struct {
	processes      []any
	configured     []any
	all            []int // results for all processes
	changes        [3][]any
	version        any
	fails          map[string]int // faults of methods; "*": of all
	only           []string       // methods, if not all
	answers        []any          // the one of all methods, if there is one, but getVersion
	user, password string
	absent         bool // nothing at the socket
	refuses        bool // a socket, but no server
	hangsUp        bool // a server that does not answer

	url   string
	mu    sync.Mutex
	calls []string
}

func info(group, name string, state int, stateName, description string, pid int) any {
	return map[string]any{"group": group, "name": name, "state": state, "statename": stateName, "description": description, "pid": pid}
}

func availableInfo(group, name string, inUse, autostart bool, groupPriority, priority int) any {
	return map[string]any{"group": group, "name": name, "inuse": inUse, "autostart": autostart, "group_prio": groupPriority, "process_prio": priority}
}

// usual is a gateway on which all is as it may be.
func usual() *gateway {
	return &gateway{
		processes: []any{
			info("web", "web", 20, "RUNNING", "pid 100, uptime 0:01:02", 100),
			info("db", "one", 20, "RUNNING", "pid 101, uptime 1 day, 0:01:02", 101),
			info("db", "two", 0, "STOPPED", "Not started", 0),
			info("more", "starting", 10, "STARTING", "", 102),
			info("more", "backoff", 30, "BACKOFF", "Exited too quickly (process log may have details)", 0),
			info("more", "stopping", 40, "STOPPING", "", 103),
			info("ended", "exited", 100, "EXITED", "Nov 25 03:00 AM", 0),
			info("ended", "fatal", 200, "FATAL", "can't find command '/bin/nothing'", 0),
			info("ended", "unknown", 1000, "UNKNOWN", "", 0),
			info("pümpe", "wasser-ständig-überwacht-und-länger", 20, "RUNNING", "pid 104, uptime 0:00:01", 104),
		},
		configured: []any{
			availableInfo("web", "web", true, true, 999, 999),
			availableInfo("db", "one", true, false, 10, 20),
			availableInfo("pümpe", "wasser-ständig-überwacht-und-länger", false, true, -1, 0),
		},
		all:     []int{80, 60, 50},
		changes: [3][]any{{"new", "b"}, {"web", "f91"}, {"db", "gone"}},
		version: "3.0",
	}
}

func with(change func(*gateway)) *gateway {
	g := usual()
	change(g)
	return g
}

// situations are those that a gateway can be in.
func situations() map[string]*gateway {
	return map[string]*gateway{
		"usual":     usual(),
		"quiet":     {version: "3.0"},
		"well":      with(func(g *gateway) { g.processes = g.processes[:2] }),
		"stopped":   with(func(g *gateway) { g.all = []int{80, 70, 30, 10} }),
		"failing":   with(func(g *gateway) { g.all = []int{80, 30, 80} }),
		"odd":       with(func(g *gateway) { g.all = []int{80, 6, 80}; g.changes = [3][]any{nil, nil, {"g80-30", "g80"}} }),
		"down":      with(func(g *gateway) { g.fails = map[string]int{"*": control.ShutdownState} }),
		"going":     with(func(g *gateway) { g.fails = map[string]int{"*": control.ShutdownState, "getVersion": 0} }),
		"failed":    with(func(g *gateway) { g.fails = map[string]int{"*": control.Failed, "getVersion": 0} }),
		"misread":   with(func(g *gateway) { g.fails = map[string]int{"*": control.CantReread, "getVersion": 0} }),
		"nolog":     with(func(g *gateway) { g.fails = map[string]int{"readLog": control.NoFile} }),
		"stuck":     with(func(g *gateway) { g.fails = map[string]int{"removeProcessGroup": control.StillRunning} }),
		"old":       with(func(g *gateway) { g.version = "2.0" }),
		"foreign":   with(func(g *gateway) { g.only = []string{"getPID"} }),
		"locked":    with(func(g *gateway) { g.user, g.password = "root", "geheim" }),
		"absent":    {absent: true},
		"refusing":  {refuses: true},
		"hangingup": {hangsUp: true},
	}
}

func (g *gateway) start(t *testing.T) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	g.url = "unix://" + socket
	if g.absent {
		return
	}
	l, err := control.Listen(socket, 0o700, -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case g.refuses:
		l.Close()
		return
	case g.hangsUp:
		go hangUp(l)
	default:
		s := &control.Server{Methods: g.methods(), Pages: http.HandlerFunc(g.page), User: g.user, Password: g.password, Log: slog.New(slog.DiscardHandler)}
		go s.Serve(t.Context(), l)
	}
	t.Cleanup(func() { l.Close() })
}

func hangUp(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Read(make([]byte, 4096))
		c.Close()
	}
}

// called returns what was called since the last time.
func (g *gateway) called() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	calls := g.calls
	g.calls = nil
	return calls
}

func (g *gateway) methods() map[string]control.Method {
	methods := map[string]control.Method{}
	add := func(name string, do func(args []any) (any, error), params ...control.Param) {
		if g.only != nil && !strings.Contains(strings.Join(g.only, " "), name) {
			return
		}
		methods["supervisor."+name] = control.Method{Params: params, Run: func(_ context.Context, args []any) (any, error) {
			g.mu.Lock()
			g.calls = append(g.calls, strings.TrimSpace(name+" "+strings.Trim(fmt.Sprint(args), "[]")))
			g.mu.Unlock()
			code, ok := g.fails[name]
			if !ok {
				code = g.fails["*"]
			}
			if code != 0 {
				return nil, control.NewFault(code, "")
			}
			if len(g.answers) > 0 && name != "getVersion" {
				return g.answers[0], nil
			}
			return do(args)
		}}
	}
	always := func(v any) func([]any) (any, error) { return func([]any) (any, error) { return v, nil } }
	name, wait, sig := control.Text("name"), control.Param{Name: "wait", Type: control.Boolean, Default: true}, control.Text("signal")
	offset, length := control.Param{Name: "offset", Type: control.Int}, control.Param{Name: "length", Type: control.Int}
	log := func(args []any) (any, error) {
		if err := faultOf(args[0].(string)); err != nil {
			return nil, err
		}
		return fmt.Sprintf("das Ende über %v:\tx\r\n <&>", args), nil
	}

	add("getVersion", always(g.version))
	add("getSupervisorVersion", always("4.2.5"))
	add("getPID", always(1))
	add("getAllProcessInfo", always(g.processes))
	add("getProcessInfo", g.find, name)
	add("getAllConfigInfo", always(g.configured))
	add("reloadConfig", always([]any{[]any{g.changes[0], g.changes[1], g.changes[2]}}))
	add("addProcessGroup", done, name)
	add("removeProcessGroup", done, name)
	add("startProcess", done, name, wait)
	add("startProcessGroup", groupDone, name, wait)
	add("startAllProcesses", func([]any) (any, error) { return results(g.all), nil }, wait)
	add("stopProcess", done, name, wait)
	add("stopProcessGroup", groupDone, name, wait)
	add("stopAllProcesses", func([]any) (any, error) { return results(g.all), nil }, wait)
	add("signalProcess", done, name, sig)
	add("signalProcessGroup", groupDone, name, sig)
	add("signalAllProcesses", func([]any) (any, error) { return results(g.all), nil }, sig)
	add("clearProcessLogs", done, name)
	add("clearAllProcessLogs", func([]any) (any, error) { return results(g.all), nil })
	add("readProcessStdoutLog", log, name, offset, length)
	add("readProcessStderrLog", log, name, offset, length)
	add("readLog", func(args []any) (any, error) { return fmt.Sprintf("main log %v\n", args), nil }, offset, length)
	add("shutdown", always(true))
	add("restart", always(true))
	return methods
}

func (g *gateway) find(args []any) (any, error) {
	word := args[0].(string)
	if err := faultOf(word); err != nil {
		return nil, err
	}
	for _, p := range g.processes {
		if p.(map[string]any)["name"] == parseName(word).process {
			return p, nil
		}
	}
	return nil, control.NewFault(control.BadName, word)
}

func faultOf(name string) error {
	number, ok := strings.CutPrefix(name, "f")
	if code, err := strconv.Atoi(number); ok && err == nil {
		return control.NewFault(code, name)
	}
	return nil
}

func done(args []any) (any, error) { return true, faultOf(args[0].(string)) }

func groupDone(args []any) (any, error) {
	group := args[0].(string)
	codes := []int{}
	for code := range strings.SplitSeq(strings.TrimPrefix(group, "g"), "-") {
		if n, err := strconv.Atoi(code); err == nil {
			codes = append(codes, n)
		}
	}
	return results(codes), faultOf(group)
}

func results(codes []int) any {
	list := []any{}
	for i, code := range codes {
		group := "group"
		if i == 0 {
			group = "p0"
		}
		list = append(list, map[string]any{"group": group, "name": fmt.Sprint("p", i), "status": code, "description": control.NewFault(code, "described").Text})
	}
	return list
}

// What the page of a log has besides letters.
const (
	colours = "\x1b[31mröt\x1b[0m\ta\rb\n"
	binary  = "\x00\x07\xff\xfe\r\n\x1b[2J"
)

func (g *gateway) page(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.calls = append(g.calls, "GET "+r.URL.Path)
	g.mu.Unlock()
	var pieces []string
	switch r.URL.Path {
	case "/logtail/web/stdout", "/mainlogtail":
		pieces = []string{colours, "line 2 of " + r.URL.Path}
	case "/logtail/web/stderr":
		pieces = []string{binary}
	case "/logtail/db:one/stdout": // goes on
		pieces = []string{"line 1\n"}
	default:
		http.Error(w, "no such log", http.StatusGone)
		return
	}
	conn, buffer, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	for _, piece := range pieces {
		fmt.Fprintf(conn, "%x\r\n%s\r\n", len(piece), piece)
	}
	if r.URL.Path == "/logtail/db:one/stdout" {
		io.Copy(io.Discard, conn)
		return
	}
	io.WriteString(conn, "0\r\n\r\n")
	if strings.HasPrefix(r.UserAgent(), "Supervisor") {
		// It sends a line too many, and if that is not read it gets an error.
		io.ReadFull(buffer, make([]byte, 2))
	}
}

// runOurs runs our supervisorctl.
func runOurs(stdin string, args ...string) (stdout, stderr string, exit int) {
	var out, errs bytes.Buffer
	exit = run(args, world{stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs})
	return out.String(), errs.String(), exit
}
