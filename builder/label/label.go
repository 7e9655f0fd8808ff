// Package label makes the label of a flashed unit: a line for the script of a
// label printer, and a QR code for the terminal or as a picture. The code has
// the serial number and nothing else: every scanner types that into whatever
// field it is wanted in.
package label

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/boombuler/barcode"
	"github.com/boombuler/barcode/qr"
	"golang.org/x/image/font"
	"golang.org/x/image/font/inconsolata"
	"golang.org/x/image/math/fixed"

	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/durable"
)

// Label says what a unit is. What is not known is "".
type Label struct{ Serial, MAC, Board, Version string }

// Line returns one line without its end: label serial=GW-000123 mac=... What is
// not known is left out.
func (l Label) Line() string {
	line := "label"
	for _, v := range [][2]string{{"serial", l.Serial}, {"mac", l.MAC}, {"board", l.Board}, {"version", l.Version}} {
		key, value := v[0], v[1]
		if quoted := strconv.Quote(value); quoted != `"`+value+`"` || strings.Contains(value, " ") {
			value = quoted
		}
		if value != "" {
			line += " " + key + "=" + value
		}
	}
	return line
}

// quiet is how many modules around a code have to be white.
const quiet = 4

// code returns the modules. Level Q takes a quarter of them as lost: labels of
// gateways get dirty and scratched.
func (l Label) code() (barcode.Barcode, error) {
	if !config.IsSerial(l.Serial) {
		return nil, fmt.Errorf("%q is not a serial number: letters, digits and -._:@", l.Serial)
	}
	return qr.Encode(l.Serial, qr.Q, qr.Auto)
}

// dark says whether a module is black; outside of the code none is.
func dark(code barcode.Barcode, x, y int) bool {
	return image.Pt(x, y).In(code.Bounds()) && code.At(x, y) == color.Color(color.Black)
}

// Text returns the code for a terminal, with a line end behind each line; "" if
// what is given is no serial number. It is black on white whatever colours the
// terminal has: many scanners do not read it the other way round.
func (l Label) Text() string {
	code, err := l.code()
	if err != nil {
		return ""
	}
	// Who does not know the bright white takes the other one.
	const blackOnWhite, normal = "\x1b[0;30;47;107m", "\x1b[0m\n"
	var out strings.Builder
	end := code.Bounds().Dx() + quiet
	for y := -quiet; y < end; y += 2 {
		out.WriteString(blackOnWhite)
		for x := -quiet; x < end; x++ {
			switch above, below := dark(code, x, y), dark(code, x, y+1); {
			case above && below:
				out.WriteString("█")
			case above:
				out.WriteString("▀")
			case below:
				out.WriteString("▄")
			default:
				out.WriteString(" ")
			}
		}
		out.WriteString(normal)
	}
	return out.String()
}

// At 300 dpi a module is 0.7 mm, the code of GW-000123 20 mm with its border,
// and a character of the serial number below it 3 mm high.
const (
	dpi       = 300
	module    = 8 // pixels
	textScale = 2 // pixels of the picture for one of the font
)

// WritePNG writes SERIAL.png into a folder that is there, and returns its path.
// One that is there already is replaced. Where a serial number has : the name
// has +, since FAT and Windows have no files with that; there serial numbers
// that differ only in their case share one file, too.
func (l Label) WritePNG(folder string) (path string, err error) {
	code, err := l.code()
	if err != nil {
		return "", fmt.Errorf("label: %w", err)
	}
	var buf bytes.Buffer
	enc := png.Encoder{CompressionLevel: png.BestCompression}
	if err := enc.Encode(&buf, l.draw(code)); err != nil {
		return "", fmt.Errorf("label of %s: %w", l.Serial, err)
	}
	// A serial number begins with a letter or digit: no file is hidden.
	path = filepath.Join(folder, strings.ReplaceAll(l.Serial, ":", "+")+".png")
	if err := durable.WriteFile(path, withResolution(buf.Bytes()), 0o644); err != nil {
		return "", fmt.Errorf("label of %s: %w", l.Serial, err)
	}
	return path, nil
}

// draw returns the code with the serial number below it, in as many lines of the
// same length as it needs.
func (l Label) draw(code barcode.Barcode) image.Image {
	face := inconsolata.Bold8x16
	side := (code.Bounds().Dx() + 2*quiet) * module
	most := side / (face.Advance * textScale) // characters in a line
	lines := (len(l.Serial) + most - 1) / most
	var text []string
	for part := range slices.Chunk([]byte(l.Serial), (len(l.Serial)+lines-1)/lines) {
		text = append(text, string(part))
	}

	row := face.Ascent + face.Descent
	img := image.NewPaletted(image.Rect(0, 0, side, side+len(text)*row*textScale+module), color.Palette{color.White, color.Black})
	square := func(x, y, size int) {
		for py := y; py < y+size; py++ {
			for px := x; px < x+size; px++ {
				img.SetColorIndex(px, py, 1)
			}
		}
	}
	for y := range code.Bounds().Dy() {
		for x := range code.Bounds().Dx() {
			if dark(code, x, y) {
				square((x+quiet)*module, (y+quiet)*module, module)
			}
		}
	}
	for i, part := range text {
		small := image.NewAlpha(image.Rect(0, 0, len(part)*face.Advance, row))
		d := font.Drawer{Dst: small, Src: image.Opaque, Face: face, Dot: fixed.P(0, face.Ascent)}
		d.DrawString(part)
		left, top := (side-small.Rect.Dx()*textScale)/2, side+i*row*textScale
		for y := range small.Rect.Dy() {
			for x := range small.Rect.Dx() {
				if small.AlphaAt(x, y).A >= 0x80 { // printers know no grey
					square(left+x*textScale, top+y*textScale, textScale)
				}
			}
		}
	}
	return img
}

// withResolution puts the chunk with the picture's resolution behind the first
// one, IHDR: without it, a printer makes the label as large as it likes.
func withResolution(file []byte) []byte {
	const perMetre = dpi * 10000 / 254
	chunk := []byte("pHYs")
	chunk = binary.BigEndian.AppendUint32(chunk, perMetre)
	chunk = binary.BigEndian.AppendUint32(chunk, perMetre)
	chunk = append(chunk, 1) // the unit is the metre
	sum := crc32.ChecksumIEEE(chunk)
	chunk = append(binary.BigEndian.AppendUint32(nil, uint32(len(chunk)-4)), chunk...)
	chunk = binary.BigEndian.AppendUint32(chunk, sum)
	const ihdr = 8 + 25 // the file's signature, and that chunk
	return slices.Insert(file, ihdr, chunk...)
}
