package portfwd

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
	"taproot/stack/flow"
)

// errNoGuest says that the Table was made without Sockets.
var errNoGuest = errors.New("no access to the guest's namespace")

// openGuest opens the sockets of an outbound rule, all or none unless the rule
// is weak. Where the guest has no IPv6, a rule without an address does with
// IPv4.
func (t *Table) openGuest(ctx context.Context, r Rule) ([]bound, error) {
	if t.cfg.Sockets == nil {
		return nil, errNoGuest
	}
	if a := r.Listen.Addr().Unmap(); a.IsValid() {
		return t.openGuestAt(ctx, r, a)
	}
	sockets, err := t.openGuestAt(ctx, r, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	if err != nil {
		return nil, err
	}
	if r.Listen.Port() == 0 { // the same for both families
		r.Listen = netip.AddrPortFrom(netip.Addr{}, sockets[0].port)
	}
	more, err := t.openGuestAt(ctx, r, netip.IPv6Loopback())
	switch {
	case err == nil, r.Weak, errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return append(sockets, more...), nil
	}
	closeAll(sockets)
	return nil, err
}

// openGuestAt opens the sockets at one address: in one go, or one by one to
// learn which port is to blame.
func (t *Table) openGuestAt(ctx context.Context, r Rule, at netip.Addr) ([]bound, error) {
	specs := make([]Socket, r.Count())
	for i := range specs {
		specs[i] = guestSocket(r.Proto, netip.AddrPortFrom(at, r.Listen.Port()+uint16(i)))
	}
	if files, err := t.cfg.Sockets(ctx, specs); err == nil {
		return bindings(files)
	}
	var sockets []bound
	var first error
	for i := range specs {
		files, err := t.cfg.Sockets(ctx, specs[i:i+1])
		var one []bound
		if err == nil {
			one, err = bindings(files)
		}
		if err == nil {
			one[0].at = i
			sockets = append(sockets, one[0])
			continue
		}
		if first == nil {
			first = &BindError{Proto: r.Proto, Port: specs[i].Bind.Port(), Addr: at, Err: err}
		}
		if !r.Weak || ctx.Err() != nil || isExhausted(err) {
			closeAll(sockets)
			return nil, first
		}
	}
	if len(sockets) == 0 {
		return nil, first
	}
	return sockets, nil
}

// guestSocket describes a socket that is bound to a loopback address.
func guestSocket(p flow.Proto, at netip.AddrPort) Socket {
	s := Socket{Family: socket.Family(at.Addr()), Type: unix.SOCK_STREAM, Bind: at, Listen: p == flow.TCP, V6Only: at.Addr().Is6()}
	if p == flow.UDP {
		s.Type = unix.SOCK_DGRAM
	}
	return s
}

// bindings asks sockets that were made for us for their ports. It takes them
// over.
func bindings(files []*os.File) ([]bound, error) {
	var sockets []bound
	var first error
	for i, f := range files {
		s, err := binding(f)
		if err != nil {
			first = err
			continue
		}
		s.at = i
		sockets = append(sockets, s)
	}
	if first != nil {
		closeAll(sockets)
		return nil, first
	}
	return sockets, nil
}

// binding takes a socket out of the runtime's poller, which would wake this
// process for each connection that another one accepts.
func binding(f *os.File) (bound, error) {
	defer f.Close()
	fd, err := socket.Dup(f)
	if err != nil {
		return bound{}, err
	}
	return keep(fd, f.Name())
}

// keep takes a descriptor over as a socket of a rule that the runtime's poller
// does not know.
func keep(fd int, name string) (bound, error) {
	port, err := portOf(fd)
	if err == nil {
		err = unix.SetNonblock(fd, false) // os.NewFile asks; who accepts sets it again
	}
	if err != nil {
		unix.Close(fd)
		return bound{}, err
	}
	return bound{file: os.NewFile(uintptr(fd), name), port: port}, nil
}
