package modules

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// sys makes a /sys of files and, where the text begins with "-> ", links.
func sys(t *testing.T, files map[string]string) string {
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		target, link := strings.CutPrefix(text, "-> ")
		err := error(nil)
		if link {
			err = os.Symlink(target, file)
		} else {
			err = os.WriteFile(file, []byte(text), 0o444)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func machine(t *testing.T) string {
	return sys(t, map[string]string{
		"devices/pci/usb1/modalias":       "usb:v1D6Bp0002d0601dc09dsc00dp01ic09isc00ip00in00\n",
		"devices/pci/usb1/1-1/modalias":   "usb:v0403p6001d0400dc00dsc00dp00icFFiscFFipFFin00\n",
		"devices/pci/usb1/1-2/modalias":   "usb:v0403p6001d0400dc00dsc00dp00icFFiscFFipFFin00\n",
		"devices/pci/usb1/1-3/uevent":     "ACTION=add\n", // a device without one
		"devices/platform/x/modalias":     "platform:unknown\n",
		"devices/platform/y/modalias":     "\n",
		"devices/virtual/input0/modalias": "spi:mcp2515\n", // in a class only
		"devices/system/cpu/modalias":     "cpu:type:aarch64:feature:,0005",
		"bus/usb/devices/usb1":            "-> ../../../devices/pci/usb1",
		"bus/usb/devices/1-1":             "-> ../../../devices/pci/usb1/1-1",
		"bus/usb/devices/1-2":             "-> ../../../devices/pci/usb1/1-2",
		"bus/usb/devices/1-3":             "-> ../../../devices/pci/usb1/1-3",
		"bus/usb/devices/1-4":             "-> ../../../devices/pci/usb1/1-4", // gone
		"bus/platform/devices/x":          "-> ../../../devices/platform/x",
		"bus/platform/devices/y":          "-> ../../../devices/platform/y",
		"bus/platform/drivers/z/bind":     "",
		"class/input/input0":              "-> ../../devices/virtual/input0",
	})
}

// watcher returns a Watcher for a machine, and where it logs.
func watcher(t *testing.T, sys string, k *kernel) (*Watcher, *[]string) {
	var log []string
	return &Watcher{
		Load:  func(name string) error { return k.insert(name+".ko", "") },
		Log:   func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) },
		lists: read(t, debian), sys: sys, loaded: k.isLoaded, failed: map[string]time.Time{},
	}, &log
}

func TestColdplug(t *testing.T) {
	k := newKernel("")
	w, _ := watcher(t, machine(t), k)
	want := []string{
		"platform:unknown",
		"usb:v0403p6001d0400dc00dsc00dp00icFFiscFFipFFin00",
		"usb:v1D6Bp0002d0601dc09dsc00dp01ic09isc00ip00in00",
		"spi:mcp2515",
		"cpu:type:aarch64:feature:,0005",
	}
	if got := w.coldplug(); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	w.sys = t.TempDir()
	if got := w.coldplug(); len(got) > 0 {
		t.Errorf("no /sys: %q", got)
	}
}

// A module that fails is left alone for a while, and logged as often as tried.
func TestLoadFor(t *testing.T) {
	k := newKernel("can cp210x")
	w, log := watcher(t, t.TempDir(), k)
	for range 2 {
		w.loadFor("net-pf-29", "platform:unknown", "usb:v0403p6001d0400", "usb:v0403p6001d0400dc00dsc00dp00icFFiscFFipFFin00")
		w.loadFor("usb:v10C4pEA60d0100dc00dsc00dp00icFFisc00ip00in00")
		w.loadFor()
	}
	if got := strings.Join(k.log, " "); got != "!can ftdi_sio !cp210x" {
		t.Errorf("loads: %s", got)
	}
	if got := strings.Join(*log, "; "); got != "module can: no such device; not again for 10m0s; module cp210x: no such device; not again for 10m0s" {
		t.Errorf("log: %s", got)
	}
	k.failing["can"] = false // a device that comes later may have more luck
	w.failed["can"] = w.failed["can"].Add(-failedFor)
	w.loadFor("net-pf-29")
	if got := k.log[len(k.log)-1]; got != "can" {
		t.Errorf("retried: %s", got)
	}
}

func TestWatch(t *testing.T) {
	k := newKernel("")
	w, log := watcher(t, machine(t), k)
	ctx, cancel := context.WithCancel(context.Background())
	settled, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- w.watch(ctx, func() { settled <- strings.Join(k.log, " ") })
	}()
	if got := <-settled; got != "ftdi_sio usbcore mcp251x sha1_ce" {
		t.Errorf("loads: %s", got)
	}
	cancel()
	select {
	case err := <-ended:
		if err == nil || len(*log) > 0 {
			t.Errorf("ended with %v, log %q", err, *log)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("still watching")
	}
	w.Load = nil // a mistake does not end PID 1
	k.loaded = map[string]bool{}
	if err := w.watch(context.Background(), func() {}); err == nil || !strings.Contains(err.Error(), "panic: ") {
		t.Errorf("with a panic: %v", err)
	}
}

// Run ends with its context, or at once if there are no modules for the kernel
// that runs the test.
func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	(&Watcher{Log: t.Logf, Load: func(string) error { return nil }}).Run(ctx, nil)
}
