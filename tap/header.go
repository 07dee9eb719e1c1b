package tap

import (
	"encoding/binary"
	"errors"
)

// HeaderLen is the length in bytes of the virtio-net header in front of each
// frame of a device with offloads: struct virtio_net_hdr, without num_buffers.
const HeaderLen = 10

// A Segmentation says how the one who gets a frame shall cut it.
type Segmentation uint8

// The kinds of segmentation (virtio 1.2 §5.1.6, gso_type).
const (
	SegmentNone  Segmentation = 0
	SegmentTCPv4 Segmentation = 1
	SegmentTCPv6 Segmentation = 4
	SegmentUDP   Segmentation = 5 // each datagram on its own, UDP_L4
)

// flagNeedsChecksum and flagECN are bits of the header's flags and gso_type.
const (
	flagNeedsChecksum = 1
	flagECN           = 0x80
)

// A Header is the virtio-net header. Offsets count from the start of the
// Ethernet header, in bytes.
type Header struct {
	// NeedsChecksum says that the checksum at ChecksumStart+ChecksumOffset
	// holds only the pseudo-header's sum; the rest, from ChecksumStart to the
	// end of the frame, is to be added.
	NeedsChecksum  bool
	ChecksumStart  uint16
	ChecksumOffset uint16

	// Segmentation and SegmentSize, bytes of payload in each segment, say how
	// to cut the frame. HeaderLen is the length of all headers.
	Segmentation Segmentation
	ECN          bool // with SegmentTCP*: the segments carry CWR or ECE
	SegmentSize  uint16
	HeaderLen    uint16
}

// errHeader says that a virtio-net header contradicts its frame.
var errHeader = errors.New("virtio-net header does not fit the frame")

// Put writes the header to the first HeaderLen bytes of b, in host byte order
// as the TAP device wants it.
func (h Header) Put(b []byte) {
	_ = b[HeaderLen-1]
	b[0], b[1] = 0, byte(h.Segmentation)
	if h.NeedsChecksum {
		b[0] = flagNeedsChecksum
	}
	if h.ECN {
		b[1] |= flagECN
	}
	binary.NativeEndian.PutUint16(b[2:], h.HeaderLen)
	binary.NativeEndian.PutUint16(b[4:], h.SegmentSize)
	binary.NativeEndian.PutUint16(b[6:], h.ChecksumStart)
	binary.NativeEndian.PutUint16(b[8:], h.ChecksumOffset)
}

// ParseHeader reads the header of a frame of frameLen bytes. It refuses
// offsets beyond the frame, unknown kinds of segmentation and a size of zero.
func ParseHeader(b []byte, frameLen int) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, errHeader
	}
	h := Header{
		NeedsChecksum:  b[0]&flagNeedsChecksum != 0,
		Segmentation:   Segmentation(b[1] &^ flagECN),
		ECN:            b[1]&flagECN != 0,
		HeaderLen:      binary.NativeEndian.Uint16(b[2:]),
		SegmentSize:    binary.NativeEndian.Uint16(b[4:]),
		ChecksumStart:  binary.NativeEndian.Uint16(b[6:]),
		ChecksumOffset: binary.NativeEndian.Uint16(b[8:]),
	}
	if h.NeedsChecksum && int(h.ChecksumStart)+int(h.ChecksumOffset)+2 > frameLen {
		return Header{}, errHeader
	}
	switch h.Segmentation {
	case SegmentNone:
		return h, nil
	case SegmentTCPv4, SegmentTCPv6, SegmentUDP:
		if h.SegmentSize == 0 || int(h.HeaderLen) > frameLen {
			return Header{}, errHeader
		}
		return h, nil
	}
	return Header{}, errHeader
}
