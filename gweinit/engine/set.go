package engine

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/exosite/gwe/gweinit/gateway"
)

// setting is an option that changes what is in the files.
type setting struct {
	flag, short, help string
	file, section     string
	keys              []string
	check             func(value string) (stored string, err error)
}

var productID = setting{"set-product-id", "P", "vendor and model: the `ID` of the product", gateway.GatewayFile, gateway.DeviceSection, []string{"vendor", "model"}, word("")}

var settings = []setting{
	{"set-cik", "c", "the gateway's `CIK` (token); empty: to be activated", gateway.GatewayFile, gateway.DeviceSection, []string{"cik"}, checkCIK},
	{"set-model", "m", "the `MODEL`; of Murano: the product's ID", gateway.GatewayFile, gateway.DeviceSection, []string{"model"}, word("")},
	{"set-vendor", "r", "the `VENDOR`; of Murano: the product's ID", gateway.GatewayFile, gateway.DeviceSection, []string{"vendor"}, word("")},
	productID,
	{"set-uuid", "u", "the serial `NUMBER`; empty: the address of iface", gateway.GatewayFile, gateway.DeviceSection, []string{"uuid"}, orEmpty(word(""))},
	{"set-iface", "i", "the `LINK` whose address is the serial number if there is no uuid", gateway.GatewayFile, gateway.DeviceSection, []string{"iface"}, orEmpty(word("/"))},
	{"set-act-retry-interval", "l", "`SECONDS` between attempts to activate", gateway.EngineFile, gateway.EngineSection, []string{"activation_retry_interval"}, checkInterval},
	{"set-debug-level", "d", "`LEVEL` of the engine's log: " + strings.Join(gateway.Levels, ", "), gateway.EngineFile, gateway.EngineSection, []string{"debug_level"}, checkLevel},
	{"set-update-interval", "t", "`SECONDS` between check-ins", gateway.EngineFile, gateway.EngineSection, []string{"update_interval"}, checkInterval},
	{"set-user-agent", "a", "`NAME` to call itself to servers; empty: the default", gateway.EngineFile, gateway.EngineSection, []string{"user_agent"}, checkAgent},
}

// value is what the command line has for a setting, checked.
type value struct {
	setting
	text string
}

func (v *value) String() string { return v.text }
func (v *value) Type() string   { return "text" }

// Set is called by pflag, which would show a CIK that is wrong in its error:
// that is for check.
func (v *value) Set(text string) error {
	v.text = text
	return nil
}

func checkCIK(cik string) (string, error) {
	if cik != "" && (len(cik) != 40 || strings.ContainsFunc(cik, func(r rune) bool {
		return (r < '0' || r > '9') && (r|0x20 < 'a' || r|0x20 > 'z')
	})) {
		// It is not shown: it may be one but for a letter.
		return "", fmt.Errorf("this is no CIK (%d characters), want 40 letters and digits, or nothing", len(cik))
	}
	return cik, nil
}

// word checks a value that INI files, URLs and topics of MQTT take as it is,
// without the others.
func word(others string) func(string) (string, error) {
	return func(text string) (string, error) {
		if text == "" || len(text) > 64 || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`'";#%=`+"`"+others, r) }) {
			return "", fmt.Errorf("%s cannot be used, want 1 to 64 characters of ASCII without blanks and any of '\"`;#%%=%s", show(text), others)
		}
		return text, nil
	}
}

func orEmpty(check func(string) (string, error)) func(string) (string, error) {
	return func(text string) (string, error) {
		if text == "" {
			return "", nil
		}
		text, err := check(text)
		if err != nil {
			err = fmt.Errorf("%w, or nothing", err)
		}
		return text, err
	}
}

func checkInterval(text string) (string, error) {
	d, err := gateway.ParseInterval(text)
	if err != nil {
		return "", fmt.Errorf("%s cannot be used, want %w", show(text), err)
	}
	return fmt.Sprint(int64(d.Seconds())), nil
}

func checkLevel(text string) (string, error) {
	level := strings.ToUpper(text)
	if !slices.Contains(gateway.Levels, level) {
		return "", fmt.Errorf("%s is no level, want one of %s", show(text), strings.Join(gateway.Levels, ", "))
	}
	return level, nil
}

func checkAgent(text string) (string, error) {
	bad := strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
	both := strings.Contains(text, "'") && strings.Contains(text, `"`) // no line of an INI file has room for that
	if bad || both || len(text) > 256 || text != strings.TrimSpace(text) {
		return "", fmt.Errorf("%s cannot be used, want at most 256 printable characters of ASCII, with one kind of quotes at most and no blanks around them", show(text))
	}
	return text, nil
}

// show returns what was given, without letting it fill a screen.
func show(text string) string {
	if len(text) > 80 {
		return fmt.Sprintf("%q... (%d bytes)", text[:80], len(text))
	}
	return fmt.Sprintf("%q", text)
}

// changes returns what the settings change, or all that is wrong with them.
func changes(given []*value) (list []gateway.Change, err error) {
	var wrong []error
	by := map[string]*value{}
	for _, v := range given {
		stored, err := v.check(v.text)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("--%s: %w", v.flag, err))
			continue
		}
		for _, key := range v.keys {
			if other := by[key]; other != nil && other.text != v.text {
				wrong = append(wrong, fmt.Errorf("--%s and --%s say different things: give one of them", other.flag, v.flag))
			} else if other == nil {
				list = append(list, gateway.Change{File: v.file, Section: v.section, Key: key, Value: stored})
			}
			by[key] = v
		}
	}
	return list, errors.Join(wrong...)
}

// set stores settings, all or none of them.
func set(root string, given []*value, keepIdentity func(root string) error, out, errs io.Writer) int {
	list, err := changes(given)
	if err != nil {
		for line := range strings.SplitSeq(masked(err.Error()), "\n") {
			fmt.Fprintf(errs, "gwe: %s\n", line)
		}
		fmt.Fprintln(errs, "gwe: nothing was changed")
		return 2
	}
	another := false
	files := gateway.Files{Dir: filepath.Join(cmp.Or(root, "/"), gateway.Dir)}
	made, err := files.Update(func(before gateway.Settings) []gateway.Change {
		all := list
		isCIK := func(c gateway.Change) bool { return c.Key == "cik" }
		another = before.CIK != "" && !gateway.SameDevice(before, after(before, list)) && !slices.ContainsFunc(list, isCIK)
		if another {
			all = append(slices.Clip(list), gateway.Change{File: gateway.GatewayFile, Section: gateway.DeviceSection, Key: "cik"})
		}
		return all
	})
	if err != nil {
		fmt.Fprintf(errs, "gwe: %v\n", err)
		return 1
	}
	for _, c := range made {
		shown, why := c.Value, ""
		if c.Key == "cik" && shown != "" {
			shown = shown[:8] + "*"
		}
		if c.Key == "cik" && another {
			why = " (the one from before belongs to another device)"
		}
		fmt.Fprintf(out, "[%s] %s = %s%s\n", c.Section, c.Key, cmp.Or(shown, "''"), why)
	}
	if err := keepIdentity(root); err != nil {
		fmt.Fprintf(errs, "gwe: warning: the settings are stored, but not in the identity record, which brings them back if /data is lost: %v\n", err)
		return 1
	}
	return 0
}

// after returns who the gateway is after the changes.
func after(s gateway.Settings, list []gateway.Change) gateway.Settings {
	for _, c := range list {
		switch c.Key {
		case "vendor":
			s.Vendor = c.Value
		case "model":
			s.Model = c.Value
		case "uuid":
			s.UUID = c.Value
		case "iface":
			s.Iface = c.Value
		}
	}
	return s
}
