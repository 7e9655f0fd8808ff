// Package control is how programs on the gateway ask PID 1 for something:
// XML-RPC over HTTP on a unix socket, as Supervisor has it, that only root can
// open.
package control

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/net/netutil"
)

// Socket is where PID 1 listens.
const Socket = "/run/supervisor.sock"

// path is the one of requests: Supervisor's clients know it.
const path = "/RPC2"

// Method serves a call. Arguments and result are of the types int, bool,
// float64, string, []any, map[string]any, or nil. An error that is no Fault
// becomes one with the code Failed.
type Method func(args []any) (any, error)

// Fault is an error that the caller gets, with its code.
type Fault struct {
	Code int
	Text string
}

func (f Fault) Error() string { return f.Text }

// Codes of faults, those of Supervisor 4.
const (
	UnknownMethod       = 1
	IncorrectParameters = 2
	BadArguments        = 3
	Failed              = 30
)

const (
	maxRequest     = 1 << 20 // bytes
	maxConnections = 16
	patience       = 10 * time.Second // with a client that is slow
)

// Server serves calls. The methods must not change any more.
type Server struct {
	Methods map[string]Method
	Log     *slog.Logger
}

// Listen makes the socket at path, which may be left from before. Only root
// can connect: that takes the right to write to it.
func Listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Serve serves calls until the listener is closed.
func (s *Server) Serve(l net.Listener) error {
	h := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: patience,
		ReadTimeout:       patience,
		WriteTimeout:      callTimeout + patience,
		IdleTimeout:       patience,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
	}
	return h.Serve(netutil.LimitListener(l, maxConnections))
}

// ServeHTTP serves one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != path {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "calls are POSTed", http.StatusMethodNotAllowed)
		return
	}
	method, args, err := decodeCall(http.MaxBytesReader(w, r.Body, maxRequest))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		http.Error(w, fmt.Sprintf("a request may have %d bytes", tooLarge.Limit), http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		http.Error(w, "not a call of XML-RPC: "+err.Error(), http.StatusBadRequest)
		return
	}
	var answer []byte
	result, err := s.call(method, args)
	if err == nil {
		answer, err = encodeResponse(result)
	}
	if err != nil {
		fault, ok := err.(Fault)
		if !ok {
			fault = Fault{Failed, err.Error()}
		}
		answer = encodeFault(fault)
	}
	w.Header().Set("Content-Type", "text/xml")
	w.Write(answer)
}

// call calls a method, and makes a fault of a panic: PID 1 goes on.
func (s *Server) call(method string, args []any) (result any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: panic: %v", method, r)
			s.Log.Error("control", "method", method, "panic", r, "stack", string(bytes.TrimSpace(debug.Stack())))
		}
	}()
	if method == "system.listMethods" {
		names := []any{}
		for _, name := range slices.Sorted(maps.Keys(s.Methods)) {
			names = append(names, name)
		}
		return append(names, method), nil
	}
	run, ok := s.Methods[method]
	if !ok {
		return nil, Fault{UnknownMethod, fmt.Sprintf("%q is no method here; system.listMethods names them", method)}
	}
	return run(args)
}

// Texts returns n arguments that have to be strings, or a Fault.
func Texts(args []any, n int) ([]string, error) {
	if len(args) != n {
		return nil, Fault{IncorrectParameters, fmt.Sprintf("%d arguments, want %d", len(args), n)}
	}
	texts := make([]string, n)
	for i, arg := range args {
		text, ok := arg.(string)
		if !ok {
			return nil, Fault{BadArguments, fmt.Sprintf("argument %d is a %T, want a string", i+1, arg)}
		}
		texts[i] = text
	}
	return texts, nil
}
