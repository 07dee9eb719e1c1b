package socket

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzMessage has the kernel say anything beside a datagram, which a peer has a part in:
// its address, and the errors of the way there.
func FuzzMessage(f *testing.F) {
	pktinfo := unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte{192, 0, 2, 1}})
	gro := make([]byte, unix.CmsgSpace(4))
	binary.NativeEndian.PutUint64(gro, uint64(unix.CmsgLen(4)))
	binary.NativeEndian.PutUint32(gro[8:], unix.SOL_UDP)
	binary.NativeEndian.PutUint32(gro[12:], unix.UDP_GRO)
	binary.NativeEndian.PutUint32(gro[16:], 1400)
	address := make([]byte, unix.SizeofSockaddrInet6)
	binary.NativeEndian.PutUint16(address, unix.AF_INET6)
	f.Add(address, pktinfo, 3000)
	f.Add(address[:8], gro, 3000)
	f.Add([]byte{unix.AF_INET, 0, 0, 80, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0}, append(pktinfo, gro...), 0)
	f.Add([]byte(nil), []byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 1)
	f.Fuzz(func(t *testing.T, address, control []byte, size int) {
		if a := ParseAddress(address); a.IsValid() {
			s := NewAddress(a)
			if got := s.AddrPort(); got != a {
				t.Errorf("address: got %v, want %v", got, a)
			}
		}
		m := Message{Payload: make([]byte, uint(size)%maxMessage), Control: control}
		if n := m.Segment(); n < 0 || n != 0 && n >= len(m.Payload) {
			t.Errorf("segments: got %d of %d bytes", n, len(m.Payload))
		}
		if a := m.Local(); a.Is4In6() {
			t.Errorf("address: got %v, want it not mapped", a)
		}
		for _, kind := range [][2]int32{{unix.IPPROTO_IP, unix.IP_RECVERR}, {unix.IPPROTO_IPV6, unix.IPV6_RECVERR}, {unix.IPPROTO_IP, unix.IP_TTL}} {
			if data := m.Find(kind[0], kind[1]); len(data) > len(control) {
				t.Errorf("got %d bytes of %d", len(data), len(control))
			}
		}
	})
}
