package dhcp

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// maxPool bounds a pool, in addresses.
	maxPool = 256

	// offerTime is how long an address is kept for a client that was offered
	// it. Clients that want it ask within seconds.
	offerTime = time.Minute

	// declined holds an address that a client says is somebody else's. Clients
	// have other names, see client4.
	declined = "declined"
)

// A pool is a row of addresses that clients get one each of. All that it
// remembers may be forgotten: a client that asks for the address that it has
// gets it again.
type pool struct {
	mu sync.Mutex
	// +checklocks:mu
	leases []lease
}

// A lease is who has an address until when. A free one is nobody's, or over.
type lease struct {
	addr   netip.Addr
	client string
	until  time.Time
}

func (l *lease) isFree(now time.Time) bool { return l.client == "" || !now.Before(l.until) }

// newPool returns a pool of size addresses, or nil if there are none.
func newPool(first netip.Addr, size int) *pool {
	var leases []lease
	for a := first; a.Is4() && len(leases) < min(size, maxPool); a = a.Next() {
		leases = append(leases, lease{addr: a})
	}
	if leases == nil {
		return nil
	}
	return &pool{leases: leases}
}

// offer keeps an address for client: the one that it has, or else the one
// that it wishes for, or else the first free one. It returns false if all are
// taken.
func (p *pool) offer(client string, wish netip.Addr, now time.Time) (netip.Addr, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var free *lease
	for i := range p.leases {
		switch l := &p.leases[i]; {
		case l.client == client && !l.isFree(now):
			return l.addr, true
		case l.client == client:
			free, wish = l, l.addr // it had the address once
		case l.isFree(now) && (free == nil || l.addr == wish):
			free = l
		}
	}
	if free == nil {
		return netip.Addr{}, false
	}
	free.client, free.until = client, now.Add(offerTime)
	return free.addr, true
}

// take gives addr to client until then. It returns false if addr is not the
// pool's or somebody else has it.
func (p *pool) take(client string, addr netip.Addr, now, until time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.find(addr)
	if l == nil || l.client != client && !l.isFree(now) {
		return false
	}
	l.client, l.until = client, until
	return true
}

// give takes an address from client and gives it to other until then, or to
// "", which is nobody. It does nothing if the address is not client's.
func (p *pool) give(client string, addr netip.Addr, other string, until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.find(addr); l != nil && l.client == client {
		l.client, l.until = other, until
	}
}

// find returns the lease of addr, or nil.
//
// +checklocks:p.mu
func (p *pool) find(addr netip.Addr) *lease {
	for i := range p.leases {
		if p.leases[i].addr == addr {
			return &p.leases[i]
		}
	}
	return nil
}
