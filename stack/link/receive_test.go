package link

import (
	"bytes"
	"net"
	"slices"
	"strconv"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"taproot/tap"
)

// sizes are frame lengths in bytes around every place where a frame is cut.
func sizes() []int {
	list := []int{15, 16, 60, 1514, 9014, 65549, tap.MaxFrame}
	for _, around := range []int{headView, headViewV6, headView + copied, headViewV6 + copied, 65536} {
		list = append(list, around-1, around, around+1)
	}
	return list
}

// TestReceiveIntact wants each frame as it was sent, also while the stack
// holds all of them and the buffers are used again.
func TestReceiveIntact(t *testing.T) {
	eachWay(t, func(t *testing.T, f tap.Features) {
		b := newBench(t, f, nil)
		for _, etherType := range []uint16{etherIPv4, etherIPv6, etherTest} {
			var held []delivered
			for _, n := range sizes() {
				b.send(t, tap.Header{}, frame(n, etherType))
				held = append(held, next(t, "frame", b.stack))
			}
			for i, n := range sizes() {
				d := held[i]
				if d.protocol != tcpip.NetworkProtocolNumber(etherType) || d.pkt.NetworkProtocolNumber != d.protocol {
					t.Errorf("%#x, %d bytes: got protocol %#x", etherType, n, d.protocol)
				}
				if got := len(d.pkt.LinkHeader().Slice()); got != header.EthernetMinimumSize {
					t.Errorf("%#x, %d bytes: got link header of %d bytes, want %d", etherType, n, got, header.EthernetMinimumSize)
				}
				if got := d.bytes(); !bytes.Equal(got, frame(n, etherType)) {
					t.Errorf("%#x, %d bytes: got %d other bytes", etherType, n, len(got))
				}
			}
		}
		total := uint64(3 * len(sizes()))
		if got := b.Stats.Received.Load(); got != total {
			t.Errorf("received: got %d, want %d", got, total)
		}
	})
}

// TestReceivePayloadInOnePiece wants the payload of a segment, behind headers
// of the usual length, in one view: it goes to the host with one system call.
func TestReceivePayloadInOnePiece(t *testing.T) {
	b := newBench(t, features["offloads"], nil)
	for etherType, head := range map[uint16]int{etherIPv4: headView, etherIPv6: headViewV6} {
		for _, n := range []int{head + 1, 1514, 9014, 65549} {
			b.send(t, tap.Header{}, frame(n, etherType))
			d := next(t, "frame", b.stack)
			var pieces []int
			for _, s := range d.pkt.AsSlices() {
				pieces = append(pieces, len(s))
			}
			if want := []int{head, n - head}; !slices.Equal(pieces, want) {
				t.Errorf("%#x: got pieces %v, want %v", etherType, pieces, want)
			}
			d.pkt.DecRef()
		}
	}
}

func TestReceiveRefuses(t *testing.T) {
	good := tap.Header{}
	for _, tt := range []struct {
		name   string
		header tap.Header
		frame  []byte
		count  func(*Stats) uint64
	}{
		{"one byte", good, frame(1, etherIPv4), (*Stats).malformed},
		{"no packet", good, frame(14, etherIPv4), (*Stats).malformed},
		{"unknown segmentation", tap.Header{Segmentation: 3, SegmentSize: 1}, frame(60, etherIPv4), (*Stats).malformed},
		{"segments of nothing", tap.Header{Segmentation: tap.SegmentTCPv4}, frame(60, etherIPv4), (*Stats).malformed},
		{"headers beyond the frame", tap.Header{Segmentation: tap.SegmentUDP, SegmentSize: 1, HeaderLen: 61}, frame(60, etherIPv4), (*Stats).malformed},
		{"checksum beyond the frame", tap.Header{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 25}, frame(60, etherIPv4), (*Stats).malformed},
		{"to somebody else", good, slices.Concat(otherMAC, frame(60, etherIPv4)[6:]), (*Stats).foreign},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, features["offloads"], nil)
			b.send(t, tt.header, tt.frame)
			b.send(t, good, frame(77, etherTest))
			if got := len(next(t, "frame after", b.stack).bytes()); got != 77 {
				t.Errorf("delivered: got %d bytes, want only the 77 of the frame after", got)
			}
			if got := tt.count(&b.Stats); got != 1 {
				t.Errorf("counter: got %d, want 1", got)
			}
			if got := b.Stats.Malformed.Load() + b.Stats.Foreign.Load() + b.Stats.Spoofed.Load(); got != 1 {
				t.Errorf("all counters: got %d, want 1", got)
			}
		})
	}
}

func (s *Stats) malformed() uint64 { return s.Malformed.Load() }
func (s *Stats) foreign() uint64   { return s.Foreign.Load() }

// TestReceiveTruncatedHeader sends less than a virtio-net header.
func TestReceiveTruncatedHeader(t *testing.T) {
	b := newBench(t, features["offloads"], nil)
	w := b.guest.NewWriter()
	for n := 1; n <= tap.HeaderLen; n++ {
		w.Add(make([]byte, n))
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	b.send(t, tap.Header{}, frame(60, etherIPv4))
	next(t, "frame after", b.stack).pkt.DecRef()
	if got := b.Stats.Malformed.Load(); got != tap.HeaderLen {
		t.Errorf("malformed: got %d, want %d", got, tap.HeaderLen)
	}
}

func TestReceiveDestination(t *testing.T) {
	b := newBench(t, features["offloads"], nil)
	for _, tt := range []struct {
		to   net.HardwareAddr
		want tcpip.PacketType
	}{
		{gatewayMAC, tcpip.PacketHost},
		{net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, tcpip.PacketBroadcast},
		{net.HardwareAddr{0x33, 0x33, 0, 0, 0, 2}, tcpip.PacketMulticast},
		{net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, tcpip.PacketMulticast},
	} {
		b.send(t, tap.Header{}, slices.Concat(tt.to, frame(60, etherIPv4)[6:]))
		d := next(t, "frame", b.stack)
		if d.pkt.PktType != tt.want {
			t.Errorf("to %v: got packet type %d, want %d", tt.to, d.pkt.PktType, tt.want)
		}
		d.pkt.DecRef()
	}
}

// TestReceiveSegmentSize wants the size of a UDP superframe's datagrams at the
// stack, and none for TCP, which the stack cuts by itself.
func TestReceiveSegmentSize(t *testing.T) {
	b := newBench(t, features["offloads"], nil)
	for _, tt := range []struct {
		kind tap.Segmentation
		want uint16
	}{{tap.SegmentNone, 0}, {tap.SegmentTCPv4, 0}, {tap.SegmentTCPv6, 0}, {tap.SegmentUDP, 1200}} {
		b.send(t, tap.Header{Segmentation: tt.kind, SegmentSize: 1200, HeaderLen: 42}, frame(6000, etherIPv4))
		d := next(t, "frame", b.stack)
		if got := d.pkt.GSOOptions.MSS; got != tt.want {
			t.Errorf("kind %d: got segment size %d, want %d", tt.kind, got, tt.want)
		}
		d.pkt.DecRef()
	}
}

// A heads is a classifier that keeps what it sees and takes what it is told.
type heads struct {
	seen chan []byte
	take func(head []byte) bool
}

func (h *heads) Classify(f *Frame) bool {
	h.seen <- bytes.Clone(f.Head)
	return h.take(f.Head)
}

// TestClassifier wants the classifier and the filter to see all headers, and
// the stack not to see what the classifier takes.
func TestClassifier(t *testing.T) {
	eachWay(t, func(t *testing.T, f tap.Features) {
		c := &heads{make(chan []byte, 64), func(head []byte) bool { return len(head)%2 == 0 }}
		filtered := make(chan []byte, 64)
		b := newBench(t, f, func(cfg *Config) {
			cfg.Classifier = c
			cfg.Filter = func(head []byte) bool {
				filtered <- bytes.Clone(head)
				return true
			}
		})
		for etherType, most := range map[uint16]int{etherIPv4: headView, etherTest: headView, etherIPv6: headViewV6} {
			for _, n := range []int{15, 54, 65, 66, 67, 85, 86, 87, 1514, 20000} {
				sent := frame(n, etherType)
				b.send(t, tap.Header{}, sent)
				want := sent[:min(n, most)]
				if got := next(t, "head", filtered); !bytes.Equal(got, want) {
					t.Errorf("filter, %#x, %d bytes: got % x, want % x", etherType, n, got, want)
				}
				if got := next(t, "head", c.seen); !bytes.Equal(got, want) {
					t.Errorf("classifier, %#x, %d bytes: got % x, want % x", etherType, n, got, want)
				}
				if !c.take(want) {
					if got := next(t, "frame", b.stack).bytes(); !bytes.Equal(got, sent) {
						t.Errorf("%#x, %d bytes: got %d other bytes", etherType, n, len(got))
					}
				}
			}
		}
		b.stop()
		next(t, "end", b.ended)
		if n := len(b.stack); n != 0 {
			t.Errorf("frames that were taken: got %d at the stack, want 0", n)
		}
	})
}

// A body is a classifier that takes every frame and keeps what is behind n bytes
// of headers.
type body struct {
	n    int
	seen chan []byte
}

func (b body) Classify(f *Frame) bool {
	b.seen <- append([]byte{}, f.Body(b.n)...)
	return true
}

// TestFrameBody wants what follows headers in one piece, wherever a frame was
// cut to be read.
func TestFrameBody(t *testing.T) {
	eachWay(t, func(t *testing.T, f tap.Features) {
		for _, headers := range []int{0, minHeaders - 1, minHeaders, minHeaders + 1, 62, headView, headView + 1, headViewV6, 100} {
			c := body{headers, make(chan []byte, 1)}
			b := newBench(t, f, func(cfg *Config) { cfg.Classifier = c })
			for _, n := range []int{15, minHeaders, 62, headView - 1, headView, headView + 1, headViewV6, 1514, 60000} {
				sent := frame(n, etherIPv6)
				b.send(t, tap.Header{}, sent)
				var want []byte
				if headers >= minHeaders && headers <= n {
					want = sent[headers:]
				}
				if got := next(t, "frame", c.seen); !bytes.Equal(got, want) {
					t.Errorf("%d bytes behind %d: got %d bytes, want %d", n, headers, len(got), len(want))
				}
			}
		}
	})
}

// TestFilter wants what the filter refuses to be counted, seen by nobody, and
// to teach nobody the guest's address.
func TestFilter(t *testing.T) {
	c := &heads{make(chan []byte, 8), func([]byte) bool { return false }}
	b := newBench(t, features["offloads"], func(cfg *Config) {
		cfg.Classifier = c
		cfg.Filter = func(head []byte) bool { return !bytes.Equal(head[6:12], otherMAC) }
	})
	spoofed := slices.Concat(gatewayMAC, otherMAC, frame(60, etherIPv4)[12:])
	b.send(t, tap.Header{}, spoofed)
	b.send(t, tap.Header{}, frame(77, etherIPv4))
	if got := len(next(t, "frame", b.stack).bytes()); got != 77 {
		t.Errorf("delivered: got %d bytes, want the 77 of the frame after", got)
	}
	if got := b.Stats.Spoofed.Load(); got != 1 {
		t.Errorf("spoofed: got %d, want 1", got)
	}
	if n := len(c.seen); n != 1 {
		t.Errorf("classifier: got %d frames, want 1", n)
	}
	if got := b.guestMAC(); !bytes.Equal(got, guestMAC) {
		t.Errorf("guest: got %v, want %v", got, guestMAC)
	}
}

// guestMAC returns where the endpoint sends its frames.
func (b *bench) guestMAC() net.HardwareAddr {
	head := make([]byte, header.EthernetMinimumSize)
	b.ethernet(head, etherIPv4)
	return head[:6]
}

func TestLearnGuest(t *testing.T) {
	b := newBench(t, features["plain"], nil)
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	if got := b.guestMAC(); !bytes.Equal(got, broadcast) {
		t.Errorf("at first: got %v, want %v", got, broadcast)
	}
	for _, tt := range []struct {
		name       string
		from, want net.HardwareAddr
	}{
		{"first", guestMAC, guestMAC},
		{"again", guestMAC, guestMAC},
		{"changed", otherMAC, otherMAC},
		{"group address", net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, otherMAC},
		{"broadcast", broadcast, otherMAC},
		{"back", guestMAC, guestMAC},
	} {
		b.send(t, tap.Header{}, slices.Concat(gatewayMAC, tt.from, frame(60, etherIPv4)[12:]))
		next(t, "frame", b.stack).pkt.DecRef()
		if got := b.guestMAC(); !bytes.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// newReceiver returns a function that sends a frame of n bytes and waits until
// the stack has had it.
func newReceiver(t testing.TB, n int) func() {
	t.Helper()
	b := newBench(t, features["offloads"], nil)
	w, virtio, f := b.guest.NewWriter(), make([]byte, tap.HeaderLen), frame(n, etherIPv4)
	return func() {
		w.Add(virtio)
		w.Add(f)
		if err := w.Flush(); err != nil {
			t.Error(err)
			return
		}
		(<-b.stack).pkt.DecRef()
	}
}

func TestReceiveAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	for _, n := range []int{60, 1514, 65549} {
		if got := testing.AllocsPerRun(2000, newReceiver(t, n)); got > 0 {
			t.Errorf("allocations for a frame of %d bytes: got %v, want 0", n, got)
		}
	}
}

func BenchmarkReceive(b *testing.B) {
	for _, n := range []int{60, 1514, 65549} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			receive := newReceiver(b, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				receive()
			}
		})
	}
}
