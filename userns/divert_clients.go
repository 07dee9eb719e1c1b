package userns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
)

// ClientSocket describes a TCP socket of a family that can stand for a client of
// published ports: see Diversion.Clients. It is to be bound and connected by who gets
// it, within the namespace's rules.
func ClientSocket(family int) Socket {
	return Socket{Family: family, Type: unix.SOCK_STREAM, Reuse: true, Transparent: true, Mark: mark.Client}
}

// clientSockets describes the sockets of Diversion.Clients. They get nothing until
// they are bound.
func clientSockets(sides []*side) []Socket {
	sockets := make([]Socket, len(sides))
	for i := range sockets {
		sockets[i] = Socket{Family: unix.AF_PACKET, Type: unix.SOCK_RAW, Passed: true}
	}
	return sockets
}

// noClientSockets tells whether an error means that one of the sockets from first
// on could not be made.
func noClientSockets(err error, first int) bool {
	var t *trouble
	return errors.As(err, &t) && t.step == stepSocket && t.index >= first
}

// addClients takes over the packet sockets, one of each side or none.
func (d *Diversion) addClients(files []*os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients = files
	for i, f := range files {
		if err := copySYNs(f, d.sides[i].family); err != nil {
			return err
		}
	}
	return nil
}

// leaveOutEntering does without the sockets of clients.
func (d *Diversion) leaveOutEntering(why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.options.entering = false
	d.lacks = append(d.lacks, fmt.Errorf("packet sockets: %w", why))
}

// copySYNs has a packet socket get the SYNs of clients' sockets of one family that lo
// delivers. The socket is asked for each packet on lo; it is bound to a protocol,
// as one for all would have the kernel clone each packet to ask.
func copySYNs(f *os.File, family uint8) error {
	fd := int(f.Fd()) // which leaves it non-blocking, as no poller knows it
	filter := synFilter(family)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return os.NewSyscallError("attach filter", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return os.NewSyscallError("setsockopt PACKET_VNET_HDR", err)
	}
	address := unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: loopbackIndex}
	if family == unix.AF_INET6 {
		address.Protocol = htons(unix.ETH_P_IPV6)
	}
	return os.NewSyscallError("bind to lo", unix.Bind(fd, &address))
}

// synFilter is a program of classic BPF (socket(7)) for frames of a family: those of
// bare SYNs with mark.Entering. Our sockets send no IP options or extension headers.
func synFilter(family uint8) []unix.SockFilter {
	const ip, all = 14, 1<<16 - 1
	protocol, flags := uint32(ip+9), uint32(ip+20+flagsOffset)
	class, mask, want := uint32(unix.BPF_B), uint32(0xfc), uint32(mark.Entering)<<2
	at := uint32(ip + 1)
	if family == unix.AF_INET6 {
		protocol, flags = ip+6, ip+40+flagsOffset
		class, mask, want, at = unix.BPF_H, 0x0fc0, mark.Entering<<6, ip
	}
	return []unix.SockFilter{
		{Code: unix.BPF_LD | uint16(class) | unix.BPF_ABS, K: at},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: want, Jf: 6},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: protocol},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_TCP, Jf: 4},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: bareMask},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: bareSYN, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: all},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

// htons returns a number in network byte order, as packet(7) wants it.
func htons(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}
