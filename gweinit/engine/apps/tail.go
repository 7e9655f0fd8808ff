package apps

import (
	"io"
	"unicode/utf8"
)

// tail keeps the end of what is written to it.
type tail struct {
	also io.Writer // gets all; nil: nobody
	data []byte
	cut  bool
}

// maxOutput is what is kept, in bytes. The queue has no room for more.
const maxOutput = 7 << 10

func (t *tail) Write(p []byte) (int, error) {
	if t.also != nil {
		t.also.Write(p)
	}
	t.data = append(t.data, p[max(0, len(p)-2*maxOutput):]...)
	if len(t.data) > 2*maxOutput {
		t.data, t.cut = append(t.data[:0], t.data[len(t.data)-maxOutput:]...), true
	}
	return len(p), nil
}

func (t *tail) text() string {
	data := t.data
	if len(data) > maxOutput {
		data, t.cut = data[len(data)-maxOutput:], true
	}
	if !t.cut {
		return string(data)
	}
	for len(data) > 0 && !utf8.RuneStart(data[0]) {
		data = data[1:]
	}
	return "...\n" + string(data)
}
