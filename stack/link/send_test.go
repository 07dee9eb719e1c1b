package link

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"taproot/tap"
	"taproot/test/settle"
)

// newPacket returns a packet as the stack hands it out: headers of these
// lengths behind room for the link's, data in so many pieces.
func newPacket(network, transport, data, pieces int) *stack.PacketBuffer {
	var payload buffer.Buffer
	all := frame(header.EthernetMinimumSize+data, etherTest)[header.EthernetMinimumSize:]
	for i := range pieces {
		v := buffer.NewViewWithData(all[i*data/pieces : (i+1)*data/pieces])
		b := buffer.MakeWithView(v)
		payload.Merge(&b)
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.EthernetMinimumSize + network + transport + 8, // more than is used
		Payload:            payload,
	})
	fill(pkt.TransportHeader().Push(transport), 't')
	fill(pkt.NetworkHeader().Push(network), 'n')
	pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	return pkt
}

func fill(b []byte, with byte) {
	for i := range b {
		b[i] = with
	}
}

// wantPacket returns the frame that newPacket's packet is to become.
func wantPacket(network, transport, data int) []byte {
	return slices.Concat(guestMAC, gatewayMAC, []byte{8, 0}, bytes.Repeat([]byte{'n'}, network), bytes.Repeat([]byte{'t'}, transport),
		frame(header.EthernetMinimumSize+data, etherTest)[header.EthernetMinimumSize:])
}

// writePackets gives packets to the endpoint as the stack does, and lets go of them.
func (b *bench) writePackets(t testing.TB, pkts ...*stack.PacketBuffer) {
	t.Helper()
	var list stack.PacketBufferList
	for _, pkt := range pkts {
		b.AddHeader(pkt)
		list.PushBack(pkt)
	}
	n, err := b.WritePackets(list)
	if n != len(pkts) || err != nil {
		t.Errorf("write: got %d packets and error %v, want %d", n, err, len(pkts))
	}
	for _, pkt := range pkts {
		pkt.DecRef()
	}
}

// newSendBench is newBench with a guest whose address is known.
func newSendBench(t testing.TB, f tap.Features) *bench {
	t.Helper()
	b := newBench(t, f, nil)
	b.send(t, tap.Header{}, frame(60, etherTest))
	next(t, "frame", b.stack).pkt.DecRef()
	return b
}

func TestWritePackets(t *testing.T) {
	eachWay(t, func(t *testing.T, f tap.Features) {
		b := newSendBench(t, f)
		frames := b.read(t)
		for _, tt := range []struct{ network, transport, data, pieces int }{
			{20, 0, 0, 0}, {20, 20, 0, 0}, {20, 32, 1, 1}, {40, 20, 1448, 1}, {20, 32, 1448, 3}, {20, 32, 65483, 2}, {20, 20, 65000, 200},
		} {
			b.writePackets(t, newPacket(tt.network, tt.transport, tt.data, tt.pieces))
			got := next(t, "frame", frames)
			if want := wantPacket(tt.network, tt.transport, tt.data); !bytes.Equal(got.frame, want) {
				t.Errorf("%+v: got %d bytes, want %d: % x", tt, len(got.frame), len(want), got.frame[:min(len(got.frame), 80)])
			}
			if got.virtio != (tap.Header{}) {
				t.Errorf("%+v: got virtio-net header %+v, want none", tt, got.virtio)
			}
		}
		if got := b.Stats.Unsent.Load(); got != 0 {
			t.Errorf("unsent: got %d, want 0", got)
		}
		settle.Until(t, "all frames are counted", func() bool { return b.Stats.Sent.Load() == 7 })
	})
}

// tcpChecksum is the checksum's offset in a TCP header, in bytes (RFC 9293
// §3.1).
const tcpChecksum = 16

// segments returns the header of a frame that is to be cut.
func segments(kind tap.Segmentation, checksumStart, size, headers uint16) tap.Header {
	return tap.Header{
		NeedsChecksum: true, ChecksumStart: checksumStart, ChecksumOffset: tcpChecksum,
		Segmentation: kind, SegmentSize: size, HeaderLen: headers,
	}
}

// TestWritePacketsSegments wants the header that tells the guest's kernel how
// to cut and complete what the stack left undone.
func TestWritePacketsSegments(t *testing.T) {
	v4 := stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, CsumOffset: tcpChecksum, MSS: 1448, L3HdrLen: 20}
	v6 := stack.GSO{Type: stack.GSOTCPv6, NeedsCsum: true, CsumOffset: tcpChecksum, MSS: 1428, L3HdrLen: 40}
	for _, tt := range []struct {
		name    string
		gso     stack.GSO
		network int
		data    int
		want    tap.Header
	}{
		{"complete", stack.GSO{}, 20, 1000, tap.Header{}},
		{"complete with an MSS", stack.GSO{Type: stack.GSOTCPv4, MSS: 1448, L3HdrLen: 20}, 20, 5000, tap.Header{}},
		{"no data", v4, 20, 0, tap.Header{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: tcpChecksum}},
		{"one segment", v4, 20, 1448, tap.Header{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: tcpChecksum}},
		{"two segments", v4, 20, 1449, segments(tap.SegmentTCPv4, 34, 1448, 66)},
		{"superframe", v4, 20, 65483, segments(tap.SegmentTCPv4, 34, 1448, 66)},
		{"one segment, IPv6", v6, 40, 1428, tap.Header{NeedsChecksum: true, ChecksumStart: 54, ChecksumOffset: tcpChecksum}},
		{"superframe, IPv6", v6, 40, 65000, segments(tap.SegmentTCPv6, 54, 1428, 86)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newSendBench(t, features["offloads"])
			frames := b.read(t)
			pkt := newPacket(tt.network, 32, tt.data, min(tt.data, 1))
			pkt.GSOOptions = tt.gso
			b.writePackets(t, pkt)
			if got := next(t, "frame", frames).virtio; got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// TestWritePacketsWaits fills wire and queue, and wants every packet in order
// once somebody reads.
func TestWritePacketsWaits(t *testing.T) {
	b := newSendBench(t, features["plain"])
	const packets = 5 * queueLen
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := range packets {
			b.writePackets(t, newPacket(20, i%256, 20000, 1))
		}
	})
	settle.Until(t, "the queue is full", func() bool { return len(b.queue) == queueLen })
	frames := b.read(t)
	for i := range packets {
		if got, want := len(next(t, "frame", frames).frame), 14+20+i%256+20000; got != want {
			t.Fatalf("frame %d: got %d bytes, want %d", i, got, want)
		}
	}
}

// TestWritePacketsStopped ends an endpoint whose stack waits for room.
func TestWritePacketsStopped(t *testing.T) {
	b := newSendBench(t, features["plain"])
	last := make(chan tcpip.Error, 1)
	go func() {
		for {
			pkt := newPacket(20, 20, 20000, 1)
			b.AddHeader(pkt)
			var list stack.PacketBufferList
			list.PushBack(pkt)
			_, err := b.WritePackets(list)
			pkt.DecRef()
			if err != nil {
				last <- err
				return
			}
		}
	}()
	settle.Until(t, "the queue is full", func() bool { return len(b.queue) == queueLen })
	b.stop()
	if err := next(t, "error", last); err.String() != (&tcpip.ErrClosedForSend{}).String() {
		t.Errorf("got %v, want %v", err, &tcpip.ErrClosedForSend{})
	}
	if err := next(t, "end", b.ended); err != nil {
		t.Errorf("run: got %v, want nil", err)
	}
}

// ipPacket returns n bytes that are an IP packet as far as SendFrame looks.
func ipPacket(version byte, n int) []byte {
	b := frame(header.EthernetMinimumSize+n, etherTest)[header.EthernetMinimumSize:]
	b[0] = version << 4
	return b
}

func TestSendFrame(t *testing.T) {
	h := tap.Header{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 6, Segmentation: tap.SegmentUDP, SegmentSize: 1200, HeaderLen: 42}
	eachWay(t, func(t *testing.T, f tap.Features) {
		b := newSendBench(t, f)
		frames := b.read(t)
		want := tap.Header{}
		if f.Header {
			want = h
		}
		for version, etherType := range map[byte][]byte{4: {8, 0}, 6: {0x86, 0xdd}} {
			for _, cuts := range [][]int{{3000}, {28, 3000}, {28, 28, 1000, 3000}} {
				packet, at := ipPacket(version, 3000), 0
				var pieces [][]byte
				for _, to := range cuts {
					pieces = append(pieces, packet[at:to])
					at = to
				}
				if err := b.SendFrame(h, pieces...); err != nil {
					t.Fatal(err)
				}
				got := next(t, "frame", frames)
				if all := slices.Concat(guestMAC, gatewayMAC, etherType, packet); !bytes.Equal(got.frame, all) {
					t.Errorf("version %d, cut at %v: got %d bytes, want %d: % x", version, cuts, len(got.frame), len(all), got.frame[:14])
				}
				if got.virtio != want {
					t.Errorf("version %d: got %+v, want %+v", version, got.virtio, want)
				}
			}
		}
		if got := b.Stats.Sent.Load(); got != 6 {
			t.Errorf("sent: got %d, want 6", got)
		}
	})
}

func TestSendFrameRefused(t *testing.T) {
	b := newSendBench(t, features["plain"])
	for _, pieces := range [][][]byte{nil, {nil}, {{}, ipPacket(4, 20)}} {
		if err := b.SendFrame(tap.Header{}, pieces...); !errors.Is(err, errEmpty) {
			t.Errorf("%v: got %v, want %v", pieces, err, errEmpty)
		}
	}
	b.stop()
	next(t, "end", b.ended)
	if err := b.SendFrame(tap.Header{}, ipPacket(4, 20)); err == nil {
		t.Error("closed device: got no error")
	}
	if got := b.Stats.Unsent.Load(); got != 1 {
		t.Errorf("unsent: got %d, want 1", got)
	}
}

// TestSendFrameConcurrently wants frames of several senders whole.
func TestSendFrameConcurrently(t *testing.T) {
	b := newSendBench(t, features["offloads"])
	frames := b.read(t)
	const senders, each = 4, 200
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			packet := bytes.Repeat([]byte{0x40 | byte(i)}, 2000)
			for range each {
				if err := b.SendFrame(tap.Header{SegmentSize: uint16(i)}, packet[:28], packet[28:]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var got [senders]int
	for range senders * each {
		w := next(t, "frame", frames)
		i := w.virtio.SegmentSize
		if packet := bytes.Repeat([]byte{0x40 | byte(i)}, 2000); !bytes.Equal(w.frame[header.EthernetMinimumSize:], packet) {
			t.Errorf("sender %d: frame is mixed with another", i)
		}
		got[i]++
	}
	wg.Wait()
	if want := [senders]int{each, each, each, each}; got != want {
		t.Errorf("got %v frames of each, want %v", got, want)
	}
}

// newSender returns two functions that send a packet of n bytes, by SendFrame
// and by WritePackets, and wait until the guest has had it.
func newSender(t testing.TB, n int) (frameOf, packetOf func()) {
	t.Helper()
	b := newSendBench(t, features["offloads"])
	got, done := make(chan struct{}), make(chan struct{})
	buf := make([]byte, tap.HeaderLen+tap.MaxFrame)
	go func() {
		defer close(done)
		_ = b.guest.NewReader(buf).Run(func(int) { got <- struct{}{} })
	}()
	t.Cleanup(func() {
		b.guest.Close()
		<-done
	})
	packet := ipPacket(4, n)
	data := buffer.NewViewWithData(packet)
	frameOf = func() {
		if err := b.SendFrame(tap.Header{}, packet[:20], packet[20:]); err != nil {
			t.Error(err)
		}
		<-got
	}
	packetOf = func() {
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
			ReserveHeaderBytes: header.EthernetMinimumSize,
			Payload:            buffer.MakeWithView(data.Clone()),
		})
		b.AddHeader(pkt)
		var list stack.PacketBufferList
		list.PushBack(pkt)
		if _, err := b.WritePackets(list); err != nil {
			t.Error(err)
		}
		pkt.DecRef()
		<-got
	}
	return frameOf, packetOf
}

func TestSendAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	for _, n := range []int{60, 1500, 65535} {
		frameOf, packetOf := newSender(t, n)
		if got := testing.AllocsPerRun(2000, frameOf); got > 0 {
			t.Errorf("allocations of SendFrame for %d bytes: got %v, want 0", n, got)
		}
		if got := testing.AllocsPerRun(2000, packetOf); got > 2 { // the list of this test
			t.Errorf("allocations of WritePackets for %d bytes: got %v, want 0 of its own", n, got)
		}
	}
}

func BenchmarkSendFrame(b *testing.B) {
	for _, n := range []int{60, 1500, 65535} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			send, _ := newSender(b, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				send()
			}
		})
	}
}

func BenchmarkWritePackets(b *testing.B) {
	for _, n := range []int{60, 1500, 65535} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			_, send := newSender(b, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				send()
			}
		})
	}
}
