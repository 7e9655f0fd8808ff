package page

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	cdpage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/exosite/gwe/gweinit/exosite/exositetest"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

const chromium = "/usr/bin/chromium"

// patience is for busy machines.
const patience = 20 * time.Second

// screenshots names the folder for them; without, they are made and go with
// the test's other files.
const screenshots = "PAGE_SCREENSHOTS"

// browser is Chromium with the page in a tab.
type browser struct {
	t     *testing.T
	ctx   context.Context
	cloud *cloud.Cloud
	url   string
	shots string
	cut   func() // ends all streams of events
	mu    sync.Mutex
	wrong []string // what the console says
}

func start(t *testing.T) *browser {
	t.Helper()
	if _, err := os.Stat(chromium); err != nil {
		t.Fatalf("%v: make setup installs it", err)
	}
	b := &browser{t: t, cloud: open(t), shots: os.Getenv(screenshots)}
	if b.shots == "" {
		b.shots = t.TempDir()
	} else if err := os.MkdirAll(b.shots, 0o755); err != nil {
		t.Fatal(err)
	}
	b.serve()

	profile := filepath.Join(t.TempDir(), "profile")
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.UserDataDir(profile), chromedp.Flag("lang", "en"),
		chromedp.Flag("disk-cache-dir", filepath.Join(profile, "cache")), chromedp.Flag("disable-gpu", true))
	allocator, end := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(end)
	ctx, leave := chromedp.NewContext(allocator)
	t.Cleanup(leave)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("end the browser: %v", err)
		}
		// Its children, which are not ours, may write a little longer.
		for late := time.Now().Add(5 * time.Second); os.RemoveAll(profile) != nil && time.Now().Before(late); {
			time.Sleep(10 * time.Millisecond)
		}
	})
	b.ctx = ctx
	b.check("start the browser", chromedp.Do(ctx))
	b.check("listen to the console", chromedp.Listen(ctx, b.hear))
	_, err := chromedp.Call(ctx, cdpage.AddScriptToEvaluateOnNewDocument, cdpage.AddScriptToEvaluateOnNewDocumentParams{Source: `
		window.violations = [];
		document.addEventListener('securitypolicyviolation', e => violations.push(e.violatedDirective + ' ' + e.blockedURI + ' ' + e.sample));`})
	b.check("watch the policy", err)
	b.size(1280, 900)
	return b
}

// serve serves the page as part of the emulator.
func (b *browser) serve() {
	var mu sync.Mutex
	up, cut := context.WithCancel(context.Background())
	b.cut = func() {
		mu.Lock()
		defer mu.Unlock()
		cut()
		up, cut = context.WithCancel(context.Background())
	}
	page := New(b.cloud, product)
	s, err := exositetest.Start(exositetest.Options{Cloud: b.cloud, Product: product, HTTP: "127.0.0.1:0",
		Page: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			ctx := up
			mu.Unlock()
			if r.URL.Path == "/page/events" {
				both, end := context.WithCancel(r.Context())
				defer end()
				defer context.AfterFunc(ctx, end)()
				r = r.WithContext(both)
			}
			page.ServeHTTP(w, r)
		})})
	b.check("start the emulator", err)
	b.url = "http://" + s.HTTPAddr()
	b.t.Cleanup(func() { s.Close() })
}

func (b *browser) hear(event any) {
	var text string
	switch e := event.(type) {
	case *log.EventEntryAdded:
		if e.Entry.Level != "error" && e.Entry.Level != "warning" {
			return
		}
		text = fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL)
	case *runtime.EventExceptionThrown:
		text = e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			text += " " + e.ExceptionDetails.Exception.Description
		}
	case *runtime.EventConsoleAPICalled:
		text = fmt.Sprintf("console.%s", e.Type)
	default:
		return
	}
	b.mu.Lock()
	b.wrong = append(b.wrong, text)
	b.mu.Unlock()
}

// quiet checks that the console is empty and that nothing was against the policy.
func (b *browser) quiet() {
	b.t.Helper()
	if got := b.text(`violations.join("; ")`); got != "" {
		b.t.Errorf("against the policy: %s", got)
	}
	if b.text(`String(window.hacked)`) != "undefined" {
		b.t.Error("a device's text was executed")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range b.wrong {
		b.t.Errorf("the console says: %s", w)
	}
	b.wrong = nil
}

func (b *browser) check(what string, err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

func (b *browser) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	b.check(what, chromedp.Do(ctx, steps...))
}

func (b *browser) click(css string) {
	b.t.Helper()
	b.do("click on "+css, chromedp.Click(chromedp.CSS(css)))
}

func (b *browser) keys(css, text string) {
	b.t.Helper()
	b.do("type into "+css, chromedp.SendKeys(chromedp.CSS(css), text))
}

// text evaluates an expression.
func (b *browser) text(expression string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	got, err := chromedp.Run(ctx, chromedp.Evaluate[string](expression, func(p *runtime.EvaluateParams) { yes := true; p.AwaitPromise = &yes }))
	b.check(expression, err)
	return got
}

// until waits until a condition is true, which the document's changes can make.
func (b *browser) until(condition string) {
	b.t.Helper()
	if got := b.text(`new Promise(done => {
		const met = () => { try { return Boolean(` + condition + `); } catch { return false; } };
		const end = text => { observer.disconnect(); clearTimeout(late); done(text); };
		const look = () => { if (met()) end(''); };
		const observer = new MutationObserver(look);
		const late = setTimeout(() => end(document.body.innerText.slice(0, 3000)), 15000);
		observer.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
		look();
	})`); got != "" {
		b.t.Fatalf("waited for %s; the page is\n%s", condition, got)
	}
}

// shows waits for a text in the main part.
func (b *browser) shows(text string) {
	b.t.Helper()
	b.until(fmt.Sprintf("document.getElementById('main').textContent.includes(%q)", text))
}

func (b *browser) open(hash string) {
	b.t.Helper()
	b.do("open "+hash, chromedp.Navigate("about:blank"), chromedp.Navigate(b.url+"/"+hash))
	b.until(`document.getElementById('link').textContent === 'live'`)
}

func (b *browser) size(width, height int64) {
	b.t.Helper()
	b.do("resize", chromedp.EmulateViewport(width, height))
}

func (b *browser) dark(yes bool) {
	b.t.Helper()
	scheme := map[bool]string{true: "dark", false: "light"}[yes]
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	b.check("change the colours", err)
}

func (b *browser) shot(name string) {
	b.t.Helper()
	b.text(`new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(''))))`)
	data, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	b.check("screenshot", err)
	b.check("screenshot", os.WriteFile(filepath.Join(b.shots, name+".png"), data, 0o644))
}

// fits checks that nothing makes the page wider than the window.
func (b *browser) fits() {
	b.t.Helper()
	if got := b.text(`document.documentElement.scrollWidth <= window.innerWidth ? '' : [...document.querySelectorAll('main *')]
		.filter(e => e.getBoundingClientRect().right > window.innerWidth + 1 && !e.closest('.scroll, pre')).map(e => e.outerHTML.slice(0, 120)).slice(0, 5).join('\n') || 'too wide'`); got != "" {
		b.t.Errorf("wider than the window at %s:\n%s", b.text(`location.hash`), got)
	}
}

// readable checks that all controls have names, and all texts a contrast of at
// least 4.5 to 1 (WCAG AA).
func (b *browser) readable() {
	b.t.Helper()
	if got := b.text(`(() => {
		const wrong = [];
		for (const e of document.querySelectorAll('input, select, textarea, button, a, progress, svg[role=img], dialog')) {
			if (!(e.labels?.length || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim())) wrong.push('no name: ' + e.outerHTML.slice(0, 120));
		}
		const channels = color => color.match(/[\d.]+/g).map(Number);
		const light = color => channels(color).slice(0, 3).map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4).reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
		const back = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if ((channels(c)[3] ?? 1) === 1) return c; } return 'rgb(255, 255, 255)'; };
		for (const e of document.querySelectorAll('body *')) {
			if (!e.checkVisibility() || e.closest(':disabled, svg') || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
			const [a, b] = [light(getComputedStyle(e).color), light(back(e))].sort((x, y) => y - x);
			if ((a + .05) / (b + .05) < 4.5) wrong.push(((a + .05) / (b + .05)).toFixed(2) + ': ' + e.outerHTML.slice(0, 120));
		}
		return [...new Set(wrong)].slice(0, 8).join('\n');
	})()`); got != "" {
		b.t.Errorf("hard to read at %s:\n%s", b.text(`location.hash`), got)
	}
}

func (b *browser) to(sn string) string { return "#/device/" + url.PathEscape(sn) }

const mac = "00:2F:AC:43:55:A0"

const df = `Filesystem           1K-blocks      Used Available Use% Mounted on
devtmpfs                 60416         0     60416   0% /dev
/dev/mmcblk0p2          126931     88340     31934  73% /
tmpfs                    62704       124     62580   0% /run
/dev/disk/by-partuuid/5a3c9d1e-with-a-long-name
                       3661852   3412960     43128  99% /data
`

const freeText = `              total        used        free      shared  buff/cache   available
Mem:         125408       %d        12044         124       72132       %d
Swap:         32768        4096       28672
`

// fill makes devices with what gateways report.
func fill(t *testing.T, c *cloud.Cloud) *cloud.Device {
	t.Helper()
	var more []cloud.Serial
	for i := range 120 {
		more = append(more, cloud.Serial{SN: fmt.Sprintf("00:2F:AC:44:%02X:%02X", i/16, i%16*13)})
	}
	if err := c.AddSerials(product, more...); err != nil {
		t.Fatal(err)
	}
	for i, s := range more[:12] {
		if err := c.Enable(product, s.SN, "127.0.0.1:50100"); err != nil {
			t.Fatal(err)
		}
		if i < 3 {
			continue
		}
		cik, err := c.Activate(product, s.SN, "10.0.2.15:40422", nil)
		if err != nil {
			t.Fatal(err)
		}
		d, _ := c.ByCIK(cik)
		state := []string{"RUNNING", "FATAL"}[i%4/3]
		write(t, d, "engine_report", fmt.Sprintf(`{"apps":[{"gwe":{"status":"RUNNING"}},{"modbus":{"status":%q}}],"firmware_version":"2.%d.0","slot":"%c"}`, state, i%3, 'a'+i%2))
		write(t, d, "device_info", info(t, 50000+i*2000))
		if i == 5 {
			if err := c.Disable(product, s.SN, "127.0.0.1:50100"); err != nil {
				t.Fatal(err)
			}
		}
	}
	d := activated(t, c, mac)
	now := c.Now()
	for i := range 24 {
		at := now.Add(time.Duration(i-24) * 4 * time.Hour)
		points := []cloud.Point{
			{Alias: "engine_report", Time: at, Value: report(4 - i%7/6)},
			{Alias: "device_info", Time: at, Value: info(t, 41000+(i*i*2711)%23000)},
			{Alias: "usage_report", Time: at, Value: used(i)},
			{Alias: "temperature", Time: at, Value: fmt.Sprint(20 + float64((i*37)%50)/10)},
		}
		if clashes, err := d.Record(points...); err != nil || len(clashes) > 0 {
			t.Fatal(err, clashes)
		}
	}
	write(t, d, "fetch_status", "modbus.v2.1.tar.gz\n+ ./install.sh\ninstalling modbus 2.1\ncopied 14 files\nOK\n")
	for id, size := range map[string]int{"modbus.v2.1.tar.gz": 348213, "reboot.v1.tar.gz": 612, "sensor-hub.v0.9.3-rc_1.tar.gz": 4718592} {
		if err := c.CreateContent(product, id, "from CI", false); err != nil {
			t.Fatal(err)
		}
		if err := c.Upload(product, id, "application/gzip", strings.NewReader(strings.Repeat("x", size))); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func report(running int) string {
	var apps []string
	for i, app := range []string{"gwe", "gmq", "modbus", "sensor-hub"} {
		status, exit := "RUNNING", 0
		if i >= running {
			status, exit = "FATAL", 1
		}
		apps = append(apps, fmt.Sprintf(`{%q:{"status":%q,"exitstatus":%d,"uptime":"3 days, 4:0%d:20","version":"2.%d"}}`, app, status, exit, i, i))
	}
	apps = append(apps, `{"reboot":{"status":"EXITED","exitstatus":0,"uptime":"","version":"1"}}`)
	return `{"apps":[` + strings.Join(apps, ",") + `],"firmware_version":"2.4.0","board":"rpi4","slot":"b",` +
		`"slots":{"a":"2.3.1, good","b":"2.4.0, running"},"errors":["2 of 5 time servers do not answer"]}`
}

func info(t *testing.T, used int) string {
	t.Helper()
	b, err := json.Marshal(map[string]string{
		"uname": "Linux gateway 6.12.41 #1 SMP PREEMPT armv7l GNU/Linux", "df": df, "free": fmt.Sprintf(freeText, used, 125408-used),
		"ipaddrs": "lo 127.0.0.1/8 ::1/128\neth0 192.168.7.23/24 fe80::22f:acff:fe43:55a0/64\nwwan0 10.64.12.9/30",
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func used(i int) string {
	return fmt.Sprintf(`{"eth0":{"gwe":{"read":{"tot_rx":%d,"max_rx":411,"tot_tx":%d,"max_tx":633,"num":%d},"content":{"tot_rx":5242880,"max_rx":4718592,"tot_tx":2210,"max_tx":702,"num":3}},
		"gmq":{"record":{"tot_rx":20100,"max_rx":220,"tot_tx":%d,"max_tx":14022,"num":%d}},"top_consumer":"gwe"},
		"wwan0":{"modbus":{"write":{"tot_rx":1210,"max_rx":121,"tot_tx":2044,"max_tx":204,"num":10}},"top_consumer":"modbus"}}`,
		2210*i, 61022*i, 12*i, 91022*i, 7*i)
}

// The page in a real browser, with a real cloud behind it.
func TestBrowser(t *testing.T) {
	b := start(t)
	device := fill(t, b.cloud)
	// One tab, one step after the other: each begins with what the page shows.
	for _, step := range []struct {
		name string
		test func(*testing.T, *browser, *cloud.Device)
	}{
		{"reading reports", testReading}, {"list", testList}, {"device", testDevice}, {"live", testLive}, {"commands", testCommands}, {"content", testUpload},
		{"add and remove", testAdd}, {"requests", testRequests}, {"connection", testConnection}, {"narrow", testNarrow}, {"hostile", testHostile},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			b.t = t
			step.test(t, b, device)
			b.quiet()
		})
		b.t = t
		if !ok {
			b.shot("failed " + step.name)
		}
	}
}

// What the page makes of the texts that Linux commands print, and of reports.
func testReading(t *testing.T, b *browser, _ *cloud.Device) {
	b.open("")
	for _, test := range []struct{ call, in, want string }{
		{"mounts", df, `[{"device":"devtmpfs","mount":"/dev","total":61865984,"used":0,"free":61865984},{"device":"/dev/mmcblk0p2","mount":"/","total":129977344,"used":90460160,"free":32700416},` +
			`{"device":"tmpfs","mount":"/run","total":64208896,"used":126976,"free":64081920},{"device":"/dev/disk/by-partuuid/5a3c9d1e-with-a-long-name","mount":"/data","total":3749736448,"used":3494871040,"free":44163072}]`},
		{"mounts", "Filesystem Size Used Avail Use% Mounted on\n/dev/sda1 1.5G 512M 1.0G 34% /mnt/a b\n", `[{"device":"/dev/sda1","mount":"/mnt/a b","total":1610612736,"used":536870912,"free":1073741824}]`},
		{"mounts", "Filesystem Type 512-blocks Used Available Capacity Mounted on\n/dev/sda1 ext4 100 50 50 50% /\n", `[{"device":"/dev/sda1","mount":"/","total":51200,"used":25600,"free":25600}]`},
		{"mounts", "a 5% b\n1 2 3 4% x\nnone 0 0 0 0% /proc\n- - - - -% -", `[]`},
		{"memory", fmt.Sprintf(freeText, 50000, 75408), `{"total":128417792,"available":77217792,"used":51200000,"swap":{"total":33554432,"used":4194304}}`},
		{"memory", "             total       used       free     shared    buffers     cached\nMem:        125000     100000      25000          0       5000      30000\n-/+ buffers/cache:      65000      60000\nSwap:            0          0          0\n",
			`{"total":128000000,"available":61440000,"used":66560000,"swap":null}`},
		{"memory", "       total   used   free   shared  buffers\nMem:  125000  100000  25000  0  5000\n", `{"total":128000000,"available":30720000,"used":97280000,"swap":null}`},
		{"memory", "        total used free shared buff/cache available\nMem:  1.0Gi 0.5Gi 0.1Gi 1Mi 0.4Gi 512Mi\n", `{"total":1073741824,"available":536870912,"used":536870912,"swap":null}`},
		{"memory", "Mem: many few\nSwap:\n-/+", `null`},
		{"memory", "", `null`},
	} {
		in, _ := json.Marshal(test.in)
		if got := b.text(fmt.Sprintf(`import('/page/reports.js').then(m => JSON.stringify(m.%s(%s)))`, test.call, in)); got != test.want {
			t.Errorf("%s of\n%s\nis %s\nwant %s", test.call, test.in, got, test.want)
		}
	}
	for _, test := range []struct{ expression, want string }{
		{`m.apps({apps: [{a: {status: 'RUNNING'}, b: {status: 'FATAL'}}, {c: 'STOPPED'}, 7, null]})`, `[{"name":"a","app":{"status":"RUNNING"}},{"name":"b","app":{"status":"FATAL"}},{"name":"c","app":{"status":"STOPPED"}}]`},
		{`m.apps({apps: {a: {status: 'RUNNING'}}})`, `[{"name":"a","app":{"status":"RUNNING"}}]`},
		{`m.apps({apps: [{name: 'flat', status: 'RUNNING'}, {name: {status: 'RUNNING'}}]})`, `[{"name":"flat","app":{"name":"flat","status":"RUNNING"}},{"name":"name","app":{"status":"RUNNING"}}]`},
		{`[m.apps(null), m.apps({apps: 'x'}), m.apps({apps: [[{}]]})]`, `[[],[],[]]`},
		{`['RUNNING', 'starting', 'FATAL', 'STOPPED', undefined].map(status => m.stateKind({status}))`, `["good","warn","bad","","bad"]`},
		{`[0, 1].map(exitstatus => m.stateKind({status: 'EXITED', exitstatus}))`, `["","bad"]`},
		{`m.firmware({firmware: {version: 2, slot: 'a'}, version: '9'})`, `{"version":"2","slot":"a"}`},
		{`m.firmware({firmware_version: '2.4', slots: {booted: 'b'}})`, `{"version":"2.4","slot":"b"}`},
		{`m.firmware([])`, `{"version":"","slot":""}`},
		{`m.usage({eth0: {gwe: {read: {tot_rx: 1}}, 'gmq/write': {num: 2}, top_consumer: 'gwe', odd: {x: 3}}, since: 'today'})`,
			`{"interfaces":[{"name":"eth0","top":"gwe","rows":[{"consumer":"gwe","method":"read","numbers":{"tot_rx":1}},{"consumer":"gmq/write","method":"","numbers":{"num":2}}]}],"rest":[["since","today"]]}`},
		{`['{', '[]', '{"a":1}', ''].map(m.object)`, `[null,null,{"a":1},null]`},
	} {
		if got := b.text(`import('/page/reports.js').then(m => JSON.stringify(` + test.expression + `))`); got != test.want {
			t.Errorf("%s is %s, want %s", test.expression, got, test.want)
		}
	}
}

func testList(t *testing.T, b *browser, _ *cloud.Device) {
	b.open("")
	b.shows("1–50 of 121")
	b.shows("2.1.0")
	b.until(`document.querySelectorAll('#devices tbody tr').length === 50`)
	b.readable()
	b.shot("list")
	b.dark(true)
	b.readable()
	b.shot("list-dark")
	b.dark(false)
	b.click(`[data-key=after]`)
	b.shows("51–100 of 121")
	b.keys("#filter", "55:a0")
	b.shows("1–1 of 1 (121 in all)")
	b.until(`document.querySelector('#devices tbody tr').textContent.includes('4 / 5') && document.querySelector('#devices').textContent.includes('42.1 MiB')`)
	if got := b.text(`document.activeElement.id`); got != "filter" {
		t.Errorf("typing moved the focus to %q", got)
	}
	b.click(`#devices a`)
	b.shows("engine_report")
	b.until(fmt.Sprintf("document.querySelector('h1').textContent === %q", mac))
}

func testDevice(t *testing.T, b *browser, _ *cloud.Device) {
	b.open(b.to(mac))
	for _, text := range []string{
		"4 of 5 running", "EXITED", "3 days, 4:00:20", "rpi4", "2.3.1, good", "2 of 5 time servers do not answer", // engine_report
		"Linux gateway 6.12.41", "42.1 MiB free of 3.5 GiB", "28.0 MiB free of 32.0 MiB", "/data", "eth0 192.168.7.23/24", // device_info
		"most by gwe", "1.3 MiB", "5.0 MiB", "record", // usage_report
		"copied 14 files", "20.1 now, 20 to 24.8", "Never written.", "activated",
	} {
		b.shows(text)
	}
	info, err := b.cloud.Device(product, mac)
	b.check("the device", err)
	b.shows(info.CIK[:8] + "*")
	if strings.Contains(b.text(`document.documentElement.outerHTML`), info.CIK[:9]) {
		t.Error("the page has more of the CIK than 8 characters")
	}
	for _, card := range []string{"engine_report", "device_info", "usage_report", "temperature"} {
		if got := b.text(fmt.Sprintf(`String(document.querySelectorAll('#card-%s svg .dot title').length)`, card)); got != "24" {
			t.Errorf("the plot of %s has %s points, want 24", card, got)
		}
	}
	b.text(`navigator.clipboard.writeText = async text => { window.copied = text; }, ''`)
	b.click("[data-key=copy]")
	b.until(`document.getElementById('notices').textContent.includes('Copied')`)
	if got := b.text(`window.copied`); !strings.HasPrefix(got, mac+"\nstatus: activated\n") || strings.Contains(got, info.CIK[:4]) {
		t.Errorf("copied: %q", got)
	}
	b.readable()
	b.shot("device")
	b.dark(true)
	b.readable()
	b.shot("device-dark")
	b.dark(false)
}

func testLive(t *testing.T, b *browser, d *cloud.Device) {
	b.open(b.to(mac))
	b.shows("4 of 5 running")
	b.until(`document.querySelectorAll('.choices input').length === 3`)
	b.keys("#fetch-text", "being typed")
	b.do("open the raw report", chromedp.Click(chromedp.CSS(`#card-engine_report details[data-key=raw] summary`)))
	b.keys("#fetch-text", ", still")
	write(t, d, "engine_report", strings.Replace(report(1), "2.4.0", "2.5.0", 1))
	b.shows("1 of 5 running")
	b.shows("2.5.0")
	if got := b.text(`document.querySelector('#fetch-text').value + ' ' + document.activeElement.id + ' ' + document.querySelector('#card-engine_report details[data-key=raw]').open`); got != "being typed, still fetch-text true" {
		t.Errorf("after a report: %q", got)
	}
	b.check("new content", b.cloud.CreateContent(product, "late.v1.tar.gz", "", false))
	b.check("new content", b.cloud.Upload(product, "late.v1.tar.gz", "", strings.NewReader("x")))
	b.until(`document.querySelectorAll('.choices input').length === 4`)
	b.check("new content", b.cloud.DeleteContent(product, "late.v1.tar.gz"))
	b.until(`document.querySelectorAll('.choices input').length === 3`)
	b.check("disable", b.cloud.Disable(product, "00:2F:AC:44:00:00", "test"))
	if got := b.text(`document.querySelector('#fetch-text').value`); got != "being typed, still" {
		t.Errorf("after new content: %q", got)
	}
}

func testCommands(t *testing.T, b *browser, d *cloud.Device) {
	b.open(b.to(mac))
	b.until(`document.querySelectorAll('.choices input').length === 3`)
	b.click(`.choices input[data-key="reboot.v1.tar.gz"]`)
	b.click(`.choices input[data-key="modbus.v2.1.tar.gz"]`)
	b.click(`#write-fetch`)
	b.until(`document.querySelector('#card-engine_fetch').textContent.includes('waiting')`)
	const want = `{"install":[{"name":"reboot.v1.tar.gz"},{"name":"modbus.v2.1.tar.gz"}]}`
	if p, _ := d.Read("engine_fetch"); p.Value != want {
		t.Errorf("engine_fetch is %q, want %q", p.Value, want)
	}
	// The news of the value may come before the answer, which empties the form.
	b.until(`document.querySelector('#fetch-text').value + document.querySelectorAll('.choices input:checked').length === '0'`)
	b.readable()
	b.shot("waiting")
	write(t, d, "engine_fetch", "")
	b.until(`document.querySelector('#card-engine_fetch').textContent.includes('taken')`)

	for _, wrong := range []string{"0", "-3", "1.5"} {
		b.keys("#interval", wrong)
		if got := b.text(`String(document.querySelector('#interval').checkValidity())`); got != "false" {
			t.Errorf("an interval of %s is let through", wrong)
		}
		b.text(`document.querySelector('#interval').value = ''`)
	}
	b.keys("#interval", "60\r")
	b.until(`document.querySelector('#card-update_interval').textContent.includes('waiting')`)
	if p, _ := d.Read("update_interval"); p.Value != "60" {
		t.Errorf("update_interval is %q", p.Value)
	}
	b.keys("#card-mode textarea", "eco")
	b.click("#card-mode button.main")
	b.until(`document.querySelector('#card-mode .value').textContent === 'eco'`)
}

func testUpload(t *testing.T, b *browser, _ *cloud.Device) {
	b.open("#/content")
	b.shows("sensor-hub.v0.9.3-rc_1.tar.gz")
	file := filepath.Join(t.TempDir(), "fresh.v1.0.tar.gz")
	b.check("a file", os.WriteFile(file, []byte("first bytes"), 0o600))
	pick := func() {
		t.Helper()
		b.do("choose a file", chromedp.SetUploadFiles(chromedp.CSS("#file"), []string{file}))
	}
	pick()
	b.until(`document.querySelector('.upload input').value === 'fresh.v1.0.tar.gz'`)
	b.readable()
	b.shot("content")
	b.click("#upload")
	b.until(`document.querySelector('#contents').textContent.includes('fresh.v1.0.tar.gz')`)
	b.check("the file", os.WriteFile(file, []byte("other bytes, more"), 0o600))
	pick()
	b.shows("Replaces 11 B")
	b.click("#upload")
	b.until(`[...document.querySelectorAll('#contents tr')].some(r => r.textContent.includes('fresh') && r.textContent.includes('17 B'))`)
	f, info, err := b.cloud.OpenContent(product, "fresh.v1.0.tar.gz")
	b.check("what was uploaded", err)
	defer f.Close()
	got := make([]byte, info.Size)
	if _, err := f.Read(got); err != nil || string(got) != "other bytes, more" {
		t.Errorf("uploaded: %q, %v", got, err)
	}

	// Files that are dropped.
	b.text(`(() => {
		const d = new DataTransfer();
		d.items.add(new File(['a'], 'drop.v1.tar.gz'));
		d.items.add(new File(['bb'], 'drop.v2.tar.gz'));
		document.querySelector('.drop').dispatchEvent(new DragEvent('drop', {dataTransfer: d, bubbles: true, cancelable: true}));
		return '';
	})()`)
	b.until(`document.querySelectorAll('.upload').length === 2`)
	b.click("#upload")
	b.until(`document.querySelector('#contents').textContent.includes('drop.v2.tar.gz') && document.querySelectorAll('.upload').length === 0`)

	b.click(`[data-key="delete drop.v1.tar.gz"]`)
	b.until(`document.querySelector('dialog h2').textContent === 'Delete drop.v1.tar.gz?'`)
	if got := b.text(`document.activeElement.textContent`); got != "Cancel" {
		t.Errorf("the key for yes would be %q", got)
	}
	b.click("dialog button[value=no]")
	b.until(`!document.querySelector('dialog')`)
	b.click(`[data-key="delete drop.v1.tar.gz"]`)
	b.click("dialog button.danger")
	b.until(`!document.querySelector('#contents').textContent.includes('drop.v1.tar.gz')`)
	if _, err := b.cloud.ContentInfo(product, "drop.v1.tar.gz"); err == nil {
		t.Error("it is still in the cloud")
	}
}

func testAdd(t *testing.T, b *browser, _ *cloud.Device) {
	b.open("#/devices")
	b.keys("#filter", "new-1")
	b.shows("No device matches.")
	b.click(".heading button.main")
	b.keys("#new-sn", "new-1\r")
	b.until(`document.querySelector('#devices tbody tr').textContent.includes('to be activated')`)
	if info, err := b.cloud.Device(product, "new-1"); err != nil || info.Status != cloud.NotActivated {
		t.Errorf("the new device: %+v, %v", info, err)
	}
	b.click("#devices tbody input")
	b.click("[data-key=disable]")
	b.until(`document.querySelector('#devices tbody tr').textContent.includes('disabled')`)
	b.click("#devices tbody a")
	b.until(`document.querySelector('h1').textContent === 'new-1'`)
	b.click("[data-key=enable]")
	b.until(`document.querySelector('.heading').textContent.includes('to be activated')`)
	b.click(".heading .danger")
	b.click("dialog button.danger")
	b.shows("No device matches.")
	if _, err := b.cloud.Device(product, "new-1"); err == nil {
		t.Error("it is still in the cloud")
	}
}

func testRequests(t *testing.T, b *browser, _ *cloud.Device) {
	get := func(path string) int {
		t.Helper()
		answer, err := http.Get(b.url + path)
		b.check("a request", err)
		answer.Body.Close()
		return answer.StatusCode
	}
	activate, err := http.PostForm(b.url+"/provision/activate", url.Values{"vendor": {product}, "model": {product}, "sn": {mac}})
	b.check("activate", err)
	activate.Body.Close()
	get("/timestamp")
	b.open("#/requests")
	b.shows("None: the emulator does all as it should.")
	b.until(`document.querySelectorAll('#requests tbody tr').length === 2`)
	b.until(`document.querySelector('#requests tbody tr').textContent.includes('/timestamp')`)
	b.shows(mac)

	b.click("[data-key='add fault'] summary")
	b.do("choose a call", chromedp.SetValue(chromedp.CSS("#fault-call"), "timestamp"))
	b.keys("#fault-status", "503")
	b.keys("#fault-retry_after", "7")
	const want = `{"call":"timestamp","status":503,"retry_after":"7"}`
	if got := b.text(`document.querySelector('#fault-text').value`); got != want {
		t.Errorf("the fault is %s, want %s", got, want)
	}
	b.click("#add-fault")
	b.until(`document.querySelector('#faults').textContent.includes('call: timestamp, status: 503, retry_after: 7')`)
	if got := get("/timestamp"); got != http.StatusServiceUnavailable {
		t.Errorf("with the fault, the answer is %d", got)
	}
	b.until(`document.querySelector('#requests tbody tr').textContent.includes('503')`)
	b.readable()
	b.shot("requests")
	b.do("take the form", chromedp.SetValue(chromedp.CSS("#fault-text"), "{not JSON"), chromedp.Click(chromedp.CSS("#add-fault")))
	b.until(`document.querySelector('.notice.bad')`)
	b.mu.Lock()
	b.wrong = slices.DeleteFunc(b.wrong, func(s string) bool { return strings.Contains(s, "400 (Bad Request)") }) // of that fault
	b.mu.Unlock()
	b.click("#faults td button")
	b.shows("None: the emulator does all as it should.")
	if got := get("/timestamp"); got != http.StatusOK {
		t.Errorf("without the fault, the answer is %d", got)
	}
	b.keys("#request-filter", "activate")
	b.until(`document.querySelectorAll('#requests tbody tr').length === 1`)
}

func testConnection(t *testing.T, b *browser, d *cloud.Device) {
	b.open(b.to(mac))
	b.shows("temperature")
	b.text(`(() => {
		const link = document.getElementById('link');
		window.lost = false;
		new MutationObserver(() => { if (link.textContent === 'not connected') window.lost = true; }).observe(link, {childList: true});
		return '';
	})()`)
	b.cut()
	b.until(`window.lost`)
	write(t, d, "temperature", "-40.25") // while nobody listens
	b.until(`document.getElementById('link').textContent === 'live'`)
	b.until(`document.querySelector('#card-temperature .value').textContent === '-40.25'`)
}

func testNarrow(t *testing.T, b *browser, _ *cloud.Device) {
	b.size(360, 740)
	defer b.size(1280, 900)
	for hash, text := range map[string]string{"#/devices": "1–50", b.to(mac): "Linux gateway", "#/content": "modbus", "#/requests": "readwrite"} {
		b.open(hash)
		b.shows(text)
		b.fits()
		name := strings.FieldsFunc(hash, func(r rune) bool { return r == '#' || r == '/' })[0]
		b.shot("phone-" + name)
	}
}

func testHostile(t *testing.T, b *browser, _ *cloud.Device) {
	const markup = `<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>`
	sn := "<svg onload=window.hacked=1>\u202e'\"&/..?#%"
	d := activated(t, b.cloud, sn)
	quoted, _ := json.Marshal(markup)
	long := strings.Repeat("0123456789abcdef", cloud.MaxValue/16)
	deep := strings.Repeat(`{"a":`, cloud.MaxValue/6-100) + "1" + strings.Repeat("}", cloud.MaxValue/6-100)
	for _, v := range []cloud.Value{
		{Alias: "engine_report", Value: fmt.Sprintf(`{"apps":[{%[1]s:{"status":%[1]s,"uptime":{"a":[1]},"version":null,"constructor":%[1]s}},7,null,"x"],"__proto__":{"hacked":1},"toString":%[1]s,"errors":%[1]s}`, quoted)},
		{Alias: "device_info", Value: `{"df": "broken` + markup},
		{Alias: "usage_report", Value: deep},
		{Alias: "fetch_status", Value: long},
		{Alias: "mode", Value: "\x00\ufffd\u202e" + markup},
	} {
		write(t, d, v.Alias, v.Value)
	}
	b.open("#/devices")
	b.keys("#filter", "onload")
	b.shows("1–1 of 1")
	b.click("#devices tbody a")
	b.until(`document.querySelector('h1').textContent === ` + fmt.Sprintf("%q", sn))
	for _, text := range []string{"This is no JSON object", `<img src=x onerror="window.hacked=1">`, "Show all 1,048,576 characters"} {
		b.shows(text)
	}
	b.until(`['engine_report', 'device_info', 'usage_report', 'fetch_status', 'mode'].every(a => document.querySelector('#card-' + a + ' details[data-key=past]'))`)
	b.fits()
	b.shot("hostile")
	if got := b.text(`String(document.querySelectorAll('main img, main script, main svg:not(.plot)').length)`); got != "0" {
		t.Errorf("%s elements of the device's making", got)
	}
	b.click("#card-fetch_status button.quiet")
	b.until(`document.querySelector('#card-fetch_status pre').textContent.length === 1048576`)

	// Other shapes than the right ones.
	for i, values := range [][3]string{
		{`[]`, `null`, `12`},
		{`{"apps":[[{}]]}`, `{"df":[],"free":{},"ipaddrs":[{}],"uname":null}`, `{"eth0":[],"wlan0":{"a":null,"b":{"c":{"num":"many"}}},"top_consumer":{}}`},
		{`{"apps":"none"}`, `{"df":{"x":1},"free":"total\nMem: x"}`, `{}`},
		{" ", "\x00", `"x"`},
	} {
		for j, alias := range []string{"engine_report", "device_info", "usage_report"} {
			write(t, d, alias, values[j])
		}
		write(t, d, "temperature", fmt.Sprint(i))
		b.until(fmt.Sprintf(`document.querySelector('#card-temperature .value').textContent === '%d'`, i))
		for j, alias := range []string{"engine_report", "device_info", "usage_report"} {
			kept := i + 2 - j/2 // a value of 1 MiB goes as soon as it is not the newest
			b.until(fmt.Sprintf(`document.querySelector('#card-%s details[data-key=past] summary').textContent.includes('(%d kept)')`, alias, kept))
		}
	}
	write(t, d, "engine_report", report(4))
	b.shows("4 of 5 running")
}
