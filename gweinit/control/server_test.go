package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serve starts a server with some methods and returns its socket.
func serve(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "control.sock")
	// One that a crash has left does not matter.
	if err := os.WriteFile(socket, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Log: slog.New(slog.DiscardHandler), Methods: map[string]Method{
		"test.echo":  func(args []any) (any, error) { return args, nil },
		"test.fails": func([]any) (any, error) { return nil, errors.New("the disk is full") },
		"test.fault": func([]any) (any, error) { return nil, Fault{10, "BAD_NAME"} },
		"test.panic": func([]any) (any, error) { var m map[string]int; m["x"] = 1; return nil, nil },
		"test.odd":   func([]any) (any, error) { return struct{}{}, nil },
		"test.text": func(args []any) (any, error) {
			texts, err := Texts(args, 1)
			if err != nil {
				return nil, err
			}
			return texts[0], nil
		},
	}}
	go s.Serve(l)
	t.Cleanup(func() { l.Close() })
	return socket
}

func TestCalls(t *testing.T) {
	socket := serve(t)
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v; others must not connect", info.Mode(), err)
	}
	for _, tt := range []struct {
		method string
		args   []any
		want   any
		err    string
	}{
		{"test.echo", []any{"a", 1, true}, []any{"a", 1, true}, ""},
		{"test.echo", nil, []any{}, ""},
		{"test.text", []any{"x"}, "x", ""},
		{"test.text", nil, nil, "fault 2: 0 arguments, want 1"},
		{"test.text", []any{1}, nil, "fault 3: argument 1 is a int, want a string"},
		{"test.fails", nil, nil, "fault 30: the disk is full"},
		{"test.fault", nil, nil, "fault 10: BAD_NAME"},
		{"test.panic", nil, nil, "fault 30: test.panic: panic: assignment to entry in nil map"},
		{"test.odd", nil, nil, "fault 30: XML-RPC has no type for a struct {}"},
		{"test.none", nil, nil, `fault 1: "test.none" is no method here; system.listMethods names them`},
		{"system.listMethods", nil, []any{"test.echo", "test.fails", "test.fault", "test.odd", "test.panic", "test.text", "system.listMethods"}, ""},
	} {
		got, err := Call(t.Context(), socket, tt.method, tt.args...)
		said := ""
		if fault := (Fault{}); errors.As(err, &fault) {
			said = fmt.Sprintf("fault %d: %s", fault.Code, fault.Text)
		} else if err != nil {
			said = err.Error()
		}
		if !reflect.DeepEqual(got, tt.want) || said != tt.err {
			t.Errorf("%s%v: %#v, %s\nwant %#v, %s", tt.method, tt.args, got, said, tt.want, tt.err)
		}
	}
}

func TestCallWithoutServer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	_, err := Call(t.Context(), socket, "gweinit.status")
	if !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), socket) || strings.Contains(err.Error(), "http://") {
		t.Error(err)
	}
	l, err := net.Listen("unix", socket) // and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Call(ctx, socket, "gweinit.status"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// Requests that are none are refused, and cost nothing.
func TestBadRequests(t *testing.T) {
	socket := serve(t)
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	for _, tt := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", path, "", http.StatusMethodNotAllowed},
		{"POST", "/", "", http.StatusNotFound},
		{"POST", path, "hello", http.StatusBadRequest},
		{"POST", path, "<methodCall><methodName>" + strings.Repeat("x", maxRequest), http.StatusRequestEntityTooLarge},
	} {
		r, err := http.NewRequestWithContext(t.Context(), tt.method, "http://gateway"+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Errorf("%s %s: %v", tt.method, tt.path, err)
			continue
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != tt.want {
			t.Errorf("%s %s: %s %s, want %d", tt.method, tt.path, answer.Status, text, tt.want)
		}
	}
	// However many clients hang on, the next is served when they are gone.
	for range 2 * maxConnections {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(100*time.Millisecond, func() { c.Close() })
	}
	if got, err := Call(t.Context(), socket, "test.text", "still here"); got != "still here" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestMainUsage(t *testing.T) {
	if got := Main(nil); got != 2 {
		t.Errorf("without arguments the exit status is %d, want 2", got)
	}
	if got := Main([]string{"-h"}); got != 0 {
		t.Errorf("with -h the exit status is %d, want 0", got)
	}
}
