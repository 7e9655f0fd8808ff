package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/builder/flash"
	"github.com/exosite/gwe/builder/flash/flashtest"
	"github.com/exosite/gwe/builder/signing"
	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/selftest"
)

// testImage is the folder of the image of the board "test", once a test wants it.
var (
	testImage      string
	buildTestImage = sync.OnceValue(func() (err error) {
		if testImage, err = os.MkdirTemp("", "flash-test-"); err != nil {
			return err
		}
		return flashtest.Build(testImage)
	})
)

// TestMain lets the test be the program builder, as another process.
func TestMain(m *testing.M) {
	if os.Getenv("BE_BUILDER") != "" {
		main()
	}
	status := m.Run()
	os.RemoveAll(testImage)
	os.Exit(status)
}

// out is the folder of the built image.
func out(t *testing.T) string {
	t.Helper()
	if err := buildTestImage(); err != nil {
		t.Fatal(err)
	}
	return testImage
}

// card is one in a reader.
type card struct{ file, device string }

const (
	mib      = 1 << 20
	cardSize = 136 * mib
)

// newCard is one of a gateway that was used: it is not empty.
func newCard(t *testing.T, size int64, options ...string) card {
	t.Helper()
	file := flashtest.File(t, size)
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(bytes.Repeat([]byte("used"), mib)); err != nil {
		t.Fatal(err)
	}
	return card{file, flashtest.Loop(t, file, options...)}
}

func hashOf(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", hash.Sum(nil))
}

// check compares a card with the image, in which the settings are of this serial
// number; "": there are none.
func (c card) check(t *testing.T, serial, product string) {
	t.Helper()
	f, err := os.Open(c.file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, disk.Size)
	if _, err := io.ReadFull(f, got); err != nil {
		t.Fatal(err)
	}
	extents, err := disk.ProvisionExtents(bytes.NewReader(got))
	if err != nil {
		t.Errorf("%s: %v", c.device, err)
		return
	}
	want, err := os.ReadFile(filepath.Join(out(t), "test.img"))
	if err != nil {
		t.Fatal(err)
	}
	var settings []byte
	for _, e := range extents {
		settings = append(settings, got[e.Offset:e.Offset+e.Length]...)
		copy(got[e.Offset:e.Offset+e.Length], want[e.Offset:])
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s has not what the image has", c.device)
	}
	text, _ := config.Text(settings)
	if p, err := config.ParseProvision(text); err != nil || p.Serial != serial || p.Product != product {
		t.Errorf("%s has the settings %+v, %v, want serial number %q, product %q", c.device, p, err, serial, product)
	}
}

// entries reads a log.
func entries(t *testing.T, path string) (list []flash.Entry) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	if err != nil || len(rows) == 0 || strings.Join(rows[0], ",") != "time,result,device,serial,mac,card,card_id,size,board,version,sha256,seconds,detail" {
		t.Fatalf("the log: %v\n%s", err, text)
	}
	for _, r := range rows[1:] {
		e := flash.Entry{Result: flash.Outcome(r[1]), Device: r[2], Serial: r[3], MAC: r[4], Card: r[5], Board: r[8], Version: r[9], Detail: r[12]}
		fmt.Sscan(r[7], &e.Size)
		list = append(list, e)
	}
	return list
}

// results are the entries of a log in short.
func results(t *testing.T, path string) string {
	t.Helper()
	var list []string
	for _, e := range entries(t, path) {
		list = append(list, strings.TrimSpace(string(e.Result)+" "+e.Serial))
	}
	return strings.Join(list, ", ")
}

// flashes runs the command with the built image, as another process, so that several
// tests can.
func flashes(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return flashesImage(t, filepath.Join(out(t), "test.img.zst"), args...)
}

func flashesImage(t *testing.T, image string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	p := start(t, false, image, args...)
	status, _ = p.ends()
	return status, p.stdout.String(), p.stderr.String()
}

// watched is a device node that we hear of when somebody opens it.
func watched(t *testing.T, device string) (path string, opened func() bool) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "node") // nobody else knows it
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(st.Rdev)); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err == nil {
		_, err = unix.InotifyAddWatch(fd, path, unix.IN_OPEN)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return path, func() bool {
		n, err := unix.Read(fd, make([]byte, 4096))
		return n > 0 || !errors.Is(err, unix.EAGAIN)
	}
}

// What is wrong with the command line is told before any device is opened.
func TestFlashCommandLine(t *testing.T) {
	device, opened := watched(t, flashtest.Loop(t, flashtest.File(t, cardSize)))
	other := filepath.Join(t.TempDir(), "by-id")
	if err := os.Symlink(device, other); err != nil {
		t.Fatal(err)
	}
	disk := flashtest.Loop(t, filepath.Join(out(t), "test.img"), "--read-only", "--partscan")
	exec.Command("addpart", disk, "1", "2048", "16384").Run() // for a kernel that does not know GPT
	plain, settings, wifi := file(t, "text"), file(t, "product: a1b2c3\n"), file(t, "network: {wifi: {ssid: x}}\n")
	used := filepath.Join(t.TempDir(), "used.csv")
	if err := os.WriteFile(used, []byte("a,b\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	built, log := "-out "+out(t)+" -board test ", " -log "+filepath.Join(t.TempDir(), "log.csv")
	for _, tt := range []struct {
		args   string // {} is a device
		status int
		want   string // in stderr
	}{
		{"-h", 0, "builder flash -board rpi3 /dev/sdb\n"},
		{"-borad x {}", 2, "not defined: -borad"},
		{built, 2, "builder flash: no device: name the cards', such as /dev/sdb (lsblk lists them)\n"},
		{"", 2, "no device"},
		{"{}", 1, "want one of -board and -image"},
		{"-board test -image x.img {}", 1, "want one of -board and -image"},
		{built + "-serial GW-1 -serials list.csv" + log + " {}", 1, "-serial and -serials: want one of them"},
		{built + "-serial GW-1 {}", 1, "serial numbers need -log FILE"},
		{built + "-serials list.csv {}", 1, "serial numbers need -log FILE"},
		{built + "-serial GW-1" + log + " {} /dev/none", 1, "-serial GW-1 is for one card: for several use a pattern such as GW-######"},
		{built + "-serial GW-1 -watch" + log + " {}", 1, "-serial GW-1 is for one card"},
		{built + "-again {}", 1, "-again goes with the -serial of the unit"},
		{built + "-again -serial GW-##" + log + " {}", 1, "-again goes with the -serial of the unit"},
		{built + "-first 7 {}", 1, "-first is a number for a -serial with #"},
		{built + "-first 7 -serial GW-7" + log + " {}", 1, "-first is a number for a -serial with #"},
		{built + "-first -7 -serial GW-##" + log + " {}", 1, "-first is a number for a -serial with #"},
		{built + "-owner " + plain + " {}", 1, "-owner is for enabling serial numbers: give -serial or -serials"},
		{built + "-qr text {}", 1, "-qr is for labels with serial numbers: give -serial or -serials"},
		{built + "-qr text -json -serial GW-##" + log + " {}", 1, "-qr text and -json: want one of them"},
		{built + "-console /dev/ttyUSB0 {}", 1, "-console goes with -watch"},
		{built + "-serial GW-##-##" + log + " {}", 1, `serial numbers "GW-##-##": want one run of at most 18 #`},
		{built + "-serial GW/1" + log + " {}", 1, `builder flash: "GW/1" is not a serial number: letters, digits`},
		{built + "-serials /none.csv" + log + " {}", 1, "read the serial numbers: open /none.csv: no such file"},
		{built + "-serials " + file(t, "GW-1\nGW-1\n") + log + " {}", 1, "line 2: GW-1 is on line 1, too"},
		{built + "-serial GW-##" + log + " -provision /none {}", 1, "read the settings: open /none: no such file"},
		{built + "-provision " + wifi + " {}", 1, "this firmware has no Wi-Fi"},
		{built + "-serial GW-##" + log + " -provision " + file(t, "product: p\nserial: GW-1\n") + " {}", 1, "serial is GW-1, and would be that of all cards"},
		{built + "-serial GW-##" + log + " -provision " + settings + " -owner /none {}", 1, "the owner's credential: open /none: no such file"},
		{built + "-serial GW-##" + log + " -owner " + file(t, strings.Repeat("a", 40)) + " {}", 1, "the settings have no product"},
		{built + "-serial GW-## -log units.txt {}", 1, "log units.txt: its name has to end in .csv or .json"},
		{built + "-serial GW-## -log " + used + " {}", 1, "log " + used + ": line 1: the first line is not time,result"},
		{built + "-serial GW-## -qr " + plain + log + " {}", 1, "-qr: mkdir " + plain + ": not a directory"},
		{"-out " + out(t) + " -board none {}", 1, "/none.img.zst: no such file or directory: build it first: make board=none image\n"},
		{"-image /none.img {}", 1, "builder flash: open the image: open /none.img: no such file or directory\n"},
		{"-image " + plain + " {}", 1, "want a BOARD.img or BOARD.img.zst"},
		{built + "/dev/none", 1, "builder flash: /dev/none: no such file or directory\n"},
		{built + plain, 1, "builder flash: " + plain + ": it is no block device: want the card's"},
		{built + disk + "p1", 1, "builder flash: " + disk + "p1: it is partition 1 of a disk: give the disk, " + disk},
		{built + "{} " + other, 1, "builder flash: " + device + " and " + other + " are the same device\n"},
		{built + "{} {}", 1, "builder flash: " + device + " is given twice\n"},
		{built + "-watch {} {}", 1, " is given twice\n"},
		{built + "-watch /dev/none", 1, "builder flash: /dev/none is not there, and may be anything that is plugged in later: put a card in, or name its reader by its place, in /dev/disk/by-path\n"},
		{built + "-watch {} " + other, 1, "are the same device"},
		{built + "-watch " + plain, 1, "it is no block device"},
		{built + "-watch -console /dev/null {}", 1, "open the console /dev/null: it is no serial port"},
		{built + "-force {}", 1, "nobody can be asked whether these are the right cards: -yes goes on without asking"},
		{built + "-watch /dev/disk/by-path/none", 1, "nobody can be asked whether these are the right cards"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			stdin := os.Stdin
			defer func() { os.Stdin = stdin }()
			var err error
			if os.Stdin, err = os.Open("/dev/null"); err != nil {
				t.Fatal(err)
			}
			defer os.Stdin.Close()
			args := append([]string{"flash"}, strings.Fields(strings.ReplaceAll(tt.args, "{}", device))...)
			status, stdout, stderr := builder(t, args...)
			if status != tt.status || stdout != "" || !strings.Contains(stderr, tt.want) {
				t.Errorf("status %d, want %d; %s, stderr\n%s\nwant %s", status, tt.status, stdout, stderr, tt.want)
			}
		})
	}
	if opened() {
		t.Error("the device was opened")
	}
}

// What must not be overwritten is not, and stays as it is.
func TestFlashRefuses(t *testing.T) {
	t.Parallel()
	fixed, small, mounted, protected := newCard(t, cardSize), newCard(t, 10*mib), newCard(t, 10*mib), newCard(t, 10*mib, "--read-only")
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext2", mounted.device).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := t.TempDir()
	if err := unix.Mount(mounted.device, dir, "ext4", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, 0)
	for _, tt := range []struct {
		name string
		card
		flags, want string
	}{
		{"not removable", fixed, "", "it is not removable (" + fixed.file + ", 142.6 MB), so it may be a disk of this computer: -force writes to it nevertheless"},
		{"too small", small, "-force", "it is too small: it has 10.5 MB, and the image 134.2 MB"},
		{"mounted", mounted, "-force", "it is in use: mounted on " + dir},
		{"no card", card{small.file, flashtest.Reader(t)}, "-force", "there is no card in it"},
		{"write-protected", protected, "-force", "it is write-protected: look at the lock on the card's side"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, log := hashOf(t, tt.file), filepath.Join(t.TempDir(), "log.csv")
			args := append([]string{"-yes", "-log", log, tt.device}, strings.Fields(tt.flags)...)
			status, stdout, stderr := flashes(t, args...)
			if status != 1 || !regexp.MustCompile(`\n`+tt.device+` +refused +- .* `+regexp.QuoteMeta(tt.want)+`\n$`).MatchString(stdout) ||
				!strings.HasSuffix(stderr, " refused: "+tt.want+"\nbuilder flash: 1 of 1 cards not good\n") {
				t.Errorf("status %d\n%s\n%s", status, stdout, stderr)
			}
			if e := entries(t, log); len(e) != 1 || e[0].Result != flash.Refused || e[0].Detail != tt.want || e[0].Device != tt.device {
				t.Errorf("log %+v", e)
			}
			if hashOf(t, tt.file) != before {
				t.Error("it was written to")
			}
		})
	}
}

// A line with a counter, a board that is flashed again, a list, and a log that keeps
// serial numbers from being used twice.
func TestFlashSerials(t *testing.T) {
	t.Parallel()
	a, b := newCard(t, cardSize), newCard(t, 300*mib+512)
	log, settings := filepath.Join(t.TempDir(), "units.csv"), file(t, "product: a1b2c3\n")
	run := func(want int, args string, cards ...card) (stdout, stderr string) {
		t.Helper()
		list := append([]string{"-yes", "-force", "-log", log, "-provision", settings}, strings.Fields(args)...)
		for _, c := range cards {
			list = append(list, c.device)
		}
		status, stdout, stderr := flashes(t, list...)
		if status != want {
			t.Errorf("%s: status %d\n%s\n%s", args, status, stdout, stderr)
		}
		return stdout, stderr
	}

	stdout, stderr := run(0, "-serial GW-######", a, b)
	want := regexp.MustCompile(`^DEVICE +RESULT  SERIAL     SIZE      TIME
` + a.device + ` +ok      GW-000001  142\.6 MB  \d+\.\d s
` + b.device + ` +ok      GW-000002  314\.6 MB  \d+\.\d s
label serial=GW-000001 board=test version=1\.2\.3
label serial=GW-000002 board=test version=1\.2\.3
$`)
	if !want.MatchString(stdout) {
		t.Errorf("it printed\n%s", stdout)
	}
	for _, c := range []card{a, b} { // with the names of files that have no blanks
		if !regexp.MustCompile("(?m)^" + c.device + " +[0-9.]+ MB  " + regexp.QuoteMeta(c.file) + "  FORCED: it is not removable ").MatchString(stderr) {
			t.Errorf("%s is not shown\n%s", c.device, stderr)
		}
	}
	a.check(t, "GW-000001", "a1b2c3")
	b.check(t, "GW-000002", "a1b2c3")
	for i, e := range entries(t, log) {
		size := map[string]int64{a.device: cardSize, b.device: 300*mib + 512}[e.Device]
		if result := []flash.Outcome{flash.Allotted, flash.OK}; !slices.Contains(result, e.Result) || e.Size != size || size == 0 || e.Board != "test" || e.Version != "1.2.3" || e.Detail != "" {
			t.Errorf("entry %d: %+v", i, e)
		}
	}
	if got := results(t, log); strings.Count(got, "allotted GW-00000") != 2 || strings.Count(got, "ok GW-00000") != 2 || !strings.HasPrefix(got, "allotted GW-000001") {
		t.Errorf("log %s", got)
	}

	list := file(t, "MAC,serial\n00:11:22:33:44:55,X-1\n00:11:22:33:44:66,X-2\n00:11:22:33:44:77,X-3\n")
	labels := filepath.Join(t.TempDir(), "labels", "new")
	stdout, _ = run(0, "-serials "+list+" -qr "+labels, b, a)
	if !strings.Contains(stdout, "\nlabel serial=X-1 mac=00:11:22:33:44:55 board=test version=1.2.3\n"+labels+"/X-1.png\nlabel serial=X-2 mac=00:11:22:33:44:66 board=test version=1.2.3\n"+labels+"/X-2.png\n") {
		t.Errorf("it printed\n%s", stdout)
	}
	if png, err := os.ReadFile(labels + "/X-2.png"); err != nil || !bytes.HasPrefix(png, []byte("\x89PNG")) {
		t.Errorf("the label: %v", err)
	}
	b.check(t, "X-1", "a1b2c3")
	a.check(t, "X-2", "a1b2c3")
	if stdout, _ = run(1, "-serials "+list, a, b); !strings.Contains(stdout, "failed") || !strings.Contains(stdout, "the card is good, but no serial number is left: all 3 of the list are used") {
		t.Errorf("one card too many: it printed\n%s", stdout)
	}
	a.check(t, "X-3", "a1b2c3")
	b.check(t, "", "")

	before := hashOf(t, a.file)
	if stdout, _ = run(1, "-serials "+list, a); !strings.Contains(stdout, "refused") || !strings.Contains(stdout, "no serial number is left: all 3 of the list are used") {
		t.Errorf("it printed\n%s", stdout)
	}
	if stdout, _ = run(1, "-serial X-2", a); !strings.Contains(stdout, "refused") || !strings.Contains(stdout, "serial number X-2 is used: -again flashes a unit again") {
		t.Errorf("it printed\n%s", stdout)
	}
	if hashOf(t, a.file) != before {
		t.Error("what was refused was written to")
	}
	if stdout, _ = run(0, "-serial X-2 -again -json -qr "+labels, a); true {
		var e flash.Entry
		if err := json.Unmarshal([]byte(stdout), &e); err != nil || e.Result != flash.OK || e.Serial != "X-2" || e.Device != a.device || e.Size != cardSize || e.SHA256 == "" || e.Seconds <= 0 || time.Since(e.Time) > time.Minute {
			t.Errorf("%v, %s", err, stdout)
		}
	}
	a.check(t, "X-2", "a1b2c3")
	if stdout, _ = run(0, "-serial GW-###### -first 9 -qr text", a); !strings.Contains(stdout, "\nlabel serial=GW-000009 board=test version=1.2.3\n\x1b[") || strings.Count(stdout, "█") < 20 {
		t.Errorf("it printed\n%s", stdout)
	}
}

// An image that was built with settings is for cards without others.
func TestFlashImageWithSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	img := filepath.Join(dir, "test.img")
	if out, err := exec.Command("cp", "--sparse=always", filepath.Join(out(t), "test.img"), img).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	settings, err := config.File([]byte("product: p\nserial: GW-7\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := disk.Provision(img, settings); err != nil {
		t.Fatal(err)
	}
	manifest, err := os.ReadFile(filepath.Join(out(t), "test.json"))
	if err == nil {
		hash := regexp.MustCompile(`[0-9a-f]{64}`).Find(manifest[bytes.Index(manifest, []byte("test.img")):])
		err = os.WriteFile(filepath.Join(dir, "test.json"), bytes.ReplaceAll(manifest, hash, []byte(hashOf(t, img))), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log.csv")
	a := newCard(t, cardSize)
	before := hashOf(t, a.file)
	for args, want := range map[string]string{
		a.device + " " + newCard(t, 10*mib).device:  "the image was built with serial number GW-7, which would be that of all cards: build it without, and use -serial",
		"-watch " + a.device:                        "the image was built with serial number GW-7",
		"-log " + log + " -serial A-## " + a.device: "the image was built with settings, and those of a card with a serial number take their place: give all of them with -provision",
	} {
		if status, _, stderr := flashesImage(t, img, append([]string{"-yes", "-force"}, strings.Fields(args)...)...); status != 1 || !strings.Contains(stderr, want) {
			t.Errorf("%s: status %d, %s", args, status, stderr)
		}
	}
	if hashOf(t, a.file) != before {
		t.Error("it was written to")
	}
	if status, _, stderr := flashesImage(t, img, "-yes", "-force", a.device); status != 0 {
		t.Errorf("status %d, %s", status, stderr)
	}
	a.check(t, "GW-7", "p")
	other := file(t, "product: q\n")
	if status, _, stderr := flashesImage(t, img, "-yes", "-force", "-log", log, "-serial", "A-##", "-provision", other, a.device); status != 0 {
		t.Errorf("status %d, %s", status, stderr)
	}
	a.check(t, "A-01", "q")
}

// The cards of a release take no firmware of a key that everybody has.
func TestFlashReleaseKeys(t *testing.T) {
	dir := t.TempDir()
	img := filepath.Join(dir, "test.img")
	manifest, err := os.ReadFile(filepath.Join(out(t), "test.json"))
	if err != nil {
		t.Fatal(err)
	}
	release := regexp.MustCompile(`("gwe:release",\s*"value": )"false"`).ReplaceAll(manifest, []byte(`$1"true"`))
	if bytes.Equal(release, manifest) {
		t.Fatalf("this manifest cannot be made a release's:\n%s", manifest)
	}
	if err := errors.Join(os.Symlink(filepath.Join(out(t), "test.img"), img), os.WriteFile(filepath.Join(dir, "test.json"), release, 0o644)); err != nil {
		t.Fatal(err)
	}
	development, _, err := signing.Public("")
	if err != nil {
		t.Fatal(err)
	}
	key := strings.Split(strings.TrimSpace(string(development)), "\n")[1]
	a := newCard(t, cardSize)
	before := hashOf(t, a.file)
	settings := file(t, "product: p\nfirmware_keys: ["+key+"]\n")
	if status, _, stderr := builder(t, "flash", "-yes", "-force", "-image", img, "-provision", settings, a.device); status != 1 || !strings.Contains(stderr, "firmware_keys[1]: ") {
		t.Errorf("status %d, %s", status, stderr)
	}
	if hashOf(t, a.file) != before {
		t.Error("it was written to")
	}
	if status, _, stderr := builder(t, "flash", "-yes", "-force", "-image", filepath.Join(out(t), "test.img"), "-provision", settings, a.device); status != 0 {
		t.Errorf("no release: status %d, %s", status, stderr)
	}
}

// The owner's credential enables the units of good cards.
func TestFlashEnables(t *testing.T) {
	t.Parallel()
	c, l := newCard(t, cardSize), newLine(t)
	log := filepath.Join(t.TempDir(), "units.csv")
	status, stdout, stderr := flashes(t, "-yes", "-force", "-log", log, "-serial", "GW-##", "-provision", l.provision, "-owner", l.owner, c.device)
	if status != 0 || strings.Contains(stdout+stderr, l.Cloud().Owner()) {
		t.Errorf("status %d\n%s\n%s", status, stdout, stderr)
	}
	c.check(t, "GW-01", l.Product())
	if d := l.Cloud().Devices(l.Product()); len(d) != 1 || d[0].SN != "GW-01" {
		t.Errorf("the product has %+v", d)
	}
	if _, err := l.device(t).Activate(t.Context(), "GW-01"); err != nil {
		t.Errorf("it does not activate: %v", err)
	}

	stranger := file(t, strings.Repeat("Secret", 6)+"CIK1")
	c.isNotEnabled(t, l, stranger, "GW-02", "the server does not take the credential for that of the product's owner")
}

// The same if the cloud is away, which takes some tries.
func TestFlashEnablesNothing(t *testing.T) {
	t.Parallel()
	c, l := newCard(t, cardSize), newLine(t)
	l.Close()
	c.isNotEnabled(t, l, l.owner, "GW-04", "connection refused")
}

// isNotEnabled flashes a card for which that fails.
func (c card) isNotEnabled(t *testing.T, l line, owner, serial, want string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "units.csv")
	status, stdout, stderr := flashes(t, "-yes", "-force", "-log", log, "-serial", serial, "-provision", l.provision, "-owner", owner, c.device)
	text := regexp.MustCompile("\n" + c.device + " +not enabled  " + serial + " .* the card is good, but .*" + want + ".*; builder enable does it later\nlabel serial=" + serial + " board")
	if status != 1 || !text.MatchString(stdout) || !strings.HasSuffix(stderr, "builder flash: 1 of 1 cards not good\n") || strings.Contains(stdout+stderr, "Secret") || strings.Contains(stdout+stderr, l.Cloud().Owner()) {
		t.Errorf("status %d\n%s\n%s", status, stdout, stderr)
	}
	if got := results(t, log); got != "allotted "+serial+", not enabled "+serial {
		t.Errorf("log %s", got)
	}
	c.check(t, serial, l.Product())
}

// process is the command as another process.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	keys           *os.File // of its terminal
	stdout, stderr printed  // a terminal is both
	ended          chan struct{}
}

// printed is what it has printed so far.
type printed struct {
	mu   sync.Mutex
	text strings.Builder
}

func (p *printed) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(data)
}

func (p *printed) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

func (p *process) text() string { return p.stdout.String() + p.stderr.String() }

// patience is how long a computer that does much else may take.
const patience = 3 * time.Minute

// prepared is "builder flash" before it is started.
func prepared(t *testing.T, image string, args ...string) *process {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, ended: make(chan struct{})}
	p.cmd = exec.Command(program, append([]string{"flash", "-image", image}, args...)...)
	p.cmd.Env = append(os.Environ(), "BE_BUILDER=1")
	return p
}

// start starts "builder flash", perhaps on a terminal of 80 columns.
func start(t *testing.T, terminal bool, image string, args ...string) *process {
	t.Helper()
	p := prepared(t, image, args...)
	if !terminal {
		p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
		p.run(func() {})
		return p
	}
	far, path := flashtest.Terminal(t)
	near, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err == nil {
		err = unix.IoctlSetWinsize(int(near.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	p.keys = far
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = near, near, near
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p.run(func() { io.Copy(&p.stdout, far) }) // until the process has closed its end
	return p
}

// run starts the process. What it prints is read meanwhile.
func (p *process) run(read func()) {
	p.t.Helper()
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		read()
		p.cmd.Wait()
	}()
	p.t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.ended
	})
}

// shows waits until it has printed a text, and returns all of it.
func (p *process) shows(text string) string {
	p.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		ended := false
		select {
		case <-p.ended:
			ended = true
		default:
		}
		if got := p.text(); strings.Contains(got, text) {
			return got
		} else if ended || time.Now().After(end) {
			p.t.Fatalf("%q does not come:\n%s", text, got)
		}
	}
}

func (p *process) types(text string) {
	p.t.Helper()
	if _, err := p.keys.WriteString(text); err != nil {
		p.t.Fatal(err)
	}
}

// ends waits for its end, and returns its status and all that it has printed.
func (p *process) ends() (status int, text string) {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("it does not end:\n%s", p.text())
	}
	return p.cmd.ProcessState.ExitCode(), p.text()
}

// On a terminal, a person is asked.
func TestFlashAsks(t *testing.T) {
	t.Parallel()
	image := filepath.Join(out(t), "test.img.zst")
	c := newCard(t, cardSize)
	link := filepath.Join(t.TempDir(), "usb-Generic_STORAGE_DEVICE_000000009744-0:0")
	if err := os.Symlink(c.device, link); err != nil {
		t.Fatal(err)
	}
	before := hashOf(t, c.file)
	for _, answer := range []string{"no\r", "\r", "\x04", "\x03", "yes, please\r"} {
		p := start(t, true, image, "-force", link)
		p.shows("All that is on " + link + " is lost. Type yes to go on: ")
		p.types(answer)
		status, text := p.ends()
		if status != 1 || !strings.Contains(text, "\nbuilder flash: nothing was written\r\n") {
			t.Errorf("%q: status %d\n%s", answer, status, text)
		}
		if !strings.Contains(text, link+"  142.6 MB  "+c.file+"  FORCED: it is not removable ") || !strings.Contains(text, "Image: test, version 1.2.3 (no release), ") {
			t.Errorf("it does not show what is lost:\n%s", text)
		}
	}
	if hashOf(t, c.file) != before {
		t.Error("it was written to")
	}

	p := start(t, true, image, "-force", link)
	p.shows("Type yes to go on: ")
	p.types("yes\r")
	status, text := p.ends()
	if status != 0 {
		t.Errorf("status %d\n%s", status, text)
	}
	c.check(t, "", "")
	// The line of progress is drawn again and again, and the table is in its place.
	_, drawn, _ := strings.Cut(text, "yes\r\n")
	steps := strings.Split(drawn, "\x1b[1A\r\x1b[J")
	last := steps[len(steps)-1]
	if len(steps) < 5 || !strings.HasPrefix(last, "DEVICE ") || strings.Count(last, "\n") != 2 {
		t.Errorf("it printed %q", drawn)
	}
	for _, s := range steps[:len(steps)-1] {
		if line, rest, _ := strings.Cut(s, "\r\n"); rest != "" || len(line) > 79 || s != "" && !strings.HasPrefix(line, "..") && !strings.HasPrefix(line, "[") {
			t.Errorf("a line of progress is %q", s)
		}
	}
	if !strings.Contains(drawn, "-0:0  writing") || !strings.Contains(drawn, "-0:0  verifying    [#") {
		t.Errorf("it printed %q", drawn)
	}
}

// Ctrl-C in the middle of a card: it is told so, and can be flashed again.
func TestFlashInterrupted(t *testing.T) {
	t.Parallel()
	c, log := newCard(t, cardSize), filepath.Join(t.TempDir(), "units.csv")
	args := []string{"-yes", "-force", "-serial", "GW-##", "-log", log, c.device}
	status, stdout, stderr := flashes(t, args...)
	soFar, _, ok := strings.Cut(stderr, "verifying")
	if status != 0 || !ok {
		t.Fatalf("status %d\n%s\n%s", status, stdout, stderr)
	}
	soFar = soFar[:strings.LastIndex(soFar, "\n")+1]

	// What it prints has to wait from then on, and so does it.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	room, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096)
	if err == nil {
		_, err = w.Write(make([]byte, room-len(soFar)))
	}
	if err != nil {
		t.Fatal(err)
	}
	p := prepared(t, filepath.Join(out(t), "test.img.zst"), args...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, w
	p.run(func() {})
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		there, err := unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ)
		if there == room {
			break
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("it does not come to verifying: %d of %d bytes, %v", there, room, err)
		}
	}
	p.cmd.Process.Signal(os.Interrupt)
	time.Sleep(100 * time.Millisecond)
	w.Close()
	go io.Copy(&p.stderr, r)
	if status, text := p.ends(); status != 1 || !regexp.MustCompile("\n"+c.device+" +interrupted +- .* s  while (writing|verifying); the card is not complete\n$").MatchString(p.stdout.String()) {
		t.Errorf("status %d\n%s", status, text)
	}
	if got := results(t, log); got != "allotted GW-01, ok GW-01, interrupted" {
		t.Errorf("log %s", got)
	}

	if status, stdout, stderr := flashes(t, args...); status != 0 {
		t.Errorf("status %d\n%s\n%s", status, stdout, stderr)
	}
	c.check(t, "GW-02", "")
}

// A line: cards are put in and taken out, and the gateways with them test themselves.
func TestFlashWatches(t *testing.T) {
	t.Parallel()
	image := filepath.Join(out(t), "test.img.zst")
	reader, log := flashtest.Reader(t), filepath.Join(t.TempDir(), "units.csv")
	gateway, port := flashtest.Terminal(t)
	labels, settings := t.TempDir(), file(t, "product: a1b2c3\n")
	args := []string{"-watch", "-yes", "-force", "-serial", "GW-##", "-log", log, "-provision", settings, "-qr", labels, "-console", port, reader, "/dev/disk/by-path/none"}
	tested := func(r selftest.Result) { fmt.Fprintf(gateway, "\xff[    3.4] gweinit: %s\r\n", r) }
	good := selftest.Result{Pass: true, Serial: "GW-01", MAC: "00:11:22:33:44:55", Board: "test", Version: "1.2.3", Storage: selftest.OK, Network: selftest.OK}

	p := start(t, false, image, args...)
	text := p.shows("Put a card in. Ctrl-C ends.\n")
	if !regexp.MustCompile(reader + ` +- +- +no card yet\n/dev/disk/by-path/none +- +- +not there yet\n`).MatchString(text) {
		t.Errorf("it shows\n%s", text)
	}
	for n, serial := range []string{"GW-01", "GW-02"} {
		c := card{flashtest.File(t, cardSize), reader}
		flashtest.Insert(t, reader, c.file)
		for tries := 1; strings.Count(p.text(), reader+": 142.6 MB, ") == n && tries < 10000; tries++ {
			if time.Sleep(10 * time.Millisecond); tries%500 == 0 { // it was so busy that it has not seen the empty reader
				flashtest.Remove(t, reader)
				time.Sleep(1200 * time.Millisecond)
				flashtest.Insert(t, reader, c.file)
			}
		}
		p.shows(reader + ": ok, serial " + serial + "; take it out, and put the next one in\n")
		p.shows("label serial=" + serial + " board=test version=1.2.3\n" + labels + "/" + serial + ".png\n")
		c.check(t, serial, "a1b2c3")
		flashtest.Remove(t, reader)
		if n == 0 {
			tested(good)
			p.shows(port + ": selftest pass, serial GW-01\n")
			p.shows("label serial=GW-01 mac=00:11:22:33:44:55 board=test version=1.2.3\n")
			time.Sleep(1200 * time.Millisecond) // so that it sees the reader empty
		}
	}
	p.cmd.Process.Signal(os.Interrupt)
	if status, text := p.ends(); status != 0 || strings.Contains(text, "not good") {
		t.Errorf("status %d\n%s", status, text)
	}
	if got := results(t, log); got != "allotted GW-01, ok GW-01, selftest pass GW-01, allotted GW-02, ok GW-02" {
		t.Errorf("log %s", got)
	}
	if e := entries(t, log)[2]; e.Device != port || e.MAC != good.MAC || e.Board != "test" || e.Version != "1.2.3" {
		t.Errorf("self-test %+v", e)
	}

	// One is too small, and one gateway does not pass.
	bad := good
	bad.Pass, bad.Network = false, "eth0: no cable"
	flashtest.Insert(t, reader, flashtest.File(t, 10*mib))
	p = start(t, true, image, args...)
	p.shows(reader + ": refused: it is too small: it has 10.5 MB, and the image 134.2 MB; take it out, and put the next one in\r\n\a\a\a")
	tested(bad)
	p.shows(port + ": selftest fail, serial GW-01: storage ok, network eth0: no cable\r\n\a\a\a")
	tested(good)
	p.shows(port + ": selftest pass, serial GW-01\r\n\a")
	p.types("\x03")
	if status, text := p.ends(); status != 1 || !strings.Contains(text, "builder flash: 1 of 1 cards not good; 1 of 2 self-tests failed\r\n") {
		t.Errorf("status %d\n%s", status, text)
	}
	flashtest.Remove(t, reader)

	// The serial port is pulled out.
	p = start(t, false, image, args...)
	p.shows("Put a card in")
	gateway.Close()
	p.shows("console " + port + ": ")
	p.cmd.Process.Signal(os.Interrupt)
	if status, text := p.ends(); status != 1 || !strings.Contains(text, "builder flash: console "+port+": ") || !strings.Contains(text, ": no more self-tests are seen\n") {
		t.Errorf("status %d\n%s", status, text)
	}
}
