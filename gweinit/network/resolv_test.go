package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

func TestResolvConf(t *testing.T) {
	const head, tail = "# The network settings of this gateway and DHCP make this file.\n", "options timeout:3 attempts:2\n"
	for _, tt := range []struct {
		servers []netip.Addr
		search  []string
		want    string
	}{
		{nil, nil, ""},
		{[]netip.Addr{testServer}, nil, "nameserver 10.0.0.1\n"},
		{nil, []string{"example.com"}, "search example.com\n"},
		{[]netip.Addr{testServer, netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fe80::53%eth0")}, []string{"a.example", "lan"},
			"nameserver 10.0.0.1\nnameserver 2001:db8::1\nnameserver fe80::53%eth0\nsearch a.example lan\n"},
	} {
		if got := string(resolvConf(tt.servers, tt.search)); got != head+tt.want+tail {
			t.Errorf("%v, %q:\n%s", tt.servers, tt.search, got)
		}
	}
}

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "resolv.conf")
	var before os.FileInfo
	for _, tt := range []struct {
		text string
		same bool // the file is left alone
	}{{"a", false}, {"b", false}, {"b", true}, {"", false}} {
		err := replace(path, []byte(tt.text))
		got, err2 := os.ReadFile(path)
		info, err3 := os.Stat(path)
		if err != nil || err2 != nil || err3 != nil || string(got) != tt.text || info.Mode() != 0o644 {
			t.Fatalf("%q: got %q, %v, %v, %v", tt.text, got, err, err2, err3)
		}
		if before != nil && os.SameFile(before, info) != tt.same {
			t.Errorf("%q: the same file: %t", tt.text, !tt.same)
		}
		before = info
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("the folder has %v, %v", names, err)
	}
}
