package modules

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a kernel says when an FTDI adapter is plugged in.
const ftdi = "add@/devices/pci0000:00/0000:00:02.0/usb1/1-1/1-1:1.0|ACTION=add|DEVPATH=/devices/pci0000:00/0000:00:02.0/usb1/1-1/1-1:1.0|SUBSYSTEM=usb|DEVTYPE=usb_interface|PRODUCT=403/6001/400|TYPE=0/0/0|INTERFACE=255/255/255|MODALIAS=usb:v0403p6001d0400dc00dsc00dp00icFFiscFFipFFin00|SEQNUM=1234|"

func TestParseUevent(t *testing.T) {
	for _, tt := range []struct{ name, msg, want string }{
		{"add", ftdi, "add usb:v0403p6001d0400dc00dsc00dp00icFFiscFFipFFin00"},
		{"no modalias", "remove@/a|ACTION=remove|DEVPATH=/a|", "remove "},
		{"an equals sign in a value", "add@/a|MODALIAS=a=b|", "add a=b"},
		{"an at sign in the path", "add@/a@b|DEVPATH=/a@b|", "add "},
		{"only a head", "add@/a|", "add "},
		{"nothing", "", "error"},
		{"a NUL", "|", "error"},
		{"no end", "add@/a|MODALIAS=x", "error"},
		{"no action", "@/a|", "error"},
		{"no path", "add@|", "error"},
		{"a relative path", "add@a|", "error"},
		{"udevd's", "libudev|xx|", "error"},
		{"no value", "add@/a|MODALIAS|", "error"},
		{"no key", "add@/a|=x|", "error"},
		{"an empty one", "add@/a||MODALIAS=x|", "error"},
		{"another action", "add@/a|ACTION=remove|", "error"},
		{"another path", "add@/a|DEVPATH=/b|", "error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, err := parseUevent([]byte(strings.ReplaceAll(tt.msg, "|", "\x00")))
			got := e.action + " " + e.modalias
			if err != nil {
				got = "error"
			}
			if got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func FuzzParseUevent(f *testing.F) {
	f.Add([]byte(strings.ReplaceAll(ftdi, "|", "\x00")))
	f.Add([]byte("add@/a\x00MODALIAS=x"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		e, err := parseUevent(msg)
		if err != nil {
			if e != (uevent{}) {
				t.Errorf("%+v, %v", e, err)
			}
			return
		}
		if !strings.HasPrefix(string(msg), e.action+"@/") || e.modalias != "" && !strings.Contains(string(msg), "\x00MODALIAS="+e.modalias+"\x00") {
			t.Errorf("%q gives %+v", msg, e)
		}
	})
}

func TestFromKernel(t *testing.T) {
	for _, tt := range []struct {
		from unix.Sockaddr
		want bool
	}{
		{&unix.SockaddrNetlink{Groups: 1}, true},
		{&unix.SockaddrNetlink{Groups: 1, Pid: 815}, false}, // a process
		{&unix.SockaddrNetlink{Groups: 2}, false},
		{&unix.SockaddrNetlink{}, false},
		{&unix.SockaddrUnix{}, false},
		{nil, false},
	} {
		if got := fromKernel(tt.from); got != tt.want {
			t.Errorf("%+v: %v", tt.from, got)
		}
	}
}

// Close ends receive, which otherwise waits for ever.
func TestClose(t *testing.T) {
	s, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := s.receive(make([]byte, 8<<10)); err != nil {
				ended <- err
				return
			}
		}
	}()
	time.Sleep(20 * time.Millisecond)
	s.Close()
	select {
	case err := <-ended:
		if !strings.Contains(err.Error(), "receive uevents: ") {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("still waiting")
	}
}
