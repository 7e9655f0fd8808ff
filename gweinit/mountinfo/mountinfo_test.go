package mountinfo

import (
	"fmt"
	"os"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"24 21 254:7 /a /data rw,noatime shared:1 master:2 - ext4 /dev/vda7 rw,errors=remount-ro", "[{254:7 /a /data ext4 /dev/vda7 [rw errors=remount-ro]}]"},
		{`29 21 179:1 / /my\040card\134x ro - vfat /dev/a\011b rw,d=x\054y`, "[{179:1 / /my card\\x vfat /dev/a\tb [rw d=x,y]}]"},
		{`1 2 0:1 / /\04 rw - tmpfs`, `[{0:1 / /\04 tmpfs  []}]`},
		{`1 2 0:1 / /\134040ü\040 rw - tmpfs tmpfs`, `[{0:1 / /\040ü  tmpfs tmpfs []}]`},
		{"1 2 0:1 / - tmpfs tmpfs rw", "[]"},
		{"1 2 0:1 / /x rw - ", "[]"},
		{"/dev/sda1 /data ext4 rw 0 0", "[]"},
		{"", "[]"},
	} {
		if got := fmt.Sprint(Parse(tt.line + "\n")); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.line, got, tt.want)
		}
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if all := Parse(string(text)); len(all) == 0 || all[len(all)-1].Target == "" {
		t.Errorf("of this process: %v", all)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("24 21 254:7 / /data rw shared:1 - ext4 /dev/vda7 rw\n29 21 179:1 / /my\\040card ro - vfat x rw\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range Parse(text) {
			if m.Type == "" || m.Target == "" || m.Device == "" {
				t.Errorf("%+v", m)
			}
		}
	})
}
