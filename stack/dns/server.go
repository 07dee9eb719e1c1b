package dns

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// penalty is how long a server that did not answer is asked last. Without it
// every lookup would wait for a dead first server; 30 s is long enough to
// make that rare and short enough to be back soon at the server that the
// user put first.
const penalty = 30 * time.Second

// A server is one of the host's resolvers.
type server struct {
	addr netip.AddrPort

	// failed is when it last failed, nil if it has answered since. It is kept with
	// its reading of the monotonic clock: the other one may be set back.
	failed atomic.Pointer[time.Time]
}

// blame notes that s did not answer, and reports whether that is news.
func (s *server) blame(now time.Time) bool { return s.failed.Swap(&now) == nil }

// praise notes that s answered. The load keeps the line shared between
// processors as long as all is well.
func (s *server) praise() {
	if s.failed.Load() != nil {
		s.failed.Store(nil)
	}
}

// suspect reports whether s failed not long ago.
func (s *server) suspect(now time.Time) bool {
	failed := s.failed.Load()
	return failed != nil && now.Sub(*failed) < penalty
}

// inOrder returns the servers in the order in which to ask them: as they are,
// but those that are suspect last. It does not change list.
func inOrder(list []*server, now time.Time) []*server {
	if !slices.ContainsFunc(list, func(s *server) bool { return s.suspect(now) }) {
		return list
	}
	ordered := make([]*server, 0, len(list))
	var last []*server
	for _, s := range list {
		if s.suspect(now) {
			last = append(last, s)
			continue
		}
		ordered = append(ordered, s)
	}
	return append(ordered, last...)
}
