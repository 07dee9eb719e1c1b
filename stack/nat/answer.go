package nat

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"

	"taproot/stack/flow"
	"taproot/stack/policy"
)

// TCPStats count requests of the guest by how they were answered.
type TCPStats struct {
	Connected   atomic.Uint64 // handshake completed
	Denied      atomic.Uint64 // by policy: ICMP administratively prohibited
	Refused     atomic.Uint64 // by the target: RST
	Unreachable atomic.Uint64 // ICMP unreachable
	TimedOut    atomic.Uint64 // no answer from the target, none to the guest
	Exhausted   atomic.Uint64 // flow table or descriptors: RST

	Evicted atomic.Uint64 // dials that were given up for others; by frames, of TimedOut too

	NoDescriptor atomic.Uint64 // those of Exhausted that met the limit of descriptors
	Suppressed   atomic.Uint64 // ICMP errors held back by the rate limit
	Abandoned    atomic.Uint64 // by the guest, before the handshake was complete
}

// An Answer is what the guest is told of a connection that was not made.
type Answer struct {
	Reset bool      // with RST
	Kind  ErrorKind // otherwise; Silent is no answer at all
}

// Answer counts a connection that was not made, and returns what the guest is
// told: of err, which came from the policy, the flow table or a socket. denied
// is Config.Denied.
func (s *TCPStats) Answer(err error, denied ErrorKind) Answer {
	var byRule *policy.Denied
	switch {
	case errors.As(err, &byRule):
		s.Denied.Add(1)
		return Answer{Kind: denied}
	case errors.Is(err, syscall.ECONNREFUSED):
		s.Refused.Add(1)
		return Answer{Reset: true}
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, context.Canceled):
		s.TimedOut.Add(1)
		return Answer{Kind: Silent}
	case isExhausted(err):
		s.Exhausted.Add(1)
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			s.NoDescriptor.Add(1)
		}
		return Answer{Reset: true}
	}
	s.Unreachable.Add(1)
	if kind, ok := kindOf(err); ok {
		return Answer{Kind: kind}
	}
	return Answer{Kind: HostUnreachable}
}

// isExhausted tells errors of this process or machine from those of the way.
func isExhausted(err error) bool {
	for _, e := range [...]error{
		flow.ErrFull, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EAGAIN,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Unreachable sends the guest an ICMP error from the gateway about a packet of
// its own, of which header is the IP header and at least 8 bytes more. Where
// none may be sent, it does nothing; where it is one too many, it returns false.
func (c *Config) Unreachable(kind ErrorKind, header []byte) bool {
	if kind == Silent {
		return true
	}
	if !c.errors.Allow() {
		return false
	}
	gateway := c.Gateway4
	if len(header) > 0 && header[0]>>4 == 6 {
		gateway = c.Gateway6
	}
	if b := icmpError(kind, header, gateway, 0); b != nil {
		_ = c.Guest.SendPacket(b) // counted by the link
	}
	return true
}
