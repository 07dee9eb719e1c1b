package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// many returns one of a million addresses outside.
func many(n uint32) string {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 11<<24|n%1e6))).String()
}

// rawTo is a packet of one of our kinds.
func rawTo(proto uint8, to string, number uint16, dscp uint8) []byte {
	source, destination := netip.MustParseAddr(guest4), netip.MustParseAddr(to)
	return ipPacket(source, destination, proto, dscp, nil, transport(proto, source, destination, number))
}

// dnsFrame is a query for a name of its own.
func dnsFrame(n uint32) []byte {
	query := binary.BigEndian.AppendUint16(nil, uint16(n))
	query = append(query, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8)
	query = fmt.Appendf(query, "%08x", n)
	query = append(query, "\x07example\x04test\x00\x00\x01\x00\x01"...)
	return datagram(guest4, resolver4, uint16(1024+n%60000), 53, query)
}

// datagram is an IPv4 packet with a UDP datagram without a checksum.
func datagram(from, to string, source, target uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, source)
	b = binary.BigEndian.AppendUint16(b, target)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return ipPacket(netip.MustParseAddr(from), netip.MustParseAddr(to), unix.IPPROTO_UDP, 0, nil, append(append(b, 0, 0), payload...))
}

// arpFrame asks for the gateway, each time as somebody else.
func arpFrame(_ *rawLink, _ []byte, n uint32) (uint16, []byte) {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1, 2, 0}
	b = binary.BigEndian.AppendUint32(b, n)
	b = binary.BigEndian.AppendUint32(b, 10<<24|2<<8|n%250)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return unix.ETH_P_ARP, append(b, netip.MustParseAddr(gateway4).AsSlice()...)
}

// neighbourFrame does the same by IPv6.
func neighbourFrame(_ *rawLink, _ []byte, n uint32) (uint16, []byte) {
	source := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 12: byte(n >> 24), 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)})
	target := netip.MustParseAddr(gateway6)
	b := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice()...)
	b = binary.BigEndian.AppendUint32(append(b, 1, 1, 2, 0), n)
	sum := sumOf(sumOf(icmpv6+uint32(len(b)), source.AsSlice()), target.AsSlice())
	binary.BigEndian.PutUint16(b[2:], fold(sumOf(sum, b)))
	packet := ipPacket(source, target, icmpv6, 0, nil, b)
	packet[7] = 255 // RFC 4861 §7.1.1
	return unix.ETH_P_IPV6, packet
}

// dhcpFrame asks for an address, each time as somebody else.
func dhcpFrame(_ *rawLink, _ []byte, n uint32) (uint16, []byte) {
	b := make([]byte, 240, 260)
	copy(b, []byte{1, 1, 6, 0})
	binary.BigEndian.PutUint32(b[4:], n)
	b[28] = 2
	binary.BigEndian.PutUint32(b[29:], n)
	copy(b[236:], []byte{99, 130, 83, 99})
	kind := byte(1 + 2*(n%2)) // DHCPDISCOVER, DHCPREQUEST
	return unix.ETH_P_IP, datagram("0.0.0.0", "255.255.255.255", 68, 67, append(b, 53, 1, kind, 255))
}

// floodProgram NAME ends with its standard input, and says when it has begun and
// how many frames it has sent.
func floodProgram(args []string) int {
	link, err := openRawLink()
	if err != nil {
		return quit(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		io.Copy(io.Discard, os.Stdin)
	}()
	for _, f := range floods() {
		if f.name != strings.Join(args, " ") {
			continue
		}
		b := make([]byte, 2000)
		for n := uint32(0); ; n++ {
			if err := link.send(f.frame(link, b, n)); err != nil {
				return quit(err)
			}
			if n == 100 {
				fmt.Println("flooding")
			}
			select {
			case <-over:
				fmt.Println(n)
				return 0
			default:
			}
		}
	}
	return quit(errors.New("no such flood"))
}
