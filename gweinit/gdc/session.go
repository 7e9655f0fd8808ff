package gdc

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/durable"
	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/gateway"
)

const (
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
	root := os.Getenv("GWE_ROOT") // files of gateways are below it
	own := o.file == "gwe"
	anybody := o.file == "" && o.host == "" && o.product == "" // the gateway's own server is meant
	var vendor, model string
	switch {
	case own || anybody:
		g, err := gatewaySettings(root, own)
		if err != nil {
			return nil, err
		}
		if own {
			vendor, model = g.Vendor, g.Model
			o.token, o.uuid = cmp.Or(o.token, g.CIK), cmp.Or(o.uuid, g.UUID)
		} else {
			o.product = g.Vendor
		}
		o.host = cmp.Or(o.host, g.Host)
		if o.ca == "" && g.CA != "" {
			o.ca = filepath.Join(root, g.CA)
		}
		if o.cert == "" && o.key == "" && g.Certificate != "" {
			o.cert, o.key = filepath.Join(root, g.Certificate), filepath.Join(root, cmp.Or(g.Key, g.Certificate))
		}
	case o.file != "":
		text, err := readFile(o.file)
		if err != nil {
			return nil, fmt.Errorf("device file: %w", err)
		}
		f := gateway.ParseINI(text)
		value := func(key string) string { return f.Value("device", key) }
		vendor, model = value("vendor"), value("model")
		o.token = cmp.Or(o.token, value("cik"), value("murano_token"))
		o.uuid = cmp.Or(o.uuid, value("uuid"), value("murano_id"))
		if o.host == "" && o.product == "" {
			o.host = value("murano_host")
			if port := value("murano_port"); port != "" && o.host != "" {
				scheme, host, _, err := splitHost(o.host)
				if err != nil {
					return nil, fmt.Errorf("%s: murano_host: %w", o.file, err)
				}
				o.host = scheme + net.JoinHostPort(host, port)
			}
		}
	}
	if product := cmp.Or(o.product, vendor); o.host == "" && product != "" {
		o.host = exosite.ServerOf(product)
	}
	o.host = cmp.Or(o.host, olderHost)
	scheme, host, port, err := splitHost(o.host)
	if err != nil {
		return nil, usageError{fmt.Errorf("host %q: %w", o.host, err)}
	}
	s := &session{printer: p, o: o, in: in, host: host, port: port}
	eo := exosite.Options{Server: scheme + joinPort(host, port), Vendor: vendor, Model: model, CIK: o.token, UserAgent: "gdc", Meter: new(exosite.Meter), Consumer: "gdc"}
	switch mqtt := scheme == "mqtt://" || scheme == "mqtts://"; {
	case mqtt || scheme == "" && strings.HasPrefix(c.words, "mqtt "):
		eo.Server = joinPort(host, "") // the port is that of MQTT
	case strings.HasPrefix(c.words, "mqtt "):
		s.port = "" // the port is that of HTTP
	}
	if eo.Trust, err = exosite.GatewayTrust(root, o.ca); err != nil {
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

// readFile follows links, as certificates in /etc/ssl/certs are.
func readFile(path string) ([]byte, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	return durable.ReadFile(path, maxFile)
}

// gatewaySettings returns the settings of the gateway, which need not be there
// unless they are asked for.
func gatewaySettings(root string, must bool) (gateway.Settings, error) {
	files := gateway.Files{Dir: filepath.Join(root, gateway.Dir)}
	if must {
		if _, err := os.Stat(filepath.Join(files.Dir, gateway.GatewayFile)); err != nil {
			return gateway.Settings{}, fmt.Errorf("device file: %w", err)
		}
	}
	s, _, err := files.Load() // the engine tells what is wrong in them
	return s, err
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
