package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The emulator by hand: it says where it is, keeps what it was told, and ends
// when it is asked to.
func TestMurano(t *testing.T) {
	dir := t.TempDir()
	specFile := filepath.Join(dir, "spec.yaml")
	if err := os.WriteFile(specFile, []byte("temperature: {format: number}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	owner := ""
	for range 2 { // the second time it takes up the state
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		old := os.Stdout
		os.Stdout = w
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		data := filepath.Join(dir, "data")
		go func() {
			ended <- muranoCommand(ctx, flag.NewFlagSet("murano", flag.ContinueOnError), []string{
				"-http", "127.0.0.1:0", "-https", "127.0.0.1:0", "-mqtts", "127.0.0.1:0", "-data", data, "-spec", specFile, "-product", "p1", "-json",
			})
			w.Close()
		}()
		out := bufio.NewReader(r)
		line, err := out.ReadString('\n')
		os.Stdout = old
		if err != nil {
			t.Fatalf("%v, %v", err, <-ended)
		}
		var at muranoAddresses
		if err := json.Unmarshal([]byte(line), &at); err != nil || at.Product != "p1" || at.HTTPS == "" || at.MQTTS == "" {
			t.Fatalf("%q: %+v, %v", line, at, err)
		}
		for _, path := range []string{"/timestamp", "/", "/page/app.js", "/emulator/requests"} {
			resp, err := http.Get("http://" + at.HTTP + path)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("%s: %s", path, resp.Status)
			}
		}
		if line, err := out.ReadString('\n'); err != nil || !json.Valid([]byte(line)) || !strings.Contains(line, "/timestamp") {
			t.Errorf("the log of requests: %q, %v", line, err)
		}
		http.DefaultClient.CloseIdleConnections()
		cik, err := os.ReadFile(at.Owner)
		if err != nil || len(cik) != 41 || owner != "" && owner != string(cik) {
			t.Errorf("owner %q, before %q, %v", cik, owner, err)
		}
		owner = string(cik)
		if info, err := os.Stat(at.Owner); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		if ca, err := os.ReadFile(at.CA); err != nil || !strings.Contains(string(ca), "BEGIN CERTIFICATE") {
			t.Errorf("CA %q, %v", ca, err)
		}
		for range 2000 { // more lines than the pipe takes, and nobody reads them
			resp, err := http.Get("http://" + at.HTTP + "/timestamp")
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		http.DefaultClient.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		r.Close()
	}
	for args, want := range map[string]string{
		"-spec " + dir + "/none":       "none",
		"-owner short -data " + dir:    "-owner",
		"-http 1.2.3.4:5 -data " + dir: "listen for HTTP",
	} {
		status, _, errs := builder(t, append([]string{"murano"}, strings.Fields(args)...)...)
		if status != 1 || !strings.Contains(errs, want) {
			t.Errorf("murano %s: %d, %s", args, status, errs)
		}
	}
}
