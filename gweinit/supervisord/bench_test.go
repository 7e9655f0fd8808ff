package supervisord

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/control"
)

// BenchmarkFigures compares our supervisord with Debian's, one after the other on
// this machine, and prints a table.
func BenchmarkFigures(b *testing.B) {
	dir := b.TempDir()
	gweinit := filepath.Join(dir, "gweinit")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", gweinit, "../../gweinit")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	var table [2][]figure
	for i, argv := range [][]string{{debian + "supervisord"}, {gweinit, "supervisord"}} {
		table[i] = measure(b, argv)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\t\tDebian's\tours\tratio")
	for i, theirs := range table[0] {
		ours := table[1][i]
		fmt.Fprintf(w, "%s\t%s\t%.3g\t%.3g\t%.2f\n", theirs.name, theirs.unit, theirs.value, ours.value, ours.value/theirs.value)
	}
	w.Flush()
}

// figure is something that was measured.
type figure struct {
	name, unit string
	value      float64
}

// bench is a supervisord that is measured.
type bench struct {
	b      *testing.B
	dir    string
	pid    int
	client control.Client
}

func measure(b *testing.B, argv []string) []figure {
	var figures []figure
	add := func(name, unit string, value float64) { figures = append(figures, figure{name, unit, value}) }
	for _, n := range []int{0, 50} {
		run(b, argv, fmt.Sprintf("[program:idle]\ncommand=sleep 1000\nprocess_name=%%(process_num)s\nnumprocs=%d\n", max(n, 1)), n > 0, func(s *bench) {
			time.Sleep(3 * time.Second)
			add(fmt.Sprintf("resident memory, %d programs", n), "MB", s.memory("VmRSS:"))
			add(fmt.Sprintf("anonymous memory, %d programs", n), "MB", s.memory("RssAnon:"))
			if n > 0 {
				before := s.cpu()
				time.Sleep(20 * time.Second)
				add("CPU when idle, 50 programs", "ms/min", (s.cpu()-before).Seconds()*3000)
			}
		})
	}
	const crashes = 9
	run(b, argv, fmt.Sprintf("[program:x]\ncommand=sleep 1000\nprocess_name=%%(process_num)s\nnumprocs=%d\nstartsecs=0\n", crashes), true, func(s *bench) {
		time.Sleep(3 * time.Second)
		var times []float64
		for i := range crashes {
			times = append(times, s.crash(fmt.Sprintf("x:%d", i)))
		}
		slices.Sort(times)
		add("crash to restart, median of 9", "ms", times[crashes/2])
	})
	run(b, argv, "[program:x]\ncommand=sleep 1000\nprocess_name=%(process_num)s\nnumprocs=200\nstartsecs=0\n", false, func(s *bench) {
		start := time.Now()
		s.call("startAllProcesses")
		add("start 200 programs", "ms", time.Since(start).Seconds()*1000)
	})
	const megabytes = 200
	run(b, argv, fmt.Sprintf("[program:x]\ncommand=sh -c 'yes %s | head -c %d000000'\nstartsecs=0\nautorestart=false\nstdout_logfile_maxbytes=1MB\nstdout_logfile_backups=2\n", strings.Repeat("x", 99), megabytes), false, func(s *bench) {
		start, before := time.Now(), s.cpu()
		s.call("startProcess", "x", false)
		for s.info("x")["statename"] != "EXITED" {
			time.Sleep(5 * time.Millisecond)
		}
		add("log throughput", "MB/s", megabytes/time.Since(start).Seconds())
		add("CPU for 1 MB of log", "ms", (s.cpu()-before).Seconds()*1000/megabytes)
	})
	return figures
}

// run starts a supervisord for the time of f.
func run(b *testing.B, argv []string, config string, autostart bool, f func(*bench)) {
	b.Helper()
	dir := b.TempDir()
	config = "[supervisord]\nlogfile=" + dir + "/main.log\npidfile=" + dir + "/pid\nchildlogdir=" + dir + "\n[unix_http_server]\nfile=" + dir + "/sock\n" +
		"[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n" +
		config + "autostart=" + strconv.FormatBool(autostart) + "\n"
	file := filepath.Join(dir, "conf")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(argv[0], append(argv[1:], "-n", "-c", file)...)
	if err := cmd.Start(); err != nil {
		b.Fatalf("%v; \"make setup\" installs what benchmarks need", err)
	}
	defer func() {
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
	}()
	s := &bench{b: b, dir: dir, pid: cmd.Process.Pid, client: control.Client{Socket: dir + "/sock"}}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := s.client.Call(context.Background(), "supervisor.getState"); err == nil {
			break
		} else if time.Now().After(end) {
			b.Fatal(err)
		}
	}
	f(s)
}

func (s *bench) call(method string, args ...any) any {
	s.b.Helper()
	result, err := s.client.Call(context.Background(), "supervisor."+method, args...)
	if err != nil {
		s.b.Fatal(err)
	}
	return result
}

func (s *bench) info(name string) map[string]any {
	s.b.Helper()
	return s.call("getProcessInfo", name).(map[string]any)
}

// memory is a line of /proc/PID/status, in MB.
func (s *bench) memory(line string) float64 {
	s.b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		s.b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), line)
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		s.b.Fatal(err)
	}
	return kb / 1024
}

// cpu is the time that the process has had, by the kernel's scheduler: its
// ticks are too coarse.
func (s *bench) cpu() time.Duration {
	s.b.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.pid))
	if err != nil || len(tasks) == 0 {
		s.b.Fatalf("%v: no threads", err)
	}
	var sum time.Duration
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // it has ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			s.b.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}

// crash kills a process, and returns how many milliseconds later there is another.
func (s *bench) crash(name string) float64 {
	s.b.Helper()
	pid := s.info(name)["pid"].(int)
	// The kernel tells when there is a new child; asking the supervisor wakes it.
	children := fmt.Sprintf("/proc/%d/task/*/children", s.pid)
	seen := s.children(children)
	start := time.Now()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		s.b.Fatal(err)
	}
	for time.Since(start) < 20*time.Second {
		for _, child := range s.children(children) {
			if !slices.Contains(seen, child) {
				return time.Since(start).Seconds() * 1000
			}
		}
		time.Sleep(100 * time.Microsecond)
	}
	s.b.Fatalf("%s is not started again", name)
	return 0
}

func (s *bench) children(pattern string) []string {
	files, _ := filepath.Glob(pattern)
	var list []string
	for _, f := range files {
		text, _ := os.ReadFile(f)
		list = append(list, strings.Fields(string(text))...)
	}
	return list
}
