package modules

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseArgs(t *testing.T) {
	for _, tt := range []struct{ args, want string }{ // words end in |
		{"-q|--|net-pf-29", "quiet net-pf-29"},
		{"ftdi_sio", "ftdi_sio"},
		{"-q|usbserial|vendor=0x1|product=0x2", "quiet usbserial vendor=0x1 product=0x2"},
		{"gpio|name=a b|n=1", `gpio name="a b" n=1`},
		{`gpio|name="a b"`, `gpio name="a b"`},
		{"-a|can|can_raw", "can,can_raw"},
		{"-qa|--|can|-x", "quiet can,-x"},
		{"-h", "help"},
		{"-h|-q|x", "help"},
		{"", "error which module?"},
		{"-q", "error which module?"},
		{"-q|--", "error which module?"},
		{"-r|can", "error unknown option -r"},
		{"--remove|can", "error unknown option --remove"},
		{"can|can_raw", `error "can_raw" is no PARAMETER=VALUE; more than one module needs -a`},
		{"can|=1", `error "=1" is no PARAMETER=VALUE; more than one module needs -a`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			var args []string
			if tt.args != "" {
				args = strings.Split(tt.args, "|")
			}
			r, err := parseArgs(args)
			var got []string
			switch {
			case err != nil:
				got = []string{"error", err.Error()}
			case r.help:
				got = []string{"help"}
			default:
				if r.quiet {
					got = append(got, "quiet")
				}
				got = append(got, strings.Join(r.names, ","))
				if r.params != "" {
					got = append(got, r.params)
				}
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got %s, want %s", s, tt.want)
			}
		})
	}
}

// kernel takes modules in place of the running one.
type kernel struct {
	loaded  map[string]bool
	failing map[string]bool
	log     []string // what was inserted, and what failed
}

func newKernel(failing string) *kernel {
	k := &kernel{map[string]bool{}, map[string]bool{}, nil}
	for _, name := range strings.Fields(failing) {
		k.failing[name] = true
	}
	return k
}

var errDevice = errors.New("no such device")

func (k *kernel) isLoaded(name string) bool { return k.loaded[name] }

func (k *kernel) insert(file, params string) error {
	name := Name(file)
	if k.failing[name] {
		k.log = append(k.log, "!"+name)
		return errDevice
	}
	k.loaded[name] = true
	if params != "" {
		name += "(" + params + ")"
	}
	k.log = append(k.log, name)
	return nil
}

func TestLoad(t *testing.T) {
	for _, tt := range []struct{ name, wanted, failing, want, err string }{
		{"in order, parameters for the last", "ftdi_sio", "", "usb_common usbcore usbserial ftdi_sio(a=1)", ""},
		{"what is loaded is left out", "ftdi_sio cdc-acm", "", "usb_common usbcore usbserial ftdi_sio(a=1) cdc_acm(a=1)", ""},
		{"loaded", "can can net-pf-29", "", "can(a=1)", ""},
		{"all of an alias", "usb:v0BDAp9210d2001dc00dsc00dp00ic08isc06ip50in00", "", "scsi_common scsi_mod usb_common usbcore usb_storage uas(a=1)", ""},
		{"one of an alias", "usb:v0BDAp9210d2001dc00dsc00dp00ic08isc06ip50in00", "uas", "scsi_common scsi_mod usb_common usbcore usb_storage !uas", "load module uas: no such device"},
		{"loaded by the initramfs", "virtio-blk", "", "", ""},
		{"built in", "spidev", "", "", ""},
		{"unknown", "ext5", "", "", "ext5: no such module"},
		{"a soft dependency fails", "ext4", "crc32c_generic", "!crc32c_generic crc16 mbcache jbd2 ext4(a=1)", ""},
		{"a hard one fails", "can_raw", "can can_raw", "!can !can_raw", "load module can: no such device\nload module can_raw: no such device"},
		{"again", "can can", "can", "!can !can", "load module can: no such device\nload module can: no such device"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := newKernel(tt.failing)
			k.loaded["virtio_blk"] = true
			l := &loader{read(t, debian), k.isLoaded, k.insert}
			var errs []error
			for _, w := range strings.Fields(tt.wanted) {
				errs = append(errs, l.load(w, "a=1"))
			}
			err := errors.Join(errs...)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if log := strings.Join(k.log, " "); log != tt.want || got != tt.err {
				t.Errorf("got  %s, %q\nwant %s, %q", log, got, tt.want, tt.err)
			}
		})
	}
}

func TestInsertErrors(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "x.ko")
	if err := insert(missing, ""); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("no file: %v", err)
	}
	file := filepath.Join(debian, "modules.dep") // for root no module, for others not allowed
	if err := insert(file, ""); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("no module: %v", err)
	}
}
