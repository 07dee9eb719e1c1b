package link

import (
	"encoding/binary"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// The format of pcap, version 2.4, as pcap-savefile(5) has it, in the byte
// order of this machine and with microseconds, which every reader knows.
const (
	pcapMagic    = 0xa1b2c3d4
	pcapMajor    = 2
	pcapMinor    = 4
	pcapEthernet = 1         // LINKTYPE_ETHERNET
	pcapSnapshot = 256 << 10 // bytes; no frame is much longer than a quarter of it
	pcapHead     = 24        // bytes
)

// A capture writes frames to a file, one write for each, so that the file is
// whole whenever it is looked at. It belongs to several goroutines. The lock
// is held over the write: it is what keeps frames apart.
type capture struct {
	mu sync.Mutex
	// +checklocks:mu
	lost *atomic.Uint64 // frames that were not written
	// +checklocks:mu
	file *os.File // nil when it is over
	// +checklocks:mu
	buf []byte
}

// newCapture returns a capture that takes file over. It goes on with a file
// that others have begun with.
func newCapture(file *os.File, lost *atomic.Uint64) *capture {
	c := &capture{lost: lost, file: file}
	if at, err := file.Seek(0, io.SeekCurrent); err == nil && at > 0 {
		return c
	}
	b := make([]byte, 0, pcapHead)
	b = binary.NativeEndian.AppendUint32(b, pcapMagic)
	b = binary.NativeEndian.AppendUint16(b, pcapMajor)
	b = binary.NativeEndian.AppendUint16(b, pcapMinor)
	b = append(b, make([]byte, 8)...) // time zone and accuracy, always zero
	b = binary.NativeEndian.AppendUint32(b, pcapSnapshot)
	b = binary.NativeEndian.AppendUint32(b, pcapEthernet)
	if _, err := file.Write(b); err != nil {
		c.close()
	}
	return c
}

// add writes a frame, given in pieces from its Ethernet header on. The first
// error ends the capture.
func (c *capture) add(pieces ...[]byte) {
	now := time.Now()
	size := 0
	for _, p := range pieces {
		size += len(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file == nil {
		c.lost.Add(1)
		return
	}
	b := c.buf[:0]
	b = binary.NativeEndian.AppendUint32(b, uint32(now.Unix()))
	b = binary.NativeEndian.AppendUint32(b, uint32(now.Nanosecond()/1000))
	b = binary.NativeEndian.AppendUint32(b, uint32(size)) // in the file
	b = binary.NativeEndian.AppendUint32(b, uint32(size)) // on the wire
	for _, p := range pieces {
		b = append(b, p...)
	}
	c.buf = b
	if _, err := c.file.Write(b); err != nil {
		c.lost.Add(1)
		c.closeLocked()
	}
}

// close ends the capture.
func (c *capture) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked()
}

// +checklocks:c.mu
func (c *capture) closeLocked() {
	if c.file != nil {
		_ = c.file.Close() // what was written is in the file
		c.file = nil
	}
}
