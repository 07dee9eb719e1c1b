package portfwd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"taproot/stack/flow"
)

// An Open is a port that somebody listens on, or for UDP a port that somebody
// has bound without being connected.
type Open struct {
	Proto flow.Proto
	Addr  netip.Addr // unspecified: every address
	Port  uint16
}

// A Scanner lists open ports. It asks the kernel by sock_diag(7), which needs
// no privilege and no /proc. It belongs to one goroutine.
type Scanner struct {
	file *os.File
	seq  uint32
	buf  []byte
}

// scanBuffer is the size of one piece of the answer, in bytes: the kernel
// makes pieces of up to 32 KiB for readers that have the room.
const scanBuffer = 32 << 10

// NewScanner returns a Scanner over a NETLINK_SOCK_DIAG socket, which it takes
// over. What it lists is the namespace in which the socket was made.
func NewScanner(diag *os.File) *Scanner {
	return &Scanner{file: diag, buf: make([]byte, scanBuffer)}
}

// Close closes the socket.
func (s *Scanner) Close() error { return s.file.Close() }

// Scan returns the open ports of a protocol, in both families.
func (s *Scanner) Scan(p flow.Proto) ([]Open, error) {
	state := stateListen
	if p == flow.UDP {
		state = stateClose
	}
	var list []Open
	err := s.each(p, 1<<state, func(o owned) { list = append(list, o.Open) })
	if err != nil {
		return nil, fmt.Errorf("list %v ports: %w", p, err)
	}
	return list, nil
}

// A Connection is a TCP connection as the one who has it sees it.
type Connection struct{ Local, Peer netip.AddrPort }

// Connections returns TCP connections that may last without a segment being sent,
// limit at most.
func (s *Scanner) Connections(limit int) ([]Connection, error) {
	var list []Connection
	err := s.each(flow.TCP, 1<<stateOpen|1<<stateFinWait1|1<<stateFinWait2|1<<stateCloseWait, func(o owned) {
		if len(list) < limit {
			list = append(list, Connection{netip.AddrPortFrom(o.Addr, o.Port), o.peer})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list connections: %w", err)
	}
	return list, nil
}

// each calls f for each socket of a protocol that is in one of some states, a
// set of bits, in both families.
func (s *Scanner) each(p flow.Proto, states uint32, f func(owned)) error {
	for _, family := range [...]uint8{unix.AF_INET, unix.AF_INET6} {
		err := s.dump(diagRequest(family, p, states), p, f)
		if errors.Is(err, syscall.ENOENT) && family == unix.AF_INET6 {
			continue // a kernel without IPv6
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dump sends one request and reads its answer.
func (s *Scanner) dump(request []byte, p flow.Proto, f func(owned)) error {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	s.seq++
	binary.NativeEndian.PutUint32(request[8:], s.seq)
	var dumpErr error
	// The kernel makes the answer while we ask and receive: there is nothing
	// to wait for.
	err = raw.Control(func(fd uintptr) {
		if dumpErr = unix.Sendto(int(fd), request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); dumpErr != nil {
			return
		}
		for dumpErr == nil {
			var n int
			if n, _, dumpErr = unix.Recvfrom(int(fd), s.buf, unix.MSG_DONTWAIT); dumpErr == nil {
				dumpErr = parseDiag(s.buf[:n], s.seq, p, f)
			}
		}
	})
	if err == nil && dumpErr != io.EOF {
		err = dumpErr
	}
	return err
}

// Of sock_diag(7), netlink(7) and linux/inet_diag.h.
const (
	diagByFamily   = 20
	diagRequestLen = 56
	diagMessageLen = 72
	stateOpen      = 1 // this and the next three of a TCP connection that may be silent for long
	stateFinWait1  = 4
	stateFinWait2  = 5
	stateCloseWait = 8
	stateClose     = 7 // of a UDP socket that is not connected
	stateListen    = 10
	stateBound     = 13 // of a TCP socket that is bound and nothing else; Linux 6.8
)

// diagRequest returns a request for all sockets of a family and a protocol that
// are in one of some states. Its sequence number is left out.
func diagRequest(family uint8, p flow.Proto, states uint32) []byte {
	protocol := byte(unix.IPPROTO_TCP)
	if p == flow.UDP {
		protocol = unix.IPPROTO_UDP
	}
	b := make([]byte, unix.SizeofNlMsghdr+diagRequestLen)
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], diagByFamily)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b[16], b[17] = family, protocol
	binary.NativeEndian.PutUint32(b[20:], states)
	return b
}

// parseDiag calls f for each socket in one piece of the answer. It returns
// io.EOF at its end, and the kernel's error if it sent one. Pieces of other
// answers are ignored.
func parseDiag(b []byte, seq uint32, p flow.Proto, f func(owned)) error {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return fmt.Errorf("message of %d bytes in %d: %w", size, len(b), syscall.EBADMSG)
		}
		typ, data := binary.NativeEndian.Uint16(b[4:]), b[unix.SizeofNlMsghdr:size]
		if binary.NativeEndian.Uint32(b[8:]) == seq {
			switch typ {
			case unix.NLMSG_DONE:
				return io.EOF
			case unix.NLMSG_ERROR:
				return diagError(data)
			case diagByFamily:
				if o, ok := parseSocket(data, p); ok {
					f(o)
				}
			}
		}
		b = b[min(len(b), (size+3)&^3):] // messages are aligned to 4 bytes
	}
	return nil
}

// diagError returns the error in an NLMSG_ERROR.
func diagError(data []byte) error {
	if len(data) < 4 {
		return syscall.EBADMSG
	}
	if n := int32(binary.NativeEndian.Uint32(data)); n < 0 && n > -4096 {
		return syscall.Errno(-n)
	}
	return syscall.EBADMSG
}

// An owned is a socket with what tells who has it.
type owned struct {
	Open
	peer  netip.AddrPort
	uid   uint32
	inode uint32 // 0: no process has it any more
}

// parseSocket reads a struct inet_diag_msg.
func parseSocket(data []byte, p flow.Proto) (owned, bool) {
	if len(data) < diagMessageLen {
		return owned{}, false
	}
	o := owned{
		Open: Open{Proto: p, Port: binary.BigEndian.Uint16(data[4:])},
		uid:  binary.NativeEndian.Uint32(data[64:]), inode: binary.NativeEndian.Uint32(data[68:]),
	}
	peerPort := binary.BigEndian.Uint16(data[6:])
	switch data[0] {
	case unix.AF_INET:
		o.Addr = netip.AddrFrom4([4]byte(data[8:12]))
		o.peer = netip.AddrPortFrom(netip.AddrFrom4([4]byte(data[24:28])), peerPort)
	case unix.AF_INET6:
		o.Addr = netip.AddrFrom16([16]byte(data[8:24])).Unmap()
		o.peer = netip.AddrPortFrom(netip.AddrFrom16([16]byte(data[24:40])).Unmap(), peerPort)
	default:
		return owned{}, false
	}
	return o, o.Port != 0
}
