package command

import (
	"strconv"
	"strings"
	"time"
)

// Newest is when the newest command that was taken was written, as far as that is
// known; zero if nothing is.
func (q *Queue) Newest() (newest time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, id := range q.state.Seen {
		prefix, _, _ := strings.Cut(id, "-")
		if seconds, err := strconv.ParseInt(prefix, 10, 64); err == nil && seconds > newest.Unix() {
			newest = time.Unix(seconds, 0)
		}
	}
	return newest
}
