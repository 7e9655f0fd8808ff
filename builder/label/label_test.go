package label

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// scan reads the codes in pictures with zbar, one in each.
func scan(t *testing.T, files ...string) []string {
	t.Helper()
	args := append([]string{"--quiet", "--raw", "-Sdisable", "-Sqrcode.enable"}, files...)
	out, err := exec.Command("zbarimg", args...).Output()
	if err != nil {
		t.Fatalf("zbarimg (make setup installs it) of %d pictures, %.100q: %v\n%s", len(files), files, err, out)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

// serials have all lengths, and all ways in which a code has characters.
func serials() []string {
	list := []string{"GW-000123", "0012", "a", "00:11:22:33:44:55", "gw_1@plant.example.com", "A0:b-c.d_e@f"}
	const most, letters = 128, "A-9.:" // those are small in the code
	for n := 1; n <= most; n += 3 {
		list = append(list, strings.Repeat(letters, most)[:n], strings.Repeat("x"+letters, most)[:n])
	}
	return append(list, strings.Repeat("0123456789", 13)[:most], strings.Repeat("z@", most)[:most])
}

func TestPNG(t *testing.T) {
	folder := t.TempDir()
	var files, want []string
	for i, serial := range serials() {
		if i > 20 && i%4 != 0 {
			continue // zbar takes its time for pictures of this size
		}
		path, err := Label{Serial: serial}.WritePNG(folder)
		if err != nil {
			t.Fatal(err)
		}
		files, want = append(files, path), append(want, serial)
	}
	compare(t, scan(t, files...), want)

	// The same unit again.
	path, err := Label{Serial: "GW-000123"}.WritePNG(folder)
	if err != nil || path != files[0] || path != filepath.Join(folder, "GW-000123.png") {
		t.Errorf("%s, %v", path, err)
	}
	if left, err := filepath.Glob(folder + "/.*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The decoder checks the sum of each chunk.
	img, err := png.Decode(bytes.NewReader(file))
	if err != nil || img.Bounds() != image.Rect(0, 0, 232, 274) || !bytes.Contains(file, []byte("pHYs\x00\x00\x2e\x23\x00\x00\x2e\x23\x01")) {
		t.Errorf("%v, %v, want 232 x 274 with 11811 pixels in a metre: %q", img.Bounds(), err, file)
	}
}

func TestText(t *testing.T) {
	folder := t.TempDir()
	var files, want []string
	for i, serial := range serials() {
		// Terminals that are black and white.
		file := filepath.Join(folder, fmt.Sprintf("%d.png", i))
		terminal(t, file, Label{Serial: serial}.Text(), color.Gray{uint8(i % 2 * 255)})
		files, want = append(files, file), append(want, serial)
	}
	compare(t, scan(t, files...), want)
}

func compare(t *testing.T, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d codes of %d were read", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%q was read as %q", want[i], got[i])
		}
	}
}

// terminal makes a picture of a terminal of this colour that shows the text.
func terminal(t *testing.T, file, text string, background color.Gray) {
	t.Helper()
	const size, margin = 3, 4 // of a pixel of text, around the text
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	width := strings.Count(lines[0], " ") + strings.Count(lines[0], "▀") + strings.Count(lines[0], "▄") + strings.Count(lines[0], "█")
	if width > 80 {
		t.Errorf("%d columns do not fit on every terminal", width)
	}
	img := image.NewGray(image.Rect(0, 0, (width+2*margin)*size, (2*len(lines)+2*margin)*size))
	for i := range img.Pix {
		img.Pix[i] = background.Y
	}
	square := func(x, y int, c color.Gray) {
		for i := range size * size {
			img.SetGray((x+margin)*size+i%size, (y+margin)*size+i/size, c)
		}
	}
	black, white := color.Gray{0}, color.Gray{255}
	for i, line := range lines {
		line, ok1 := strings.CutPrefix(line, "\x1b[0;30;47;107m")
		line, ok2 := strings.CutSuffix(line, "\x1b[0m")
		if cells := []rune(line); !ok1 || !ok2 || len(cells) != width {
			t.Fatalf("a line is %q", line)
		}
		for x, r := range []rune(line) {
			above, below := white, white
			switch r {
			case ' ':
			case '▀':
				above = black
			case '▄':
				below = black
			case '█':
				above, below = black, black
			default:
				t.Fatalf("%q is in a line", r)
			}
			square(x, 2*i, above)
			square(x, 2*i+1, below)
		}
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := png.Encode(f, img); err != nil {
		t.Fatal(err)
	}
}

func TestNames(t *testing.T) {
	folder := t.TempDir()
	for serial, want := range map[string]string{
		"GW-000123":              "GW-000123.png",
		"00:11:22:33:44:55":      "00+11+22+33+44+55.png",
		"a.b_c@d.":               "a.b_c@d..png",
		strings.Repeat("x", 128): strings.Repeat("x", 128) + ".png",
	} {
		path, err := Label{Serial: serial}.WritePNG(folder)
		if err != nil || path != filepath.Join(folder, want) {
			t.Errorf("%s, %v, want %s", path, err, want)
		}
	}
	for _, serial := range []string{"", ".hidden", "../x", "a/b", "a b", "ä", strings.Repeat("x", 129)} {
		l := Label{Serial: serial}
		path, err := l.WritePNG(folder)
		if err == nil || path != "" || !strings.HasPrefix(err.Error(), "label: ") || l.Text() != "" {
			t.Errorf("%q: %s, %v, %s", serial, path, err, l.Text())
		}
	}
	missing := filepath.Join(folder, "missing")
	_, err := Label{Serial: "x"}.WritePNG(missing)
	if err == nil || !strings.HasPrefix(err.Error(), "label of x: write "+missing+"/x.png: ") {
		t.Errorf("%v", err)
	}
}

func TestLine(t *testing.T) {
	for _, tt := range []struct {
		label Label
		want  string
	}{
		{Label{"GW-000123", "52:54:00:12:34:56", "rpi3", "1.0.0"}, "label serial=GW-000123 mac=52:54:00:12:34:56 board=rpi3 version=1.0.0"},
		{Label{"GW-000123", "", "rpi3", "0.0.0+12.gabcdef0"}, "label serial=GW-000123 board=rpi3 version=0.0.0+12.gabcdef0"},
		{Label{"a", "", "x y", "1\nlabel \"b\""}, `label serial=a board="x y" version="1\nlabel \"b\""`},
	} {
		if got := tt.label.Line(); got != tt.want {
			t.Errorf("got %s\nwant %s", got, tt.want)
		}
	}
}
