// Package control is how programs on the gateway ask PID 1 for something:
// XML-RPC over HTTP on a unix socket, as Supervisor has it, that only root can
// open.
package control

import (
	"context"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/net/netutil"
)

// Socket is where PID 1 listens.
const Socket = "/run/supervisor.sock"

// path is the one of calls: Supervisor's clients know it.
const path = "/RPC2"

const (
	maxRequest     = 1 << 20 // bytes
	maxConnections = 32
	maxPages       = 16               // of them: a page may take as long as the client likes
	patience       = 10 * time.Second // with a client that is slow
	goodbye        = time.Second
)

// Server serves calls. It must not change any more.
type Server struct {
	Methods map[string]Method
	Pages   http.Handler // for GET requests; nil: there are none
	// User and Password are what the client has to give, by HTTP's basic
	// authentication, if they are not empty. The password may be "{SHA}" and the
	// SHA-1 of it in hexadecimal.
	User, Password string
	Log            *slog.Logger
}

// Listen makes the socket at path, which may be left from before, with this mode
// and, unless they are -1, owner and group. Connecting takes the right to write.
func Listen(path string, mode os.FileMode, uid, gid int) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("listen on %s: another program is already listening there", path)
	}
	// Nobody can connect before the mode is right.
	beside := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(beside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: beside, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(beside, mode)
	if err == nil && (uid >= 0 || gid >= 0) {
		err = os.Chown(beside, uid, gid)
	}
	if err == nil {
		err = os.Rename(beside, path)
	}
	if err != nil {
		l.Close()
		os.Remove(beside)
		return nil, err
	}
	return l, nil
}

// Serve serves calls until ctx ends, and then those that have come, for goodbye
// at most. It closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	h := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: patience,
		IdleTimeout:       patience,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(netutil.LimitListener(l, maxConnections)) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	if h.Shutdown(last) != nil {
		h.Close()
	}
	return ctx.Err()
}

func (s *Server) handler() http.Handler {
	methods := system(s.Methods)
	pages := make(chan struct{}, maxPages)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !s.allows(r):
			w.Header().Set("WWW-Authenticate", `Basic realm="default"`)
			http.Error(w, "user or password is wrong", http.StatusUnauthorized)
		case r.URL.Path == path:
			s.serveCall(methods, w, r)
		case s.Pages == nil || r.Method != http.MethodGet:
			http.NotFound(w, r)
		default:
			select {
			case pages <- struct{}{}:
				defer func() { <-pages }()
				s.Pages.ServeHTTP(w, r)
			default:
				http.Error(w, "too many follow logs already", http.StatusServiceUnavailable)
			}
		}
	})
}

func (s *Server) allows(r *http.Request) bool {
	if s.User == "" && s.Password == "" {
		return true
	}
	user, password, _ := r.BasicAuth()
	if strings.HasPrefix(s.Password, "{SHA}") {
		sum := sha1.Sum([]byte(password))
		password = "{SHA}" + hex.EncodeToString(sum[:])
	}
	// Both, so that the time does not tell which one is wrong.
	return subtle.ConstantTimeCompare([]byte(user), []byte(s.User))&subtle.ConstantTimeCompare([]byte(password), []byte(s.Password)) == 1
}

// serveCall serves one call.
func (s *Server) serveCall(methods map[string]Method, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "calls are POSTed", http.StatusMethodNotAllowed)
		return
	}
	// Sending and receiving have limits; a method in between, one that waits for
	// a program to stop for instance, takes the time that it takes.
	timeouts := http.NewResponseController(w)
	timeouts.SetReadDeadline(time.Now().Add(patience))
	method, args, err := decodeCall(http.MaxBytesReader(w, r.Body, maxRequest))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		http.Error(w, fmt.Sprintf("a request may have %d bytes", tooLarge.Limit), http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		http.Error(w, "not a call of XML-RPC: "+err.Error(), http.StatusBadRequest)
		return
	}
	timeouts.SetReadDeadline(time.Time{})
	answer := s.answer(r.Context(), methods, method, args)
	timeouts.SetWriteDeadline(time.Now().Add(patience))
	w.Header().Set("Content-Type", "text/xml")
	w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
	w.Write(answer)
}

func (s *Server) answer(ctx context.Context, methods map[string]Method, method string, args []any) []byte {
	result, err := call(ctx, methods, method, args)
	if p := (panicked{}); errors.As(err, &p) {
		s.Log.Error("control", "method", method, "panic", p.value, "stack", p.stack)
	}
	var answer []byte
	if err == nil {
		answer, err = encodeResponse(result)
	}
	if err != nil {
		answer = encodeFault(asFault(err))
	}
	return answer
}
