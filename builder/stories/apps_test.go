//go:build qemu

package stories

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/exosite/gwe/builder/image"
	"github.com/exosite/gwe/builder/signing"
	"github.com/exosite/gwe/gweinit/cga/cgatest"
	"github.com/exosite/gwe/gweinit/slot"
)

type file = cgatest.File

// noise is a file of which nothing compresses.
func noise(size int) file {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data) // it never fails
	return cgatest.Plain("noise", string(data))
}

// meter is an app of a version: it reports that over and over, as the shell apps in
// the field do, by a setting that it keeps in a file beside it.
func meter(t testing.TB, version string) []byte {
	return cgatest.Tarball(t,
		cgatest.Script("echo installing meter "+version+"\ncp meter.sh /usr/local/bin/\nmkdir -p /usr/local/etc\necho "+version+" > /usr/local/etc/meter.conf\n"),
		cgatest.Supervised("command = meter.sh\nenvironment = PATH=\"$PATH:/usr/local/bin\"\n"),
		cgatest.Executable("meter.sh", `#!/bin/sh
unit=none
test ! -e /usr/local/lib/units.sh || . /usr/local/lib/units.sh
while ! gdc write $(gwe -C) meter "`+version+` $(cat /usr/local/etc/meter.conf) $unit"; do sleep 1; done
echo "changed by `+version+`" > /usr/local/etc/meter.conf
exec sleep 1000000
`))
}

// idler is an app that does nothing.
func idler(t testing.TB, what string) []byte {
	return cgatest.Tarball(t, cgatest.Script("echo "+what+"\n"), cgatest.Supervised("command = sleep 1000000\n"))
}

// order has the cloud order something of the gateway, and waits for how it ended.
func (e *exosite) order(m *machine, command, outcome string) string {
	e.t.Helper()
	before := e.outcomes(outcome)
	time.Sleep(1100 * time.Millisecond) // the cloud's times are whole seconds
	e.set("engine_fetch", command)
	e.until(m, outcome, func() bool { return e.outcomes(outcome) > before })
	return e.value("fetch_status")
}

func installs(names ...string) string {
	return `{"install": [{"name": "` + strings.Join(names, `"}, {"name": "`) + `"}]}`
}

// reported is what engine_report says of the apps.
func (e *exosite) reported() map[string]string {
	var r struct {
		Apps []map[string]struct{ Status, Version string }
	}
	json.Unmarshal([]byte(e.value("engine_report")), &r)
	apps := map[string]string{}
	for _, one := range r.Apps {
		for name, a := range one {
			apps[name] = a.Status + " " + a.Version
		}
	}
	return apps
}

// A gateway gets apps, newer versions of them, and loses them again; what goes wrong
// changes nothing.
func TestApps(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		e := startExosite(t, "GW-9", "meter")
		for _, version := range []string{"1", "2"} {
			e.offer("meter.v"+version+".tar.gz", meter(t, version))
		}
		e.offer("other.v1.tar.gz", cgatest.Tarball(t, cgatest.Script("cp noise /usr/local/\n"), cgatest.Supervised("command = sleep 1000000\n"), noise(10_000_000)))
		c := e.card(t, b)
		c.enlarge(t, 256<<20)
		m := c.boot(t)
		m.ready(b, slot.A)
		m.shell()
		e.until(m, "the first report", func() bool { return e.value("engine_report") != "" })
		m.runs("gwe --set-update-interval 5")
		meters := func(want string) {
			t.Helper()
			e.until(m, "the meter reports "+want, func() bool { return e.value("meter") == want })
		}
		pid := func(name string) string { return m.runs("supervisorctl pid " + name) }

		// Installed over the air, it runs, and is reported.
		if got := e.order(m, installs("meter.v1.tar.gz"), "installed: meter.v1.tar.gz"); !strings.HasPrefix(got, "installing meter 1\n") {
			t.Errorf("fetch_status: %q", got)
		}
		meters("1 1 none")
		m.runs("supervisorctl status meter | grep RUNNING")
		start := time.Now()
		e.set("engine_fetch", installs("other.v1.tar.gz"))
		e.until(m, "the install is told", func() bool { return e.outcomes("other.v1.tar.gz") == 1 })
		m.waits("supervisorctl status other | grep RUNNING")
		t.Logf("an app of 10 MB was told to be installed, and RUNNING, %.1f s after the command: %s", time.Since(start).Seconds(), e.value("fetch_status"))
		e.until(m, "both are reported", func() bool {
			r := e.reported()
			return r["meter"] == "RUNNING 1" && r["other"] == "RUNNING 1" && r["gwe"] == "RUNNING 1.0.0"
		})

		// A newer version: what the old one has written does not hide what it
		// brings, and the other app is not disturbed.
		other := pid("other")
		e.order(m, installs("meter.v2.tar.gz"), "installed: meter.v2.tar.gz")
		meters("2 2 none")
		if now := pid("other"); now != other {
			t.Errorf("the other app was PID %s, and is %s", other, now)
		}
		e.until(m, "the new version is reported", func() bool { return e.reported()["meter"] == "RUNNING 2" })

		// A library: those that may use it start again.
		e.offer("units.v1.tar.gz", cgatest.Tarball(t, cgatest.Script("mkdir -p /usr/local/lib; echo unit=kWh > /usr/local/lib/units.sh\n")))
		e.order(m, installs("units.v1.tar.gz"), "installed: units.v1.tar.gz")
		meters("2 changed by 2 kWh")
		if now := pid("other"); now == other {
			t.Errorf("the other app was not started again")
		}
		e.until(m, "the library is reported", func() bool { return e.reported()["units"] == "INSTALLED 1" })

		// What fails changes nothing, and says why.
		other = pid("other")
		e.offer("bad.v1.tar.gz", cgatest.Tarball(t, cgatest.Script("echo some words; echo x > /var/lib/bad; echo b > /proc/sysrq-trigger; sleep 1000 & rm -rf /data/* || true; exit 3\n")))
		if got := e.order(m, installs("bad.v1.tar.gz"), "failed: bad.v1.tar.gz: install.sh ended with status 3"); !strings.HasPrefix(got, "some words\n") {
			t.Errorf("fetch_status: %q", got)
		}
		e.offer("evil.v1.tar.gz", cgatest.Tarball(t, cgatest.Script("rm -rf /* || true\n")))
		e.order(m, installs("evil.v1.tar.gz"), "failed: evil.v1.tar.gz")
		e.offer("escape.v1.tar.gz", cgatest.Tarball(t, cgatest.Script(""), cgatest.Plain("../escape", "")))
		e.order(m, installs("meter.v1.tar.gz", "escape.v1.tar.gz"), "../escape")
		if got := m.runs("ls -1 /data/var/lib /data/apps; ls -1 /data/shared; supervisorctl pid other"); got != strings.Join([]string{"/data/apps:", "1", "2", "3", "4", "rw", "", "/data/var/lib:", "gwe", other}, "\n") {
			t.Errorf("after failures there is:\n%s", got)
		}
		m.runs("supervisorctl status meter | grep RUNNING; gwe --version; date")

		// Back, away, and there again.
		e.order(m, `{"rollback": ["meter"]}`, "rolled back: meter")
		meters("1 changed by 1 kWh")
		e.order(m, `{"uninstall": [{"name": "meter"}, {"name": "other"}]}`, "uninstalled: meter, other")
		m.runs("! supervisorctl status meter; ! supervisorctl status other; ! ls /run/apps/meter")
		e.until(m, "they are gone from the report", func() bool { return e.reported()["meter"] == "" && e.reported()["units"] != "" })
		e.order(m, `{"rollback": ["meter"], "install": [{"name": "other.v1.tar.gz"}]}`, "rolled back: meter; installed: other.v1.tar.gz")
		m.waits("supervisorctl status meter other | grep -c RUNNING | grep -x 2")

		// A one-off that reboots is told once, and the apps are there again.
		e.offer("reboot.v1.tar.gz", cgatest.Tarball(t, cgatest.Script("echo off we go; echo once >> /data/reboots; reboot\n")))
		e.set("engine_fetch", installs("reboot.v1.tar.gz"))
		m.sees(`gweinit: reboot`)
		m.ready(b, slot.A)
		m.shell()
		e.until(m, "the reboot is told", func() bool { return e.outcomes("installed: reboot.v1.tar.gz") == 1 })
		if got := e.value("fetch_status"); !strings.HasPrefix(got, "off we go\n") {
			t.Errorf("fetch_status: %q", got)
		}
		m.waits("supervisorctl status meter other | grep -c RUNNING | grep -x 2")
		m.runs("test $(cat /data/shared/reboots) = once")

		// By hand, at the shell.
		m.runs(`cd /tmp && printf '#!/bin/sh\necho by hand\nreboot --help >/dev/null 2>&1 || true\n' > install.sh && chmod +x install.sh && printf '[supervisord]\ncommand=sleep 1000000\n' > supervisor.conf && tar -czf hand.v1.tar.gz install.sh supervisor.conf`)
		m.runs("gwe --check-tarball /tmp/hand.v1.tar.gz | grep -x '.PASS.'")
		if got := m.runs("gwe --install-apps /tmp/hand.v1.tar.gz; gwe --list-apps"); !strings.Contains(got, "by hand\n") || !strings.Contains(got, "installed: hand 1") || len(regexp.MustCompile(`(?m)^(hand|meter|other|units|reboot) +1 `).FindAllString(got, -1)) != 5 {
			t.Errorf("by hand:\n%s", got)
		}
		m.waits("supervisorctl status hand | grep RUNNING")
		m.runs("gwe --uninstall-app hand && ! supervisorctl status hand && gwe --rollback-app hand && supervisorctl status hand")
		if kb, err := strconv.Atoi(m.runs("awk '/^RssAnon/{print $2}' /proc/1/status")); err != nil || kb > 6<<10 {
			t.Errorf("PID 1 has %d kB, want at most 6 MB; %v", kb, err)
		}

		// The power goes while apps are changed: it is the old or the new, and the
		// command is done in the end.
		versions := []string{"2", "1", "2"}
		if !slices.Contains(sample, b.Board) { // it is the same everywhere, and takes its time
			versions = versions[:1]
		}
		for n, version := range versions {
			before := e.outcomes("installed: meter.v" + version)
			e.set("engine_fetch", installs("meter.v"+version+".tar.gz"))
			e.until(m, "the command is taken", func() bool { return e.value("engine_fetch") == "" })
			time.Sleep(rand.N(1500 * time.Millisecond))
			m.Kill()
			m = c.boot(t)
			m.ready(b, slot.A)
			m.shell()
			e.until(m, fmt.Sprint("command ", n, " is done"), func() bool { return e.outcomes("installed: meter.v"+version) == before+1 })
			m.waits("supervisorctl status meter | grep RUNNING")
			m.waits("gwe --list-apps | grep -E '^meter +" + version + " '")
			time.Sleep(1100 * time.Millisecond)
		}
		m.runs("supervisorctl status other hand | grep -c RUNNING | grep -x 2")
		io.WriteString(m, "poweroff\n")
		m.poweredOff()
	})
}

// The examples are baked into the image: the first boot installs them, without a
// network, and once.
func TestAppsOfTheFirmware(t *testing.T) {
	eachSample(t, func(t *testing.T, b *build) {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		trust, _, err := signing.Public("")
		if err != nil {
			t.Fatal(err)
		}
		names := []string{"coffee-reporter", "load-shell", "send-log", "sine"}
		var apps []string
		for _, name := range names {
			apps = append(apps, filepath.Join(project, "apps", name))
		}
		out := t.TempDir()
		manifest, err := image.Build(t.Context(), image.Options{
			Project: project, Board: b.Board, Overlays: []string{"base", "busybox", "dev", "python"}, Version: "1.0.0", Trust: trust,
			Apps:  apps,
			Cache: filepath.Join(cache, "gateway-engine"), Out: out, Mirrors: mirrors(), Log: t.Logf,
		})
		if err != nil {
			t.Fatal(err)
		}
		b = &build{manifest, b.board, out}
		e := startExosite(t, "GW-10", "sine", "load", "coffee_level")
		c, addr := e.card(t, b), e.HTTPSAddr()
		e.Close()
		m := c.boot(t)
		m.ready(b, slot.A)
		m.shell()
		const running = "supervisorctl status coffee-reporter load-shell sine | grep -c RUNNING | grep -x 3"
		m.waits(running)
		if got := m.runs("gwe --list-apps"); len(regexp.MustCompile(`(?m)^\S+ +1\.0 +(program|one-off) `).FindAllString(got, -1)) != 4 {
			t.Errorf("installed is:\n%s", got)
		}
		m.runs("mkdir -p /data/shared/coffee && echo 80 > /data/shared/coffee/level")

		e.start(addr)
		m.runs("gwe --set-act-retry-interval 5") // and not in minutes
		installed := func() (n int) {
			for _, name := range names {
				for _, p := range e.history("fetch_status") { // send-log sends what looks like outcomes, too
					if strings.HasSuffix(p.Value, "installed: "+name+".v1.0.tar.gz") {
						n++
					}
				}
			}
			return n
		}
		e.until(m, "all installs are told", func() bool { return installed() == 4 })
		for _, p := range e.history("fetch_status") {
			if strings.Contains(p.Value, "send-log") && !strings.HasPrefix(p.Value, "== /var/log/messages\n") {
				t.Errorf("send-log sends %q", p.Value)
			}
		}
		for _, alias := range []string{"sine", "load", "coffee_level"} {
			e.until(m, alias+" is written", func() bool { return e.value(alias) != "" })
		}
		if got := e.value("coffee_level"); got != "80" {
			t.Errorf("coffee_level is %q", got)
		}

		io.WriteString(m, "reboot\n")
		m.ready(b, slot.A)
		m.shell()
		m.waits(running)
		e.until(m, "it checks in", func() bool { return m.runs("cat /run/gwe/last.json 2>/dev/null || true") != "" })
		if n := installed(); n != 4 {
			t.Errorf("%d installs were told after the second boot, want the 4 of the first", n)
		}
		io.WriteString(m, "poweroff\n")
		m.poweredOff()
	})
}

// BenchmarkFiguresOfApps has the anonymous memory that the install of an app of 100 MB
// takes, by hand, in gwe and in the process that runs the installer; and what the start
// of a program costs in the overlay of an app, against one in the plain root.
func BenchmarkFiguresOfApps(b *testing.B) {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "board\tinstall of 100 MB, s\tgwe, kB\tinstaller, kB\tplain start, ms\tin an overlay, ms\toverlay / plain\t")
	file := cgatest.Tarball(b, cgatest.Script("mkdir /usr/local/share\nmv noise /usr/local/share/\n"), noise(100_000_000))
	small := idler(b, "small")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "app", time.Time{}, bytes.NewReader(map[bool][]byte{true: file, false: small}[r.URL.Path == "/big.v1.tar.gz"]))
	}))
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	for _, name := range boards {
		c := buildOf(b, name).card(b)
		c.enlarge(b, 1<<30)
		m := c.boot(b)
		m.arrives(slot.A)
		m.shell()
		m.runs("cd /data && for app in big small; do until wget -q http://10.0.2.2:" + port + "/$app.v1.tar.gz; do sleep 1; done; done; gwe --install-apps small.v1.tar.gz")
		m.waits("supervisorctl status small | grep RUNNING")
		start := time.Now()
		most := m.runs(`gwe --install-apps big.v1.tar.gz > /tmp/out 2>&1 & pid=$!; engine=0; installer=0; ` +
			`anon() { awk '/^RssAnon/{print $2}' /proc/$1/status 2>/dev/null || echo 0; }; ` +
			`while kill -0 $pid 2>/dev/null; do n=$(anon $pid); test ${n:-0} -le $engine || engine=$n; ` +
			`for p in $(cat /proc/$pid/task/*/children 2>/dev/null); do n=$(anon $p); test ${n:-0} -le $installer || installer=$n; done; sleep 0.1; done; ` +
			`wait $pid && echo $engine $installer || cat /tmp/out`)
		took := time.Since(start)
		var gwe, installer int
		if n, _ := fmt.Sscan(most, &gwe, &installer); n != 2 {
			b.Fatalf("%s: %s", name, most)
		}
		const starts = 200
		each := func(root string) (ms float64) {
			text := m.runs(fmt.Sprintf(`chroot %s sh -c 'read up rest < /proc/uptime; i=0; while test $i -lt %d; do /usr/bin/busybox true; i=$((i+1)); done; read now rest < /proc/uptime; echo $up $now'`, root, starts))
			var up, now float64
			fmt.Sscan(text, &up, &now)
			return (now - up) * 1000 / starts
		}
		plain, overlay := each("/"), each("/run/apps/small")
		m.Kill()
		fmt.Fprintf(t, "%s\t%.0f\t%d\t%d\t%.1f\t%.1f\t%.2f\t\n", name, took.Seconds(), gwe, installer, plain, overlay, overlay/plain)
	}
	t.Flush()
}
