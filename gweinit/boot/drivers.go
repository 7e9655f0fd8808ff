package boot

import (
	"bytes"
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/exosite/gwe/gweinit/modules"
)

// loadDrivers loads the modules for the devices that are there, and from then
// on for those that come.
func loadDrivers(s *system) error {
	settled := make(chan struct{})
	w := &modules.Watcher{Load: s.modprobe, Log: logError}
	go w.Run(context.Background(), func() {
		debug.FreeOSMemory()
		close(settled)
	})
	<-settled
	return nil
}

// modprobeLimit is for a driver that waits for its device, and driversLimit for some
// of them, on a machine that is slow.
const (
	modprobeLimit = 30 * time.Second
	driversLimit  = 3 * time.Minute
)

// modprobe loads a module in a process of its own.
func (s *system) modprobe(module string) error {
	ctx, cancel := context.WithTimeout(context.Background(), modprobeLimit)
	defer cancel()
	var said bytes.Buffer
	status, err := s.run(ctx, &said, "/usr/sbin/modprobe", "--", module)
	if err == nil && status != 0 {
		err = fmt.Errorf("exit status %d: %s", status, bytes.TrimSpace(said.Bytes()))
	}
	return err
}
