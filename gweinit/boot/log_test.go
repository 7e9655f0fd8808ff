package boot

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"
)

func TestLogger(t *testing.T) {
	var got string
	log := slog.New(kmsgHandler{write: func(level int, text string) { got = fmt.Sprintf("<%d>%s", level, text) }})
	for _, tt := range []struct {
		log  func()
		want string
	}{
		{func() { log.Info("link up") }, "<6>link up"},
		{func() { log.Warn("no answer", "link", "eth0", "after", 3*time.Second) }, "<4>no answer link=eth0 after=3s"},
		{func() { log.Error("read", "err", errors.New(`no "x"`), "empty", "", "line", "a\nb") }, `<3>read err="no \"x\"" empty="" line="a\nb"`},
		{func() { log.With("link", "eth0").WithGroup("dhcp").With("server", "10.0.0.1").Info("bound", "n", 1) }, "<6>bound link=eth0 dhcp.server=10.0.0.1 dhcp.n=1"},
		{func() { log.Info("x", slog.Group("g", slog.Int("a", 1), slog.Group("h", slog.Bool("b", true)))) }, "<6>x g.a=1 g.h.b=true"},
		{func() { log.Debug("much") }, ""},
	} {
		got = ""
		if tt.log(); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}
