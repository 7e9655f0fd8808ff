package broker

import (
	"context"
	"log/slog"
)

// libraryLog is the library's log: warnings and errors, without the whole packets
// that it has in them, as these have tokens and values.
type libraryLog struct{ slog.Handler }

func (l libraryLog) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && l.Handler.Enabled(ctx, level)
}

func (l libraryLog) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, r.Level, "MQTT: "+r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" || a.Key == "client" || a.Key == "keepalive" {
			out.AddAttrs(a)
		}
		return true
	})
	return l.Handler.Handle(ctx, out)
}

// WithAttrs has none: they are for the library's parts, of which there is one.
func (l libraryLog) WithAttrs([]slog.Attr) slog.Handler { return l }

func (l libraryLog) WithGroup(string) slog.Handler { return l }
