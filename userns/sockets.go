package userns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxSockets is how many sockets one child makes: as many descriptors as fit in
// one message (SCM_MAX_FD, unix(7)).
const maxSockets = 253

// A Socket is a socket to be made. All are non-blocking and close-on-exec.
type Socket struct {
	// Family, Type and Protocol are those of socket(2).
	Family, Type, Protocol int

	// Bind is the address to bind to, of the family; a port of 0 lets the kernel
	// choose. An invalid one leaves the socket unbound. Zones are interface
	// indices inside the namespace.
	Bind netip.AddrPort

	// Listen makes it a listener, with SO_REUSEADDR and the longest backlog that
	// the namespace allows.
	Listen bool

	// V6Only keeps IPv4 away from a socket of AF_INET6 (ipv6(7)), whatever
	// net.ipv6.bindv6only says.
	V6Only bool

	// Reuse lets several of them have the same address (SO_REUSEADDR in socket(7))
	// while none of them listens.
	Reuse bool

	// Transparent lets it have addresses of others (IP_TRANSPARENT in ip(7)), to
	// bind to and to be given connections to (tproxy).
	Transparent bool

	// Passed keeps it out of the runtime's poller, which wakes this process for
	// whatever comes to it: for a socket that another process uses. Whoever reads it
	// here does not wait.
	Passed bool

	// Mark is that of the packets that it sends (SO_MARK in socket(7)), and of what
	// it accepts.
	Mark uint32
}

// Sockets returns sockets that live inside the namespace, in the order asked
// for; they may be bound to ports below 1024. The caller owns them. They are all
// there, or none is and the error tells why: it has the socket's address and
// wraps the system call's error.
//
// It takes about a millisecond for each 253 sockets.
func (n *Namespace) Sockets(ctx context.Context, sockets []Socket) ([]*os.File, error) {
	var files []*os.File
	for len(sockets) > 0 {
		part := sockets[:min(len(sockets), maxSockets)]
		made, err := n.make(ctx, nil, part)
		if err != nil {
			closeFiles(files)
			return nil, n.socketError(ctx, part, err)
		}
		files = append(files, made...)
		sockets = sockets[len(part):]
	}
	return files, nil
}

// SendSockets is Sockets for another process: the child sends them itself, by a
// connected Unix socket and with a packet, which must not be empty. This process never
// has them, which spares both some 30 us for each. There may be 253 of them, which is
// what one message carries. An error says that nothing was sent, unless the child did
// not live to tell.
func (n *Namespace) SendSockets(ctx context.Context, sockets []Socket, carrier syscall.Conn, packet []byte) error {
	if len(sockets) > maxSockets || len(packet) == 0 {
		return fmt.Errorf("send %d sockets with %d bytes: %w", len(sockets), len(packet), syscall.EINVAL)
	}
	raw, err := carrier.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := raw.Control(func(fd uintptr) {
		_, err = n.run(ctx, nil, sockets, func(m *maker) int {
			m.sendBy(fd, packet)
			return 0
		})
	})
	switch {
	case controlErr != nil:
		return controlErr
	case err != nil:
		return n.socketError(ctx, sockets, err)
	}
	return nil
}

// make opens files and makes sockets inside the namespace, by one child, and
// returns them in this order: all or none. There may be maxSockets of them. What
// the child met is a *trouble.
func (n *Namespace) make(ctx context.Context, files []file, sockets []Socket) ([]*os.File, error) {
	fds, err := n.run(ctx, files, sockets, func(*maker) int { return len(files) + len(sockets) })
	if err != nil {
		return nil, err
	}
	made := make([]*os.File, len(fds))
	for i, fd := range fds {
		if i < len(files) {
			made[i] = os.NewFile(uintptr(fd), files[i].path)
		} else {
			made[i] = sockets[i-len(files)].file(fd)
		}
	}
	return made, nil
}

// file makes a file of the socket.
func (s Socket) file(fd int) *os.File {
	if !s.Passed {
		return os.NewFile(uintptr(fd), s.String())
	}
	// os.NewFile gives to the poller only what is non-blocking. fcntl(2) of a
	// descriptor of ours does not fail.
	_ = unix.SetNonblock(fd, false)
	f := os.NewFile(uintptr(fd), s.String())
	_ = unix.SetNonblock(fd, true)
	return f
}

// run has a child open files and make sockets, and returns as many descriptors as
// prepare says that it will send us. What the child met is a *trouble.
func (n *Namespace) run(ctx context.Context, files []file, sockets []Socket, prepare func(*maker) int) ([]int, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w, theirs, err := newWirePair()
	if err != nil {
		return nil, err
	}
	defer w.close()
	m, err := n.newMaker(theirs, files, sockets)
	if err != nil {
		unix.Close(theirs)
		return nil, err
	}
	count := prepare(m)
	pid, err := m.fork()
	unix.Close(theirs)
	if err != nil {
		return nil, err
	}
	child := watch(pid)
	defer child.end()
	stop := context.AfterFunc(ctx, func() { w.conn.SetDeadline(time.Now()) })
	defer stop()
	return w.recvDescriptors(count)
}

// recvDescriptors waits for the notice of a maker and for n descriptors.
func (w *wire) recvDescriptors(n int) ([]int, error) {
	packet := make([]byte, noticeSize+1)
	oob := make([]byte, unix.CmsgSpace(4*maxSockets))
	size, oobn, flags, _, err := w.conn.ReadMsgUnix(packet, oob)
	if err == nil && size == 0 {
		err = io.EOF
	}
	if err != nil {
		return nil, err
	}
	fds := rightsIn(oob[:oobn])
	switch {
	case packet[0] == packetSockets && len(fds) == n:
		return fds, nil
	case flags&unix.MSG_CTRUNC != 0: // unix(7): our table of descriptors is full
		err = syscall.EMFILE
	default:
		err = noticed(packet[:size])
	}
	closeAll(fds)
	return nil, err
}

// socketError explains why there are no sockets.
func (n *Namespace) socketError(ctx context.Context, sockets []Socket, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var t *trouble
	if !errors.As(err, &t) {
		return fmt.Errorf("%v: sockets: %w", n.target, err)
	}
	if t.step < stepSocket || t.step >= stepSend || t.index >= len(sockets) {
		return n.explain(err)
	}
	return fmt.Errorf("%s %v: %w", stepNames[t.step], sockets[t.index], t.errno)
}

// String returns the socket's address, or what it is without one.
func (s Socket) String() string {
	if s.Bind.IsValid() {
		return s.Bind.String()
	}
	return fmt.Sprintf("socket of family %d, type %d, protocol %d", s.Family, s.Type, s.Protocol)
}

// sockaddr returns the address to bind to as the kernel has it; none is empty.
func (s Socket) sockaddr() (b [unix.SizeofSockaddrInet6]byte, n uintptr, err error) {
	if !s.Bind.IsValid() {
		return b, 0, nil
	}
	addr := s.Bind.Addr()
	switch {
	case s.Family == unix.AF_INET && addr.Is4():
		n = unix.SizeofSockaddrInet4
		a := addr.As4()
		copy(b[4:], a[:])
	case s.Family == unix.AF_INET6 && addr.Is6():
		n = unix.SizeofSockaddrInet6
		a := addr.As16()
		copy(b[8:], a[:])
		if addr.Zone() != "" {
			zone, err := strconv.ParseUint(addr.Zone(), 10, 32)
			if err != nil {
				return b, 0, &net.AddrError{Err: "zone is no number", Addr: addr.String()}
			}
			binary.NativeEndian.PutUint32(b[24:], uint32(zone))
		}
	default:
		return b, 0, fmt.Errorf("bind %v: %w", s.Bind, syscall.EAFNOSUPPORT)
	}
	binary.NativeEndian.PutUint16(b[:], uint16(s.Family))
	binary.BigEndian.PutUint16(b[2:], s.Bind.Port())
	return b, n, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
