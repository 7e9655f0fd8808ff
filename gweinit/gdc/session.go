package gdc

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gopkg.in/ini.v1"

	"github.com/exosite/gwe/gweinit/durable"
	"github.com/exosite/gwe/gweinit/exosite"
)

// The files of a gateway.
const (
	gatewayFile = "/data/gwe/Gateway.cfg"
	engineFile  = "/data/gwe/Engine.config"
	releaseFile = "/etc/os-release"
	imageFolder = "/etc/gweinit" // is there on gateways only
	clockSet    = "/run/clock-set"
	// olderHost serves all products of the older generation.
	olderHost = "m2.exosite.com"
	maxFile   = 1 << 20
)

// session is what a command works with.
type session struct {
	printer
	o      options
	in     io.Reader
	client *exosite.Client
	host   string // without a scheme
	port   string // "" if not given
}

// newSession puts together what the command line, a device file and GWE's own
// configuration say; the first that says something counts.
func newSession(o options, c command, in io.Reader, p printer) (*session, error) {
	own, file := o.file == "gwe", o.file
	root := os.Getenv("GWE_ROOT")                            // files of gateways are below it
	anybody := file == "" && o.host == "" && o.product == "" // the gateway's own server is meant
	if own {
		file = filepath.Join(root, gatewayFile)
	}
	var vendor, model string
	if file != "" {
		f, err := readINI(file)
		if err != nil {
			return nil, err
		}
		d := f.Section("device")
		value := func(keys ...string) string {
			for _, k := range keys {
				if v := strings.Trim(d.Key(k).String(), "'\""); v != "" {
					return v
				}
			}
			return ""
		}
		vendor, model = value("vendor"), value("model")
		o.token = cmp.Or(o.token, value("cik", "murano_token"))
		o.uuid = cmp.Or(o.uuid, value("uuid", "murano_id"))
		if o.host == "" && o.product == "" {
			o.host = value("murano_host")
			if port := value("murano_port"); port != "" && o.host != "" {
				scheme, host, _, err := splitHost(o.host)
				if err != nil {
					return nil, fmt.Errorf("%s: murano_host: %w", file, err)
				}
				o.host = scheme + net.JoinHostPort(host, port)
			}
		}
	}
	if own || anybody {
		engine, err := readINI(filepath.Join(root, engineFile))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			o.host = cmp.Or(o.host, engine.Section("exosite").Key("host").String())
			if ca := engine.Section("exosite").Key("ca").String(); o.ca == "" && ca != "" {
				o.ca = filepath.Join(root, ca)
			}
		}
	}
	if anybody && o.host == "" {
		gateway, err := readINI(filepath.Join(root, gatewayFile))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			o.product = strings.Trim(gateway.Section("device").Key("vendor").String(), "'")
		}
	}
	if product := cmp.Or(o.product, vendor); o.host == "" && product != "" {
		o.host = product + ".m2.exosite.io"
	}
	o.host = cmp.Or(o.host, olderHost)
	scheme, host, port, err := splitHost(o.host)
	if err != nil {
		return nil, usageError{fmt.Errorf("host %q: %w", o.host, err)}
	}
	s := &session{printer: p, o: o, in: in, host: host, port: port}
	eo := exosite.Options{Server: scheme + joinPort(host, port), Vendor: vendor, Model: model, CIK: o.token, UserAgent: "gdc"}
	switch mqtt := scheme == "mqtt://" || scheme == "mqtts://"; {
	case mqtt || scheme == "" && strings.HasPrefix(c.words, "mqtt "):
		eo.Server = joinPort(host, "") // the port is that of MQTT
	case strings.HasPrefix(c.words, "mqtt "):
		s.port = "" // the port is that of HTTP
	}
	if eo.Trust, err = trust(o.ca); err != nil {
		return nil, err
	}
	if o.cert != "" || o.key != "" {
		pair, err := tls.LoadX509KeyPair(o.cert, cmp.Or(o.key, o.cert))
		if err != nil {
			return nil, fmt.Errorf("certificate and key of the device: %w", err)
		}
		eo.Certificate = &pair
	}
	if s.client, err = exosite.New(eo); err != nil {
		return nil, usageError{err}
	}
	return s, nil
}

// splitHost takes a host apart as people give it. An IPv6 address is in
// brackets if a port or a scheme is given.
func splitHost(text string) (scheme, host, port string, err error) {
	if before, _, ok := strings.Cut(text, "://"); ok {
		u, err := url.Parse(text)
		switch {
		case err != nil:
			return "", "", "", err
		case before != "https" && before != "http" && before != "mqtt" && before != "mqtts":
			return "", "", "", errors.New("want https, http, mqtt or mqtts before the ://")
		case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil || u.Hostname() == "":
			return "", "", "", errors.New("want a host, and a port if need be, and nothing behind it")
		}
		return before + "://", u.Hostname(), u.Port(), nil
	}
	if h, p, err := net.SplitHostPort(text); err == nil {
		return "", h, p, nil
	}
	return "", strings.Trim(text, "[]"), "", nil
}

func joinPort(host, port string) string {
	if port != "" {
		return net.JoinHostPort(host, port)
	}
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// trust is which servers are Exosite's. On a gateway whose clock is not set
// yet certificates are judged by the server's time.
func trust(ca string) (*exosite.Trust, error) {
	t := &exosite.Trust{}
	if ca != "" {
		text, err := readFile(ca)
		if err != nil {
			return nil, fmt.Errorf("certificates to trust: %w", err)
		}
		t.Roots = x509.NewCertPool()
		if !t.Roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("certificates to trust: there is none in %s, want PEM", ca)
		}
	}
	if info, err := os.Stat(releaseFile); err == nil && exists(imageFolder) {
		t.Build = info.ModTime()
		t.ClockSet = func() bool { return exists(clockSet) }
	}
	return t, nil
}

// readFile follows links, as certificates in /etc/ssl/certs are.
func readFile(path string) ([]byte, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	return durable.ReadFile(path, maxFile)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// readINI reads a file that people may have edited.
func readINI(path string) (*ini.File, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("device file: %w", err)
	}
	f, err := ini.LoadSources(ini.LoadOptions{IgnoreInlineComment: true, SkipUnrecognizableLines: true, IgnoreContinuation: true}, text)
	if err != nil {
		return nil, fmt.Errorf("device file %s: %w", path, err)
	}
	return f, nil
}

// keepToken stores a token in the device file.
func (s *session) keepToken(token string) error {
	path, err := filepath.EvalSymlinks(s.o.file) // a link stays one
	if err != nil {
		return err
	}
	text, err := durable.ReadFile(path, maxFile)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, []byte(withToken(string(text), token)), 0o600)
}

// withToken puts a token into the text of a device file, in place of the one
// before. All else stays as its owner has written it.
func withToken(text, token string) string {
	var out strings.Builder
	inDevice, done := false, false
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		key, _, _ := strings.Cut(strings.ReplaceAll(trimmed, ":", "="), "=")
		key = strings.TrimSpace(key)
		switch {
		case strings.HasPrefix(trimmed, "["):
			inDevice = trimmed == "[device]"
		case inDevice && (key == "murano_token" || key == "cik"):
			continue
		}
		out.WriteString(line)
		if inDevice && !done {
			if !strings.HasSuffix(line, "\n") {
				out.WriteByte('\n')
			}
			out.WriteString("murano_token = " + token + "\n")
			done = true
		}
	}
	if !done {
		out.WriteString("\n[device]\nmurano_token = " + token + "\n")
	}
	return out.String()
}

// limit is the time that a command may take, with what it waits for.
func (s *session) limit(more time.Duration) time.Duration {
	return time.Duration(s.o.timeout*float64(time.Second)) + more
}
