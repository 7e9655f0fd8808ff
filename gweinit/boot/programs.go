package boot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/gweinit/control"
	"github.com/exosite/gwe/gweinit/supervisor"
	"github.com/exosite/gwe/gweinit/supervisor/conf"
)

const (
	programsConfig = "/etc/supervisor/supervisord.conf"
	programLogs    = "/data/log" // for those whose file is not given
	// The sum of all logs has to fit into the smallest /data: these are what GWE
	// gives its applications, where Supervisor has 50 MB and 10 old ones.
	programLogSize = 200 << 10
	oldProgramLogs = 1

	// programsWait is for all programs to stop, those of each priority after the
	// other, before the gateway goes down regardless.
	programsWait = 20 * time.Second
)

// essential are Gateway Engine's own programs: an app must not silence the
// gateway.
var essential = []string{"gwe", "gmq"}

// cgroupRoot is where version 2 is mounted.
const cgroupRoot = "/sys/fs/cgroup"

// limitPrograms makes the cgroup in which everything runs that PID 1 starts. A
// fork bomb must not take the last thread: Go ends a program that cannot have
// one, and no recover helps.
func limitPrograms(s *system) error {
	text, err := os.ReadFile("/proc/sys/kernel/threads-max")
	if err != nil {
		return err
	}
	threads, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("threads-max: %w", err)
	}
	group := filepath.Join(cgroupRoot, "programs")
	if err := os.Mkdir(group, 0o755); err != nil {
		return err
	}
	s.programs = group
	// What the kernel lacks of these is missed by a program that wants it.
	for _, parent := range []string{cgroupRoot, group} {
		for _, controller := range []string{"pids", "memory", "cpu"} {
			os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+"+controller), 0)
		}
	}
	// As many threads as the kernel allows would also take all memory.
	s.threads = threads / 4
	limit := filepath.Join(group, "pids.max")
	if err := os.WriteFile(limit, []byte(strconv.Itoa(s.threads)), 0); err != nil {
		return fmt.Errorf("limit the threads of all programs: %w", err)
	}
	return nil
}

// makeSupervisor makes the supervisor, which has no programs yet.
func (s *system) makeSupervisor() {
	s.supervisor = supervisor.New(supervisor.Options{
		Load: s.loadPrograms, Prepare: s.apps.prepare, Reaper: s.reaper, Log: logger, Environ: environment,
		Cgroup: s.programs, PidsLimit: s.threads / 2, ServerURL: "unix://" + control.Socket, MainLog: messages,
		Essential: essential,
		Shutdown:  func() { s.ask(unix.SIGTERM) },
		Restart:   s.updatePrograms,
	})
}

// loadPrograms reads the configuration of the programs. What is wrong with an app's
// is left out and logged, and no error.
func (s *system) loadPrograms() (*conf.Config, error) {
	config, err := conf.Load(programsConfig, conf.Options{Environ: environment, LogMaxBytes: programLogSize, LogBackups: oldProgramLogs, Apps: s.apps.configs()})
	wrong, err := ofApps(err)
	if wrong != nil {
		logError("the configuration of apps: %v", wrong)
	}
	s.incomplete.Store(err != nil || wrong != nil || !s.apps.complete())
	for i, g := range config.Groups {
		for j := range g.Programs {
			nameLogs(&config.Groups[i].Programs[j])
		}
	}
	return config, err
}

// nameLogs gives the logs that are AUTO a name: on a gateway what was logged
// before a reboot is worth keeping.
func nameLogs(p *conf.Program) {
	name := p.Name
	if p.Group != name {
		name = p.Group + ":" + name
	}
	for channel, log := range map[string]*conf.Log{"stdout": &p.Stdout, "stderr": &p.Stderr} {
		if log.Auto {
			log.Auto, log.File = false, filepath.Join(programLogs, name+"-"+channel+".log")
		}
	}
}

// startPrograms starts the programs. Those whose configuration is wrong are left
// out.
func startPrograms(s *system) error {
	s.incomplete.Store(true) // until all are known
	number, known := s.apps.isNew()
	config, err := s.loadPrograms()
	for _, w := range config.Warnings {
		logInfo("%s", w)
	}
	s.supervisor.Start(config)
	if known {
		s.apps.runs(number)
	}
	return err
}

// updatePrograms makes the programs what the configuration says by now, and does
// not wait for that.
func (s *system) updatePrograms() {
	go func() {
		if err := s.try(func(s *system) error { return s.supervisor.Update(context.Background()) }); err != nil {
			logError("update the programs: %v", err)
		}
	}()
}

// stopPrograms stops the programs in the order of their priorities.
func stopPrograms(s *system) error {
	if s.supervisor == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), programsWait)
	defer cancel()
	return s.supervisor.Stop(ctx)
}
