//go:build qemu

package stories

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/slot"
)

// Two applications come with the image, run, and survive what is done to them.
func TestHosting(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		out := t.TempDir()
		manifest, err := buildImage(out, b.Board, "base", "busybox", "examples", "dev")
		if err != nil {
			t.Fatal(err)
		}
		hosting := &build{manifest, b.board, out}
		m := hosting.card(t).boot(t)
		if rest := m.ready(hosting, slot.A); rest != "" {
			t.Errorf("the ready line ends in %q", rest)
		}
		m.shell()
		const running = "supervisorctl status hello-go hello-shell | grep -c RUNNING | grep -x 2"
		m.waits(running)
		m.runs("grep -q 'hello from Go' /var/log/hello-go.log && grep -q 'hello from the shell on gateway' /var/log/hello-shell.log")
		if got := m.runs("supervisorctl status hello-go hello-shell | awk '{print $1, $2, $3}' | tr '\\n' ' '"); got != "hello-go RUNNING pid hello-shell RUNNING pid" {
			t.Errorf("status: %s", got)
		}

		// One crashes, and is back at once.
		m.runs("p=$(supervisorctl pid hello-go); kill -9 $p; i=0; while test $(supervisorctl pid hello-go) = $p -o $(supervisorctl pid hello-go) = 0; do i=$((i+1)); test $i -lt 20; done")
		m.waits(running)

		// A person looks around.
		io.WriteString(m, "supervisorctl\n")
		m.sees(`hello-shell +RUNNING +pid \d+, uptime`)
		m.sees(`supervisor> `)
		io.WriteString(m, "statu\thello-g\t\n")
		m.sees(`hello-go +RUNNING`)
		io.WriteString(m, "quit\n")
		m.shell()

		// A shutdown is a reboot, in which the programs get to end in good order.
		io.WriteString(m, "supervisorctl shutdown\n")
		m.sees("gweinit: reboot")
		m.ready(hosting, slot.A)
		m.shell()
		m.waits(running)
		if got := m.runs("cat /var/log/hello-go.log | grep -c -e hello -e goodbye"); got != "4" {
			t.Errorf("after a crash and a reboot its log has %s hellos and goodbyes, want 3 and 1:\n%s", got, m.runs("cat /var/log/hello-go.log"))
		}
	})
}

// conf writes a configuration of programs, and has PID 1 read it. /etc is
// read-only, so the first lays a folder in memory over conf.d.
func (m *machine) conf(name string, lines ...string) {
	m.t.Helper()
	m.runs("grep -q conf.d /proc/mounts || mount -t tmpfs none /etc/supervisor/conf.d")
	quoted := "'" + strings.ReplaceAll(strings.Join(lines, "\n"), "\n", "' '") + "'"
	m.runs(fmt.Sprintf(`printf '%%s\n' %s > /etc/supervisor/conf.d/%s.conf; supervisorctl update`, quoted, name))
}

// Programs that do their worst take neither PID 1 nor each other.
func TestHostilePrograms(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		m := b.card(t).boot(t)
		m.ready(b, slot.A)
		m.shell()
		m.conf("good", "[program:good]", "command=sleep 100000")
		m.waits("supervisorctl status good | grep RUNNING")
		pid := m.runs("supervisorctl pid good")

		// More memory than it may have.
		m.conf("hungry", "[program:hungry]", "command=tail /dev/zero", "memory_limit=8MB", "startretries=0", "startsecs=30")
		m.waits("supervisorctl status hungry | grep FATAL")
		m.waits("grep 'exited: hungry (terminated by SIGKILL, it was over its memory limit; not expected)' /data/log/messages")

		// More processes.
		m.conf("bomb", "[program:bomb]", `command=sh -c "bomb() { bomb | bomb & }; bomb; exec sleep 1000"`, "pids_limit=30", "stdout_logfile_maxbytes=50KB")
		m.waits("grep '^max [1-9]' /sys/fs/cgroup/programs/bomb:bomb/pids.events") // it was refused some
		if n, err := strconv.Atoi(m.runs("cat /sys/fs/cgroup/programs/bomb:bomb/pids.current")); err != nil || n > 30 {
			t.Errorf("the bomb has %d processes, %v", n, err)
		}
		m.runs("supervisorctl stop bomb; test $(cat /sys/fs/cgroup/programs/bomb:bomb/pids.current) = 0")

		// More of the processor: the other has a hundredth of the weight.
		m.conf("busy", "[program:light]", `command=sh -c "while :; do :; done"`, "cpu_weight=10", "[program:heavy]", `command=sh -c "while :; do :; done"`, "cpu_weight=1000")
		m.waits("supervisorctl status light heavy | grep -c RUNNING | grep -x 2")
		usage := func(name string) string {
			return "$(awk '/^usage_usec/{print $2}' /sys/fs/cgroup/programs/" + name + ":" + name + "/cpu.stat)"
		}
		m.runs("l=" + usage("light") + " h=" + usage("heavy") + "; sleep 4; l=$((" + usage("light") + "-l)) h=$((" + usage("heavy") + "-h)); echo light $l heavy $h; test $h -gt $((10*l))")
		m.runs("supervisorctl stop light heavy")

		// More output than anybody wants, to a log of 50 KB.
		m.conf("noisy", "[program:noisy]", "command=yes", "redirect_stderr=true", "stdout_logfile=/var/log/noisy.log", "stdout_logfile_maxbytes=50KB", "stdout_logfile_backups=1")
		m.waits("test -s /var/log/noisy.log.1")
		m.runs("supervisorctl status good; supervisorctl stop noisy; test $(cat /var/log/noisy.log* | wc -c) -le 102400")

		// Orphans by the thousand, one in a session of its own, and none of them
		// wants to go.
		m.conf("parent", "[program:parent]", `command=sh -c "trap '''' TERM; i=0; while test $i -lt 1000; do (sleep 0 &); i=$((i+1)); done; setsid sleep 4321 & sleep 4322"`, "stopwaitsecs=1")
		m.waits("ps | grep 'sleep 432[1]'")
		m.waits("! grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null")
		m.runs("supervisorctl stop parent; ! ps | grep 'sleep 4[3]2'")

		// A root directory of its own.
		m.runs("mkdir -p /data/root/bin && cp /usr/bin/busybox /data/root/bin/ && ln -s busybox /data/root/bin/sh")
		m.conf("rooted", "[program:rooted]", `command=sh -c "echo /*; exec busybox sleep 1000"`, "root_directory=/data/root", "stdout_logfile=/var/log/rooted.log")
		m.waits("supervisorctl status rooted | grep RUNNING")
		if got := m.runs("cat /var/log/rooted.log"); got != "/bin" {
			t.Errorf("it sees %s", got)
		}

		// What Gateway Engine needs comes back for ever; what has not changed is
		// not disturbed by a reload; a mistake is told, and changes nothing.
		m.conf("gwe", "[program:gwe]", "command=false", "startretries=0")
		m.waits("supervisorctl status gwe | grep BACKOFF")
		m.runs("! grep -q 'gwe entered FATAL' /data/log/messages")
		m.runs("rm /etc/supervisor/conf.d/gwe.conf; supervisorctl reload")
		m.waits("! supervisorctl status gwe >/dev/null")
		if got := m.runs("supervisorctl pid good"); got != pid {
			t.Errorf("the PID of good was %s, and is %s after all that", pid, got)
		}
		m.runs("echo startsecs=soon >> /etc/supervisor/conf.d/good.conf; supervisorctl reread | grep 'good.conf:3: \\[program:good\\] startsecs = soon: '")
		m.runs("test $(cat /proc/1/comm) = init; supervisorctl status good")
		if kb, err := strconv.Atoi(m.runs("awk '/^RssAnon/{print $2}' /proc/1/status")); err != nil || kb > 6<<10 {
			t.Errorf("PID 1 has %d kB, want at most 6 MB; %v", kb, err)
		}
	})
}
