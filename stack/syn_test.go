package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"taproot/tap"
	"taproot/tap/taptest"
)

// ours is the code point of the tests' SYNs.
const ours = 0b110011

// synFrame returns the frame of a SYN with our code point, ECN and two bytes of
// options that end them.
func synFrame(from, to netip.AddrPort, data string) []byte {
	const optionsLen = 4
	ipLen := ipHeaderLen(from.Addr())
	size := header.TCPMinimumSize + optionsLen + len(data)
	b := make([]byte, atIP+ipLen+size)
	copy(b, gatewayMAC)
	copy(b[6:], guestMAC)
	binary.BigEndian.PutUint16(b[atEtherType:], uint16(header.IPv4ProtocolNumber))
	if from.Addr().Is6() {
		binary.BigEndian.PutUint16(b[atEtherType:], uint16(header.IPv6ProtocolNumber))
	}
	(&Stack{}).putIP(b[atIP:], from.Addr(), to.Addr(), uint8(header.TCPProtocolNumber), size)
	setDSCP(b[atIP:], ours)
	tcp := header.TCP(b[atIP+ipLen:])
	tcp.Encode(&header.TCPFields{
		SrcPort: from.Port(), DstPort: to.Port(), SeqNum: 0xfffffffe, DataOffset: header.TCPMinimumSize + optionsLen,
		Flags: header.TCPFlagSyn | 1<<6 | 1<<7, WindowSize: 0xffff,
	})
	copy(tcp[header.TCPMinimumSize:], []byte{1, 1, 0, 0})
	copy(tcp[header.TCPMinimumSize+optionsLen:], data)
	return b
}

// handleSYN has a gateway read a frame, and returns what its handler of SYNs got
// and gave to then.
func handleSYN(t *testing.T, virtio, frame []byte, then func(*Stack, *SYN)) (got *SYN) {
	t.Helper()
	a, b, err := taptest.Pair(tap.Features{Header: true, Checksum: true, TSO: true, USO: true})
	if err != nil {
		t.Fatal(err)
	}
	s := newStack(t, Config{Device: a, MTU: 1500, MAC: gatewayMAC, Addresses: []netip.Addr{gateway4, gateway6}})
	s.HandleSYN(func(syn *SYN) bool {
		if got != nil {
			t.Error("got two SYNs out of one frame")
		}
		got = syn
		if then != nil {
			then(s, syn)
		}
		return true
	}, ours)
	w := &way{Stack: s, guest: b, marked: make(chan struct{})}
	s.HandleUDP(w.keep)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	w.stop = func() {
		cancel()
		wg.Wait()
	}
	w.handle(t, virtio, frame)
	t.Cleanup(func() { b.Close() })
	if then != nil && got != nil {
		wantAnswers(t, b, frame)
	}
	return got
}

var (
	synFrom4, synTo4 = netip.AddrPortFrom(guest4, 4000), netip.AddrPortFrom(server4, 80)
	synFrom6, synTo6 = netip.AddrPortFrom(guest6, 4000), netip.AddrPortFrom(server6, 80)
)

func TestSYN(t *testing.T) {
	type change = func([]byte) []byte
	set := func(i int, v byte) change {
		return func(b []byte) []byte { b[i] = v; return b }
	}
	for _, family := range []struct {
		name     string
		from, to netip.AddrPort
		tcp      int // where it starts
		other    map[string]change
	}{
		{"IPv4", synFrom4, synTo4, 34, map[string]change{
			"options":          set(14, 0x46),
			"fragment":         set(20, 0x20),
			"later fragment":   set(21, 1),
			"UDP":              set(23, 17),
			"from loopback":    set(26, 127),
			"to multicast":     set(30, 224),
			"other code point": set(15, 0),
			"length too long":  set(17, 0xff),
			"length too short": set(17, 39),
		}},
		{"IPv6", synFrom6, synTo6, 54, map[string]change{
			"extension header": set(20, 0),
			"from nobody":      func(b []byte) []byte { clear(b[22:38]); return b },
			"to multicast":     set(38, 0xff),
			"other code point": set(14, 0x60),
			"length too long":  set(19, 0xff),
			"length too short": set(19, 19),
		}},
	} {
		for name, c := range map[string]change{
			"ACK":                 set(family.tcp+13, 0x12),
			"FIN":                 set(family.tcp+13, 0x03),
			"RST":                 set(family.tcp+13, 0x06),
			"urgent":              set(family.tcp+13, 0x22),
			"no SYN":              set(family.tcp+13, 0),
			"header too short":    set(family.tcp+12, 0x40),
			"header too long":     set(family.tcp+12, 0x70),
			"cut":                 func(b []byte) []byte { return b[:family.tcp+19] },
			"to a group":          set(0, 1),
			"VLAN":                func(b []byte) []byte { b[12], b[13] = 0x81, 0; return b },
			"as long as a packet": func(b []byte) []byte { return append(b, make([]byte, maxSYN)...) },
		} {
			family.other[name] = c
		}
		for name, c := range family.other {
			if got := handleSYN(t, make([]byte, tap.HeaderLen), c(synFrame(family.from, family.to, "")), nil); got != nil {
				t.Errorf("%s, %s: got %+v, want it left to the stack", family.name, name, got)
			}
		}
		for _, data := range []string{"", "fast open, and far beyond the buffer of the headers"} {
			got := handleSYN(t, make([]byte, tap.HeaderLen), append(synFrame(family.from, family.to, data), "padding"...), nil)
			if got == nil {
				t.Errorf("%s, %q: got nothing, want a SYN", family.name, data)
				continue
			}
			if got.Source != family.from || got.Destination != family.to || got.DSCP != ours || got.TTL != defaultTTL || got.Sequence != 0xfffffffe {
				t.Errorf("%s, %q: got %+v", family.name, data, got)
			}
			want := synFrame(family.from, family.to, data)
			if ip := want[atIP:]; family.from.Addr().Is4() {
				copy(ip[4:12], got.frame[atIP+4:]) // the identification
			}
			if !bytes.Equal(got.frame, want) || !bytes.Equal(got.Header(), got.frame[atIP:family.tcp+8]) {
				t.Errorf("%s, %q: frame: got %x, want %x", family.name, data, got.frame, want)
			}
		}
	}
}

// answerSYN does all that can be done with a SYN.
func answerSYN(s *Stack, syn *SYN) {
	_ = s.PutBack(syn, ours)
	_ = s.PutBack(syn, 0b000001)
	_ = s.Reset(syn)
	s.Deliver(syn)
}

// wantAnswers reads what answerSYN has sent: two SYNs, RST, and what the stack
// says.
func wantAnswers(t *testing.T, guest *tap.Device, sent []byte) {
	t.Helper()
	b := make([]byte, tap.MaxFrame+tap.HeaderLen)
	var frames [][]byte
	reader := guest.NewReader(b)
	_ = guest.Stop()
	_ = reader.Run(func(n int) { frames = append(frames, bytes.Clone(b[tap.HeaderLen:n])) })
	if len(frames) < 3 {
		t.Fatalf("got %d frames, want 3 and those of the stack", len(frames))
	}
	if !bytes.Equal(frames[0][atIP:], sent[atIP:][:len(frames[0])-atIP]) {
		t.Errorf("put back: got %x, want %x", frames[0], sent)
	}
	if dscpOf(frames[1]) != 1 {
		t.Errorf("put back: got code point %d, want 1", dscpOf(frames[1]))
	}
	for _, f := range frames[1:3] { // the first is as it was
		if ip := header.IPv4(f[atIP:]); ip[0]>>4 == 4 && !ip.IsChecksumValid() {
			t.Errorf("got a wrong checksum in %x", f)
		}
	}
}

func TestPutBackAndReset(t *testing.T) {
	for _, ends := range [][2]netip.AddrPort{{synFrom4, synTo4}, {synFrom6, synTo6}} {
		if handleSYN(t, make([]byte, tap.HeaderLen), synFrame(ends[0], ends[1], "data"), answerSYN) == nil {
			t.Errorf("%v: got nothing, want a SYN", ends)
		}
	}
}

// The answer to a SYN acknowledges the SYN and its data (RFC 9293 §3.5.2).
func TestResetSegment(t *testing.T) {
	a, b, err := taptest.Pair(tap.Features{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	defer a.Close()
	s := newStack(t, Config{Device: a, MTU: 1500, MAC: gatewayMAC, Addresses: []netip.Addr{gateway4, gateway6}})
	syn := &SYN{Source: synFrom4, Destination: synTo4, Sequence: 0xfffffffe, frame: synFrame(synFrom4, synTo4, "data"), tcpAt: 34}
	if err := s.Reset(syn); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, 100)
	var got []byte
	_ = b.Stop()
	_ = b.NewReader(frame).Run(func(n int) { got = frame[:n] })
	tcp := header.TCP(got[34:])
	if tcp.Flags() != header.TCPFlagRst|header.TCPFlagAck || tcp.AckNumber() != 3 || tcp.SourcePort() != 80 || tcp.DestinationPort() != 4000 {
		t.Errorf("got %x, want RST of 3", got)
	}
	sum := pseudoSum(synTo4.Addr(), synFrom4.Addr(), uint8(header.TCPProtocolNumber), len(tcp))
	if checksum.Checksum(tcp, sum) != 0xffff {
		t.Errorf("checksum: got %#x", tcp.Checksum())
	}
}

// TestProbe wants an acknowledgement of nothing, in either family, and none between
// the two.
func TestProbe(t *testing.T) {
	for _, ends := range [][2]netip.AddrPort{{synTo4, synFrom4}, {synTo6, synFrom6}} {
		a, b, err := taptest.Pair(tap.Features{})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		defer a.Close()
		s := newStack(t, Config{Device: a, MTU: 1500, MAC: gatewayMAC, Addresses: []netip.Addr{gateway4, gateway6}})
		if err := s.Probe(ends[0], ends[1]); err != nil {
			t.Fatal(err)
		}
		got := 0
		_ = b.Stop()
		_ = b.NewReader(make([]byte, 100)).Run(func(n int) { got = n })
		if want := atIP + ipHeaderLen(ends[0].Addr()) + header.TCPMinimumSize; got != want {
			t.Errorf("got a frame of %d bytes, want %d", got, want)
		}
		if s.Probe(ends[0], netip.AddrPortFrom(netip.IPv6Unspecified(), 1)) == nil && ends[0].Addr().Is4() {
			t.Error("two families: got no error")
		}
	}
}

// FuzzSYN gives the classifier any frame, and does all that can be done with a
// SYN that is found in it.
func FuzzSYN(f *testing.F) {
	f.Add(make([]byte, tap.HeaderLen), synFrame(synFrom4, synTo4, ""))
	f.Add(make([]byte, tap.HeaderLen), synFrame(synFrom6, synTo6, "data"))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 34, 0, 16, 0}, synFrame(synFrom4, synTo4, "")[:40])
	f.Fuzz(func(t *testing.T, virtio, frame []byte) { handleSYN(t, virtio, frame, answerSYN) })
}
