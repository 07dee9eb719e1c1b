package portfwd

import (
	"net/netip"
	"os"
	"syscall"
	"time"

	"taproot/internal/socket"
	"taproot/stack/flow"
)

const (
	// acceptTurn is how many connections one listener gets before the others
	// have their turn.
	acceptTurn = 64

	// exhaustedPause is how long nothing is accepted when there is no
	// descriptor left, not even to turn a client away, unless a connection ends
	// before. The clients wait in the listen queue.
	exhaustedPause = 100 * time.Millisecond
)

// accept serves the TCP listeners until the poller is closed.
func (p *Publisher) accept() error {
	p.spare.fill()
	defer p.spare.spend()
	var ready []socket.Readiness
	var err error
	for {
		if ready, err = p.acceptor.Wait(ready[:0]); err != nil {
			if p.ctx.Err() != nil {
				return nil
			}
			return err
		}
		for _, r := range ready {
			if !p.acceptFrom(r.ID) {
				p.pause()
			}
		}
	}
}

// acceptFrom accepts what waits at a listener. It returns false if there is no
// descriptor left.
func (p *Publisher) acceptFrom(id uint64) bool {
	p.mu.Lock()
	l := p.ids[id]
	p.mu.Unlock()
	if l == nil || !l.socket.Acquire() {
		return true
	}
	defer l.socket.Release()
	for range acceptTurn {
		fd, client, err := socket.AcceptFrom(l.socket.FD())
		switch err {
		case nil:
			if p.cfg.Descriptors.Reached(fd) {
				p.Stats.Exhausted.Add(1)
				socket.Reset(fd)
				continue
			}
			p.admit(l.Listener, fd, netip.AddrPortFrom(client.Addr().Unmap(), client.Port()))
		case syscall.EAGAIN:
			return true
		case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM:
			p.Stats.Exhausted.Add(1)
			if err := p.turnAway(l); err != nil {
				return err == syscall.EAGAIN
			}
		case syscall.EINVAL: // shut down: it will never be ready again, nor silent
			if p.shutDown(l) {
				p.remove(l.Rule)
			}
			return true
		}
		// Anything else is about one connection, accept(2) says.
	}
	return true
}

// pause waits until a descriptor may be free.
func (p *Publisher) pause() {
	timer := time.NewTimer(exhaustedPause)
	defer timer.Stop()
	select {
	case <-p.freed:
	case <-timer.C:
	case <-p.ctx.Done():
	}
}

// admit begins a connection, or resets it where the flow table is full.
func (p *Publisher) admit(l Listener, fd int, client netip.AddrPort) {
	if l.Unix {
		client = noAddress()
	}
	source, target, ok := p.ends(l, client)
	if !ok {
		p.Stats.Unroutable.Add(1)
		socket.Reset(fd)
		return
	}
	way := flow.ByFrames
	if p.isDirect(l, client.Addr()) {
		way = flow.Shortcut
	}
	entry, err := p.open(l, source, target, way)
	if err != nil {
		socket.Reset(fd)
		return
	}
	a := &arrival{Listener: l, fd: fd, client: client, source: source, target: target, entry: entry}
	if way == flow.Shortcut {
		p.serveDirect(a)
		return
	}
	a.keep()
	p.connections.Go(func() {
		switch {
		case l.TargetUnix:
			p.serveUnix(a)
		case l.local(client.Addr()):
			p.serveLocal(a)
		default:
			p.serveStack(a)
		}
	})
}

// An arrival is a client that was accepted and is not connected yet.
type arrival struct {
	Listener
	fd             int      // -1 if it has a file, or the Mover has it
	file           *os.File // nil if nobody needs one
	client         netip.AddrPort
	source, target netip.AddrPort // as the guest is to see them
	entry          *flow.Flow
	tries          int       // other source ports that Direct was asked for
	turned         bool      // Direct was asked for the other family
	doubted        time.Time // until when an answer to the stack makes Direct doubtful
}

// open enters a flow of a listener, or counts why not.
func (p *Publisher) open(l Listener, source, target netip.AddrPort, way flow.Way) (*flow.Flow, error) {
	entry, err := p.cfg.Flows.OpenBy(flow.Key{Proto: flow.TCP, Initiator: source, Target: target}, way)
	if err != nil {
		p.Stats.Full.Add(1)
		return nil, err
	}
	entry.SetRule(l.Rule, l.Direction == Inbound)
	return entry, nil
}

// ends returns what a connection looks like to the guest at first. It returns
// false if it cannot be.
func (p *Publisher) ends(l Listener, client netip.AddrPort) (source, target netip.AddrPort, ok bool) {
	if !l.TargetUnix && !l.local(client.Addr()) {
		return p.route(l, client)
	}
	if l.TargetUnix && l.Direction == Inbound {
		if source, target, ok = p.route(l, client); ok {
			return source, target, true // its port is 0
		}
	}
	return client, netip.AddrPortFrom(l.loopbacks(client.Addr())[0], l.TargetPort), true
}

// free says that descriptors are free again.
func (p *Publisher) free() {
	select {
	case p.freed <- struct{}{}:
	default:
	}
}

// local tells whether a listener leads a client to loopback, past the stack.
// Whoever is not on loopback itself shall not seem to be.
func (l Listener) local(client netip.Addr) bool {
	return l.Direction == Outbound || l.Loopback && (l.Unix || client.IsLoopback())
}
