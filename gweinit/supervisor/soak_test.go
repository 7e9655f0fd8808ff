package supervisor

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

// TestSoak has 200 programs that crash at random while they are stopped and
// started at random, for as long as the variable "soak" says. No process, file
// or goroutine is left then.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(cmp.Or(os.Getenv("soak"), "10s"))
	if err != nil {
		t.Fatal(err)
	}
	const programs = 200
	before := count()
	t.Run("programs", func(t *testing.T) {
		w := newWorld(t, fmt.Sprintf(`[program:crash]
command=sh -c 'trap "" TERM; sleep 0.$RANDOM & sleep 0.%%(process_num)03d; echo bye; kill -9 $$'
process_name=%%(process_num)03d
numprocs=%d
startsecs=0
stopwaitsecs=1
autorestart=true
stdout_logfile_maxbytes=1KB
stdout_logfile_backups=1
`, programs), inCgroups(t), func(o *Options) { o.settledAfter = time.Millisecond })
		for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			name := fmt.Sprintf("crash:%03d", rand.IntN(programs))
			switch rand.IntN(40) {
			case 0:
				w.call("stopAllProcesses", false)
			case 1:
				w.call("clearAllProcessLogs")
			case 2:
				w.Update(t.Context())
			case 3, 4, 5, 6, 7, 8, 9:
				w.call("stopProcess", name, false)
			default:
				w.call("startProcess", name, false)
			}
			w.call("getAllProcessInfo")
		}
		starts := strings.Count(w.log(), "spawned:")
		t.Logf("%d starts in %v", starts, length)
		if starts < programs {
			t.Errorf("%d starts only", starts)
		}
	})
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		after := count()
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", os.Getpid(), os.Getpid()))
		if after.goroutines <= before.goroutines && after.files <= before.files && reap.Idle() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("before %+v, after %+v; children %s", before, after, children)
		}
	}
}
