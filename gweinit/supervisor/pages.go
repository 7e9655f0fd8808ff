package supervisor

import (
	"net/http"
	"os"
	"strings"

	"github.com/exosite/gwe/gweinit/supervisor/logfile"
)

// followFrom is how much of a log's end comes first, in bytes.
const followFrom = 1024

// Pages are the logs as they grow, for "supervisorctl tail -f":
// /logtail/PROCESS, /logtail/PROCESS/stderr and /mainlogtail.
func (s *Supervisor) Pages() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file := ""
		if name, ok := strings.CutPrefix(r.URL.Path, "/logtail/"); ok {
			name, channel, _ := strings.Cut(name, "/")
			if channel == "" {
				channel = "stdout"
			}
			if channel == "stdout" || channel == "stderr" {
				file, _ = s.logFile(name, channel)
			}
		} else if r.URL.Path == "/mainlogtail" {
			file = s.opt.MainLog
		}
		if _, err := os.Stat(file); file == "" || err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain;charset=utf-8")
		logfile.Follow(r.Context(), file, followFrom, flusher{w, http.NewResponseController(w)})
	})
}

// flusher sends at once.
type flusher struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	if err == nil {
		err = f.control.Flush()
	}
	return n, err
}
