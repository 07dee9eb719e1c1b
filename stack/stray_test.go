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

// strayFrame is synFrame of a segment with data.
func strayFrame(from, to netip.AddrPort, data string) []byte {
	b := synFrame(from, to, data)
	tcp := header.TCP(b[atIP+ipHeaderLen(from.Addr()):])
	tcp.SetFlags(uint8(header.TCPFlagAck | 1<<7)) // and CWR
	sum := pseudoSum(from.Addr(), to.Addr(), uint8(header.TCPProtocolNumber), len(tcp))
	tcp.SetChecksum(0)
	tcp.SetChecksum(^checksum.Checksum(tcp, sum))
	return b
}

// handleStray has a gateway read a frame whose segment its handler puts back, if
// it is to take it, and returns what came of it, with its virtio-net header.
func handleStray(t *testing.T, features tap.Features, frame []byte, takes bool) (answer []byte) {
	t.Helper()
	a, b, err := taptest.Pair(features)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	s := newStack(t, Config{Device: a, MTU: 1500, MAC: gatewayMAC, Addresses: []netip.Addr{gateway4, gateway6}})
	s.HandleTCP(func(r *Request) { r.Drop() })
	s.HandleStray(func(stray *Stray) bool {
		if stray.DSCP != ours || stray.Sequence != 0xfffffffe {
			t.Errorf("got %+v", stray)
		}
		if takes {
			if err := s.PutBackStray(stray, 0b000001); err != nil {
				t.Error(err)
			}
		}
		return takes
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	out := b.NewWriter()
	if features.Header {
		virtio := make([]byte, tap.HeaderLen)
		if len(frame) > 1514 {
			h := tap.Header{NeedsChecksum: true, ChecksumStart: atIP + 20, ChecksumOffset: 16, Segmentation: tap.SegmentTCPv4, SegmentSize: 1456, HeaderLen: atIP + 44}
			h.Put(virtio)
		}
		out.Add(virtio)
	}
	out.Add(frame)
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, tap.MaxFrame+tap.HeaderLen)
	err = b.NewReader(buf).Run(func(n int) {
		if answer == nil {
			answer = bytes.Clone(buf[:n])
			_ = b.Stop()
		}
	})
	if err != nil || answer == nil {
		t.Fatalf("no answer: %v", err)
	}
	return answer
}

// TestStray puts segments back that belong to no connection.
func TestStray(t *testing.T) {
	offloads := tap.Features{Header: true, Checksum: true, TSO: true, USO: true}
	for _, tt := range []struct {
		name     string
		features tap.Features
		from, to netip.AddrPort
		size     int
	}{
		{"IPv4", offloads, synFrom4, synTo4, 100},
		{"IPv6", offloads, synFrom6, synTo6, 100},
		{"a superframe", offloads, synFrom4, synTo4, 30000},
		{"no offloads", tap.Features{}, synFrom4, synTo4, 100},
		{"no offloads, IPv6", tap.Features{}, synFrom6, synTo6, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sent := strayFrame(tt.from, tt.to, string(make([]byte, tt.size)))
			got := handleStray(t, tt.features, sent, true)
			front := 0
			if tt.features.Header {
				front = tap.HeaderLen
				if want := byte(1); got[0]&1 != want {
					t.Errorf("checksum to be computed: got flags %d, want %d", got[0], want)
				}
				wantSize := uint16(0)
				if tt.size > 1500 {
					wantSize = 1500 - 20 - 24
				}
				if size := binary.NativeEndian.Uint16(got[4:]); size != wantSize || got[1]&0x80 != 0 != (wantSize > 0) {
					t.Errorf("segments: got %d bytes and kind %#x, want %d and those of ECN", size, got[1], wantSize)
				}
			}
			got = got[front:]
			if dscpOf(got) != 1 || !bytes.Equal(got[:6], guestMAC) {
				t.Errorf("got %x, want code point 1, to the guest", got[:atIP+2])
			}
			at := atIP + ipHeaderLen(tt.from.Addr())
			if !bytes.Equal(got[at:at+16], sent[at:at+16]) || !bytes.Equal(got[at+18:], sent[at+18:]) {
				t.Errorf("segment: got %x, want %x", got[at:], sent[at:])
			}
			if front == 0 && !bytes.Equal(got[at:], sent[at:]) {
				t.Errorf("checksum: got %x, want %x", got[at+16:at+18], sent[at+16:at+18])
			}
			if ip := header.IPv4(got[atIP:]); tt.from.Addr().Is4() && !ip.IsChecksumValid() {
				t.Error("got a wrong checksum of IPv4")
			}
		})
	}
	got := handleStray(t, tap.Features{}, strayFrame(synFrom4, synTo4, ""), false)
	if tcp := header.TCP(got[34:]); tcp.Flags()&header.TCPFlagRst == 0 {
		t.Errorf("not taken: got %x, want RST", got)
	}
}
