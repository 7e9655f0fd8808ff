package boot

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/exosite/gwe/gweinit/syslog"
)

// messages is the log of the kernel, of PID 1 and of /dev/log.
const messages = "/data/log/messages"

// Together at most 2 MiB of the 30 that the smallest /data has.
const (
	messagesSize = 512 << 10
	oldMessages  = 3
)

// keepMessages has the log in /data/log/messages, that of the kernel and of PID
// 1 from the first moment on.
func keepMessages(s *system) error {
	// Programs that log a lot at once would wait for each 10 lines.
	err := os.WriteFile("/proc/sys/net/unix/max_dgram_qlen", []byte("128"), 0)
	log := syslog.New(syslog.Options{
		Kmsg: "/dev/kmsg", Socket: "/dev/log",
		File: messages, MaxSize: messagesSize, Keep: oldMessages,
	})
	s.endMessages = s.background("messages", func(ctx context.Context) {
		if err := log.Run(ctx); err != nil {
			logError("messages: %v", err)
		}
	})
	return err
}

// closeMessages lets go of the log: /data is to be unmounted.
func closeMessages(s *system) error {
	if s.endMessages == nil {
		return nil
	}
	select {
	case <-s.endMessages():
		return nil
	case <-time.After(messagesWait):
		return errors.New("the log does not end")
	}
}
