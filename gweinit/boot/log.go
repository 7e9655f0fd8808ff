package boot

import (
	"fmt"
	"os"
)

// The kernel's log takes PID 1's lines: it is there from the first moment,
// stamps the time, survives a full disk, and shows errors on the console even
// with "quiet".

func logInfo(format string, args ...any)  { kmsg(6, format, args...) }
func logError(format string, args ...any) { kmsg(3, format, args...) }

func kmsg(level int, format string, args ...any) {
	line := fmt.Sprintf("<%d>gweinit: %s\n", level, fmt.Sprintf(format, args...))
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		os.Stderr.WriteString(line[3:])
		return
	}
	defer f.Close()
	// One record holds 1 KiB.
	f.WriteString(line[:min(len(line), 960)])
}
