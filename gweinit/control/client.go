package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// maxAnswer bounds what a client reads.
const maxAnswer = 16 << 20

// Client talks to the server at a socket.
type Client struct {
	Socket         string
	User, Password string // if the server wants them
}

// StatusError is an answer that is none of a method.
type StatusError struct {
	Code   int // of HTTP
	Status string
	Text   string
}

func (e *StatusError) Error() string { return e.Status + ": " + e.Text }

// Call calls a method. What the server refuses is a Fault; a server that cannot
// be reached is the system's error (ENOENT, ECONNREFUSED, EACCES).
func (c Client) Call(ctx context.Context, method string, args ...any) (any, error) {
	result, err := c.call(ctx, method, args)
	if err != nil && !errors.As(err, new(Fault)) {
		err = fmt.Errorf("call %s: %w", method, err)
	}
	return result, err
}

func (c Client) call(ctx context.Context, method string, args []any) (any, error) {
	body, err := encodeCall(method, args)
	if err != nil {
		return nil, err
	}
	answer, err := c.do(ctx, http.MethodPost, path, body)
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	return decodeResponse(io.LimitReader(answer, maxAnswer))
}

// Get returns a page, which may come slowly.
func (c Client) Get(ctx context.Context, path string) (io.ReadCloser, error) {
	answer, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	return answer, nil
}

func (c Client) do(ctx context.Context, method, path string, body []byte) (io.ReadCloser, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, method, "http://gateway", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.URL.Path = path
	request.Header.Set("Content-Type", "text/xml")
	if c.User != "" || c.Password != "" {
		request.SetBasicAuth(c.User, c.Password)
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, errors.Unwrap(err) // without the URL, which is made up
	}
	if answer.StatusCode != http.StatusOK {
		defer answer.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		return nil, &StatusError{answer.StatusCode, answer.Status, string(bytes.TrimSpace(text))}
	}
	return answer.Body, nil
}

const usage = `usage: gweinit call METHOD [TEXT...]

Calls a method of PID 1 and prints the result: text as it is, all else as JSON.

  gweinit call gweinit.status
  gweinit call gweinit.setNetwork "$(cat network.yaml)"
  gweinit call supervisor.getProcessInfo gmq
  gweinit call system.methodHelp gweinit.setNetwork
  gweinit call system.listMethods

Exit status: 0 done, 1 refused or failed, 2 a bad command line.
`

// callTimeout is for a method that waits for a slow card.
const callTimeout = time.Minute

// Main is the program "call".
func Main(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	if args[0] == "-h" || args[0] == "--help" {
		fmt.Print(usage)
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	texts := []any{}
	for _, arg := range args[1:] {
		texts = append(texts, arg)
	}
	result, err := Client{Socket: Socket}.Call(ctx, args[0], texts...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gweinit call:", err)
		return 1
	}
	if text, ok := result.(string); ok {
		fmt.Println(text)
		return 0
	}
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	if err := enc.Encode(result); err != nil {
		fmt.Fprintln(os.Stderr, "gweinit call:", err)
		return 1
	}
	return 0
}
