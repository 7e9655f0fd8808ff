// Package engine is Gateway Engine's command, gwe.
package engine

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/exosite/gwe/gweinit/cga"
	"github.com/exosite/gwe/gweinit/exosite/spec"
	"github.com/exosite/gwe/gweinit/gateway"
)

const synopsis = `usage: gwe [--once]
       gwe -v | -p | -e | -g | -C
       gwe --set-... VALUE [--set-... VALUE]...
       gwe --support-bundle[=FILE] | --spec[=FORM]
       gwe --install-apps TARBALL... | --list-apps [--json]
       gwe --uninstall-app NAME... | --rollback-app NAME...
       gwe --create-buildfile [--app-name NAME] [--app-version VERSION]
       gwe --build-app FILE [--app-name NAME] [--app-version VERSION]
       gwe --check-buildfile FILE | --check-tarball TARBALL
       gwe --install-firmware FILE|URL|- | --slots [--json] | --confirm | --rollback

Without options, gwe is the engine: it reports to Exosite, and installs what it
is told to, again and again.
`

const examples = `
The engine sees new settings by itself. One that makes the gateway another device at
Exosite (vendor, model, uuid; without a uuid the iface) takes the CIK away, which
belongs to the one before; --set-cik in the same command gives one. Settings
outlast updates.

  gwe --set-product-id a1b2c3d4e5f60000 --set-uuid GW-000123
  gwe --set-update-interval 60 --set-debug-level DEBUG
  gwe --set-user-agent ""           # the default again
  gdc write $(gwe -C) temperature 21.5
  gwe --once                        # one check-in now
  gwe --install-apps sensor.v1.2.tar.gz libs.v3.tar.gz   # both or none
  gwe --rollback-app sensor         # the version from before
  gwe --uninstall-app sensor libs
  gwe --create-buildfile -n sensor  # on a workstation, as all that builds
  scp $(gwe --build-app gwe-buildfile.json -s 1.3) root@...:/tmp
  gwe --check-tarball sensor.v1.3.tar.gz   # [PASS], or what is wrong and [FAIL]
  gwe --install-firmware /tmp/rpi3.v1.2.0.fw
  cat rpi3.v1.2.0.fw | ssh ... gwe --install-firmware -
  gwe --slots                       # what they have, and how an update goes
  gwe --rollback                    # boot the firmware from before
  gwe --spec > resources.yaml       # for the current tools (Murano)
  gwe --spec=older > spec.yaml      # a list, as the older ones take it

--set-debug-level beside what installs, builds or checks apps is not stored; they
tell all that they have in any case. GWE_ROOT in the environment is the same as
--root.

Exit status: 0 done; 1 it failed, [FAIL], or -C and there is no CIK; 2 a bad
command line.
`

// Main is the program "gwe".
func Main(args []string) int {
	return run(args, os.Getenv("GWE_ROOT"), tasks{
		serve, supportBundle, keepIdentity,
		installApps, listApps, uninstallApps, rollbackApps,
		createBuildfile, checkBuildfile, buildApp, checkTarball,
		installFirmware, slots, orderFirmware,
	}, os.Stdout, os.Stderr)
}

// tasks are what the command line starts. Tests have others.
type tasks struct {
	serve         func(root string, once bool, out, errs io.Writer) int
	supportBundle func(root, file string, out, errs io.Writer) int
	keepIdentity  func(root string) error

	installApps   func(root string, files []string, out, errs io.Writer) int
	listApps      func(root string, asJSON bool, out, errs io.Writer) int
	uninstallApps func(root string, names []string, out, errs io.Writer) int
	rollbackApps  func(root string, names []string, out, errs io.Writer) int

	createBuildfile func(name, version string, out, errs io.Writer) int
	checkBuildfile  func(file string, out, errs io.Writer) int
	buildApp        func(file, name, version string, out, errs io.Writer) int
	checkTarball    func(file string, out, errs io.Writer) int

	installFirmware func(root, from string, out, errs io.Writer) int
	slots           func(root string, asJSON bool, out, errs io.Writer) int
	orderFirmware   func(root, method string, out, errs io.Writer) int
}

// options are those of the command line.
type options struct {
	root string

	version, path, engineConf, gatewayCfg, cik bool // what to print

	spec, bundle string
	once, help   bool

	install, uninstall, rollbackApp []string // files, and names of apps
	listApps, createBuildfile       bool
	checkBuildfile, checkTarball    string
	buildApp, appName, appVersion   string

	firmware                       string
	slots, json, confirm, rollback bool
}

// The groups of flags, as the help has them.
const (
	printFlags = iota
	settingFlags
	appFlags
	firmwareFlags
	otherFlags
)

var titles = [...]string{"Print", "Settings", "Apps", "Firmware", "Other"}

// parse returns the flags by their groups.
func (o *options) parse(args []string, errs io.Writer) (groups [len(titles)]*pflag.FlagSet, err error) {
	for i := range groups {
		groups[i] = pflag.NewFlagSet("gwe", pflag.ContinueOnError)
		groups[i].SortFlags = false
	}
	f := groups[printFlags]
	f.BoolVarP(&o.version, "version", "v", false, "the firmware's version")
	f.BoolVarP(&o.path, "path", "p", false, "the folder of the settings")
	f.BoolVarP(&o.engineConf, "engine-conf", "e", false, "the file Engine.config")
	f.BoolVarP(&o.gatewayCfg, "gateway-cfg", "g", false, "the file Gateway.cfg, with the CIK")
	f.BoolVarP(&o.cik, "gateway-cik", "C", false, "the CIK; '' if there is none")
	f = groups[settingFlags]
	for _, s := range settings {
		f.VarPF(&value{setting: s}, s.flag, s.short, s.help)
	}
	f.Var(&value{setting: productID}, "product-id", "")
	f.MarkHidden("product-id")
	f = groups[appFlags]
	f.StringArrayVarP(&o.install, "install-apps", "I", nil, "install each `TARBALL` that is named, all or none of them")
	f.BoolVar(&o.listApps, "list-apps", false, "the apps that are installed")
	f.StringArrayVar(&o.uninstall, "uninstall-app", nil, "uninstall the app `NAME`, and those named behind it")
	f.StringArrayVar(&o.rollbackApp, "rollback-app", nil, "go back to the version of the app `NAME` before the present one")
	f.BoolVarP(&o.createBuildfile, "create-buildfile", "x", false, "make "+cga.BuildfileName+", which says how to build an app, in the current folder")
	f.StringVarP(&o.checkBuildfile, "check-buildfile", "w", "", "say what is wrong with the buildfile `FILE`: [PASS] or [FAIL]")
	f.StringVarP(&o.buildApp, "build-app-tarball", "y", "", "build the tarball that the buildfile `FILE` describes, and print its path; also --build-app")
	f.StringVar(&o.buildApp, "build-app", "", "")
	f.MarkHidden("build-app")
	f.StringVarP(&o.appName, "app-name", "n", "", "with -x and -y: the app's `NAME`")
	f.StringVarP(&o.appVersion, "app-version", "s", "", "with -x and -y: its `VERSION`")
	f.StringVarP(&o.checkTarball, "check-tarball", "z", "", "say what is wrong with an app's `TARBALL`: [PASS] or [FAIL]")
	f = groups[firmwareFlags]
	f.StringVar(&o.firmware, "install-firmware", "", "install the bundle in `FILE`, at an URL, or from the standard input (-), and reboot into its trial")
	f.BoolVar(&o.slots, "slots", false, "what the two slots have, and how the latest update goes")
	f.BoolVar(&o.json, "json", false, "with --slots or --list-apps: as JSON")
	f.BoolVar(&o.confirm, "confirm", false, "the firmware on trial is good, whatever it looks like")
	f.BoolVar(&o.rollback, "rollback", false, "go back to the firmware in the other slot, and reboot")
	f = groups[otherFlags]
	f.BoolVarP(&o.once, "once", "o", false, "check in once, and end")
	f.StringVar(&o.bundle, "support-bundle", "", "pack what support needs to know into `FILE`")
	f.Lookup("support-bundle").NoOptDefVal = defaultBundle
	f.StringVar(&o.spec, "spec", "", "print the spec file of a gateway's resources for Exosite's product tools; `FORM` is current or older")
	f.Lookup("spec").NoOptDefVal = "current"
	f.StringVar(&o.root, "root", o.root, "the gateway's files are below `DIR`")
	f.BoolVarP(&o.help, "help", "h", false, "this text")

	all := pflag.NewFlagSet("gwe", pflag.ContinueOnError)
	all.SetOutput(errs)
	all.Usage = func() {}
	for _, f := range groups {
		all.AddFlagSet(f)
	}
	if err := all.Parse(args); err != nil {
		return groups, err
	}
	if all.NArg() == 0 {
		return groups, nil
	}
	// Those who take several take all that has no flag, as Gateway Engine did.
	for _, list := range []*[]string{&o.install, &o.uninstall, &o.rollbackApp} {
		if len(*list) > 0 {
			*list = append(*list, all.Args()...)
			return groups, nil
		}
	}
	return groups, fmt.Errorf("unexpected argument %q", all.Arg(0))
}

func run(args []string, root string, do tasks, out, errs io.Writer) int {
	o := options{root: root}
	groups, err := o.parse(args, errs)
	given := func(name string) bool {
		return slices.ContainsFunc(groups[:], func(g *pflag.FlagSet) bool { return g.Changed(name) })
	}
	prints := o.version || o.path || o.engineConf || o.gatewayCfg || o.cik
	builds := given("build-app-tarball") || given("build-app")
	ofApps := len(o.install) > 0 || o.createBuildfile || given("check-buildfile") || builds || given("check-tarball")
	var values []*value
	groups[settingFlags].VisitAll(func(f *pflag.Flag) {
		v := f.Value.(*value)
		if !f.Changed || err != nil {
			return
		}
		if f.Name == "set-debug-level" && ofApps {
			if _, wrong := v.check(v.text); wrong != nil {
				err = fmt.Errorf("--%s: %w", f.Name, wrong)
			}
			return // Gateway Engine has it so, for this one run
		}
		values = append(values, v)
	})
	var asked []string
	for _, task := range []struct {
		asked bool
		name  string
	}{
		{prints, "-v -p -e -g -C"}, {len(values) > 0, "settings"}, {o.once, "--once"},
		{given("support-bundle"), "--support-bundle"}, {given("spec"), "--spec"},
		{len(o.install) > 0, "--install-apps"}, {o.listApps, "--list-apps"}, {len(o.uninstall) > 0, "--uninstall-app"}, {len(o.rollbackApp) > 0, "--rollback-app"},
		{o.createBuildfile, "--create-buildfile"}, {given("check-buildfile"), "--check-buildfile"}, {builds, "--build-app"}, {given("check-tarball"), "--check-tarball"},
		{given("install-firmware"), "--install-firmware"}, {o.slots, "--slots"}, {o.confirm, "--confirm"}, {o.rollback, "--rollback"},
	} {
		if task.asked {
			asked = append(asked, task.name)
		}
	}
	switch {
	case err != nil:
	case o.help:
		fmt.Fprint(out, synopsis)
		for i, title := range titles {
			fmt.Fprintf(out, "\n%s:\n%s", title, groups[i].FlagUsages())
		}
		fmt.Fprint(out, examples)
		return 0
	case len(asked) > 1:
		err = fmt.Errorf("%s do not go together: give them one after the other", strings.Join(asked, " and "))
	case prints:
		return o.print(out, errs)
	case len(values) > 0:
		return set(o.root, values, do.keepIdentity, out, errs)
	case o.json && !o.slots && !o.listApps:
		err = errors.New("--json goes with --slots and --list-apps")
	case (given("app-name") || given("app-version")) && !builds && !o.createBuildfile:
		err = errors.New("--app-name and --app-version go with --create-buildfile and --build-app")
	case slices.Contains(slices.Concat(o.install, o.uninstall, o.rollbackApp), ""):
		err = fmt.Errorf("%s: one of the names is empty", asked[0])
	case len(o.install) > 0:
		return do.installApps(o.root, o.install, out, errs)
	case o.listApps:
		return do.listApps(o.root, o.json, out, errs)
	case len(o.uninstall) > 0:
		return do.uninstallApps(o.root, o.uninstall, out, errs)
	case len(o.rollbackApp) > 0:
		return do.rollbackApps(o.root, o.rollbackApp, out, errs)
	case o.createBuildfile:
		return do.createBuildfile(o.appName, o.appVersion, out, errs)
	case (builds || given("check-buildfile") || given("check-tarball")) && o.buildApp+o.checkBuildfile+o.checkTarball == "":
		err = fmt.Errorf("%s: want the name of a file", asked[0])
	case given("check-buildfile"):
		return do.checkBuildfile(o.checkBuildfile, out, errs)
	case builds:
		return do.buildApp(o.buildApp, o.appName, o.appVersion, out, errs)
	case given("check-tarball"):
		return do.checkTarball(o.checkTarball, out, errs)
	case given("install-firmware") && o.firmware == "":
		err = errors.New("--install-firmware: want the name of a file, an URL, or -")
	case given("install-firmware"):
		return do.installFirmware(o.root, o.firmware, out, errs)
	case o.slots:
		return do.slots(o.root, o.json, out, errs)
	case o.confirm:
		return do.orderFirmware(o.root, "confirm", out, errs)
	case o.rollback:
		return do.orderFirmware(o.root, "rollback", out, errs)
	case given("support-bundle") && o.bundle == "":
		err = errors.New("--support-bundle=: want the name of a file, or no =")
	case given("support-bundle"):
		if o.bundle == defaultBundle {
			o.bundle = ""
		}
		return do.supportBundle(o.root, o.bundle, out, errs)
	case !given("spec"):
		return do.serve(o.root, o.once, out, errs)
	case o.spec == "current":
		out.Write(spec.Current(spec.GWE()))
		return 0
	case o.spec == "older":
		out.Write(spec.Older(spec.GWE()))
		return 0
	default:
		err = fmt.Errorf("--spec=%s: want current or older", o.spec)
	}
	fmt.Fprintf(errs, "gwe: %s; \"gwe --help\" shows what there is\n", masked(err.Error()))
	return 2
}

// ciks are credentials, or most of one, that somebody has given in the wrong place.
var ciks = regexp.MustCompile(`([0-9A-Za-z]{8})[0-9A-Za-z]{16,}`)

func masked(text string) string { return ciks.ReplaceAllString(text, "$1*") }

// defaultBundle stands for --support-bundle without a FILE.
const defaultBundle = "default"

// print prints what is asked for.
func (o options) print(out, errs io.Writer) (status int) {
	dir := filepath.Join(cmp.Or(o.root, "/"), gateway.Dir)
	if o.version {
		fmt.Fprintln(out, version(o.root))
	}
	if o.path {
		fmt.Fprintln(out, dir)
	}
	for _, file := range []struct {
		asked bool
		name  string
	}{{o.engineConf, gateway.EngineFile}, {o.gatewayCfg, gateway.GatewayFile}} {
		if !file.asked {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, file.name))
		if errors.Is(err, os.ErrNotExist) {
			text, err = gateway.Defaults(file.name), nil
		}
		if err != nil {
			fmt.Fprintf(errs, "gwe: %v\n", err)
			status = 1
		}
		out.Write(text)
	}
	if !o.cik {
		return status
	}
	s, _, err := gateway.Files{Dir: dir}.Load()
	switch {
	case err != nil:
		fmt.Fprintf(errs, "gwe: %v\n", err)
		return 1
	case s.CIK == "":
		fmt.Fprintln(out, "''")
		return 1
	}
	fmt.Fprintln(out, s.CIK)
	return status
}

// version returns the firmware's version: the image's on a gateway, elsewhere
// that of this program.
func version(root string) string {
	root = cmp.Or(root, "/")
	if gateway.Here(root) {
		text, _ := os.ReadFile(filepath.Join(root, "etc/os-release"))
		if v := gateway.ParseRelease(string(text))["IMAGE_VERSION"]; v != "" {
			return v
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
