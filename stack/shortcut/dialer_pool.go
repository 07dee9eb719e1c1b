package shortcut

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
)

const (
	// enough is how many sockets of a family are left when more are asked for: those
	// that a busy client can use up while the supervisor makes others (5 ms).
	enough = 64 // more than few, so that the first client asks for many

	// few are asked for in advance: an idle port shall not hold many descriptors.
	// many are asked for when these are used: a child that makes them costs the
	// supervisor a millisecond whatever their number, and one message carries so
	// many (SCM_MAX_FD, unix(7)).
	few  = 32
	many = 253

	// patient is how many may wait for sockets. More are left to the stack.
	patient = 4096
)

// A pool holds sockets of one family that nobody has used, and those who wait for one.
type pool struct {
	free    []int
	asked   bool // for more
	waiting []*dial
}

// take takes a socket, or has the dial wait for one. wanting tells that more are to
// be asked for; an error, that neither is possible. Whoever gets a socket calls
// Dialer.connecting.Done when it is connected or waits for the guest.
func (d *Dialer) take(p *dial) (fd int, wanting bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return -1, false, syscall.ECANCELED
	}
	pool := &d.pools[index(p.source.Addr())]
	n := len(pool.free)
	wanting = n <= enough && !pool.asked
	pool.asked = pool.asked || wanting
	switch {
	case n > 0:
		fd = pool.free[n-1]
		pool.free = pool.free[:n-1]
		d.connecting.Add(1)
		return fd, wanting, nil
	case len(pool.waiting) >= patient:
		return -1, wanting, syscall.ENOBUFS
	}
	p.since = time.Now()
	pool.waiting = append(pool.waiting, p)
	d.call()
	return -1, wanting, nil
}

// Prepare has sockets ready before somebody dials.
func (d *Dialer) Prepare() {
	for i, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if d.copies[i] >= 0 && d.wanting(i) {
			d.cfg.Need(family, few)
		}
	}
}

// wanting tells whether more sockets are to be asked for.
func (d *Dialer) wanting(i int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := &d.pools[i]
	if p.asked || d.over || len(p.free) > 0 {
		return false
	}
	p.asked = true
	return true
}

// Supply gives the Dialer sockets of a family for which it asked, non-blocking,
// transparent, with mark.Client and SO_REUSEADDR, which it takes over. None means that
// there are none now; who waits gets err then.
func (d *Dialer) Supply(family int, fds []int, err error) {
	i := ip4
	if family == unix.AF_INET6 {
		i = ip6
	}
	socket.Inner(fds...)
	if len(fds) == 0 && err == nil {
		err = syscall.EMFILE // unix(7): they got lost on the way
	}
	waiting := d.store(i, fds)
	for _, p := range waiting {
		if len(fds) == 0 {
			p.end(-1, err)
		} else {
			d.begin(p)
		}
	}
}

// store keeps sockets, and takes those who wait.
func (d *Dialer) store(i int, fds []int) (waiting []*dial) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil
	}
	p := &d.pools[i]
	p.free, p.asked = append(p.free, fds...), false
	waiting, p.waiting = p.waiting, nil
	return waiting
}

// giveBack keeps a socket that was not used.
func (d *Dialer) giveBack(i, fd int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		unix.Close(fd)
		return
	}
	d.pools[i].free = append(d.pools[i].free, fd)
}
