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

// Call calls a method of the server at socket. What the server refuses is a
// Fault.
func Call(ctx context.Context, socket, method string, args ...any) (any, error) {
	body, err := encodeCall(method, args)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", method, err)
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://gateway"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "text/xml")
	answer, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", method, errors.Unwrap(err)) // without the URL, which is made up
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		return nil, fmt.Errorf("call %s: %s: %s", method, answer.Status, bytes.TrimSpace(text))
	}
	result, err := decodeResponse(io.LimitReader(answer.Body, maxAnswer))
	if err != nil && !errors.As(err, new(Fault)) {
		err = fmt.Errorf("call %s: the answer: %w", method, err)
	}
	return result, err
}

const usage = `usage: gweinit call METHOD [TEXT...]

Calls a method of PID 1 and prints the result: text as it is, all else as JSON.

  gweinit call gweinit.status
  gweinit call gweinit.setNetwork "$(cat network.yaml)"
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
	result, err := Call(ctx, Socket, args[0], texts...)
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
