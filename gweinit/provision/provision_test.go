package provision

import (
	"bytes"
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/gateway"
	"github.com/exosite/gwe/gweinit/identity"
	"github.com/exosite/gwe/gweinit/powercut"
	"github.com/exosite/gwe/gweinit/ubenv"
)

// One simulated disk has both partitions: first ubenv, then boot.
const (
	bootOffset = 8 << 20
	diskSize   = bootOffset + 1<<20
)

// partition is a part of the disk, from an offset.
type partition struct {
	*powercut.Disk
	offset int64
}

func (p partition) ReadAt(b []byte, off int64) (int, error) { return p.Disk.ReadAt(b, off+p.offset) }
func (p partition) WriteAt(b []byte, off int64) (int, error) {
	return p.Disk.WriteAt(b, off+p.offset)
}
func (p partition) Close() error { return nil }

// fragments is where the file is: three parts, in no order.
var fragments = []Extent{{64 << 10, 1 << 10}, {32 << 10, 11 << 10}, {8 << 10, 512}, {4 << 10, 4<<10 - 512}}

// simFile is provision.yaml on the simulated disk.
type simFile struct {
	dev     Device
	size    int // of the file; -1: there is none
	extents []Extent
	stale   bool // the file system does not see what is written
	before  []byte
}

func (f *simFile) Read() ([]byte, error) {
	if f.size < 0 {
		return nil, fs.ErrNotExist
	}
	if f.stale && f.before != nil {
		return f.before, nil
	}
	data := make([]byte, (f.size+sector-1)/sector*sector)
	rest := data
	for _, e := range f.extents {
		n := min(len(rest), int(e.Length))
		if _, err := f.dev.ReadAt(rest[:n], e.Offset); err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	f.before = data[:f.size]
	return data[:f.size], nil
}

func (f *simFile) Open() (Device, []Extent, error) { return f.dev, f.extents, nil }
func (f *simFile) Forget() error                   { return nil }

// on returns a gateway on the disk, with an own file system of /data.
func on(d *powercut.Disk, dir string, size int) Gateway {
	return Gateway{
		Boot:  &simFile{dev: partition{d, bootOffset}, size: size, extents: fragments},
		Store: identity.NewStore(partition{d, 0}),
		Dir:   dir,
	}
}

// newDisk returns a disk with a provision.yaml and a record.
func newDisk(t *testing.T, file []byte, record map[string][]byte) *powercut.Disk {
	t.Helper()
	d := powercut.New(nil, diskSize)
	// All else on the boot partition is not to be touched.
	if _, err := d.WriteAt(bytes.Repeat([]byte("FAT!"), (diskSize-bootOffset)/4), bootOffset); err != nil {
		t.Fatal(err)
	}
	file = append(bytes.Clone(file), make([]byte, -len(file)&(sector-1))...)
	for _, e := range fragments {
		n := min(int(e.Length), len(file))
		if _, err := d.WriteAt(file[:n], bootOffset+e.Offset); err != nil {
			t.Fatal(err)
		}
		file = file[n:]
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	if record != nil {
		if err := identity.NewStore(partition{d, 0}).Save(identity.Record{Files: record}); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// fill writes files into a folder, which has nothing else then.
func fill(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	err := os.RemoveAll(dir)
	for name, data := range files {
		path := filepath.Join(dir, name)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600))
	}
	if err = errors.Join(err, os.MkdirAll(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
}

// files is what is in a folder.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		all[name], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// state is everything that a provisioning may change, for comparison.
func state(t *testing.T, g Gateway) string {
	t.Helper()
	record, err := g.load()
	file, err2 := g.Boot.Read()
	if err != nil || err2 != nil && !errors.Is(err2, fs.ErrNotExist) {
		t.Fatal(err, err2)
	}
	return "record:\n" + show(record.Files) + "files:\n" + show(files(t, g.Dir)) + "provision.yaml:\n" + strings.TrimRight(string(file), "\n")
}

// boot is what PID 1 does.
func boot(g Gateway) (changed []string, err error) {
	if err := g.Reset(func(string) error { return errors.Join(os.RemoveAll(g.Dir), os.Mkdir(g.Dir, 0o700)) }); err != nil {
		return nil, err
	}
	p, err := g.Read()
	if p == nil {
		return nil, err
	}
	if p.FactoryReset != "" {
		if err := reset(g, p.FactoryReset); err != nil {
			return nil, p.Fail(err)
		}
	}
	return p.Commit()
}

func reset(g Gateway, kind string) error {
	if err := g.AskReset(kind); err != nil {
		return err
	}
	err := g.Reset(func(string) error { return errors.Join(os.RemoveAll(g.Dir), os.Mkdir(g.Dir, 0o700)) })
	if err != nil {
		return err
	}
	record, err := g.load()
	if err != nil {
		return err
	}
	_, err = identity.Restore(record, g.Dir)
	return err
}

// A reset on its way, by a call and not by provision.yaml.
func TestReset(t *testing.T) {
	d, dir := newDisk(t, nil, map[string][]byte{gatewayFile: []byte("[device]\nuuid = s\n")}), filepath.Join(t.TempDir(), "gwe")
	fill(t, dir, map[string][]byte{gatewayFile: []byte("[device]\nuuid = s\ncik = by-hand\n"), "other": nil})
	g := on(d, dir, 0)
	wiped := ""
	wipe := func(kind string) error { wiped += kind + ";"; return nil }
	if err := g.Reset(wipe); err != nil || wiped != "" {
		t.Fatalf("nobody has asked: %v, %q", err, wiped)
	}
	if err := g.AskReset("all"); err == nil || !strings.Contains(err.Error(), `"all", want settings or everything`) {
		t.Errorf("another kind: %v", err)
	}
	if err := g.AskReset(config.ResetSettings); err != nil {
		t.Fatal(err)
	}
	// A disk that fails keeps the wish.
	broken := errors.New("broken")
	if err := g.Reset(func(string) error { return broken }); err != broken {
		t.Errorf("a wipe that fails: %v", err)
	}
	if err := g.Reset(wipe); err != nil || wiped != "settings;" {
		t.Errorf("%v, wiped %q", err, wiped)
	}
	if err := g.Reset(wipe); err != nil || wiped != "settings;" {
		t.Errorf("a second time: %v, wiped %q", err, wiped)
	}
	record, err := g.load()
	if err != nil || !bytes.Contains(record.Files[gatewayFile], []byte("by-hand")) {
		t.Errorf("%v: the CIK that was in /data only is lost", err)
	}
	// One of a later firmware is left to that.
	record.Reset = "half"
	if err := g.Store.Save(record); err != nil {
		t.Fatal(err)
	}
	if err := g.Reset(wipe); err == nil || wiped != "settings;" {
		t.Errorf("an unknown kind: %v, wiped %q", err, wiped)
	}
	if record, err := g.load(); err != nil || record.Reset != "half" {
		t.Errorf("an unknown kind: %q, %v", record.Reset, err)
	}
}

func file(t testing.TB, text string) []byte {
	t.Helper()
	file, err := config.File([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// before is a gateway that was in use.
func before() map[string][]byte {
	return unshow("<Gateway.cfg>\n[device]\ncik=" + secret + "\nvendor=p\nmodel=p\nuuid=s\nmine=1\n<Engine.config>\n[engine]\nupdate_interval=60\n" +
		"<network.yaml>\ndns: []\n<keys/firmware.pub>\nold\n<provision.yaml>\nproduct: p\nserial: s\n<timezone>\nUTC\n")
}

// The power goes in every write and sync of a provisioning; the next boot, or
// the one after, ends where one without a power cut ends.
func TestPowerCut(t *testing.T) {
	small := "product: p\nserial: s\nnetwork: {dns: [9.9.9.9]}\n"
	for _, tt := range []struct {
		name   string
		file   []byte
		record map[string][]byte
		memory bool
	}{
		{"new", file(t, full(t)), nil, false},
		{"small", file(t, small), before(), false},
		{"another device", file(t, full(t)), before(), false},
		{"of an editor", []byte(small), before(), false},
		{"of an editor, some sectors", []byte(small + strings.Repeat("# comment\n", 300)), before(), false},
		{"reset", file(t, "factory_reset: settings"), before(), false},
		{"reset and more", file(t, "factory_reset: everything\n"+full(t)), before(), false},
		{"without /data", file(t, full(t)), before(), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := newDisk(t, tt.file, tt.record)
			dir := filepath.Join(t.TempDir(), "gwe")
			// The one without a power cut.
			fill(t, dir, tt.record)
			uncut := on(start.Copy(), dir, len(tt.file))
			untouched := state(t, uncut)
			if _, err := boot(uncut); err != nil {
				t.Fatal(err)
			}
			want := state(t, uncut)
			if file, _ := uncut.Boot.Read(); want == untouched || !bytes.Equal(file, config.Done(len(tt.file))) {
				t.Fatalf("without a power cut:\n%s", want)
			}
			if p, err := uncut.Read(); p != nil || err != nil {
				t.Errorf("after that: %+v, %v", p, err)
			}
			early := 0
			n, err := powercut.Each(start, func(d *powercut.Disk) error {
				fill(t, dir, tt.record)
				g := on(d, dir, len(tt.file))
				if tt.memory {
					g.Dir, g.Memory = filepath.Join(t.TempDir(), "memory"), true
					fill(t, g.Dir, tt.record)
				}
				_, err := boot(g)
				return err
			}, func(name string, after *powercut.Disk, err error) {
				os.Remove(filepath.Join(dir, errorFile)) // without power it was not written
				left := files(t, dir)
				defer fill(t, dir, left) // the same, for the next content of the disk
				g := on(after, dir, len(tt.file))
				if state(t, g) == untouched {
					early++
				}
				if file, _ := g.Boot.Read(); err == nil && !tt.memory && state(t, g) != want || err == nil && !bytes.Equal(file, config.Done(len(file))) {
					t.Errorf("%s: it was done, but there is\n%s", name, state(t, g))
				}
				for _, when := range []string{"second", "third"} {
					if _, err := boot(g); err != nil {
						t.Errorf("%s, %s boot: %v", name, when, err)
					}
					if got := state(t, g); got != want {
						t.Errorf("%s, %s boot: got\n%s\nwant\n%s", name, when, got, want)
					}
				}
				rest := make([]byte, diskSize-bootOffset)
				partition{after, bootOffset}.ReadAt(rest, 0)
				for _, e := range fragments {
					copy(rest[e.Offset:e.Offset+e.Length], bytes.Repeat([]byte("FAT!"), int(e.Length)/4))
				}
				if !bytes.Equal(rest, bytes.Repeat([]byte("FAT!"), len(rest)/4)) {
					t.Errorf("%s: more of the boot partition was written than the file", name)
				}
			})
			if err != nil || early == 0 || early == n {
				t.Errorf("%d contents, %d of them as before, %v", n, early, err)
			}
			t.Logf("%d contents after a power cut, %d of them as before", n, early)
		})
	}
}

// The power goes between the files of /data/gwe: the first ones are there.
func TestPowerCutBetweenFiles(t *testing.T) {
	doc := file(t, full(t))
	d, dir := newDisk(t, doc, before()), filepath.Join(t.TempDir(), "gwe")
	fill(t, dir, before())
	g := on(d.Copy(), dir, len(doc))
	changed, err := boot(g)
	if err != nil || !slices.Equal(changed, slices.Sorted(slices.Values(allFiles))) {
		t.Fatalf("changed %q, %v", changed, err)
	}
	want, after := state(t, g), files(t, dir)
	cuts := 0
	for set := range 1 << len(allFiles) { // any of them
		some := before()
		for i, name := range allFiles {
			if set>>i&1 == 1 {
				some[name] = after[name]
			}
		}
		// The record was saved, and nothing else.
		committed := d.Copy()
		fill(t, dir, before())
		blocked := on(committed, dir, len(doc))
		p, err := blocked.Read()
		if err != nil {
			t.Fatal(err)
		}
		record, err := blocked.load()
		if err := errors.Join(err, p.apply(&record), blocked.Store.Save(record)); err != nil {
			t.Fatal(err)
		}
		fill(t, dir, some)
		// An unfinished file beside, and what identity.Restore may bring.
		os.WriteFile(filepath.Join(dir, ".Gateway.cfg.new"), []byte("torn"), 0o400)
		os.WriteFile(filepath.Join(dir, noteFile), []byte("restored"), 0o400)
		g := on(committed, dir, len(doc))
		p, err = g.Read()
		if err != nil || p == nil || !p.Applied {
			t.Fatalf("second boot: %+v, %v", p, err)
		}
		changed, err := p.Commit()
		if got := state(t, g); got != want || err != nil || len(changed) != len(allFiles)-onesOf(set) {
			t.Errorf("set %b: changed %q, %v, got\n%s\nwant\n%s", set, changed, err, got, want)
		}
		cuts++
	}
	t.Logf("%d sets of files", cuts)
}

func onesOf(n int) (ones int) {
	for ; n > 0; n >>= 1 {
		ones += n & 1
	}
	return ones
}

// failing fails one operation of the boot partition, or forgets what was
// written.
type failing struct {
	Device
	op string
}

var errIO = errors.New("input/output error")

func (f failing) WriteAt(p []byte, off int64) (int, error) {
	switch f.op {
	case "write":
		return 0, errIO
	case "forget":
		return len(p), nil
	}
	return f.Device.WriteAt(p, off)
}

func (f failing) Sync() error {
	if f.op == "sync" {
		return errIO
	}
	return f.Device.Sync()
}

// failingStore is ubenv, on which writing fails.
type failingStore struct{ ubenv.Device }

func (failingStore) WriteAt([]byte, int64) (int, error) { return 0, errIO }

// A provision.yaml that cannot be overwritten is applied once, with its
// factory reset, and from then on only tried to be overwritten.
func TestOverwritingFails(t *testing.T) {
	const applied = "the settings are applied, but provision.yaml still has them: "
	for _, tt := range []struct {
		name, want, then string
		breakIt          func(f *simFile)
	}{
		{"write", applied + "overwrite its sectors: input/output error", "", func(f *simFile) { f.dev = failing{f.dev, "write"} }},
		{"sync", applied + "sync its sectors: input/output error", "", func(f *simFile) { f.dev = failing{f.dev, "sync"} }},
		{"forget", applied + "its sectors read back differently from what was written: the disk may be worn out", "", func(f *simFile) { f.dev = failing{f.dev, "forget"} }},
		{"another place", applied + "its sectors do not have what it has; not overwriting them", "", func(f *simFile) { f.extents = slices.Clone(f.extents[1:]); f.stale = true }},
		{"too short", applied + "its sectors do not have what it has; not overwriting them", "", func(f *simFile) { f.extents = f.extents[:2]; f.stale = true }},
		{"stale", applied + "its sectors are overwritten, but the file system still has what was there", applied + "its sectors do not have what it has; not overwriting them", func(f *simFile) { f.stale = true }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			doc := file(t, "factory_reset: everything\ntimezone: UTC\nnetwork: {dns: [9.9.9.9]}\n")
			d, dir := newDisk(t, doc, before()), filepath.Join(t.TempDir(), "gwe")
			fill(t, dir, before())
			g := on(d, dir, len(doc))
			f := g.Boot.(*simFile)
			if tt.name == "another place" || tt.name == "too short" {
				f.Read() // what the file system has
			}
			tt.breakIt(f)
			if _, err := boot(g); err == nil || err.Error() != tt.want {
				t.Fatalf("got  %v\nwant %s", err, tt.want)
			}
			// What has changed since stays so.
			record, err := g.load()
			if err != nil {
				t.Fatal(err)
			}
			for name, text := range map[string]string{networkFile: "hostname: changed\n", gatewayFile: "[device]\ncik = new\n"} {
				if name == gatewayFile { // the network's gets into the record later
					record.Files[name] = []byte(text)
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := g.Store.Save(record); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				p, err := g.Read()
				if err != nil || p == nil || !p.Applied || p.FactoryReset != "" {
					t.Fatalf("next boot: %+v, %v", p, err)
				}
				if changed, err := p.Commit(); err == nil || len(changed) > 0 {
					t.Errorf("next boot: changed %q, %v", changed, err)
				}
				if got := string(files(t, dir)[networkFile]); got != "hostname: changed\n" {
					t.Errorf("next boot: network.yaml is %q", got)
				}
				if got := string(files(t, dir)[errorFile]); got != cmp.Or(tt.then, tt.want)+"\n" {
					t.Errorf("%s has %q", errorFile, got)
				}
			}
			g = on(d, dir, len(doc))
			if _, err := boot(g); err != nil {
				t.Errorf("when it works again: %v", err)
			}
			if p, err := g.Read(); p != nil || err != nil {
				t.Errorf("after that: %+v, %v", p, err)
			}
			if all := files(t, dir); all[errorFile] != nil || string(all[networkFile]) != "hostname: changed\n" {
				t.Errorf("after that: %s", show(all))
			}
		})
	}
}

// What keeps the settings from being applied changes nothing.
func TestRefused(t *testing.T) {
	good := file(t, "timezone: UTC\nlog_level: INFO\n")
	ca := parsed(t, full(t)).Exosite.CA
	for _, tt := range []struct {
		name, file, want string
		change           func(g *Gateway, d *powercut.Disk)
	}{
		{"bad values", "product: a b\nwifi: {}\n", "line 1: product: \"a b\" is not a product ID: letters, digits, - and _, at most 63\n" +
			"line 2: wifi: this firmware has no Wi-Fi yet; remove it\n", nil},
		{"too large", strings.Repeat("# x\n", 3000) + "product: p\n" + strings.Repeat("# y\n", 6000), "it has 36011 bytes, at most 32768 are allowed\n",
			func(g *Gateway, d *powercut.Disk) {
				f := g.Boot.(*simFile)
				f.stale, f.before = true, []byte(strings.Repeat("# x\n", 3000)+"product: p\n"+strings.Repeat("# y\n", 6000))
			}},
		{"below the mark", string(config.Done(512)) + "\nproduct: p\n", "line 1: this line says that the gateway is provisioned; remove it, and the settings below count\n", nil},
		{"a reset without /data", "factory_reset: settings\n", "factory_reset: the data partition cannot be used now; nothing was changed, the next boot tries again\n",
			func(g *Gateway, _ *powercut.Disk) { g.Memory = true }},
		{"the record cannot be saved", string(good), "save the settings, nothing was changed: identity: write 0x100000: input/output error\n",
			func(g *Gateway, d *powercut.Disk) { g.Store = identity.NewStore(failingStore{partition{d, 0}}) }},
		{"the record is full", "exosite:\n  ca: |\n" + "    " + strings.ReplaceAll(strings.TrimSpace(strings.Repeat(ca, 7)), "\n", "\n    ") + "\n",
			"save the settings, nothing was changed: identity: 9 files take 67643 bytes with their names, there is room for 65484\n",
			func(g *Gateway, d *powercut.Disk) {
				files := before()
				files["large"] = make([]byte, 50000)
				if err := g.Store.Save(identity.Record{Files: files}); err != nil {
					panic(err)
				}
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, dir := newDisk(t, []byte(tt.file)[:min(len(tt.file), 16<<10)], before()), filepath.Join(t.TempDir(), "gwe")
			fill(t, dir, before())
			g := on(d, dir, len(tt.file))
			if tt.change != nil {
				tt.change(&g, d)
			}
			untouched := state(t, g)
			for range 2 {
				if changed, err := boot(g); err == nil || len(changed) > 0 || strings.Contains(err.Error(), secret) {
					t.Errorf("changed %q, %v", changed, err)
				}
				if got := string(files(t, dir)[errorFile]); got != tt.want {
					t.Errorf("%s: got\n%s\nwant\n%s", errorFile, got, tt.want)
				}
			}
			if err := os.Remove(filepath.Join(dir, errorFile)); err != nil {
				t.Error(err)
			}
			if got := state(t, g); got != untouched {
				t.Errorf("got\n%s\nwant\n%s", got, untouched)
			}
		})
	}
}

// Nothing to do: nothing is written, and an error from before is gone.
func TestNothingToDo(t *testing.T) {
	for name, f := range map[string][]byte{"template": config.Blank(), "done": config.Done(config.FileSize), "erased": make([]byte, 16<<10), "none": nil,
		"done, by another firmware": append(config.Done(512), "# other words\n"...)} {
		t.Run(name, func(t *testing.T) {
			d, dir := newDisk(t, f, before()), filepath.Join(t.TempDir(), "gwe")
			fill(t, dir, before())
			os.WriteFile(filepath.Join(dir, errorFile), []byte("old"), 0o600)
			size := len(f)
			if f == nil {
				size = -1
			}
			g, writes := on(d, dir, size), d.Writes
			if p, err := g.Read(); p != nil || err != nil || d.Writes != writes || !maps.EqualFunc(files(t, dir), before(), bytes.Equal) {
				t.Errorf("%+v, %v, %d writes, files:\n%s", p, err, d.Writes-writes, show(files(t, dir)))
			}
		})
	}
}

// Settings that came while /data was memory get into the real one, before
// those that come then.
func TestMemory(t *testing.T) {
	doc := file(t, "{product: q, serial: t, network: {ntp: [a.org]}}")
	for _, next := range []string{"", "timezone: Europe/Berlin"} {
		d, memory, dir := newDisk(t, doc, before()), t.TempDir(), filepath.Join(t.TempDir(), "gwe")
		fill(t, dir, before())
		g := on(d, memory, len(doc))
		g.Memory = true
		if changed, err := boot(g); err != nil || !slices.Equal(changed, []string{gatewayFile, networkFile, settingsFile}) {
			t.Fatalf("changed %q, %v", changed, err)
		}
		// Still memory: nothing to do, and no file is lost.
		if changed, err := boot(g); err != nil || changed != nil {
			t.Fatalf("again: changed %q, %v", changed, err)
		}
		// It was activated there.
		record, err := g.load()
		if err != nil {
			t.Fatal(err)
		}
		record.Files[gatewayFile] = append(bytes.Clone(record.Files[gatewayFile]), "cik = new\n"...)
		if err := g.Store.Save(record); err != nil {
			t.Fatal(err)
		}
		if next != "" {
			d2 := newDisk(t, file(t, next), nil)
			data := make([]byte, diskSize-bootOffset)
			partition{d2, bootOffset}.ReadAt(data, 0)
			partition{d, bootOffset}.WriteAt(data, 0)
		}
		g = on(d, dir, len(doc))
		if _, err := boot(g); err != nil {
			t.Fatal(err)
		}
		got := files(t, dir)
		if f := gateway.ParseINI(got[gatewayFile]); f.Value("device", cik) != "new" || f.Value("device", uuid) != "t" || f.Value("device", vendor) != "q" || f.Value("device", "mine") != "1" {
			t.Errorf("Gateway.cfg:\n%s", got[gatewayFile])
		}
		if !strings.Contains(string(got[networkFile]), "a.org") || string(got[timezoneFile]) != map[string]string{"": "UTC\n", "timezone: Europe/Berlin": "Europe/Berlin\n"}[next] {
			t.Errorf("files:\n%s", show(got))
		}
		if p, err := g.Read(); p != nil || err != nil {
			t.Errorf("after that: %+v, %v", p, err)
		}
	}
}

// What is owed to the real /data does not wait for a provision.yaml that has a
// mistake.
func TestMemoryThenRefused(t *testing.T) {
	doc := file(t, "{product: q, network: {ntp: [a.org]}}")
	d, memory, dir := newDisk(t, doc, before()), t.TempDir(), filepath.Join(t.TempDir(), "gwe")
	fill(t, dir, before())
	g := on(d, memory, len(doc))
	g.Memory = true
	if _, err := boot(g); err != nil {
		t.Fatal(err)
	}
	bad := bytes.Repeat([]byte("\n"), len(doc))
	copy(bad, "serail: s\n")
	data := make([]byte, diskSize-bootOffset)
	partition{newDisk(t, bad, nil), bootOffset}.ReadAt(data, 0)
	partition{d, bootOffset}.WriteAt(data, 0)
	g = on(d, dir, len(doc))
	if _, err := boot(g); err == nil || !strings.Contains(err.Error(), "serail") {
		t.Errorf("%v", err)
	}
	got := files(t, dir)
	if f := gateway.ParseINI(got[gatewayFile]); f.Value("device", vendor) != "q" || !strings.Contains(string(got[networkFile]), "a.org") {
		t.Errorf("what was owed is not there:\n%s", show(got))
	}
}

// A file in /data/gwe that cannot be written: the others are, provision.yaml
// stays, and the next boot tries again.
func TestFileFails(t *testing.T) {
	doc := file(t, full(t))
	d, dir := newDisk(t, doc, nil), filepath.Join(t.TempDir(), "gwe")
	fill(t, dir, unshow("<keys>\nnot a folder\n"))
	g := on(d, dir, len(doc))
	changed, err := boot(g)
	if err == nil || !strings.Contains(err.Error(), "keys") || len(changed) != len(allFiles)-2 {
		t.Errorf("changed %q, %v", changed, err)
	}
	if file, err := g.Boot.Read(); err != nil || !bytes.Equal(file, doc) {
		t.Errorf("provision.yaml: %q, %v", file, err)
	}
	if err := os.Remove(filepath.Join(dir, "keys")); err != nil {
		t.Fatal(err)
	}
	if changed, err := boot(g); err != nil || !slices.Equal(changed, []string{caFile, keysFile}) {
		t.Errorf("the next boot: changed %q, %v", changed, err)
	}
}

// The same document a second time, as a person writes it again, is applied
// again.
func TestSameAgain(t *testing.T) {
	doc := file(t, "factory_reset: settings")
	d, dir := newDisk(t, doc, before()), filepath.Join(t.TempDir(), "gwe")
	fill(t, dir, before())
	g := on(d, dir, len(doc))
	for range 2 {
		if _, err := boot(g); err != nil {
			t.Fatal(err)
		}
		rest := doc
		for _, e := range fragments {
			g.Boot.(*simFile).dev.WriteAt(rest[:min(len(rest), int(e.Length))], e.Offset)
			rest = rest[min(len(rest), int(e.Length)):]
		}
		if p, err := g.Read(); err != nil || p == nil || p.Applied || p.FactoryReset != config.ResetSettings {
			t.Fatalf("%+v, %v", p, err)
		}
	}
}

// What the engine has changed gets into the record, but not what is missing, no
// good, or to be overwritten by a provisioning that has not come to its end. What
// /data did not take is written at the next boot.
func TestKeep(t *testing.T) {
	const old, cfg, conf = "[device]\ncik=old\n", "[device]\ncik=new\n", "[engine]\nupdate_interval=60\n"
	for _, tt := range []struct {
		name         string
		files        map[string]string
		note         string // in the record
		text         string // given
		memory       bool
		gateway, eng string // in the record afterwards
		left         string // the note
		err          string
		boot         string // Gateway.cfg after the next boot
	}{
		{"both", map[string]string{gatewayFile: cfg, engineFile: conf}, "", "", false, cfg, conf, "", "", cfg},
		{"none is there", nil, "", "", false, old, "", "", "", old},
		{"empty", map[string]string{gatewayFile: "\n"}, "", "", false, old, "", "", "is empty or garbled", "\n"},
		{"zeros", map[string]string{gatewayFile: "\x00\x00", engineFile: conf}, "", "", false, old, conf, "", "is empty or garbled", old},
		{"owed", map[string]string{gatewayFile: cfg, engineFile: conf}, "sum\n" + gatewayFile + "\n", "", false, old, conf, "sum\n" + gatewayFile + "\n", "", old},
		{"owed, and a text", map[string]string{gatewayFile: old}, "sum\n" + gatewayFile + "\n", cfg, false, cfg, "", "sum\n" + gatewayFile + "\n", "", cfg},
		{"provisioning is done, its file could not be overwritten", map[string]string{gatewayFile: cfg}, "sum\n", "", false, cfg, "", "sum\n", "", cfg},
		{"a text in place of the file", map[string]string{gatewayFile: old + "\n"}, "", cfg, false, cfg, "", "kept\n" + gatewayFile + "\n", "", cfg},
		{"a text and no file", nil, "", cfg, false, cfg, "", "kept\n" + gatewayFile + "\n", "", cfg},
		{"then the disk has taken it", map[string]string{gatewayFile: cfg + "uuid=1\n"}, "kept\n" + gatewayFile + "\n", "", false, cfg + "uuid=1\n", "", "", "", cfg + "uuid=1\n"},
		{"in memory", map[string]string{gatewayFile: cfg, engineFile: conf}, "", "", true, cfg, conf, "kept\n" + gatewayFile + "\n" + engineFile + "\n", "", cfg},
		{"in memory, and nothing new", map[string]string{gatewayFile: old}, "", "", true, old, "", "", "", old},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, real := t.TempDir(), t.TempDir()
			write := func(dir string) {
				for name, text := range tt.files {
					if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			write(dir)
			record := identity.Record{Files: map[string][]byte{gatewayFile: []byte(old), "keys/firmware.pub": []byte("key")}}
			if tt.note != "" {
				record.Files[noteFile] = []byte(tt.note)
			}
			g := Gateway{Store: identity.NewStore(powercut.New(nil, 8<<20)), Dir: dir, Memory: tt.memory, Boot: noFile{}}
			if err := g.Store.Save(record); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second changes nothing
				if err := g.Keep(tt.text); (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				got, err := g.Store.Load()
				if err != nil || string(got.Files[gatewayFile]) != tt.gateway || string(got.Files[engineFile]) != tt.eng || string(got.Files["keys/firmware.pub"]) != "key" || string(got.Files[noteFile]) != tt.left {
					t.Errorf("the record has %q, %v", got.Files, err)
				}
			}
			// The next boot, with the real /data.
			g.Memory = false
			if tt.memory {
				g.Dir = real
				if err := os.WriteFile(filepath.Join(real, gatewayFile), []byte(old), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := g.Store.Load()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := identity.Restore(got, g.Dir); err != nil {
				t.Fatal(err)
			}
			if p, err := g.Read(); err != nil {
				t.Fatal(err)
			} else if p != nil {
				if _, err := p.Commit(); err != nil {
					t.Fatal(err)
				}
			}
			if text, err := os.ReadFile(filepath.Join(g.Dir, gatewayFile)); err != nil || string(text) != tt.boot {
				t.Errorf("after the next boot Gateway.cfg is %q, %v, want %q", text, err, tt.boot)
			}
			if got, err := g.Store.Load(); err != nil || string(got.Files[noteFile]) != "" {
				t.Errorf("the note is still there: %q, %v", got.Files[noteFile], err)
			}
		})
	}
}

// noFile is a boot partition without provision.yaml.
type noFile struct{}

func (noFile) Read() ([]byte, error)           { return nil, fs.ErrNotExist }
func (noFile) Open() (Device, []Extent, error) { return nil, nil, fs.ErrNotExist }
func (noFile) Forget() error                   { return nil }
