package logfile

import "bytes"

const escape = 0x1b

// stripper removes escape sequences as Supervisor's strip_ansi does: from ESC [
// to the next of certain letters, whatever is between. It gives the same result
// however the output is cut into calls; the last may be within a sequence.
type stripper struct {
	held   bool // an escape character that may begin a sequence
	inside bool // a sequence
}

// appendTo appends what is left of p to dst. They may overlap if dst ends at
// least a byte before p begins.
func (s *stripper) appendTo(dst, p []byte) []byte {
	for len(p) > 0 {
		switch {
		case s.inside:
			i := bytes.IndexAny(p, "HfABCDRsuJKhlpm")
			if i < 0 {
				return dst
			}
			s.inside = false
			p = p[i+1:]
		case s.held:
			s.held = false
			if p[0] == '[' {
				s.inside = true
				p = p[1:]
			} else {
				dst = append(dst, escape)
			}
		default:
			i := bytes.IndexByte(p, escape)
			if i < 0 {
				return append(dst, p...)
			}
			dst = append(dst, p[:i]...)
			s.held = true
			p = p[i+1:]
		}
	}
	return dst
}

// end returns what was held back.
func (s *stripper) end() []byte {
	if !s.held {
		return nil
	}
	s.held = false
	return []byte{escape}
}
