package portfwd

import (
	"golang.org/x/sys/unix"

	"taproot/internal/socket"
)

// A spare is a descriptor that is kept for the moment when there is no other
// one: with it a client that cannot be served is accepted and reset, instead of
// waiting for nobody knows what. It belongs to the goroutine that accepts; the
// zero value has none yet.
type spare struct{ socket *socket.Socket }

// fill takes a descriptor if there is none.
func (s *spare) fill() {
	if s.socket != nil {
		return
	}
	if made, err := socket.New(unix.AF_INET, unix.SOCK_DGRAM, 0); err == nil {
		s.socket = made
	}
}

// spend gives the descriptor up.
func (s *spare) spend() {
	if s.socket != nil {
		s.socket.Release()
		s.socket = nil
	}
}

// turnAway resets the client that waits at a listener, where accepting failed
// for lack of a descriptor. The error is EAGAIN if none waits, and another one if
// there is no descriptor even for that.
func (p *Publisher) turnAway(l *listener) error {
	p.spare.spend()
	defer p.spare.fill()
	fd, _, err := socket.AcceptFrom(l.socket.FD())
	if err != nil {
		return err
	}
	socket.Reset(fd)
	return nil
}
