package engine

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/exosite/spec"
	"github.com/exosite/gwe/gweinit/gateway"
)

const cik = "e469e336ff9c8ed9176bc05ed7fa40daaaaaaaaa"

// tree makes files below a new root, from their names and texts.
func tree(t *testing.T, files map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// gwe runs a command line; what it would start says so on standard output.
func gwe(root string, args ...string) (status int, out, errs string) {
	var o, e strings.Builder
	do := tasks{
		serve:           func(root string, once bool, out, errs io.Writer) int { fmt.Fprintf(out, "serve %v\n", once); return 0 },
		supportBundle:   func(root, file string, out, errs io.Writer) int { fmt.Fprintf(out, "bundle %q\n", file); return 0 },
		keepIdentity:    func(root string) error { fmt.Fprintln(&o, "kept"); return nil },
		installFirmware: func(root, from string, out, errs io.Writer) int { fmt.Fprintf(out, "install %q\n", from); return 0 },
		slots: func(root string, asJSON bool, out, errs io.Writer) int {
			fmt.Fprintf(out, "slots %v\n", asJSON)
			return 0
		},
		installApps: func(root string, files []string, out, errs io.Writer) int {
			fmt.Fprintf(out, "install apps %q\n", files)
			return 0
		},
		listApps: func(root string, asJSON bool, out, errs io.Writer) int {
			fmt.Fprintf(out, "list %v\n", asJSON)
			return 0
		},
		uninstallApps: func(root string, names []string, out, errs io.Writer) int {
			fmt.Fprintf(out, "uninstall %q\n", names)
			return 0
		},
		rollbackApps: func(root string, names []string, out, errs io.Writer) int {
			fmt.Fprintf(out, "roll back %q\n", names)
			return 0
		},
		createBuildfile: func(name, version string, out, errs io.Writer) int {
			fmt.Fprintf(out, "create %q %q\n", name, version)
			return 0
		},
		checkBuildfile: func(file string, out, errs io.Writer) int { fmt.Fprintf(out, "check %q\n", file); return 1 },
		buildApp: func(file, name, version string, out, errs io.Writer) int {
			fmt.Fprintf(out, "build %q %q %q\n", file, name, version)
			return 0
		},
		checkTarball:  func(file string, out, errs io.Writer) int { fmt.Fprintf(out, "tarball %q\n", file); return 1 },
		orderFirmware: func(root, method string, out, errs io.Writer) int { fmt.Fprintln(out, method); return 0 },
	}
	status = run(args, root, do, &o, &e)
	return status, o.String(), e.String()
}

const (
	gatewayCfg = "data/gwe/" + gateway.GatewayFile
	engineConf = "data/gwe/" + gateway.EngineFile
	activated  = "# of the lab\n[device]\ncik = " + cik + "\nvendor = p\nmodel = p\nuuid = s ; door\n"
)

func TestCommandLine(t *testing.T) {
	bare := map[string]string{}
	lab := map[string]string{
		gatewayCfg:       activated,
		engineConf:       "[engine]\r\nupdate_interval = 60\r\n",
		"etc/gweinit/x":  "",
		"etc/os-release": "NAME=\"Gateway Engine\"\nIMAGE_VERSION=1.2.0+3.gabcdef0\n",
	}
	noUUID := map[string]string{gatewayCfg: "[device]\ncik=" + cik + "\nvendor=p\nmodel=p\niface=eth0\n"}
	for _, c := range []struct {
		args   string // '' is an empty one, ~ a blank
		files  map[string]string
		status int
		out    string // ROOT is the root
		errs   string
		after  map[string]string // files that have changed
	}{
		{args: "--spec", out: string(spec.Current(spec.GWE()))},
		{args: "--spec=current", out: string(spec.Current(spec.GWE()))},
		{args: "--spec=older", out: string(spec.Older(spec.GWE()))},
		{args: "", out: "serve false\n"},
		{args: "--once", out: "serve true\n"},
		{args: "--install-firmware -", out: "install \"-\"\n"},
		{args: "--install-firmware=/tmp/x.fw", out: "install \"/tmp/x.fw\"\n"},
		{args: "--install-firmware=", status: 2, errs: "want the name of a file, an URL, or -"},
		{args: "--slots", out: "slots false\n"},
		{args: "--slots --json", out: "slots true\n"},
		{args: "--json", status: 2, errs: "--json goes with --slots and --list-apps"},
		{args: "-I a.v1.tar.gz", out: "install apps [\"a.v1.tar.gz\"]\n"},
		{args: "-I a.v1.tar.gz b.v2.tar.gz", out: "install apps [\"a.v1.tar.gz\" \"b.v2.tar.gz\"]\n"},
		{args: "--install-apps=a,b.v1.tar.gz -I b -- -c", out: "install apps [\"a,b.v1.tar.gz\" \"b\" \"-c\"]\n"},
		{args: "-d DEBUG -I a.v1.tar.gz", files: lab, out: "install apps [\"a.v1.tar.gz\"]\n"},
		{args: "-I a.v1.tar.gz -d loud", status: 2, errs: "--set-debug-level: \"loud\" is no level"},
		{args: "-I a.v1.tar.gz -t 5", status: 2, errs: "settings and --install-apps do not go together"},
		{args: "-I", status: 2, errs: "flag needs an argument"},
		{args: "-I ''", status: 2, errs: "--install-apps: one of the names is empty"},
		{args: "-I a --uninstall-app b", status: 2, errs: "--install-apps and --uninstall-app do not go together"},
		{args: "--list-apps", out: "list false\n"},
		{args: "--list-apps --json", out: "list true\n"},
		{args: "--list-apps a", status: 2, errs: `unexpected argument "a"`},
		{args: "--uninstall-app a", out: "uninstall [\"a\"]\n"},
		{args: "--uninstall-app a b --uninstall-app c", out: "uninstall [\"a\" \"c\" \"b\"]\n"},
		{args: "--uninstall-app a ''", status: 2, errs: "--uninstall-app: one of the names is empty"},
		{args: "--rollback-app a b", out: "roll back [\"a\" \"b\"]\n"},
		{args: "--rollback-app a --rollback", status: 2, errs: "--rollback-app and --rollback do not go together"},
		{args: "-x", out: "create \"\" \"\"\n"},
		{args: "--create-buildfile -n a -s 1.2", out: "create \"a\" \"1.2\"\n"},
		{args: "-w f.json", status: 1, out: "check \"f.json\"\n"},
		{args: "--check-buildfile=", status: 2, errs: "--check-buildfile: want the name of a file"},
		{args: "-y f.json", out: "build \"f.json\" \"\" \"\"\n"},
		{args: "--build-app f.json -d DEBUG", files: lab, out: "build \"f.json\" \"\" \"\"\n"},
		{args: "--build-app-tarball f.json -n a -s 2", out: "build \"f.json\" \"a\" \"2\"\n"},
		{args: "--build-app=", status: 2, errs: "--build-app: want the name of a file"},
		{args: "--build-app", status: 2, errs: "flag needs an argument"},
		{args: "-s 2", status: 2, errs: "--app-name and --app-version go with"},
		{args: "-z a.v1.tar.gz", status: 1, out: "tarball \"a.v1.tar.gz\"\n"},
		{args: "-z a -w b", status: 2, errs: "--check-buildfile and --check-tarball do not go together"},
		{args: "--confirm", out: "confirm\n"},
		{args: "--rollback", out: "rollback\n"},
		{args: "--rollback --confirm", status: 2, errs: "--confirm and --rollback do not go together"},
		{args: "-o", out: "serve true\n"},
		{args: "--support-bundle", out: "bundle \"\"\n"},
		{args: "--support-bundle=x.tar.gz", out: "bundle \"x.tar.gz\"\n"},

		{args: "-v", files: lab, out: "1.2.0+3.gabcdef0\n"},
		{args: "-p", files: lab, out: "ROOT/data/gwe\n"},
		{args: "-e", files: lab, out: "[engine]\r\nupdate_interval = 60\r\n"},
		{args: "-g", files: lab, out: activated},
		{args: "-C", files: lab, out: cik + "\n"},
		{args: "--gateway-cik --path --version", files: lab, out: "1.2.0+3.gabcdef0\nROOT/data/gwe\n" + cik + "\n"},
		{args: "-Cge", files: lab, out: "[engine]\r\nupdate_interval = 60\r\n" + activated + cik + "\n"},
		{args: "-C", status: 1, out: "''\n"},
		{args: "-C", files: map[string]string{gatewayCfg: "[device]\ncik = ''\n"}, status: 1, out: "''\n"},
		{args: "-g", out: "[device]\ncik = ''\nmodel = ''\nvendor = ''\nuuid = ''\niface = ''\n"},
		{args: "-e", out: "[engine]\ndebug_level = INFO\nupdate_interval = 14400\nactivation_retry_interval = 300\nuser_agent = ''\n\n" +
			"[exosite]\nhost = ''\nca = ''\ncertificate = ''\nkey = ''\npush = poll\n\n[firmware]\ntrial = 900\nwindow = ''\n"},

		{args: "--set-product-id a1b2 -u GW-1", out: "[device] vendor = a1b2\n[device] model = a1b2\n[device] uuid = GW-1\nkept\n",
			after: map[string]string{gatewayCfg: "[device]\nvendor = a1b2\nmodel = a1b2\nuuid = GW-1\n"}},
		{args: "-P a1b2", out: "[device] vendor = a1b2\n[device] model = a1b2\nkept\n", after: map[string]string{gatewayCfg: "[device]\nvendor = a1b2\nmodel = a1b2\n"}},
		{args: "--product-id a1b2", out: "[device] vendor = a1b2\n[device] model = a1b2\nkept\n", after: map[string]string{gatewayCfg: "[device]\nvendor = a1b2\nmodel = a1b2\n"}},
		{args: "-c " + cik, out: "[device] cik = e469e336*\nkept\n", after: map[string]string{gatewayCfg: "[device]\ncik = " + cik + "\n"}},
		{args: "-c ''", files: lab, out: "[device] cik = ''\nkept\n", after: map[string]string{gatewayCfg: strings.Replace(activated, cik, "''", 1)}},
		{args: "-P p -u s", files: lab, out: "[device] vendor = p\n[device] model = p\n[device] uuid = s\nkept\n"},
		{args: "-u 00:2F:AC:43:55:A0", files: lab, out: "[device] uuid = 00:2F:AC:43:55:A0\n[device] cik = '' (the one from before belongs to another device)\nkept\n",
			after: map[string]string{gatewayCfg: strings.Replace(strings.Replace(activated, cik, "''", 1), "s ;", "00:2F:AC:43:55:A0 ;", 1)}},
		{args: "-r q", files: lab, out: "[device] vendor = q\n[device] cik = '' (the one from before belongs to another device)\nkept\n",
			after: map[string]string{gatewayCfg: strings.Replace(strings.Replace(activated, cik, "''", 1), "vendor = p", "vendor = q", 1)}},
		{args: "-r q -c " + strings.Repeat("b", 40), files: lab, out: "[device] cik = bbbbbbbb*\n[device] vendor = q\nkept\n",
			after: map[string]string{gatewayCfg: strings.Replace(strings.Replace(activated, cik, strings.Repeat("b", 40), 1), "vendor = p", "vendor = q", 1)}},
		{args: "-i eth1", files: lab, out: "[device] iface = eth1\nkept\n", after: map[string]string{gatewayCfg: activated + "iface = eth1\n"}},
		{args: "-i eth1", files: noUUID, out: "[device] iface = eth1\n[device] cik = '' (the one from before belongs to another device)\nkept\n",
			after: map[string]string{gatewayCfg: "[device]\ncik=''\nvendor=p\nmodel=p\niface=eth1\n"}},
		{args: "-u '' -i ''", out: "[device] uuid = ''\n[device] iface = ''\nkept\n", after: map[string]string{gatewayCfg: "[device]\nuuid = ''\niface = ''\n"}},
		{args: "-t 1 -l 2592000 -d debug -a ''", files: lab, out: "[engine] activation_retry_interval = 2592000\n[engine] debug_level = DEBUG\n[engine] update_interval = 1\n[engine] user_agent = ''\nkept\n",
			after: map[string]string{engineConf: "[engine]\r\nupdate_interval = 1\r\nactivation_retry_interval = 2592000\r\ndebug_level = DEBUG\r\nuser_agent = ''\r\n"}},
		{args: "-a my~(x;~y)~;#'", out: "[engine] user_agent = my (x; y) ;#'\nkept\n", after: map[string]string{engineConf: "[engine]\nuser_agent = \"my (x; y) ;#'\"\n"}},
		{args: "-t 7", files: map[string]string{engineConf: "\x00\x00\n[engine\nx=1\n"}, out: "[engine] update_interval = 7\nkept\n",
			after: map[string]string{engineConf: "[engine\nx=1\n\n[engine]\nupdate_interval = 7\n"}},

		{args: "--spec=portals", status: 2, errs: "--spec=portals: want current or older"},
		{args: "--spec=", status: 2, errs: "--spec=: want current or older"},
		{args: "--support-bundle=", status: 2, errs: "want the name of a file"},
		{args: "--spec older", status: 2, errs: `unexpected argument "older"`},
		{args: "--no-such", status: 2, errs: "unknown flag: --no-such"},
		{args: "-v --once", status: 2, errs: "-v -p -e -g -C and --once do not go together"},
		{args: "-m x --spec", status: 2, errs: "settings and --spec do not go together"},
		{args: "-m", status: 2, errs: "flag needs an argument"},
		{args: "-C " + cik, status: 2, errs: `unexpected argument "e469e336*"`},
		{args: "-C" + cik, status: 2, errs: "-469e336f*"},
		{args: "-u " + cik + "=", status: 2, errs: `"e469e336*="`},
		{args: "-c " + cik[1:], files: lab, status: 2, errs: "--set-cik: this is no CIK (39 characters), want 40 letters and digits"},
		{args: "-c " + strings.Repeat("\x00", 40), status: 2, errs: "this is no CIK"},
		{args: "-m ''", status: 2, errs: `--set-model: "" cannot be used, want 1 to 64`},
		{args: "-m a~b -r q", files: lab, status: 2, errs: `--set-model: "a b" cannot be used`},
		{args: "-r " + strings.Repeat("v", 65), status: 2, errs: "--set-vendor"},
		{args: "-P a;b", status: 2, errs: "--set-product-id"},
		{args: "-P a -r b", status: 2, errs: "--set-vendor and --set-product-id say different things"},
		{args: "-P a --product-id b", status: 2, errs: "say different things"},
		{args: "-u a\nb", status: 2, errs: "--set-uuid"},
		{args: "-i a/b", status: 2, errs: "--set-iface"},
		{args: "-l 0", status: 2, errs: `--set-act-retry-interval: "0" cannot be used, want whole seconds from 1 to 2592000`},
		{args: "-t 2592001 -d loud -r q", files: lab, status: 2, errs: `--set-debug-level: "loud" is no level, want one of DEBUG, INFO`},
		{args: "-t 1.5", status: 2, errs: "whole seconds"},
		{args: "-t -5", status: 2, errs: "whole seconds"},
		{args: "-a ü", status: 2, errs: "--set-user-agent"},
		{args: "-a '\"", status: 2, errs: "one kind of quotes"},
		{args: "-t 5", files: map[string]string{engineConf + "/x": ""}, status: 1, errs: "no regular file"},
		{args: "-C", files: map[string]string{gatewayCfg + "/x": ""}, status: 1, errs: "no regular file"},
		{args: "-g", files: map[string]string{gatewayCfg + "/x": ""}, status: 1, errs: "is a directory"},
	} {
		if c.files == nil {
			c.files = bare
		}
		root := tree(t, c.files)
		var args []string
		for _, a := range strings.Split(c.args, " ") {
			if a == "" {
				continue
			}
			if a == "''" {
				a = ""
			}
			args = append(args, strings.ReplaceAll(a, "~", " "))
		}
		status, out, errs := gwe(root, args...)
		if out = strings.ReplaceAll(out, root, "ROOT"); status != c.status || out != c.out || !strings.Contains(errs, c.errs) || c.errs == "" && errs != "" {
			t.Errorf("gwe %s: %d, %q, %q; want %d, %q, %q", c.args, status, out, errs, c.status, c.out, c.errs)
		}
		if strings.Contains(errs, cik) || strings.Contains(errs, cik[1:]) {
			t.Errorf("gwe %s shows the CIK: %s", c.args, errs)
		}
		want := maps.Clone(c.files)
		maps.Copy(want, c.after)
		for name := range want {
			if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want[name] {
				t.Errorf("gwe %s: %s: %q, %v, want %q", c.args, name, got, err, want[name])
			}
		}
	}
}

// --root is the same as GWE_ROOT.
func TestRoot(t *testing.T) {
	root := tree(t, map[string]string{gatewayCfg: activated})
	if status, out, errs := gwe("/nowhere", "--root", root, "-C"); status != 0 || out != cik+"\n" {
		t.Errorf("%d, %q, %q", status, out, errs)
	}
	if _, out, _ := gwe("", "-p"); out != "/data/gwe\n" {
		t.Errorf("without a root: %q", out)
	}
	if _, out, _ := gwe(root, "-v"); len(strings.Fields(out)) != 1 {
		t.Errorf("without an image: version %q", out)
	}
}

// A setting is stored when the identity record cannot have it.
func TestIdentityFails(t *testing.T) {
	root := t.TempDir()
	var out, errs strings.Builder
	do := tasks{keepIdentity: func(at string) error { return errors.New(at + " is away") }}
	status := run([]string{"-m", "x"}, root, do, &out, &errs)
	text, err := os.ReadFile(filepath.Join(root, gatewayCfg))
	if status != 1 || out.String() != "[device] model = x\n" || !strings.Contains(errs.String(), root+" is away") || err != nil || string(text) != "[device]\nmodel = x\n" {
		t.Errorf("%d, %q, %q, %q, %v", status, out.String(), errs.String(), text, err)
	}
}

func TestHelp(t *testing.T) {
	status, out, errs := gwe("", "-h")
	if status != 0 || errs != "" {
		t.Errorf("%d, %q", status, errs)
	}
	for _, want := range slices.Concat(strings.Fields("--version --path --engine-conf --gateway-cfg --gateway-cik --once --support-bundle --spec --root -P -a --install-apps --build-app-tarball --check-tarball"), []string{"Exit status", "Settings:\n", "Apps:\n"}) {
		if !strings.Contains(out, want) {
			t.Errorf("the help has no %q", want)
		}
	}
	for _, s := range settings {
		if !strings.Contains(out, "-"+s.short+", --"+s.flag) {
			t.Errorf("the help has no --%s", s.flag)
		}
	}
	if strings.Contains(out, "--product-id") {
		t.Error("the help has the alias --product-id")
	}
}
