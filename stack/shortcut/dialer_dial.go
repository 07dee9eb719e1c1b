package shortcut

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
	"taproot/stack"
	"taproot/stack/shortcut/mark"
)

// Silence is how long the guest has to answer: long enough for its kernel to drop a SYN
// for want of room, and to get another one (after 1 s, RFC 6298 §2.1). Whoever drops what
// comes from outside costs its clients this long once more.
const Silence = 1500 * time.Millisecond

// A dial is a connection to the guest that is not made yet. It belongs to whoever has
// taken it out of the Dialer.
type dial struct {
	key
	fd    int
	id    uint64 // of the poller
	since time.Time
	stray bool // its answer came as a frame; under Dialer.mu
	done  func(fd int, err error)
}

func (p *dial) end(fd int, err error) { p.done(fd, err) }

// Dial connects to the guest, to which source seems to be the client. done is called
// once, often before Dial returns, and must not block. It gets a connected socket,
// non-blocking and set up for a relay, or an error:
//
//	ECONNREFUSED   the guest refuses
//	ECONNRESET     the guest has taken the connection, and reset it; the socket that
//	               comes with it has what was sent before
//	EADDRINUSE     source and target are connected already
//	ETIMEDOUT      the guest says nothing; see Doubt
//	any other      it was not tried: it is the stack's
func (d *Dialer) Dial(source, target netip.AddrPort, done func(fd int, err error)) {
	p := &dial{key: key{source, target}, done: done}
	if source.Port() == 0 || !d.suits(source.Addr(), target.Addr()) {
		p.end(-1, ErrByStack)
		return
	}
	d.begin(p)
}

// suits tells whether there may be a socket for two addresses. One of a link needs to
// know the link, and leads to it.
func (d *Dialer) suits(source, target netip.Addr) bool {
	return d.enabled.Load() && source.Is4() == target.Is4() && d.copies[index(source)] >= 0 &&
		!source.IsLinkLocalUnicast() && !target.IsLinkLocalUnicast() && d.cfg.Stack.Met(target)
}

// begin takes a socket and connects it, or waits for one.
func (d *Dialer) begin(p *dial) {
	fd, wanting, err := d.take(p)
	if wanting {
		family := unix.AF_INET
		if index(p.source.Addr()) == ip6 {
			family = unix.AF_INET6
		}
		d.cfg.Need(family, many)
	}
	switch {
	case err != nil:
		p.end(-1, err)
	case fd >= 0:
		p.fd = fd
		d.connect(p)
		d.connecting.Done()
	}
}

// connect connects a dial's socket. The guest has usually answered when the device has
// taken the SYN.
func (d *Dialer) connect(p *dial) {
	i := index(p.source.Addr())
	if !d.enter(p) {
		d.giveBack(i, p.fd)
		p.end(-1, syscall.EADDRINUSE)
		return
	}
	from, to := socket.NewAddress(p.source), socket.NewAddress(p.target)
	if err := from.Bind(p.fd); err != nil { // a listener of the guest's has the port, for one
		d.leave(p)
		d.giveBack(i, p.fd)
		p.end(-1, ErrByStack)
		return
	}
	err := socket.Begin(p.fd, &to)
	if err == syscall.EINPROGRESS {
		d.pumpUntil(i, p.key)
		err = socket.Progress(p.fd)
	}
	if err == syscall.EINPROGRESS {
		p.since = time.Now()
		if err = d.await(p); err == nil {
			return
		}
	}
	d.leave(p)
	d.finish(p, err)
}

// finish tells the outcome of a dial, whose socket is no longer watched.
func (d *Dialer) finish(p *dial, err error) {
	switch {
	case err == nil:
		d.strikes.Store(0)
		d.Stats.Connected.Add(1)
		p.end(p.fd, nil)
		return
	case socket.IsReset(err):
		p.end(p.fd, syscall.ECONNRESET)
		return
	}
	unix.Close(p.fd)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		d.Stats.Refused.Add(1)
		err = syscall.ECONNREFUSED
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EADDRINUSE):
		err = syscall.EADDRINUSE
	case errors.Is(err, syscall.ETIMEDOUT):
		d.Stats.Silent.Add(1)
		err = syscall.ETIMEDOUT
	default:
		err = ErrByStack
	}
	p.end(-1, err)
}

// enter makes known that a SYN of a dial may come. It returns false if there is one with
// the same addresses.
func (d *Dialer) enter(p *dial) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.keys[p.key] != nil {
		return false
	}
	d.keys[p.key] = p
	return true
}

// leave forgets a dial that enter made known.
func (d *Dialer) leave(p *dial) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.keys, p.key)
}

// expects tells whether a SYN is of somebody who dials.
func (d *Dialer) expects(syn *stack.SYN) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.keys[key{syn.Source, syn.Destination}] != nil && syn.DSCP == mark.Entering
}

// maxCopy is the longest frame of a SYN with its virtio-net header, in bytes: our
// sockets send no data with one.
const maxCopy = 256

// maxPump is how many copies are looked at before it is somebody else's turn: who
// sends without end inside the guest shall not keep the acceptor, nor the end of Run.
const maxPump = 256

// pump puts the SYNs of a family that were copied into the device.
func (d *Dialer) pump(i int) { d.pumpUntil(i, key{}) }

// pumpUntil is pump until the SYN of a dial was among them. What it leaves is the
// poller's, or watch's.
func (d *Dialer) pumpUntil(i int, wanted key) {
	var b [maxCopy]byte
	for range maxPump {
		n, err := socket.Receive(d.copies[i], b[:])
		switch err {
		case nil:
		case syscall.ENETDOWN: // lo was, and is not any more perhaps
			continue
		default:
			return
		}
		if n > len(b) {
			continue
		}
		syn := stack.ParseSYN(b[:n])
		if syn == nil || !d.expects(syn) {
			d.Stats.Strange.Add(1)
			continue
		}
		d.Stats.Entered.Add(1)
		_ = d.cfg.Stack.PutBack(syn, mark.Entering) // counted by the link; it is sent again
		if (key{syn.Source, syn.Destination}) == wanted {
			return
		}
	}
}

// await leaves a dial to the poller. The packet sockets are watched only while there
// are such: they would wake us for each connection.
func (d *Dialer) await(p *dial) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return syscall.ECANCELED
	}
	if p.stray {
		return syscall.ETIMEDOUT
	}
	d.lastID++
	p.id = d.lastID
	if err := d.poller.AddConnecting(p.fd, p.id); err != nil {
		return err
	}
	if len(d.pending) == 0 {
		d.watchCopies()
	}
	d.pending[p.id] = p
	d.call()
	return nil
}

// call makes watch look after those who wait.
func (d *Dialer) call() {
	select {
	case d.waiting <- struct{}{}:
	default: // it was told
	}
}

// watchCopies makes the poller tell of SYNs.
func (d *Dialer) watchCopies() {
	for i, fd := range d.copies {
		if fd >= 0 {
			_ = d.poller.Add(fd, uint64(i)) // else they are seen by watch
		}
	}
}

// takePending takes a dial from the poller; nil if somebody else has.
func (d *Dialer) takePending(id uint64) *dial {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.pending[id]
	if p != nil {
		d.forgetLocked(p)
	}
	return p
}

// +checklocks:d.mu
func (d *Dialer) forgetLocked(p *dial) {
	delete(d.pending, p.id)
	delete(d.keys, p.key)
	_ = d.poller.Remove(p.fd) // it is there
	if len(d.pending) > 0 {
		return
	}
	for _, fd := range d.copies {
		if fd >= 0 {
			_ = d.poller.Remove(fd)
		}
	}
}

// poll serves the poller's events until it is closed.
func (d *Dialer) poll() error {
	var ready []socket.Readiness
	for {
		var err error
		if ready, err = d.poller.Wait(ready[:0]); err != nil {
			return err
		}
		for _, r := range ready {
			if r.ID < familyCount {
				d.pump(int(r.ID))
			} else {
				d.progress(r.ID)
			}
		}
	}
}

// progress goes on where the poller has seen something.
func (d *Dialer) progress(id uint64) {
	p := d.takePending(id)
	if p == nil {
		return
	}
	err := socket.Progress(p.fd)
	if err == syscall.EINPROGRESS && d.enter(p) {
		if err = d.await(p); err == nil {
			return
		}
		d.leave(p)
	}
	d.finish(p, err)
}

// watch gives up dials that the guest does not answer, until ctx ends.
func (d *Dialer) watch(ctx context.Context) {
	const every = Silence / 5
	timer := time.NewTimer(every)
	defer timer.Stop()
	running := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.waiting:
			if !running {
				timer.Reset(every)
			}
			running = true
		case now := <-timer.C:
			if running = d.expire(now.Add(-Silence)); running {
				timer.Reset(every)
			}
		}
	}
}

// expire gives up what has waited since a time, and tells whether others wait.
func (d *Dialer) expire(before time.Time) (more bool) {
	for i, fd := range d.copies { // perhaps it was us who were late
		if fd >= 0 {
			d.pump(i)
		}
	}
	expired, more := d.takeExpired(before)
	for _, p := range expired {
		d.finish(p, syscall.ETIMEDOUT)
	}
	without, others := d.takeWithout(before)
	for _, p := range without {
		p.end(-1, ErrByStack)
	}
	return more || others
}

// takeWithout takes those who have waited for a socket since a time, and tells whether
// others wait.
func (d *Dialer) takeWithout(before time.Time) (without []*dial, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.pools {
		p := &d.pools[i]
		n := 0
		for n < len(p.waiting) && !p.waiting[n].since.After(before) {
			n++
		}
		p.asked = p.asked && n == 0 // whoever was asked may have lost it
		without, p.waiting = append(without, p.waiting[:n]...), p.waiting[n:]
		more = more || len(p.waiting) > 0
	}
	return without, more
}

func (d *Dialer) takeExpired(before time.Time) (expired []*dial, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.pending {
		if p.since.After(before) {
			more = true
			continue
		}
		expired = append(expired, p)
	}
	for _, p := range expired {
		d.forgetLocked(p)
	}
	return expired, more
}
