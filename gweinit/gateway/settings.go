// Package gateway has the gateway's own settings: the INI files Gateway.cfg and
// Engine.config, which people edit, provision.yaml and "gwe" change, and the
// engine writes the CIK into.
package gateway

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/exosite/gwe/gweinit/update"
)

// Dir is the folder of the files, below GWE_ROOT.
const Dir = "/data/gwe"

// The files.
const (
	GatewayFile = "Gateway.cfg"
	EngineFile  = "Engine.config"
)

// The sections of the files: DeviceSection of GatewayFile, the others of
// EngineFile.
const (
	DeviceSection  = "device"
	EngineSection  = "engine"
	ExositeSection = "exosite"
	UpdateSection  = "firmware"
)

// The bounds of intervals, and what they are by default.
const (
	MinInterval = time.Second
	MaxInterval = 30 * 24 * time.Hour

	DefaultUpdateInterval  = 4 * time.Hour
	DefaultActivationRetry = 5 * time.Minute
	DefaultTrial           = update.DefaultLimit
)

// Here says whether the files below root are a gateway's, and not a workstation's.
func Here(root string) bool {
	_, err := os.Stat(filepath.Join(cmp.Or(root, "/"), "etc/gweinit"))
	return err == nil
}

// ParseRelease returns the variables of an os-release(5), as the builder writes it:
// IMAGE_ID is the board, IMAGE_VERSION the firmware's version.
func ParseRelease(text string) map[string]string {
	vars := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			vars[name] = strings.Trim(value, `"'`)
		}
	}
	return vars
}

// Levels are the values of debug_level.
var Levels = []string{"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}

// Settings are what both files say, with the defaults for what they do not.
type Settings struct {
	// [device] of Gateway.cfg
	CIK, Model, Vendor, UUID, Iface string
	// [engine] of Engine.config
	DebugLevel      string        // one of Levels
	UpdateInterval  time.Duration // whole seconds, as is the next
	ActivationRetry time.Duration
	UserAgent       string // "": the default
	// [exosite] of Engine.config
	Host             string // host, host:port or URL; "": by the product
	CA               string // path of PEM certificates to trust; "": the system's
	Certificate, Key string // paths, of a client certificate; "": none
	Push             string // "poll", "mqtt" or "off"
	// [firmware] of Engine.config
	Trial  time.Duration // in which a new firmware has to be healthy; whole seconds
	Window string        // in which the gateway may reboot into it, for ParseWindow
}

// SameDevice says whether settings are those of one device at Exosite: the CIK
// of the one is good for the other, too.
func SameDevice(a, b Settings) bool {
	return a.Vendor == b.Vendor && a.Model == b.Model && a.UUID == b.UUID &&
		// Without a serial number the link's address is it; which link the
		// default is is not known here.
		(a.UUID != "" || a.Iface == b.Iface || a.Iface == "" || b.Iface == "")
}

// Device returns what Gateway.cfg alone says, as it is written.
func Device(f *INI) Settings {
	return Settings{
		CIK:    f.Value(DeviceSection, "cik"),
		Model:  f.Value(DeviceSection, "model"),
		Vendor: f.Value(DeviceSection, "vendor"),
		UUID:   f.Value(DeviceSection, "uuid"),
		Iface:  f.Value(DeviceSection, "iface"),
	}
}

// Defaults returns the text of a file that says what holds without it.
func Defaults(file string) []byte {
	f := ParseINI(nil)
	for _, o := range options {
		if o.file == file {
			f.Set(o.section, o.key, o.standard) // each of them can be written
		}
	}
	return f.Text()
}

// known is an option of a file: where it is, its value if it is not there, and how a value
// gets into Settings, which fails with what is wanted.
type known struct {
	file, section, key string
	standard           string
	read               func(s *Settings, value string) (want string)
}

var options = []known{
	{GatewayFile, DeviceSection, "cik", "", printable(func(s *Settings) *string { return &s.CIK })},
	{GatewayFile, DeviceSection, "model", "", printable(func(s *Settings) *string { return &s.Model })},
	{GatewayFile, DeviceSection, "vendor", "", printable(func(s *Settings) *string { return &s.Vendor })},
	{GatewayFile, DeviceSection, "uuid", "", printable(func(s *Settings) *string { return &s.UUID })},
	{GatewayFile, DeviceSection, "iface", "", printable(func(s *Settings) *string { return &s.Iface })},
	{EngineFile, EngineSection, "debug_level", "INFO", func(s *Settings, value string) string {
		return oneOf(&s.DebugLevel, strings.ToUpper(value), Levels)
	}},
	{EngineFile, EngineSection, "update_interval", seconds(DefaultUpdateInterval), interval(func(s *Settings) *time.Duration { return &s.UpdateInterval }, MinInterval, MaxInterval)},
	{EngineFile, EngineSection, "activation_retry_interval", seconds(DefaultActivationRetry), interval(func(s *Settings) *time.Duration { return &s.ActivationRetry }, MinInterval, MaxInterval)},
	{EngineFile, EngineSection, "user_agent", "", printable(func(s *Settings) *string { return &s.UserAgent })},
	{EngineFile, ExositeSection, "host", "", printable(func(s *Settings) *string { return &s.Host })},
	{EngineFile, ExositeSection, "ca", "", printable(func(s *Settings) *string { return &s.CA })},
	{EngineFile, ExositeSection, "certificate", "", printable(func(s *Settings) *string { return &s.Certificate })},
	{EngineFile, ExositeSection, "key", "", printable(func(s *Settings) *string { return &s.Key })},
	{EngineFile, ExositeSection, "push", "poll", func(s *Settings, value string) string {
		return oneOf(&s.Push, strings.ToLower(value), []string{"poll", "mqtt", "off"})
	}},
	{EngineFile, UpdateSection, "trial", seconds(DefaultTrial), interval(func(s *Settings) *time.Duration { return &s.Trial }, update.MinLimit, update.MaxLimit)},
	{EngineFile, UpdateSection, "window", "", func(s *Settings, value string) string {
		if _, err := ParseWindow(value); err != nil {
			return "HH:MM-HH:MM"
		}
		s.Window = value
		return ""
	}},
}

// printable allows all that people can see: a serial number that is passed over
// would make the gateway another device.
func printable(field func(*Settings) *string) func(*Settings, string) string {
	return func(s *Settings, value string) string {
		if !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return "printable characters"
		}
		*field(s) = value
		return ""
	}
}

func oneOf(field *string, value string, all []string) (want string) {
	if !slices.Contains(all, value) {
		return strings.Join(all[:len(all)-1], ", ") + " or " + all[len(all)-1]
	}
	*field = value
	return ""
}

func interval(field func(*Settings) *time.Duration, least, most time.Duration) func(*Settings, string) string {
	return func(s *Settings, value string) string {
		d, err := parseInterval(value, least, most)
		if err != nil {
			return err.Error()
		}
		*field(s) = d
		return ""
	}
}

// ParseInterval reads an interval in seconds. The error says what is wanted,
// and no more.
func ParseInterval(text string) (time.Duration, error) {
	return parseInterval(text, MinInterval, MaxInterval)
}

func parseInterval(text string, least, most time.Duration) (time.Duration, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	d := time.Duration(n) * time.Second
	if err != nil || d < least || d > most {
		return 0, fmt.Errorf("whole seconds from %s to %s", seconds(least), seconds(most))
	}
	return d, nil
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }

// parse returns the settings that the files' texts say, and what is wrong with
// them.
func parse(files map[string]*INI) (s Settings, problems []error) {
	for _, name := range []string{GatewayFile, EngineFile} {
		for _, err := range files[name].Problems() {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
		}
	}
	for _, o := range options {
		o.read(&s, o.standard)
		value := files[o.file].Value(o.section, o.key)
		if value == "" {
			continue
		}
		if want := o.read(&s, value); want != "" {
			shown := strconv.Quote(value)
			if len(shown) > 80 {
				shown = shown[:80] + `..."`
			}
			if o.key == "cik" {
				shown = "it" // is a secret
			}
			counts := strconv.Quote(o.standard)
			if o.standard == "" {
				counts = "none"
			}
			problems = append(problems, fmt.Errorf("%s: [%s] %s: %s cannot be used, want %s; %s counts instead", o.file, o.section, o.key, shown, want, counts))
		}
	}
	return s, problems
}
