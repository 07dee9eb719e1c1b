package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A rawLink sends frames of the guest's as they are, and gets what comes back,
// past all that the guest's kernel would have to say.
type rawLink struct {
	fd           int
	mac, gateway [6]byte
}

// openRawLink opens the guest's only device.
func openRawLink() (*rawLink, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback != 0 || len(i.HardwareAddr) != 6 {
			continue
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("socket", err)
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
		at := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: i.Index}
		if err := unix.Bind(fd, at); err != nil {
			return nil, os.NewSyscallError("bind", err)
		}
		l := &rawLink{fd: fd, mac: [6]byte(i.HardwareAddr)}
		return l, l.resolve()
	}
	return nil, errors.New("no device")
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// resolve asks for the gateway's hardware address, by a request without a sender
// (RFC 5227 §1.1).
func (l *rawLink) resolve() error {
	request := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, l.mac[:]...)
	request = append(request, make([]byte, 4+6)...) // no sender, and whom we ask for
	request = append(request, netip.MustParseAddr(gateway4).AsSlice()...)
	l.gateway = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for range 100 {
		if err := l.send(unix.ETH_P_ARP, request); err != nil {
			return err
		}
		for until := time.Now().Add(200 * time.Millisecond); ; {
			frame, err := l.receive(until)
			if err != nil {
				break
			}
			const operation = 14 + 7
			if len(frame) >= 14+28 && binary.BigEndian.Uint16(frame[12:]) == unix.ETH_P_ARP && frame[operation] == 2 {
				l.gateway = [6]byte(frame[6:])
				return nil
			}
		}
	}
	return errors.New("the gateway does not answer ARP")
}

// send sends a packet behind an Ethernet header.
func (l *rawLink) send(etherType uint16, packet []byte) error {
	frame := append(append(make([]byte, 0, 14+len(packet)), l.gateway[:]...), l.mac[:]...)
	frame = append(binary.BigEndian.AppendUint16(frame, etherType), packet...)
	for {
		_, err := unix.Write(l.fd, frame)
		if err != unix.ENOBUFS && err != unix.EAGAIN && err != unix.EINTR {
			return os.NewSyscallError("write", err)
		}
	}
}

// sendIP sends an IP packet.
func (l *rawLink) sendIP(packet []byte) error {
	if packet[0]>>4 == 4 {
		return l.send(unix.ETH_P_IP, packet)
	}
	return l.send(unix.ETH_P_IPV6, packet)
}

// receive returns the next frame that comes to the guest. The error is
// os.ErrDeadlineExceeded when there was none.
func (l *rawLink) receive(until time.Time) ([]byte, error) {
	b := make([]byte, 65536+14)
	for {
		left := time.Until(until)
		if left <= 0 {
			return nil, os.ErrDeadlineExceeded
		}
		tv := unix.NsecToTimeval(max(left, time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(l.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return nil, err
		}
		n, from, err := unix.Recvfrom(l.fd, b, 0)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return nil, err
		}
		if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Pkttype != unix.PACKET_OUTGOING && n > 14 {
			return b[:n], nil
		}
	}
}

// A rawKind is one way to carry a frame's question.
type rawKind struct {
	name       string
	proto      uint8
	fragmented bool
	dscp       uint8
}

const icmpv6 = unix.IPPROTO_ICMPV6

// rawKinds are all of them. The last but one is the code point by which the
// guest's kernel marks what may take the shortcut; anybody can write it.
func rawKinds() []rawKind {
	const shortcut = 0b110011 // mark.Local
	return []rawKind{
		{"tcp", unix.IPPROTO_TCP, false, 0}, {"udp", unix.IPPROTO_UDP, false, 0}, {"echo", unix.IPPROTO_ICMP, false, 0},
		{"tcp fragments", unix.IPPROTO_TCP, true, 0}, {"udp fragments", unix.IPPROTO_UDP, true, 0}, {"echo fragments", unix.IPPROTO_ICMP, true, 0},
		{"tcp marked", unix.IPPROTO_TCP, false, shortcut},
	}
}

// rawPort is where raw TCP and UDP go.
const rawPort = 7777

// packets returns what asks a destination, under a number by which the answer is
// known: the source's port, or the echo identifier.
func (k rawKind) packets(source, destination netip.Addr, number uint16) [][]byte {
	proto := k.proto
	if proto == unix.IPPROTO_ICMP && destination.Is6() {
		proto = icmpv6
	}
	payload := transport(proto, source, destination, number)
	if !k.fragmented {
		return [][]byte{ipPacket(source, destination, proto, k.dscp, nil, payload)}
	}
	const first = 8
	var all [][]byte
	for _, part := range []struct {
		offset uint16
		more   bool
		bytes  []byte
	}{{0, true, payload[:first]}, {first, false, payload[first:]}} {
		all = append(all, ipPacket(source, destination, proto, k.dscp, &fragment{number, part.offset, part.more}, part.bytes))
	}
	return all
}

// transport returns a SYN, a datagram or an echo request, with its checksum.
func transport(proto uint8, source, destination netip.Addr, number uint16) []byte {
	var b []byte
	at := 0 // of the checksum
	switch proto {
	case unix.IPPROTO_TCP:
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, number), rawPort)
		b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, 2, 0xff, 0xff, 0, 0, 0, 0)
		at = 16
	case unix.IPPROTO_UDP:
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, number), rawPort)
		b = append(b, 0, 12, 0, 0, 'r', 'a', 'w', '!')
		at = 6
	case unix.IPPROTO_ICMP, icmpv6:
		kind := byte(8)
		if proto == icmpv6 {
			kind = 128
		}
		b = binary.BigEndian.AppendUint16([]byte{kind, 0, 0, 0}, number)
		b = append(b, 0, 1, 'r', 'a', 'w', '!')
		at = 2
	}
	sum := uint32(0)
	if proto != unix.IPPROTO_ICMP { // RFC 793 §3.1, RFC 8200 §8.1
		sum = sumOf(sumOf(uint32(proto)+uint32(len(b)), source.AsSlice()), destination.AsSlice())
	}
	binary.BigEndian.PutUint16(b[at:], fold(sumOf(sum, b)))
	return b
}

// A fragment says which part of a packet this is.
type fragment struct {
	id     uint16
	offset uint16 // in bytes
	more   bool
}

// ipPacket returns a packet of the family of its destination.
func ipPacket(source, destination netip.Addr, proto, dscp uint8, f *fragment, payload []byte) []byte {
	if destination.Is4() {
		b := []byte{0: 0x45, 1: dscp << 2, 8: 64, 9: proto, 19: 0}
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(payload)))
		if f != nil {
			binary.BigEndian.PutUint16(b[4:], f.id)
			binary.BigEndian.PutUint16(b[6:], f.offset/8|flag(f.more)<<13)
		}
		copy(b[12:], source.AsSlice())
		copy(b[16:], destination.AsSlice())
		binary.BigEndian.PutUint16(b[10:], fold(sumOf(0, b)))
		return append(b, payload...)
	}
	b := []byte{0: 0x60 | dscp>>2, 1: dscp << 6, 6: proto, 7: 64, 39: 0}
	a, z := source.As16(), destination.As16()
	copy(b[8:], a[:])
	copy(b[24:], z[:])
	if f != nil {
		b[6] = unix.IPPROTO_FRAGMENT
		b = append(b, proto, 0)
		b = binary.BigEndian.AppendUint16(b, f.offset|flag(f.more))
		b = binary.BigEndian.AppendUint32(b, uint32(f.id))
	}
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return b
}

func flag(on bool) uint16 {
	if on {
		return 1
	}
	return 0
}

// sumOf and fold compute the checksum of the Internet (RFC 1071).
func sumOf(sum uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// rawAnswer returns what a frame says about one of ours, by its number.
func rawAnswer(frame []byte) (number uint16, says string, ok bool) {
	proto, rest, ok := payloadOf(frame[14:])
	if !ok || len(rest) < 8 {
		return 0, "", false
	}
	switch proto {
	case unix.IPPROTO_TCP:
		if len(rest) < 20 || binary.BigEndian.Uint16(rest) != rawPort {
			return 0, "", false
		}
		const reset = 1 << 2
		says = "connected"
		if rest[13]&reset != 0 {
			says = "reset"
		}
		return binary.BigEndian.Uint16(rest[2:]), says, true
	case unix.IPPROTO_UDP:
		return binary.BigEndian.Uint16(rest[2:]), "answered", binary.BigEndian.Uint16(rest) == rawPort
	case unix.IPPROTO_ICMP, icmpv6:
		return icmpAnswer(proto, rest)
	}
	return 0, "", false
}

// icmpAnswer reads an echo reply, or an error and what it quotes.
func icmpAnswer(proto uint8, b []byte) (number uint16, says string, ok bool) {
	const reply, unreachable = 0, 3
	const reply6, unreachable6 = 129, 1
	v4 := proto == unix.IPPROTO_ICMP
	if v4 && b[0] == reply || !v4 && b[0] == reply6 {
		return binary.BigEndian.Uint16(b[4:]), "answered", true
	}
	if v4 && b[0] != unreachable || !v4 && b[0] != unreachable6 {
		return 0, "", false
	}
	says = "unreachable"
	if v4 && b[1] == 13 || !v4 && b[1] == 1 {
		says = "prohibited"
	}
	quoted, inner, ok := payloadOf(b[8:])
	if !ok || len(inner) < 8 {
		return 0, "", false
	}
	if quoted == unix.IPPROTO_ICMP || quoted == icmpv6 {
		return binary.BigEndian.Uint16(inner[4:]), says, true
	}
	return binary.BigEndian.Uint16(inner), says, true
}

// payloadOf returns what is behind the header of an IP packet, and behind that of
// a first fragment.
func payloadOf(b []byte) (proto uint8, payload []byte, ok bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && len(b) >= int(b[0]&15)*4:
		return b[9], b[int(b[0]&15)*4:], true
	case len(b) >= 48 && b[0]>>4 == 6 && b[6] == unix.IPPROTO_FRAGMENT:
		return b[40], b[48:], true
	case len(b) >= 40 && b[0]>>4 == 6:
		return b[6], b[40:], true
	}
	return 0, nil, false
}

// A rawCase is what one frame asks: which kind, from where, to where, and whether
// it is to be answered.
type rawCase struct {
	kind                rawKind
	source, destination netip.Addr
	answered            bool
}

// firstNumber is that of the first case.
const firstNumber = 20000

// rawProgram SECONDS CASE... sends each case as raw frames, those without an answer
// again until all that are to be answered are, or for so long at most, and prints
// for each case what came back.
func rawProgram(args []string) int {
	seconds, err1 := strconv.Atoi(args[0])
	cases, err2 := parseRawCases(args[1:])
	if err := errors.Join(err1, err2); err != nil {
		return quit(err)
	}
	link, err := openRawLink()
	if err != nil {
		return quit(err)
	}
	answers := make([]string, len(cases))
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	for {
		if err := link.ask(cases, answers); err != nil {
			return quit(err)
		}
		link.collect(answers, time.Now().Add(300*time.Millisecond))
		if isComplete(cases, answers) || time.Now().After(end) {
			break
		}
	}
	for _, says := range answers {
		if says == "" {
			says = "nothing"
		}
		fmt.Println(says)
	}
	return 0
}

// ask sends the cases that have no answer, slower than the limit of errors.
func (l *rawLink) ask(cases []rawCase, answers []string) error {
	for i, c := range cases {
		if answers[i] != "" {
			continue
		}
		for _, packet := range c.kind.packets(c.source, c.destination, firstNumber+uint16(i)) {
			if err := l.sendIP(packet); err != nil {
				return err
			}
		}
		l.collect(answers, time.Now().Add(2*time.Millisecond))
	}
	return nil
}

// collect notes the answers that come until a time.
func (l *rawLink) collect(answers []string, until time.Time) {
	for {
		frame, err := l.receive(until)
		if err != nil {
			return
		}
		if number, says, ok := rawAnswer(frame); ok && int(number)-firstNumber < len(answers) && number >= firstNumber {
			answers[number-firstNumber] = says
		}
	}
}

// isComplete tells whether all cases are answered that are to be.
func isComplete(cases []rawCase, answers []string) bool {
	for i, c := range cases {
		if c.answered && answers[i] == "" {
			return false
		}
	}
	return true
}
