package firmware

import (
	"fmt"
	"time"
)

// quiet is how long nothing is told after something was.
const quiet = 30 * time.Second

// progress tells how far an update is, sparingly: each text goes to the cloud.
type progress struct {
	name string
	tell func(text string) // nil: nobody wants to know
	next int64             // percent
	last time.Time
}

func (p *progress) at(done, size int64) {
	percent := done * 100 / max(size, 1)
	first := p.last.IsZero()
	if !first && (percent < p.next || percent >= 100 || time.Since(p.last) < quiet) {
		return
	}
	p.next = percent/25*25 + 25
	p.say(amount(done, size))
}

func (p *progress) say(text string) {
	p.last = time.Now()
	if p.tell != nil {
		p.tell(p.name + ": " + text)
	}
}

// amount is such as "25 %, 9.1 of 36.4 MB".
func amount(done, size int64) string {
	return fmt.Sprintf("%d %%, %.1f of %.1f MB", done*100/max(size, 1), float64(done)/1e6, float64(size)/1e6)
}
