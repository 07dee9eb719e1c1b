package dns

import "time"

// A round is the way of one query from server to server. It belongs to one
// goroutine at a time.
type round struct {
	query    []byte
	servers  []*server // still to be asked
	timeout  time.Duration
	deadline time.Time
	refusal  []byte // the first one
}

// newRound returns a round that begins now. It keeps query.
func (f *Forwarder) newRound(query []byte) round {
	now := time.Now()
	return round{
		query:    query,
		servers:  inOrder(*f.servers.Load(), now),
		timeout:  f.timeout,
		deadline: now.Add(attemptsInTotal * f.timeout),
	}
}

// server returns whom to ask next and how long to wait for the answer, or nil
// if everybody was asked.
func (r *round) server() (s *server, patience time.Duration) {
	if len(r.servers) == 0 {
		return nil, 0
	}
	share := time.Until(r.deadline) / time.Duration(len(r.servers))
	s, r.servers = r.servers[0], r.servers[1:]
	return s, min(r.timeout, share)
}

// refused reports whether reply is a refusal, and notes the first one. It keeps
// what keep returns.
func (r *round) refused(reply []byte, keep func([]byte) []byte) bool {
	if !isRefusal(reply) {
		return false
	}
	if r.refusal == nil {
		r.refusal = keep(reply)
	}
	return true
}

// giveUp returns the answer when nobody is left to ask: the first refusal, or
// SERVFAIL, which it counts.
func (f *Forwarder) giveUp(r *round) []byte {
	if r.refusal != nil {
		return r.refusal
	}
	f.failed.Add(1)
	return failure(r.query)
}
