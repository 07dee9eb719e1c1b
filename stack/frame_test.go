package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"taproot/tap"
	"taproot/tap/taptest"
)

// A way is a gateway whose datagrams are kept, in copies.
type way struct {
	*Stack
	guest  *tap.Device
	got    []Datagram
	own    int           // datagrams that came without gVisor
	marked chan struct{} // closed with the datagram to port 9
	stop   func()
}

// markerPort is that of the datagram after which a way has handled all.
const markerPort = 9

// newWay starts a gateway. One that is slow gets its datagrams from gVisor
// only: it has no handler until gVisor has one for it.
func newWay(t *testing.T, slow bool) *way {
	a, b, err := taptest.Pair(tap.Features{Header: true, Checksum: true, TSO: true, USO: true})
	if err != nil {
		t.Fatal(err)
	}
	w := &way{guest: b, marked: make(chan struct{})}
	w.Stack = newStack(t, Config{Device: a, MTU: 1500, MAC: gatewayMAC, Addresses: []netip.Addr{gateway4, gateway6},
		Source: func(a netip.Addr) bool { return a != server4 && a != server6 }})
	gvisor := false
	w.stack.SetTransportProtocolHandler(udp.ProtocolNumber, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		gvisor, w.udp = true, w.keep
		ok := w.handleUDP(id, pkt)
		gvisor = false
		if slow {
			w.udp = nil
		}
		return ok
	})
	if !slow {
		w.HandleUDP(func(d Datagram) {
			if !gvisor {
				w.own++
			}
			w.keep(d)
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	w.stop = func() {
		cancel()
		wg.Wait()
		b.Close()
	}
	return w
}

func (w *way) keep(d Datagram) {
	if d.Destination.Port() == markerPort && string(d.Payload) == "marker" {
		select {
		case <-w.marked:
		default:
			close(w.marked)
		}
		return
	}
	d.Payload, d.Header = append([]byte{}, d.Payload...), bytes.Clone(d.Header)
	w.got = append(w.got, d)
}

// handle has the way handle a frame.
func (w *way) handle(t *testing.T, virtio, frame []byte) {
	t.Helper()
	out := w.guest.NewWriter()
	out.Add(virtio)
	out.Add(frame)
	if len(virtio)+len(frame) > 0 {
		_ = out.Flush() // longer than the wire takes: not written
	}
	out.Add(make([]byte, tap.HeaderLen))
	out.Add(datagramFrame(w.Stack, netip.AddrPortFrom(guest4, 9), netip.AddrPortFrom(server4, markerPort), []byte("marker")))
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	await(t, "the frame after", w.marked)
	w.stop()
}

// datagramFrame returns a frame of the guest's with a complete datagram.
func datagramFrame(s *Stack, from, to netip.AddrPort, payload []byte) []byte {
	etherType := header.IPv4ProtocolNumber
	if from.Addr().Is6() {
		etherType = header.IPv6ProtocolNumber
	}
	frame := append(bytes.Clone(gatewayMAC), guestMAC...)
	frame = binary.BigEndian.AppendUint16(frame, uint16(etherType))
	return append(frame, s.completeDatagram(from, to, payload)...)
}

// compare hands a frame to both ways and wants the same of both. It returns
// what came, and how many of it without gVisor.
func compare(t *testing.T, virtio, frame []byte) (got []Datagram, own int) {
	t.Helper()
	fast, slow := newWay(t, false), newWay(t, true)
	fast.handle(t, virtio, frame)
	slow.handle(t, virtio, frame)
	if !reflect.DeepEqual(fast.got, slow.got) {
		t.Errorf("frame % x behind % x: got %.400v, want %.400v", frame[:min(len(frame), 100)], virtio, fmt.Sprint(fast.got), fmt.Sprint(slow.got))
	}
	a, b := fast.Link(), slow.Link()
	for _, n := range []struct {
		name      string
		got, want uint64
	}{
		{"received", a.Received.Load(), b.Received.Load()},
		{"malformed", a.Malformed.Load(), b.Malformed.Load()},
		{"foreign", a.Foreign.Load(), b.Foreign.Load()},
		{"spoofed", a.Spoofed.Load(), b.Spoofed.Load()},
	} {
		if n.got != n.want {
			t.Errorf("%s: got %d, want %d", n.name, n.got, n.want)
		}
	}
	return fast.got, fast.own - 1 // less the marker
}

// A frameRow is a frame with a datagram, and whether it needs no gVisor.
type frameRow struct {
	name          string
	own           bool
	virtio, frame []byte
}

// frameRows makes rows of one family.
type frameRows struct {
	from, to netip.Addr
	at       int // where the UDP header starts
	rows     []frameRow
}

// add adds a frame with size bytes of payload, after a change.
func (r *frameRows) add(name string, own bool, size int, h tap.Header, change func([]byte) []byte) {
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte(i ^ i>>8)
	}
	frame := datagramFrame(&Stack{}, netip.AddrPortFrom(r.from, 4000), netip.AddrPortFrom(r.to, 443), payload)
	if change != nil {
		frame = change(frame)
	}
	virtio := make([]byte, tap.HeaderLen)
	h.Put(virtio)
	r.rows = append(r.rows, frameRow{name, own, virtio, frame})
}

// set adds a frame with some bytes from the i-th on set.
func (r *frameRows) set(name string, own bool, i int, v ...byte) {
	r.add(name, own, 32, tap.Header{}, func(b []byte) []byte {
		copy(b[i:], v)
		return b
	})
}

// insert adds a frame with bytes in front of the UDP header, and more set.
func (r *frameRows) insert(name string, header []byte, set map[int]byte) {
	r.add(name, false, 32, tap.Header{}, func(b []byte) []byte {
		for i, v := range set {
			b[i] = v
		}
		return append(append(bytes.Clone(b[:r.at]), header...), b[r.at:]...)
	})
}

// addSizes adds what is about lengths.
func (r *frameRows) addSizes() {
	for _, n := range []int{0, 1, 4, 5, 24, 25, 1400, 9000, 65000} {
		r.add(fmt.Sprintf("%d bytes", n), true, n, tap.Header{}, nil)
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	superframe := tap.Header{Segmentation: tap.SegmentUDP, SegmentSize: 1200, HeaderLen: uint16(r.at + 8)}
	r.add("superframe", true, 10*1200+17, superframe, nil)
	r.add("superframe of one", true, 100, superframe, nil)
	r.add("superframe with the first one's length", true, 2400, superframe, func(b []byte) []byte {
		binary.BigEndian.PutUint16(b[r.at+4:], 1208)
		return b
	})
	r.add("superframe of TCP", true, 100, tap.Header{Segmentation: tap.SegmentTCPv4, SegmentSize: 50}, nil)
	r.add("padding", true, 3, tap.Header{}, func(b []byte) []byte { return append(b, make([]byte, 20)...) })
	r.add("cut", false, 30, tap.Header{}, cut(r.at+37))
	r.add("cut in UDP", false, 30, tap.Header{}, cut(r.at+7))
	r.add("cut in IP", false, 30, tap.Header{}, cut(r.at-1))
	r.set("shorter than its packet", true, r.at+4, 0, 8+20)
	r.set("longer than its packet", false, r.at+4, 0, 8+33)
	r.set("no header", false, r.at+4, 0, 7)
}

// addSame adds what both families have.
func (r *frameRows) addSame() {
	r.set("zero checksum", true, r.at+6, 0, 0)
	r.set("wrong checksum", true, r.at+6, 1, 2)
	r.set("broadcast", false, 0, 255, 255, 255, 255, 255, 255)
	r.set("multicast frame", false, 0, 0x33, 0x33)
	r.set("foreign", false, 5, 1)
	r.set("version", false, atIP, 0x75)
	size := len(r.from.AsSlice())
	destination, source := r.at-size, r.at-2*size
	own := gateway4
	if r.from.Is6() {
		own = gateway6
	}
	r.set("to nobody", false, destination, make([]byte, size)...)
	r.set("from nobody", false, source, make([]byte, size)...)
	r.set("to gateway", true, destination, own.AsSlice()...)
	r.set("from gateway", true, source, own.AsSlice()...)
	r.set("from server", false, source, r.to.AsSlice()...)
	for name, a := range map[string]string{
		"loopback4": "127.0.0.1", "multicast4": "224.0.0.1", "broadcast4": "255.255.255.255", "reserved4": "240.0.0.1",
		"loopback6": "::1", "multicast6": "ff02::1", "DHCP6": "ff02::1:2", "mapped6": "::ffff:198.51.100.1",
	} {
		if b := netip.MustParseAddr(a).AsSlice(); len(b) == size {
			r.set("to "+name, false, destination, b...)
			r.set("from "+name, false, source, b...)
		}
	}
}

// datagramRows returns frames that are taken from gVisor or left to it.
func datagramRows() []frameRow {
	r4 := frameRows{from: guest4, to: server4, at: atIP + header.IPv4MinimumSize}
	r4.addSizes()
	r4.addSame()
	r4.set("TOS, ID, DF and TTL", true, atIP+1, 0xb9, 0, 60, 1, 2, 0x40, 0, 3)
	r4.set("reserved flag", true, atIP+6, 0x80)
	r4.set("TTL 0", true, atIP+8, 0)
	r4.set("TCP", false, atIP+9, 6)
	r4.set("wrong checksum of IP", true, atIP+10, 1, 2)
	r4.set("more fragments", false, atIP+6, 0x20)
	r4.set("fragment", false, atIP+6, 0, 1)
	r4.set("short IP length", false, atIP+2, 0, 27)
	r4.set("IP length of header", false, atIP+2, 0, 19)
	r4.insert("options", []byte{1, 1, 1, 0}, map[int]byte{atIP: 0x46, atIP + 3: 64})

	r6 := frameRows{from: guest6, to: server6, at: atIP + header.IPv6MinimumSize}
	r6.addSizes()
	r6.addSame()
	r6.set("class, label and hops", true, atIP, 0x6a, 0xb1, 2, 3, 0, 40, 17, 3)
	r6.set("TCP", false, atIPv6Next, 6)
	r6.set("link-local", true, atIPv6Source, 0xfe, 0x80)
	r6.set("short IP length", false, atIP+5, 7)
	r6.insert("hop by hop", []byte{17, 0, 1, 4, 0, 0, 0, 0}, map[int]byte{atIPv6Next: 0, atIP + 5: 48})
	r6.insert("atomic fragment", []byte{17, 0, 0, 0, 0, 0, 0, 1}, map[int]byte{atIPv6Next: 44, atIP + 5: 48})
	r6.insert("more fragments", []byte{17, 0, 0, 1, 0, 0, 0, 1}, map[int]byte{atIPv6Next: 44, atIP + 5: 48})
	for i := range r6.rows {
		r6.rows[i].name += " by IPv6"
	}
	return append(r4.rows, r6.rows...)
}

// TestDatagramOf wants datagrams to be the same with gVisor and without, and
// gVisor to get those that are not plain.
func TestDatagramOf(t *testing.T) {
	for _, tt := range datagramRows() {
		t.Run(tt.name, func(t *testing.T) {
			got, own := compare(t, tt.virtio, tt.frame)
			if (own == 1) != tt.own {
				t.Errorf("without gVisor: got %v of %d, want %v", own == 1, len(got), tt.own)
			}
		})
	}
}

// FuzzDatagram compares the two ways of a datagram.
func FuzzDatagram(f *testing.F) {
	for _, tt := range datagramRows() {
		f.Add(tt.virtio, tt.frame)
	}
	f.Fuzz(func(t *testing.T, virtio, frame []byte) { compare(t, virtio, frame) })
}
