package data

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestGrow(t *testing.T) {
	image := mke2fs(t, 30*mib)
	g := newGateway(t, loop(t, image))
	g.fill()
	g.log = nil
	if err := g.Grow(); err != nil || g.log != nil {
		t.Errorf("on a partition of its size: %v, %q", err, g.log)
	}
	g.unmount()
	if err := os.Truncate(image, 200*mib); err != nil {
		t.Fatal(err)
	}
	g.Device = loop(t, image)
	if recreated, err := g.Mount(t.Context()); err != nil || recreated {
		t.Fatalf("re-created %v, %v", recreated, err)
	}
	switch err := g.Grow(); {
	case err == nil:
		if sb, err := g.superblock(); err != nil || sb.blocks != 200*mib/4096 {
			t.Errorf("after growing: %+v, %v", sb, err)
		}
		if want := "grew " + g.Device + " from 30 to 200 MiB"; len(g.log) != 1 || g.log[0] != want {
			t.Errorf("logged %q, want %q", g.log, want)
		}
	case errors.Is(err, unix.EPERM): // a sandbox: the kernel wants CAP_SYS_RESOURCE
		if want := "grow " + g.Device + " from 30 to 200 MiB: ioctl EXT4_IOC_RESIZE_FS on " + g.Target + ": operation not permitted"; err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	default:
		t.Error(err)
	}
	if got := g.has(); got != "all" {
		t.Errorf("files: %s", got)
	}
	g.unmount()
	tool(t, "e2fsck", "-fn", g.Device)
}

func TestGrowFails(t *testing.T) {
	dev := loop(t, mke2fs(t, 30*mib))
	for name, f := range map[string]FS{
		"no device":   {Device: "/dev/loop-none", Target: t.TempDir()},
		"not mounted": {Device: dev, Target: "/proc"},
	} {
		f.Log = t.Logf
		err := f.Grow()
		if name == "not mounted" { // nothing to grow, so it is not even looked at
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		} else if err == nil || !strings.HasPrefix(err.Error(), "grow: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
