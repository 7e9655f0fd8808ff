package gpt

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/exosite/gwe/gweinit/powercut"
)

// sd is the size of the card in these tests, which data fills.
const sd = 256 * mib

// grownCard is what the table of the card has to be at last.
func grownCard() Table {
	t := card(sd)
	t.Entries[6].Last = 255*mib - 1
	return t
}

// noise is a disk that was used before.
type noise struct{}

func (noise) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		x := uint64(off+int64(i)) * 0x9e3779b97f4a7c15
		p[i] = byte(x >> 56)
	}
	return len(p), nil
}

// disk returns a card with a hybrid MBR and what the functions write.
func disk(t *testing.T, base io.ReaderAt, writes ...func(d *powercut.Disk) error) *powercut.Disk {
	t.Helper()
	d := powercut.New(base, sd*SectorSize)
	mbr, err := HybridMBR(card(sd).Entries[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt(mbr, 0); err != nil {
		t.Fatal(err)
	}
	for _, w := range writes {
		if err := w(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	return d
}

// with writes both copies of a table.
func with(t Table) func(*powercut.Disk) error {
	return func(d *powercut.Disk) error { return t.Write(d) }
}

// damaged writes a sector of nothing.
func damaged(sector int64) func(*powercut.Disk) error {
	return func(d *powercut.Disk) error {
		_, err := d.WriteAt(make([]byte, SectorSize), sector*SectorSize)
		return err
	}
}

// onlyTables is a disk that is written in the two tables only.
type onlyTables struct {
	*powercut.Disk
	t *testing.T
}

func (d onlyTables) WriteAt(p []byte, off int64) (int, error) {
	first, end := off/SectorSize, (off+int64(len(p)))/SectorSize
	if (first < 1 || end > 34) && (first < sd-33 || end > sd) {
		d.t.Errorf("sectors %d to %d are written", first, end-1)
	}
	return d.Disk.WriteAt(p, off)
}

// Power goes anywhere while the table grows or is repaired, and again in the
// run after: U-Boot and Linux always find all partitions.
func TestGrowPowerCuts(t *testing.T) {
	foreign := Table{Disk: GUID{9}, Sectors: sd, Entries: []Entry{{LinuxData, GUID{8}, 2048, sd - 34, 0, "old card"}}}
	stale := card(sd) // the backup is at the end, but nothing has grown
	for _, tt := range []struct {
		name  string
		start *powercut.Disk
	}{
		{"first boot", disk(t, nil, with(card(128*mib)))},
		{"first boot from a used card", disk(t, noise{}, with(card(128*mib)))},
		{"first boot from a card with a backup table", disk(t, noise{}, with(foreign), with(card(128*mib)))},
		{"primary damaged, not grown", disk(t, noise{}, with(stale), damaged(1))},
		{"primary entries damaged, not grown", disk(t, noise{}, with(stale), damaged(2))},
		{"primary damaged", disk(t, noise{}, with(grownCard()), damaged(3))},
		{"backup damaged", disk(t, noise{}, with(grownCard()), damaged(sd-32))},
		{"backup not grown", disk(t, noise{}, with(stale), func(d *powercut.Disk) error {
			primary, _, err := grownCard().encode()
			if err == nil {
				_, err = d.WriteAt(primary, SectorSize)
			}
			return err
		})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const dataBefore, dataAfter = 127*mib - 1, 255*mib - 1
			want, err := uboot(tt.start, sd)
			if err != nil || len(want) != 7 {
				t.Fatalf("before: %v, %v", want, err)
			}
			// bootable tells what state the tables are in, as the primary and
			// the backup.
			bootable := func(name string, after *powercut.Disk, done bool) string {
				for _, find := range []func(io.ReaderAt, uint64) (found, error){uboot, linux} {
					got, err := find(after, sd)
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					data := got[7]
					if data.last != dataAfter && (data.last != want[7].last || done) {
						t.Fatalf("%s: data ends in sector %d", name, data.last)
					}
					data.last = want[7].last
					got[7] = data
					if !maps.Equal(got, want) {
						t.Fatalf("%s: got %v\nwant %v", name, got, want)
					}
				}
				state := func(lba uint64) string {
					_, entries, ok := readCopy(after, lba)
					switch p := partitions(entries, func(_, _ uint64) bool { return true }); {
					case entries == nil:
						return "no header"
					case !ok:
						return "torn"
					case p[7].last == dataAfter:
						return "grown"
					case p[7].last == dataBefore:
						return "not grown"
					default:
						return "foreign"
					}
				}
				return fmt.Sprintf("%s/%s", state(1), state(sd-1))
			}
			grow := func(d *powercut.Disk) error {
				_, err := Grow(onlyTables{d, t}, sd, "data")
				return err
			}
			states := map[string]int{}
			again := 0
			n, err := powercut.Each(tt.start, grow, func(name string, after *powercut.Disk, err error) {
				states[bootable(name, after, err == nil)]++
				n, err := powercut.Each(after, grow, func(second string, after *powercut.Disk, err error) {
					second = name + "; then " + second
					state := bootable(second, after, err == nil)
					if err == nil && state != "grown/grown" {
						t.Fatalf("%s: the tables are %s", second, state)
					}
				})
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				again += n
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d power cuts, %d in the run after; primary/backup: %v", n, again, states)
		})
	}
}

func TestGrow(t *testing.T) {
	notLast := card(128 * mib)
	notLast.Entries[5], notLast.Entries[6] = notLast.Entries[6], notLast.Entries[5]
	notLast.Entries[5].Name, notLast.Entries[6].Name = "rootfs_b", "data" // by number the last, on the disk not
	overlap := card(128 * mib)
	overlap.Entries[5].Last = 97 * mib
	unaligned := card(sd)
	unaligned.Entries[6].Last = sd - 34
	gap := card(128 * mib)
	gap.Entries[6].First, gap.Entries[3] = 100*mib, Entry{}
	twice := card(128 * mib)
	twice.Entries[2].Name = "data"

	const grew = "backup partition table written to the end of the disk, primary partition table written, partition data grown from 30 to 158 MiB"
	for _, tt := range []struct {
		name   string
		disk   *powercut.Disk
		part   string
		want   Growth
		err    string
		writes int
	}{
		{"first boot", disk(t, nil, with(card(128*mib))), "data", Growth{7, 97 * mib, 158 * mib, grew}, "", 2},
		{"nothing to do", disk(t, nil, with(grownCard())), "data", Growth{7, 97 * mib, 158 * mib, ""}, "", 0},
		{"never smaller", disk(t, nil, with(unaligned)), "data", Growth{7, 97 * mib, 159*mib - 33, ""}, "", 0},
		{"a table with gaps", disk(t, nil, with(gap)), "data", Growth{7, 100 * mib, 155 * mib, strings.Replace(grew, "30 to 158", "27 to 155", 1)}, "", 2},
		{"grown before, on a smaller card", disk(t, noise{}, with(card(200*mib))), "data", Growth{7, 97 * mib, 158 * mib, grew}, "", 2},
		{"repair of the primary", disk(t, nil, with(grownCard()), damaged(1)), "data",
			Growth{7, 97 * mib, 158 * mib, "primary partition table restored from the backup"}, "", 1},
		{"repair of the primary, then growth", disk(t, nil, with(card(sd)), damaged(2)), "data",
			Growth{7, 97 * mib, 158 * mib, "primary partition table restored from the backup, " + grew}, "", 3},
		{"repair of the backup", disk(t, nil, with(grownCard()), damaged(sd-1)), "data",
			Growth{7, 97 * mib, 158 * mib, "backup partition table written to the end of the disk"}, "", 1},

		{"both damaged", disk(t, nil, with(grownCard()), damaged(2), damaged(sd-1)), "data", Growth{},
			"no partition table: primary: not valid: CRC-32 of the entries", 0},
		{"primary damaged, backup not at the end", disk(t, nil, with(card(128*mib)), damaged(1)), "data", Growth{},
			"backup at the end of 524288 sectors: not valid: no signature", 0},
		{"an empty disk", powercut.New(nil, sd*SectorSize), "data", Growth{}, "no partition table", 0},
		{"a smaller disk", powercut.New(disk(t, nil, with(card(sd))), 128<<20), "data", Growth{},
			"the partition table is for a disk of 524288 sectors, this one has 262144", 0},
		{"a tiny disk", powercut.New(nil, 67*SectorSize), "data", Growth{}, "no room", 0},
		{"not the last", disk(t, nil, with(notLast)), "data", Growth{},
			"partition data (sectors 149504 to 198655) is not the last: rootfs_b ends in sector 260095", 0},
		{"overlapped", disk(t, nil, with(overlap)), "data", Growth{},
			"is not the last: rootfs_b ends in sector 198656", 0},
		{"not there", disk(t, nil, with(card(128*mib))), "date", Growth{}, "no partition date", 0},
		{"the name of no partition", disk(t, nil, with(gap)), "", Growth{}, "no partition ", 0},
		{"there twice", disk(t, nil, with(twice)), "data", Growth{}, "two partitions data", 0},
		{"not ours, with a good backup", disk(t, nil, with(grownCard()), func(d *powercut.Disk) error {
			primary, _, err := grownCard().encode()
			primary[80] = 56
			resum(primary)
			_, werr := d.WriteAt(primary, SectorSize)
			return errors.Join(err, werr)
		}), "data", Growth{}, "56 entries of 128 bytes", 0},
		{"not ours in another way", disk(t, nil, with(grownCard()), damaged(1), func(d *powercut.Disk) error {
			_, backup, err := grownCard().encode()
			table := slices.Concat(backup[32*SectorSize:], backup[:32*SectorSize])
			table[40] = 1
			resum(table)
			_, werr := d.WriteAt(table[:SectorSize], (sd-1)*SectorSize)
			return errors.Join(err, werr)
		}), "data", Growth{}, "cannot be usable", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, sectors := tt.disk.Copy(), uint64(tt.disk.Size()/SectorSize)
			got, err := Grow(d, sectors, tt.part)
			if got != tt.want || (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got  %+v, %v\nwant %+v, %s", got, err, tt.want, tt.err)
			}
			if d.Writes != tt.writes || d.Syncs != tt.writes {
				t.Errorf("%d writes and %d syncs, want %d", d.Writes, d.Syncs, tt.writes)
			}
			if tt.err != "" {
				return
			}
			// Now it is right for everybody else, and for good.
			f := blank(t, sectors)
			for _, part := range []int64{0, sd - 34} {
				buf := make([]byte, 34*SectorSize)
				if _, err := d.ReadAt(buf, part*SectorSize); err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteAt(buf, part*SectorSize); err != nil {
					t.Fatal(err)
				}
			}
			check(t, "No problems found", "sgdisk", "-v", f.Name())
			check(t, "No errors detected", "sfdisk", "--verify", f.Name())
			check(t, fmt.Sprintf("Last sector: %d ", got.First+got.Sectors-1), "sgdisk", "-i", fmt.Sprint(got.Number), f.Name())
			tt.want.Done = ""
			if again, err := Grow(d, sectors, tt.part); again != tt.want || err != nil || d.Writes != tt.writes {
				t.Errorf("once more: %+v, %v, %d writes", again, err, d.Writes)
			}
		})
	}
}

// Only the size of data and of the disk change, whatever else a table has.
func TestGrowKeeps(t *testing.T) {
	table := card(128 * mib)
	for i := range table.Entries {
		table.Entries[i].Attributes = uint64(i)<<48 | 1
	}
	table.Entries[6].Name = "Daten für später"
	d := disk(t, noise{}, with(table))
	if _, err := Grow(d, sd, table.Entries[6].Name); err != nil {
		t.Fatal(err)
	}
	table.Sectors, table.Entries[6].Last = sd, 255*mib-1
	raw, err := readTable(d, 1)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parsePrimary(raw); err != nil || !reflect.DeepEqual(got, table) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, table)
	}
}

// faulty is a disk on which something does not work from the n-th time on.
type faulty struct {
	*powercut.Disk
	reads, writes, syncs *int // until then; nil: always works
	deaf                 bool // takes writes and forgets them
}

var errIO = errors.New("input/output error")

func works(n *int) bool {
	if n == nil {
		return true
	}
	*n--
	return *n >= 0
}

func (d faulty) ReadAt(p []byte, off int64) (int, error) {
	if !works(d.reads) {
		return 0, errIO
	}
	return d.Disk.ReadAt(p, off)
}

func (d faulty) WriteAt(p []byte, off int64) (int, error) {
	if !works(d.writes) {
		return 0, errIO
	}
	if d.deaf {
		return len(p), nil
	}
	return d.Disk.WriteAt(p, off)
}

func (d faulty) Sync() error {
	if !works(d.syncs) {
		return errIO
	}
	return d.Disk.Sync()
}

// After a fault no other copy is touched: the backup first, then the primary.
func TestGrowFaults(t *testing.T) {
	start := disk(t, nil, with(card(128*mib)))
	for _, tt := range []struct {
		name   string
		disk   faulty
		want   string
		writes int // that reached the disk
	}{
		{"primary cannot be read", faulty{reads: new(0)}, "read the partition table at sector 1: input/output error", 0},
		{"backup cannot be read", faulty{reads: new(1)}, "read the partition table at sector 524255: input/output error", 0},
		{"backup cannot be written", faulty{writes: new(0)}, "write the partition table at sector 524255: input/output error", 0},
		{"backup cannot be synced", faulty{syncs: new(0)}, "sync the partition table at sector 524255: input/output error", 1},
		{"backup cannot be read back", faulty{reads: new(2)}, "read the partition table at sector 524255: input/output error", 1},
		{"primary cannot be written", faulty{writes: new(1)}, "write the partition table at sector 1: input/output error", 1},
		{"primary cannot be synced", faulty{syncs: new(1)}, "sync the partition table at sector 1: input/output error", 2},
		{"writes are forgotten", faulty{deaf: true}, "sector 524255 reads back differently from what was written", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.disk.Disk = start.Copy()
			got, err := Grow(tt.disk, sd, "data")
			if err == nil || !strings.Contains(err.Error(), tt.want) || got != (Growth{}) || tt.disk.Writes != tt.writes {
				t.Errorf("got %+v, %v, %d writes; want %s, %d", got, err, tt.disk.Writes, tt.want, tt.writes)
			}
			if _, err := linux(tt.disk.Disk, sd); err != nil {
				t.Error(err)
			}
		})
	}
}
