package boot

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"unicode"
)

// The kernel's log takes PID 1's lines: it is there from the first moment,
// stamps the time, survives a full disk, and shows errors on the console even
// with "quiet". From there they get into /data/log/messages.

func logInfo(format string, args ...any)  { kmsg(6, fmt.Sprintf(format, args...)) }
func logError(format string, args ...any) { kmsg(3, fmt.Sprintf(format, args...)) }

func kmsg(level int, text string) {
	line := fmt.Sprintf("<%d>gweinit: %s\n", level, text)
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		os.Stderr.WriteString(line[3:])
		return
	}
	defer f.Close()
	// One record holds 1 KiB.
	f.WriteString(line[:min(len(line), 960)])
}

// logger is that of the packages that PID 1 consists of.
var logger = slog.New(kmsgHandler{write: kmsg})

// kmsgHandler writes records as "message key=value" to the kernel's log. The
// kernel knows the time.
type kmsgHandler struct {
	write  func(level int, text string)
	prefix string // group, with its dot
	attrs  string // those of With
}

func (h kmsgHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

func (h kmsgHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		writeAttr(&b, h.prefix, a)
		return true
	})
	level := 6 // as syslog(3) has them
	switch {
	case r.Level >= slog.LevelError:
		level = 3
	case r.Level >= slog.LevelWarn:
		level = 4
	}
	h.write(level, b.String())
	return nil
}

func (h kmsgHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	b := strings.Builder{}
	b.WriteString(h.attrs)
	for _, a := range attrs {
		writeAttr(&b, h.prefix, a)
	}
	h.attrs = b.String()
	return h
}

func (h kmsgHandler) WithGroup(name string) slog.Handler {
	if name != "" {
		h.prefix += name + "."
	}
	return h
}

func writeAttr(b *strings.Builder, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, a := range v.Group() {
			writeAttr(b, prefix, a)
		}
		return
	}
	if a.Equal(slog.Attr{}) {
		return
	}
	text := v.String()
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) || r == '"' || r == '=' }) {
		text = strconv.Quote(text)
	}
	b.WriteString(" " + prefix + a.Key + "=" + text)
}
