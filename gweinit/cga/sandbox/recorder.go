package sandbox

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/supervisor"
)

// recorder stands in for PID 1: it passes questions on, and notes what is to change.
// After an install GWE reloaded the supervisor, which started all programs anew. So
// what an installer stops is started again, whatever it did with it between.
type recorder struct {
	pid1 control.Client

	mu    sync.Mutex
	noted Wish
}

func newRecorder(pid1 control.Client) *recorder { return &recorder{pid1: pid1} }

// listen serves at a socket. What it returns ends that, and can be called twice.
func (r *recorder) listen(socket string) (stop func(), err error) {
	l, err := control.Listen(socket, 0o700, -1, -1)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	server := &control.Server{Methods: r.methods(), Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	go func() { defer close(ended); server.Serve(ctx, l) }()
	return func() { cancel(); <-ended }, nil
}

func (r *recorder) wish() Wish {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.noted
	w.Restart = sorted(w.Restart)
	return w
}

// maxNoted is how many programs and signals are noted: an installer may call in a loop.
const maxNoted = 200

func (r *recorder) note(change func(*Wish)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.noted)
	if len(r.noted.Restart) > maxNoted {
		r.noted.Restart = sorted(r.noted.Restart)
	}
	r.noted.Restart = r.noted.Restart[:min(len(r.noted.Restart), maxNoted)]
	r.noted.Signals = r.noted.Signals[:min(len(r.noted.Signals), maxNoted)]
}

// methods are those of PID 1, by their names and parameters.
func (r *recorder) methods() map[string]control.Method {
	methods := supervisor.New(supervisor.Options{}).Methods()
	for name, m := range methods {
		m.Run = r.supervisor(name)
		methods[name] = m
	}
	yes := func(name string, change func(*Wish)) {
		methods[name] = control.Method{Result: control.Boolean, Run: func(context.Context, []any) (any, error) {
			r.note(change)
			return true, nil
		}}
	}
	for _, name := range []string{"gweinit.status", "gweinit.firmware"} {
		methods[name] = control.Method{Result: control.String, Run: r.pass(name)}
	}
	yes("gweinit.reboot", func(w *Wish) { w.Reboot = true })
	yes("gweinit.poweroff", func(w *Wish) { w.Poweroff = true })
	methods["gweinit.keepIdentity"] = control.Method{ // the settings are compared afterwards
		Result: control.Boolean, Params: []control.Param{{Name: "gateway", Type: control.String, Default: ""}},
		Run: func(context.Context, []any) (any, error) { return true, nil },
	}
	return methods
}

// pass has PID 1 answer.
func (r *recorder) pass(method string) func(context.Context, []any) (any, error) {
	return func(ctx context.Context, args []any) (any, error) { return r.pid1.Call(ctx, method, args...) }
}

// supervisor is what stands in for one of the supervisor's methods.
func (r *recorder) supervisor(name string) func(context.Context, []any) (any, error) {
	verb := strings.TrimPrefix(name, "supervisor.")
	result := func(value any, change func(w *Wish, args []any)) func(context.Context, []any) (any, error) {
		return func(_ context.Context, args []any) (any, error) {
			if change != nil {
				r.note(func(w *Wish) { change(w, args) })
			}
			return value, nil
		}
	}
	one := func(w *Wish, args []any) { w.Restart = append(w.Restart, args[0].(string)) }
	group := func(w *Wish, args []any) { w.Restart = append(w.Restart, args[0].(string)+":*") }
	send := func(process string, args []any) Signal {
		signal, _ := args[len(args)-1].(string)
		return Signal{process, signal}
	}
	switch verb {
	case "startProcess", "stopProcess":
		return result(true, one)
	case "startProcessGroup", "stopProcessGroup":
		return result([]any{}, group)
	case "startAllProcesses", "stopAllProcesses":
		return result([]any{}, func(w *Wish, _ []any) { w.All = true })
	case "signalProcess":
		return result(true, func(w *Wish, args []any) { w.Signals = append(w.Signals, send(args[0].(string), args)) })
	case "signalProcessGroup":
		return result([]any{}, func(w *Wish, args []any) { w.Signals = append(w.Signals, send(args[0].(string)+":*", args)) })
	case "signalAllProcesses":
		return func(context.Context, []any) (any, error) {
			return nil, control.NewFault(control.Failed, "not while an app is installed")
		}
	// All programs are brought up to date after the install.
	case "reloadConfig":
		return result([]any{[]any{[]any{}, []any{}, []any{}}}, nil)
	case "addProcessGroup", "removeProcessGroup", "restart":
		return result(true, nil)
	case "shutdown":
		return result(true, func(w *Wish, _ []any) { w.Reboot = true })
	case "getState", "getPID", "getAPIVersion", "getVersion", "getSupervisorVersion", "getIdentification",
		"getProcessInfo", "getAllProcessInfo", "getAllConfigInfo",
		"readLog", "readMainLog", "readProcessLog", "readProcessStdoutLog", "readProcessStderrLog",
		"tailProcessLog", "tailProcessStdoutLog", "tailProcessStderrLog":
		return r.pass(name)
	}
	// Clearing logs, sending to a program.
	return func(context.Context, []any) (any, error) {
		return nil, control.NewFault(control.Failed, "not while an app is installed")
	}
}
