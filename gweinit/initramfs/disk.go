package main

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/exosite/gwe/gweinit/slot"
)

// diskWait is how long the boot disk may take to appear; a slow SD card is
// there within two seconds.
const diskWait = 20 * time.Second

// partition is a partition that Linux knows.
type partition struct {
	device  string // vda1
	name    string // in the GPT
	sysPath string // below /sys
}

// findDisk waits for the partitions of the boot disk and gives them names
// that do not depend on its driver, in /dev/disk/by-partlabel.
func findDisk(s *stage) error {
	wanted := []string{
		slot.BootPartition, slot.StatePartition, slot.DataPartition,
		slot.A.KernelPartition(), slot.B.KernelPartition(),
		slot.A.RootPartition(), slot.B.RootPartition(),
	}
	var mine map[string]partition
	var others []partition
	for deadline := time.Now().Add(diskWait); ; time.Sleep(10 * time.Millisecond) {
		all, err := partitions("/sys")
		if err != nil {
			return err
		}
		mine, others = choose(all, s.disk, wanted)
		if len(mine) == len(wanted) {
			break
		}
		if time.Now().After(deadline) {
			break
		}
	}
	for _, p := range others {
		say("warning: ignoring %s (%s): it is not on the boot disk, %s", p.device, p.name, s.disk)
	}
	for _, name := range wanted {
		if _, ok := mine[name]; !ok {
			say("warning: no partition %s on the boot disk after %v", name, diskWait)
		}
	}
	root, ok := mine[s.slot.RootPartition()]
	if !ok {
		return fmt.Errorf("no partition %s on the disk at /sys/%s; partitions seen: %v", s.slot.RootPartition(), s.disk, slices.Sorted(maps.Keys(mine)))
	}
	s.root = "/dev/" + root.device
	return link(mine, "/dev/disk/by-partlabel")
}

// choose picks the wanted partitions of the boot disk, the first one at the
// controller, and those of other disks that have one of the names: a card in a
// reader, or an attack.
func choose(all []partition, controller string, wanted []string) (mine map[string]partition, others []partition) {
	mine = map[string]partition{}
	controller = strings.TrimSuffix(controller, "/") + "/" // 0a.1 is not 0a.10
	disk := ""
	for _, p := range all {
		if !slices.Contains(wanted, p.name) {
			continue
		}
		if disk == "" && strings.HasPrefix(p.sysPath, controller) {
			disk = filepath.Dir(p.sysPath)
		}
		if _, twice := mine[p.name]; filepath.Dir(p.sysPath) == disk && !twice {
			mine[p.name] = p
		} else {
			others = append(others, p)
		}
	}
	return mine, others
}

// partitions lists the named partitions below sys, sorted by device.
func partitions(sys string) ([]partition, error) {
	class := filepath.Join(sys, "class/block")
	entries, err := os.ReadDir(class)
	if err != nil {
		return nil, err
	}
	var found []partition
	for _, e := range entries {
		// A device may go while we look: it just is not there.
		text, err := os.ReadFile(filepath.Join(class, e.Name(), "uevent"))
		if err != nil {
			continue
		}
		target, err := os.Readlink(filepath.Join(class, e.Name()))
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(bytes.NewReader(text))
		for lines.Scan() {
			if name, ok := strings.CutPrefix(lines.Text(), "PARTNAME="); ok {
				found = append(found, partition{e.Name(), name, strings.TrimPrefix(filepath.Clean(target), "../../")})
			}
		}
	}
	return found, nil
}

func link(parts map[string]partition, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, p := range parts {
		if err := os.Symlink("../../"+p.device, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}
