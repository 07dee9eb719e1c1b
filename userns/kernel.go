package userns

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A kernelSocket is a netlink socket that somebody else has made, in another
// network namespace perhaps, for a netlink.Conn. It never blocks: the kernel has
// answered a request of the families that we use when it has taken it.
type kernelSocket struct {
	file *os.File
	raw  syscall.RawConn
	port uint32 // its own address
}

// newConn makes a connection of a socket, which it takes over.
func newConn(f *os.File) (*netlink.Conn, error) {
	s, err := newKernelSocket(f)
	if err != nil {
		return nil, err
	}
	return netlink.NewConn(s, s.port), nil
}

// newKernelSocket connects a socket, which it takes over, to the kernel.
func newKernelSocket(f *os.File) (*kernelSocket, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	s := &kernelSocket{file: f, raw: raw}
	if s.port, err = s.connect(); err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

// connect connects the socket to the kernel, so that nobody else can send to it:
// a guest's root could otherwise. It returns the socket's own address.
func (s *kernelSocket) connect() (port uint32, err error) {
	err = s.control(func(fd int) error {
		if err := unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return os.NewSyscallError("connect", err)
		}
		address, err := unix.Getsockname(fd)
		if err != nil {
			return os.NewSyscallError("getsockname", err)
		}
		own, ok := address.(*unix.SockaddrNetlink)
		if !ok {
			return syscall.EPROTOTYPE
		}
		port = own.Pid
		return nil
	})
	return port, err
}

// control calls f with the descriptor.
func (s *kernelSocket) control(f func(fd int) error) (err error) {
	controlErr := s.raw.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(controlErr, err)
}

// Close implements netlink.Socket.
func (s *kernelSocket) Close() error { return s.file.Close() }

// Send implements netlink.Socket.
func (s *kernelSocket) Send(m netlink.Message) error { return s.SendMessages([]netlink.Message{m}) }

// SendMessages implements netlink.Socket.
func (s *kernelSocket) SendMessages(messages []netlink.Message) error {
	var packet []byte
	for _, m := range messages {
		b, err := m.MarshalBinary()
		if err != nil {
			return err
		}
		packet = append(packet, b...)
	}
	return s.control(func(fd int) error {
		_, err := unix.Write(fd, packet)
		return os.NewSyscallError("write", err)
	})
}

// Receive implements netlink.Socket.
func (s *kernelSocket) Receive() ([]netlink.Message, error) {
	var packet []byte
	err := s.control(func(fd int) error {
		n, _, err := unix.Recvfrom(fd, nil, unix.MSG_PEEK|unix.MSG_TRUNC|unix.MSG_DONTWAIT)
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		packet = make([]byte, n)
		n, _, err = unix.Recvfrom(fd, packet, unix.MSG_DONTWAIT)
		packet = packet[:max(n, 0)]
		return os.NewSyscallError("recvfrom", err)
	})
	if err != nil {
		return nil, err
	}
	return parseMessages(packet)
}

// parseMessages returns the messages of a packet.
func parseMessages(packet []byte) ([]netlink.Message, error) {
	// A last message need not be padded, but the parser wants it to be.
	raw, err := syscall.ParseNetlinkMessage(append(packet, make([]byte, -len(packet)&(unix.NLMSG_ALIGNTO-1))...))
	if err != nil {
		return nil, err
	}
	messages := make([]netlink.Message, len(raw))
	for i, m := range raw {
		messages[i] = netlink.Message{
			Header: netlink.Header{
				Length:   m.Header.Len,
				Type:     netlink.HeaderType(m.Header.Type),
				Flags:    netlink.HeaderFlags(m.Header.Flags),
				Sequence: m.Header.Seq,
				PID:      m.Header.Pid,
			},
			Data: m.Data,
		}
	}
	return messages, nil
}

// marshal returns a struct of fixed size as the kernel has it.
func marshal(header any) ([]byte, error) { return binary.Append(nil, binary.NativeEndian, header) }
