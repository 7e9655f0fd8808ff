package supervisord

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/exosite/gwe/gweinit/supervisor/conf"
)

// Levels of Supervisor that slog has no name for.
const (
	levelCritical = slog.LevelError + 4
	levelTrace    = slog.LevelDebug - 4
)

// handler writes records as Supervisor does:
// "2026-11-25 09:30:00,123 INFO message".
type handler struct {
	level slog.Level
	to    []io.Writer
	attrs string
}

func newHandler(own conf.Supervisord, file io.Writer) handler {
	h := handler{level: slog.LevelInfo, to: []io.Writer{file}}
	switch own.LogLevel {
	case "critical":
		h.level = levelCritical
	case "error":
		h.level = slog.LevelError
	case "warn":
		h.level = slog.LevelWarn
	case "debug":
		h.level = slog.LevelDebug
	case "trace", "blather":
		h.level = levelTrace
	}
	if !own.Silent {
		h.to = append(h.to, os.Stdout)
	}
	return h
}

func (h handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h handler) Handle(_ context.Context, r slog.Record) error {
	name := "DEBG"
	switch {
	case r.Level >= levelCritical:
		name = "CRIT"
	case r.Level >= slog.LevelError:
		name = "ERRO"
	case r.Level >= slog.LevelWarn:
		name = "WARN"
	case r.Level >= slog.LevelInfo:
		name = "INFO"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s%s", strings.Replace(r.Time.Format("2006-01-02 15:04:05.000"), ".", ",", 1), name, r.Message, h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	b.WriteByte('\n')
	for _, w := range h.to {
		io.WriteString(w, b.String())
	}
	return nil
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		h.attrs += fmt.Sprintf(" %s=%v", a.Key, a.Value)
	}
	return h
}

func (h handler) WithGroup(string) slog.Handler { return h }
