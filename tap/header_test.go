package tap

import (
	"encoding/binary"
	"testing"
)

func TestHeaderRoundTrip(t *testing.T) {
	for name, h := range map[string]Header{
		"nothing":  {},
		"checksum": {NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16},
		"tcp4":     {NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16, Segmentation: SegmentTCPv4, SegmentSize: 1448, HeaderLen: 66},
		"tcp6 ecn": {NeedsChecksum: true, ChecksumStart: 54, ChecksumOffset: 16, Segmentation: SegmentTCPv6, ECN: true, SegmentSize: 1428, HeaderLen: 86},
		"udp":      {NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 6, Segmentation: SegmentUDP, SegmentSize: 1, HeaderLen: 42},
		"largest":  {NeedsChecksum: true, ChecksumStart: 65533, ChecksumOffset: 0, Segmentation: SegmentTCPv4, SegmentSize: 65535, HeaderLen: 65535},
	} {
		t.Run(name, func(t *testing.T) {
			b := make([]byte, HeaderLen)
			for i := range b {
				b[i] = 0xff // Put leaves nothing of what was there
			}
			h.Put(b)
			got, err := ParseHeader(b, 65535)
			if err != nil || got != h {
				t.Errorf("got %+v and error %v, want %+v", got, err, h)
			}
		})
	}
}

// TestHeaderLayout compares with struct virtio_net_hdr of linux/virtio_net.h.
func TestHeaderLayout(t *testing.T) {
	want := []byte{1, 0x81, 66, 0, 0xa8, 0x05, 34, 0, 16, 0}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		want = []byte{1, 0x81, 0, 66, 0x05, 0xa8, 0, 34, 0, 16}
	}
	got := make([]byte, HeaderLen)
	Header{true, 34, 16, SegmentTCPv4, true, 1448, 66}.Put(got)
	if string(got) != string(want) {
		t.Errorf("got % x, want % x", got, want)
	}
}

func TestParseHeaderRefuses(t *testing.T) {
	tcp := Header{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16, Segmentation: SegmentTCPv4, SegmentSize: 100, HeaderLen: 54}
	for _, tt := range []struct {
		name   string
		change func(*Header)
		frame  int // bytes
		want   error
	}{
		{"fits", func(*Header) {}, 54, nil},
		{"frame without data", func(h *Header) { h.HeaderLen = 52 }, 52, nil},
		{"checksum across the end", func(*Header) {}, 51, errHeader},
		{"checksum behind the end", func(h *Header) { h.ChecksumStart = 65535 }, 65535, errHeader},
		{"offsets that overflow 16 bits", func(h *Header) { h.ChecksumStart, h.ChecksumOffset = 65535, 65535 }, 65535, errHeader},
		{"offsets without checksum", func(h *Header) { h.NeedsChecksum, h.ChecksumStart = false, 65535 }, 54, nil},
		{"size of zero", func(h *Header) { h.SegmentSize = 0 }, 54, errHeader},
		{"headers longer than the frame", func(h *Header) { h.HeaderLen = 55 }, 54, errHeader},
		{"unknown kind", func(h *Header) { h.Segmentation = 2 }, 54, errHeader},
		{"UFO, which nobody asked for", func(h *Header) { h.Segmentation = 3 }, 54, errHeader},
		{"size without segmentation", func(h *Header) { h.Segmentation = SegmentNone }, 54, nil},
		{"empty frame", func(h *Header) { *h = Header{} }, 0, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := tcp
			tt.change(&h)
			b := make([]byte, HeaderLen)
			h.Put(b)
			if _, err := ParseHeader(b, tt.frame); err != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	for n := range HeaderLen {
		if _, err := ParseHeader(make([]byte, n), 100); err != errHeader {
			t.Errorf("%d bytes: got %v, want %v", n, err, errHeader)
		}
	}
}

// FuzzParseHeader wants of what is accepted that all offsets are inside the
// frame, and that Put writes it back.
func FuzzParseHeader(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 60)
	f.Add([]byte{1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0}, 5000)
	f.Add([]byte{1, 0x84, 74, 0, 0xa0, 5, 54, 0, 16, 0}, 65549)
	f.Add([]byte{1, 5, 42, 0, 0, 1, 34, 0, 6, 0}, 1000)
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, 65535)
	f.Fuzz(func(t *testing.T, b []byte, frameLen int) {
		h, err := ParseHeader(b, frameLen)
		if err != nil {
			return
		}
		if h.NeedsChecksum && int(h.ChecksumStart)+int(h.ChecksumOffset)+2 > frameLen {
			t.Errorf("checksum outside of %d bytes: %+v", frameLen, h)
		}
		if h.Segmentation != SegmentNone && (h.SegmentSize == 0 || int(h.HeaderLen) > frameLen) {
			t.Errorf("impossible segments in %d bytes: %+v", frameLen, h)
		}
		again := make([]byte, HeaderLen)
		h.Put(again)
		if got, err := ParseHeader(again, frameLen); err != nil || got != h {
			t.Errorf("again: got %+v and error %v, want %+v", got, err, h)
		}
	})
}
