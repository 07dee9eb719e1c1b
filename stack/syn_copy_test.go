package stack

import (
	"bytes"
	"net/netip"
	"testing"

	"taproot/tap"
)

// copied returns a frame as a packet socket delivers it.
func copied(frame []byte) []byte {
	b := append(make([]byte, tap.HeaderLen), frame...)
	clear(b[tap.HeaderLen : tap.HeaderLen+12]) // lo's hardware addresses
	return b
}

// TestParseSYN finds what HandleSYN would, and nothing else.
func TestParseSYN(t *testing.T) {
	for _, tt := range []struct{ from, to netip.AddrPort }{{synFrom4, synTo4}, {synFrom6, synTo6}} {
		frame := synFrame(tt.from, tt.to, "")
		b := copied(frame)
		got := ParseSYN(b)
		if got == nil {
			t.Fatalf("%v: got nothing", tt.from)
		}
		if got.Source != tt.from || got.Destination != tt.to || got.DSCP != ours || got.Sequence != 0xfffffffe {
			t.Errorf("got %+v, want one from %v to %v", got, tt.from, tt.to)
		}
		clear(b)
		if !bytes.Equal(got.frame[atIP:], frame[atIP:]) {
			t.Errorf("got packet\n%x, want\n%x", got.frame[atIP:], frame[atIP:])
		}
		for n := range len(frame) {
			if got := ParseSYN(copied(frame)[:tap.HeaderLen+n]); got != nil {
				t.Errorf("%d bytes of %d: got %+v, want nothing", n, len(frame), got)
			}
		}
		protocol := 23
		if tt.from.Addr().Is6() {
			protocol = 20
		}
		for at, v := range map[int]byte{protocol: 17, atEtherType: 0x81, atIP: 0x55} {
			other := copied(frame)
			other[tap.HeaderLen+at] = v
			if got := ParseSYN(other); got != nil {
				t.Errorf("byte %d is %#x: got %+v, want nothing", at, v, got)
			}
		}
	}
	if got := ParseSYN(nil); got != nil {
		t.Errorf("no bytes: got %+v, want nothing", got)
	}
}

// FuzzParseSYN parses anything. What is found is what was read.
func FuzzParseSYN(f *testing.F) {
	f.Add(copied(synFrame(synFrom4, synTo4, "")))
	f.Add(copied(synFrame(synFrom6, synTo6, "data")))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 34, 0, 16, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if s := ParseSYN(b); s != nil && !bytes.HasPrefix(b[tap.HeaderLen:], s.frame) {
			t.Errorf("got frame\n%x, want the start of\n%x", s.frame, b)
		}
	})
}
