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
	l, err := Listen(socket, 0o700, -1, -1)
	if err != nil {
		t.Fatal(err)
	}
	run := func(run func(args []any) (any, error), params ...Param) Method {
		return Method{Help: "Is a test.", Result: Array, Params: params, Run: func(_ context.Context, args []any) (any, error) { return run(args) }}
	}
	s := &Server{Log: slog.New(slog.DiscardHandler), Methods: map[string]Method{
		"test.echo":  run(func(args []any) (any, error) { return args, nil }, Text("text"), Param{"n", Int, 7}, Param{"wait", Boolean, true}),
		"test.fails": run(func([]any) (any, error) { return nil, errors.New("the disk is full") }),
		"test.fault": run(func([]any) (any, error) { return nil, NewFault(BadName, "x") }),
		"test.panic": run(func([]any) (any, error) { var m map[string]int; m["x"] = 1; return nil, nil }),
		"test.odd":   run(func([]any) (any, error) { return struct{}{}, nil }),
	}}
	go s.Serve(t.Context(), l)
	t.Cleanup(func() { l.Close() })
	return socket
}

func TestCalls(t *testing.T) {
	socket := serve(t)
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the socket is %v, %v; others must not connect", info.Mode(), err)
	}
	for _, tt := range []struct {
		method string
		args   []any
		want   any
		err    string
	}{
		{"test.echo", []any{"a", 1, false}, []any{"a", 1, false}, ""},
		{"test.echo", []any{"a"}, []any{"a", 7, true}, ""},
		{"test.echo", []any{3, " -1 ", 0}, []any{"3", -1, false}, ""}, // as Python would take it
		{"test.echo", nil, nil, "fault 2: INCORRECT_PARAMETERS: 0 arguments, want (string text, int n=7, boolean wait=true)"},
		{"test.echo", []any{"a", 1, true, 1}, nil, "fault 2: INCORRECT_PARAMETERS: 4 arguments, want (string text, int n=7, boolean wait=true)"},
		{"test.echo", []any{"a", "x"}, nil, "fault 2: INCORRECT_PARAMETERS: n is a string, want (string text, int n=7, boolean wait=true)"},
		{"test.echo", []any{true}, nil, "fault 2: INCORRECT_PARAMETERS: text is a bool, want (string text, int n=7, boolean wait=true)"},
		{"test.fails", nil, nil, "fault 30: the disk is full"},
		{"test.fault", nil, nil, "fault 10: BAD_NAME: x"},
		{"test.panic", nil, nil, "fault 30: test.panic: panic: assignment to entry in nil map"},
		{"test.odd", nil, nil, "fault 30: XML-RPC has no type for a struct {}"},
		{"test.none", nil, nil, `fault 1: UNKNOWN_METHOD: "test.none" is no method here; system.listMethods names them`},
		{"system.listMethods", nil, []any{"system.listMethods", "system.methodHelp", "system.methodSignature", "system.multicall",
			"test.echo", "test.fails", "test.fault", "test.odd", "test.panic"}, ""},
		{"system.methodHelp", []any{"test.echo"}, "Is a test.\n(string text, int n=7, boolean wait=true)", ""},
		{"system.methodSignature", []any{"test.echo"}, []any{"array", "string", "int", "boolean"}, ""},
		{"system.methodSignature", []any{"test.none"}, nil, "fault 4: SIGNATURE_UNSUPPORTED: test.none"},
		{"system.multicall", []any{[]any{
			map[string]any{"methodName": "test.echo", "params": []any{"a"}},
			map[string]any{"methodName": "test.fault"},
			map[string]any{"methodName": "test.panic"},
			map[string]any{"methodName": "system.multicall", "params": []any{[]any{}}},
			"what",
		}}, []any{
			[]any{"a", 7, true},
			map[string]any{"faultCode": 10, "faultString": "BAD_NAME: x"},
			map[string]any{"faultCode": 30, "faultString": "test.panic: panic: assignment to entry in nil map"},
			map[string]any{"faultCode": 2, "faultString": "INCORRECT_PARAMETERS: Recursive system.multicall forbidden"},
			map[string]any{"faultCode": 2, "faultString": "INCORRECT_PARAMETERS: No methodName"},
		}, ""},
		{"system.multicall", []any{make([]any, maxCalls+1)}, nil, "fault 3: BAD_ARGUMENTS: 1001 calls, at most 1000"},
	} {
		got, err := Client{Socket: socket}.Call(t.Context(), tt.method, tt.args...)
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
	_, err := Client{Socket: socket}.Call(t.Context(), "gweinit.status")
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
	if _, err := (Client{Socket: socket}).Call(ctx, "gweinit.status"); !errors.Is(err, context.DeadlineExceeded) {
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
	if got, err := (Client{Socket: socket}).Call(t.Context(), "test.echo", "still here"); !reflect.DeepEqual(got, []any{"still here", 7, true}) {
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
