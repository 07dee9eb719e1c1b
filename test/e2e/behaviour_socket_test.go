package e2e

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// A plainSocket is a non-blocking TCP socket, used by system calls only, so that
// what it says is what the kernel says. Each call waits up to [lab.Patience].
// What it sends is a stream of bytes that says of each where it belongs, and
// what it receives is compared with such a stream.
type plainSocket struct {
	fd             int
	sent, received uint64 // bytes
}

// stream puts into b the bytes from a place of the stream on.
func stream(place uint64, b []byte) {
	for i := range b {
		at := place + uint64(i)
		b[i] = byte((at/8 + 1) * 0x9e3779b97f4a7c15 >> (at % 8 * 8)) // Knuth's multiplicative hash
	}
}

// newPlainSocket makes a socket in the namespace of the calling thread.
// protocol is IPPROTO_TCP or IPPROTO_MPTCP.
func newPlainSocket(family, protocol int) (*plainSocket, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, err
	}
	return &plainSocket{fd: fd}, nil
}

// sockaddr is a as the system calls want it.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// addrPort is the reverse of sockaddr.
func addrPort(s unix.Sockaddr) netip.AddrPort {
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(s.Addr), uint16(s.Port))
	default:
		return netip.AddrPort{}
	}
}

// again calls f until it returns something else than EAGAIN or EINTR, waiting
// for events of poll(2) in between. In vain, it returns ETIME, which no TCP
// socket says.
func (s *plainSocket) again(events int16, f func() error) error {
	for deadline := time.Now().Add(lab.Patience); ; {
		if err := f(); err != unix.EAGAIN && err != unix.EINTR {
			return err
		}
		if _, err := s.poll(events, time.Until(deadline)); err != nil {
			return err
		}
	}
}

// poll waits for one of some events, or for an error or the end of the
// connection, which poll(2) always tells.
func (s *plainSocket) poll(events int16, limit time.Duration) (int16, error) {
	for deadline := time.Now().Add(limit); ; {
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: events}}
		n, err := unix.Poll(fds, int(max(0, time.Until(deadline).Milliseconds())))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			return 0, unix.ETIME
		default:
			return fds[0].Revents, nil
		}
	}
}

// start is connect(2), which does not wait.
func (s *plainSocket) start(target netip.AddrPort) error {
	err := unix.Connect(s.fd, sockaddr(target))
	if err == unix.EINPROGRESS {
		return nil
	}
	return err
}

// finish waits for what becomes of start. A socket may be seen closed a moment
// before it has the error that closed it.
func (s *plainSocket) finish() error {
	if _, err := s.poll(unix.POLLOUT, lab.Patience); err != nil {
		return err
	}
	var result error
	err := until(func() (bool, error) {
		i, err := s.info()
		if err != nil {
			return true, err
		}
		result = s.pending()
		return result != nil || i.State != unix.BPF_TCP_CLOSE, nil
	})
	return cmp.Or(err, result)
}

// pending is the socket's error, which is taken from it.
func (s *plainSocket) pending() error {
	number, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && number != 0 {
		return unix.Errno(number)
	}
	return err
}

// accept waits for a connection.
func (s *plainSocket) accept() (*plainSocket, error) {
	fd := -1
	err := s.again(unix.POLLIN, func() (err error) {
		fd, _, err = unix.Accept4(s.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		return err
	})
	return &plainSocket{fd: fd}, err
}

// send sends n bytes; flags are those of send(2).
func (s *plainSocket) send(n, flags int) error {
	b := make([]byte, n)
	stream(s.sent, b)
	for len(b) > 0 {
		err := s.again(unix.POLLOUT, func() error {
			n, err := unix.SendmsgN(s.fd, b, nil, nil, flags|unix.MSG_NOSIGNAL)
			if err == nil {
				b, s.sent = b[n:], s.sent+uint64(n)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// stalled is how long nothing more may be taken before a way counts as full.
// If it is less than a busy machine needs, it is not as full as it could be.
const stalled = 300 * time.Millisecond

// fill sends until everything on the way is full.
func (s *plainSocket) fill() error {
	for b := make([]byte, 1<<16); ; {
		stream(s.sent, b)
		n, err := unix.SendmsgN(s.fd, b, nil, nil, unix.MSG_NOSIGNAL)
		switch err {
		case nil:
			s.sent += uint64(n)
		case unix.EINTR:
		case unix.EAGAIN:
			if _, err := s.poll(unix.POLLOUT, stalled); err == unix.ETIME {
				return nil
			}
		default:
			return err
		}
	}
}

// recv receives n bytes, or what comes before an error or the end.
func (s *plainSocket) recv(n int) (int, error) {
	total, b := 0, make([]byte, min(n, 1<<18))
	for total < n {
		got := 0
		err := s.again(unix.POLLIN, func() (err error) {
			got, _, _, _, err = unix.RecvmsgBuffers(s.fd, [][]byte{b[:min(len(b), n-total)]}, nil, 0)
			return err
		})
		if err != nil {
			return total, err
		}
		if got == 0 {
			return total, nil
		}
		if err := s.check(b[:got]); err != nil {
			return total, err
		}
		total += got
	}
	return total, nil
}

// check compares what was received with what had to come.
func (s *plainSocket) check(got []byte) error {
	want := make([]byte, len(got))
	stream(s.received, want)
	for i := range got {
		if got[i] != want[i] {
			around := min(len(got), i+16)
			return fmt.Errorf("byte %d: got % x, want % x", s.received+uint64(i), got[i:around], want[i:around])
		}
	}
	s.received += uint64(len(got))
	return nil
}

// info is TCP_INFO.
func (s *plainSocket) info() (*unix.TCPInfo, error) {
	return unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
}

// waiting is how many bytes there are to be received.
func (s *plainSocket) waiting() (int, error) { return unix.IoctlGetInt(s.fd, unix.TIOCINQ) }

// reset closes the socket with RST.
func (s *plainSocket) reset() error {
	if err := unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err
	}
	return s.close()
}

// vanish closes the socket without a word to the peer, as if the machine had
// lost power. TCP_REPAIR needs CAP_NET_ADMIN.
func (s *plainSocket) vanish() error {
	if err := unix.SetsockoptInt(s.fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
		return err
	}
	return s.close()
}

func (s *plainSocket) close() error {
	fd := s.fd
	s.fd = -1
	return unix.Close(fd)
}
