package conf

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// setter takes the value of an option.
type setter func(value string) error

func runeLen(s string) int {
	_, n := utf8.DecodeRuneInString(s)
	return n
}

// parseInt reads a number as Python's int does: with blanks around it, a sign,
// and single underscores between digits.
func parseInt(s string, base int) (int64, error) {
	text := strip(s)
	sign := ""
	if text != "" && (text[0] == '-' || text[0] == '+') {
		sign, text = text[:1], text[1:]
	}
	if base == 8 && len(text) > 1 && text[0] == '0' && (text[1] == 'o' || text[1] == 'O') {
		text = strings.TrimPrefix(text[2:], "_")
	}
	if text == "" || text[0] == '_' || text[len(text)-1] == '_' || strings.Contains(text, "__") ||
		text[0] == '-' || text[0] == '+' {
		return 0, errNumber(base)
	}
	n, err := strconv.ParseInt(sign+strings.ReplaceAll(text, "_", ""), base, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, errors.New("a number that is too big")
	} else if err != nil {
		return 0, errNumber(base)
	}
	return n, nil
}

func errNumber(base int) error {
	if base == 8 {
		return errors.New("not an octal number")
	}
	return errors.New("not a whole number")
}

func inRange(n, low, high int64) error {
	if n < low {
		return fmt.Errorf("less than %d", low)
	} else if n > high {
		return fmt.Errorf("more than %d", high)
	}
	return nil
}

func number(to *int, low, high int64) setter {
	return func(value string) error {
		n, err := parseInt(value, 10)
		if err == nil {
			err = inRange(n, low, high)
		}
		if err == nil {
			*to = int(n)
		}
		return err
	}
}

// count is a number that cannot be negative.
func count(to *int) setter { return number(to, 0, math.MaxInt32) }

func priority(to *int) setter { return number(to, math.MinInt32, math.MaxInt32) }

// optional is a number for which 0 means none.
func optional(to *int, high int64) setter { return number(to, 0, high) }

// permissions reads an octal number for a umask or chmod.
func permissions[T ~int | ~uint32](to *T) setter {
	return func(value string) error {
		n, err := parseInt(value, 8)
		if err != nil {
			return err
		}
		if n < 0 || n > 0o777 {
			return errors.New("not from 0 to 0777")
		}
		*to = T(n)
		return nil
	}
}

// size reads bytes, with KB, MB or GB (of 1024) after them or without.
func size(to *int64) setter {
	return func(value string) error {
		text, factor := strings.ToLower(value), int64(1)
		for i, suffix := range []string{"kb", "mb", "gb"} {
			if rest, ok := strings.CutSuffix(text, suffix); ok {
				text, factor = rest, 1<<(10*(i+1))
				break
			}
		}
		n, err := parseInt(text, 10)
		if err != nil {
			return errors.New("not a number of bytes, with KB, MB or GB or without")
		}
		if err := inRange(n, 0, math.MaxInt64/factor); err != nil {
			return errors.New("a number of bytes that is negative or too big")
		}
		*to = n * factor
		return nil
	}
}

// truth reads a boolean; ok is false if it is none.
func truth(value string) (truth, ok bool) {
	switch strings.ToLower(value) {
	case "yes", "true", "on", "1":
		return true, true
	case "no", "false", "off", "0":
		return false, true
	}
	return false, false
}

func boolean(to *bool) setter {
	return func(value string) error {
		b, ok := truth(value)
		if !ok {
			return errors.New("not true or false")
		}
		*to = b
		return nil
	}
}

func restart(to *Restart) setter {
	return func(value string) error {
		b, ok := truth(value)
		switch {
		case strings.ToLower(value) == "unexpected":
			*to = Unexpected
		case !ok:
			return errors.New("not true, false or unexpected")
		case b:
			*to = Always
		default:
			*to = Never
		}
		return nil
	}
}

func text(to *string) setter {
	return func(value string) error {
		*to = value
		return nil
	}
}

func exitCodes(to *[]int) setter {
	return func(value string) error {
		codes := []int{}
		for code := range strings.SplitSeq(value, ",") {
			if value == "" {
				break
			}
			n, err := parseInt(code, 10)
			if err != nil || inRange(n, 0, 255) != nil {
				return errors.New("not numbers from 0 to 255 with commas between them")
			}
			codes = append(codes, int(n))
		}
		*to = codes
		return nil
	}
}

// stopSignal reads a signal's name, with SIG or without, or its number. The
// numbers are not the same on each architecture.
func stopSignal(to *syscall.Signal) setter {
	rtmin, rtmax := syscall.Signal(34), syscall.Signal(64) // glibc's
	if strings.HasPrefix(runtime.GOARCH, "mips") {
		rtmax = 127
	}
	return func(value string) error {
		if n, err := parseInt(value, 10); err == nil {
			signal := syscall.Signal(n)
			if inRange(n, 1, int64(rtmax)) != nil ||
				unix.SignalName(signal) == "" && signal != rtmin && signal != rtmax {
				return errors.New("not the number of a signal")
			}
			*to = signal
			return nil
		}
		name := "SIG" + strings.TrimPrefix(strings.ToUpper(strip(value)), "SIG")
		switch name {
		case "SIGRTMIN":
			*to = rtmin
			return nil
		case "SIGRTMAX":
			*to = rtmax
			return nil
		case "SIGCLD":
			name = "SIGCHLD"
		case "SIGIOT":
			name = "SIGABRT"
		case "SIGPOLL":
			name = "SIGIO"
		}
		signal := unix.SignalNum(name)
		if signal == 0 {
			return errors.New("not the name of a signal")
		}
		*to = signal
		return nil
	}
}

func logLevel(to *string) setter {
	return func(value string) error {
		value = strings.ToLower(value)
		switch value {
		case "critical", "error", "warn", "info", "debug", "trace", "blather":
			*to = value
			return nil
		}
		return errors.New("not critical, error, warn, info, debug, trace or blather")
	}
}

// checkName checks the name of a process or group and returns it without the
// blanks around it.
func checkName(name string) (string, error) {
	name = strip(name)
	if name == "" {
		return "", errors.New("the name is empty")
	}
	if i := strings.IndexAny(name, " :/"); i >= 0 {
		return "", fmt.Errorf("the name has a %q", name[i])
	}
	if !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return "", errors.New("the name has control characters or is not UTF-8")
	}
	return name, nil
}

// home expands ~ and ~user as Python does: what is not known stays as it is.
func (l *loader) home(path string) string {
	if !strings.HasPrefix(path, "~") {
		return path
	}
	user, rest := path[1:], ""
	if i := strings.IndexByte(path, '/'); i >= 0 {
		user, rest = path[1:i], path[i:]
	}
	folder, known := l.environ["HOME"]
	if user != "" || !known {
		a, _ := l.users("")
		i := a.byName(user)
		if user == "" {
			i = a.byUID(os.Getuid())
		}
		if i < 0 {
			return path
		}
		folder = a.list[i].Home
	}
	if path = strings.TrimRight(folder, "/") + rest; path == "" {
		return "/"
	}
	return path
}

// normal returns a path as Supervisor normalizes it: absolute, without ~.
func (l *loader) normal(path string) string {
	path = l.home(path)
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// inFolder takes the path of a file whose folder has to be there.
func (l *loader) inFolder(to *string) setter {
	return func(value string) error {
		path := l.home(value)
		if i := strings.LastIndexByte(path, '/'); i >= 0 {
			folder := path[:i+1]
			if !isDir(folder) {
				return fmt.Errorf("there is no folder %s", short(folder))
			}
		}
		if isDir(path) {
			return fmt.Errorf("%s is a folder", short(path))
		}
		*to = path
		return nil
	}
}

// folder takes the path of a folder that has to be there.
func (l *loader) folder(to *string) setter {
	return func(value string) error {
		path := l.home(value)
		if !isDir(path) {
			return fmt.Errorf("there is no folder %s", short(path))
		}
		*to = path
		return nil
	}
}

// rootFolder is as folder, for an absolute path.
func rootFolder(to *string) setter {
	return func(value string) error {
		switch {
		case !filepath.IsAbs(value):
			return errors.New("not an absolute path")
		case !isDir(value):
			return errors.New("there is no such folder")
		}
		*to = filepath.Clean(value)
		return nil
	}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
