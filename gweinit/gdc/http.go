package gdc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/download"
)

// maxLine is the longest line of standard input that can be a value.
const maxLine = 1<<20 + 2

// each calls f with a value, or with each line of standard input if it is "-".
func (s *session) each(ctx context.Context, value string, f func(value string) error) error {
	if value != "-" {
		return f(value)
	}
	lines, failed := make(chan string), make(chan error, 1)
	go func() { // a signal must end gdc while nothing comes
		scan := bufio.NewScanner(s.in)
		scan.Buffer(nil, maxLine)
		for scan.Scan() {
			select {
			case lines <- scan.Text():
			case <-ctx.Done():
				return
			}
		}
		failed <- scan.Err()
	}()
	for {
		select {
		case line := <-lines:
			if err := f(line); err != nil {
				return err
			}
		case err := <-failed:
			if err != nil {
				return fmt.Errorf("read standard input: %w", err)
			}
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func httpWrite(ctx context.Context, s *session, args []string) error {
	return s.each(ctx, args[1], func(value string) error {
		ctx, cancel := context.WithTimeout(ctx, s.limit(0))
		defer cancel()
		if err := s.client.Write(ctx, exosite.Value{Alias: args[0], Value: value}); err != nil {
			return err
		}
		return s.status(204, "No content")
	})
}

func httpRead(ctx context.Context, s *session, aliases []string) error {
	ctx, cancel := context.WithTimeout(ctx, s.limit(0))
	defer cancel()
	values, err := s.client.Read(ctx, aliases...)
	if err != nil {
		return err
	}
	if len(values) == 0 {
		return errors.Join(s.status(204, "No content"), errNothing)
	}
	var lines []string
	for _, a := range aliases {
		if v, ok := values[a]; ok {
			lines = append(lines, a+"="+v)
		}
	}
	return s.result(strings.Join(lines, "\n"), map[string]any{"status": 200, "values": values})
}

// maxTime is the end of the year 9999.
const maxTime = 253402300799

// parseTime reads seconds since 1970.
func parseTime(text string) (time.Time, error) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f >= 0 && f <= maxTime) { // NaN is neither
		return time.Time{}, usageError{fmt.Errorf("time %q: want seconds since 1970, such as 1527272454 or 1527272454.25", text)}
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(n, 0), nil
	}
	return time.UnixMicro(int64(math.Round(f * 1e6))), nil
}

func httpRecord(ctx context.Context, s *session, args []string) error {
	at, err := parseTime(args[0])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.limit(0))
	defer cancel()
	if err := s.client.Record(ctx, exosite.Point{Alias: args[1], Time: at, Value: args[2]}); err != nil {
		return err
	}
	return s.status(204, "No content")
}

func httpPoll(ctx context.Context, s *session, args []string) error {
	ms, err := strconv.Atoi(args[1])
	if err != nil || ms < 1 || ms > 300_000 {
		return usageError{fmt.Errorf("timeout %q: want 1 to 300000 milliseconds", args[1])}
	}
	var since time.Time
	if len(args) == 3 {
		if since, err = parseTime(args[2]); err != nil {
			return err
		}
	}
	wait := time.Duration(ms) * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, s.limit(wait))
	defer cancel()
	value, modified, err := s.client.Wait(ctx, args[0], since, wait)
	if errors.Is(err, exosite.ErrNotModified) {
		return errors.Join(s.status(304, "Not modified"), err)
	} else if err != nil {
		return err
	}
	return s.result(fmt.Sprintf("[200] %s=%s", args[0], value), map[string]any{
		"status": 200, "values": map[string]string{args[0]: value}, "modified": modified.Unix(),
	})
}

func httpActivate(ctx context.Context, s *session, _ []string) error {
	return s.activate(ctx, s.client.Activate)
}

// activate prints a token, and keeps it in the device file.
func (s *session) activate(ctx context.Context, activate func(ctx context.Context, serial string) (string, error)) error {
	switch {
	case s.o.file == "gwe":
		return usageError{errors.New("-f gwe: the gateway activates itself, and another activation would take its CIK away")}
	case s.o.uuid == "":
		return usageError{errors.New("activate which device: no -u")}
	}
	ctx, cancel := context.WithTimeout(ctx, s.limit(0))
	defer cancel()
	token, err := activate(ctx, s.o.uuid)
	if err != nil {
		return err
	}
	// It is given out once: kept first, and told in any case.
	if s.o.file != "" {
		err = s.keepToken(token)
	}
	return errors.Join(err, s.result(token, map[string]any{"status": 200, "token": token}))
}

func contentList(ctx context.Context, s *session, _ []string) error {
	ctx, cancel := context.WithTimeout(ctx, s.limit(0))
	defer cancel()
	names, err := s.client.ContentList(ctx)
	if err != nil {
		return err
	}
	if s.json {
		return s.result("", map[string]any{"status": 200, "content": append([]string{}, names...)})
	}
	if len(names) == 0 {
		return nil
	}
	return s.result(strings.Join(names, "\n"), nil)
}

func contentInfo(ctx context.Context, s *session, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, s.limit(0))
	defer cancel()
	i, err := s.client.ContentInfo(ctx, args[0])
	if err != nil {
		return err
	}
	return s.result(fmt.Sprintf("%s,%d,%d,%s", i.Type, i.Size, i.Updated.Unix(), i.Meta), map[string]any{
		"status": 200, "type": i.Type, "size": i.Size, "updated": i.Updated.Unix(), "meta": i.Meta,
	})
}

func contentDownload(ctx context.Context, s *session, args []string) error {
	name := s.o.output
	if name == "" {
		name = filepath.Base(args[0])
		if name != args[0] {
			return usageError{fmt.Errorf("content %q is no file name: give one with -o", args[0])}
		}
	}
	d := download.Download{Client: s.client, ID: args[0], Patience: s.limit(0)}
	if name == "-" {
		return d.Stream(ctx, s.out)
	}
	size, err := d.File(ctx, name)
	if err != nil {
		return err
	}
	if s.json {
		return s.result("", map[string]any{"status": 200, "file": name, "size": size})
	}
	return nil
}

func httpTimestamp(ctx context.Context, s *session, _ []string) error {
	ctx, cancel := context.WithTimeout(ctx, s.limit(0))
	defer cancel()
	t, err := s.client.Timestamp(ctx)
	if err != nil {
		return err
	}
	return s.result(strconv.FormatInt(t.Unix(), 10), map[string]any{"status": 200, "timestamp": t.Unix()})
}
