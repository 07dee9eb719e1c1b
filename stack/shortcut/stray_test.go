package shortcut

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/shortcut/mark"
	"taproot/test/settle"
)

// stray sends a segment of the client's connection as a frame.
func (c *client) stray(t *testing.T, dscp uint8, sequence uint32) {
	t.Helper()
	c.w.send(t, segment(c.from, c.to, dscp, 64, flagACK, sequence, 5))
}

// wantStray wants a segment back, for what is put back.
func (c *client) wantStray(t *testing.T, sequence uint32) {
	t.Helper()
	want := tcpOf(segment(c.from, c.to, mark.Local, 64, flagACK, sequence, 5))
	got := c.w.next(t)
	copy(tcpOf(got)[16:18], want[16:18]) // the checksum, which is left undone
	if code := dscpOfFrame(got); code != mark.Local || !bytes.Equal(tcpOf(got), want) {
		t.Errorf("got %x with code point %d, want %x", tcpOf(got), code, want)
	}
}

func dscpOfFrame(b []byte) uint8 {
	if b[14]>>4 == 6 {
		return uint8(binary.BigEndian.Uint16(b[14:]) >> 6 & 0x3f)
	}
	return b[15] >> 2
}

// TestStray: a segment of a joined connection that comes as a frame is put back,
// and no new connection goes this way.
func TestStray(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		hosts := w.serve(t, f)
		c := w.newClient(t, f)
		guest := c.open(t)
		host := receive(t, hosts, "a connection")
		c.stray(t, 0, 1001)
		c.wantStray(t, 1001)
		receive(t, w.broken, "that the rules are broken")
		if w.shortcut.Enabled() || w.shortcut.Stats.Strayed.Load() != 1 {
			t.Errorf("got enabled %v and %d strays, want false and 1", w.shortcut.Enabled(), w.shortcut.Stats.Strayed.Load())
		}
		c.stray(t, mark.Local, 1001) // the guest forwards what is put back
		w.shortcut.SetEnabled(true)
		c.stray(t, 0, 1001) // a connection from before proves nothing
		c.wantStray(t, 1001)
		if !w.shortcut.Enabled() {
			t.Error("disabled by a connection from before")
		}
		wantEcho(t, guest, host)
		guest.Close()
		host.Close()
		settle.Until(t, "the flow ends", func() bool { return w.flows.Len(flow.TCP) == 0 })
		c.stray(t, 0, 1001)
		if tcp := c.next(t); tcp[13]&flagRST == 0 {
			t.Errorf("after the end: got %x, want RST", tcp)
		}
	})
}

// TestStrayHandshake: the last segment of a handshake comes as a frame too, before
// the listener has a connection.
func TestStrayHandshake(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		hosts := w.serve(t, f)
		c := w.newClient(t, f)
		c.syn(t)
		c.wantPutBack(t)
		c.stray(t, 0, 1001)
		c.wantStray(t, 1001)
		receive(t, w.broken, "that the rules are broken")
		wantEcho(t, c.connect(t), receive(t, hosts, "a connection"))
	})
}

// TestLost: a connection that makes no progress while there are no rules is reset.
func TestLost(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		hosts := w.serve(t, f)
		c := w.newClient(t, f)
		guest := c.open(t)
		receive(t, hosts, "a connection")
		w.shortcut.SetEnabled(false)
		c.stray(t, 0, 1001)
		c.wantStray(t, 1001)
		w.shortcut.bonds.age(2 * loyalty)
		c.stray(t, 0, 1002) // progress
		c.wantStray(t, 1002)
		w.shortcut.bonds.age(2 * loyalty)
		c.stray(t, 0, 1002)
		settle.Until(t, "the flow ends", func() bool { return w.flows.Len(flow.TCP) == 0 })
		if n, err := guest.Read(make([]byte, 1)); err == nil {
			t.Errorf("got %d bytes, want a reset", n)
		}
	})
}

// TestSuspended: a connection that needs rules which were taken away is reset, and
// one that does not is kept until they are back.
func TestSuspended(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		hosts := w.serve(t, f)
		c, idle := w.newClient(t, f), w.newClient(t, f)
		guest := c.open(t)
		receive(t, hosts, "a connection")
		kept := idle.open(t)
		host := receive(t, hosts, "another connection")
		w.shortcut.Suspend()
		if w.shortcut.Enabled() {
			t.Error("enabled while it is suspended")
		}
		c.stray(t, 0, 1001)
		if n, err := guest.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("got %d bytes and %v, want a reset", n, err)
		}
		w.shortcut.SetEnabled(true)
		idle.stray(t, 0, 1001)
		idle.wantStray(t, 1001)
		wantEcho(t, kept, host)
	})
}

// TestStrayAtTheEnd: a connection that ends while a segment of it is looked at is
// forgotten.
func TestStrayAtTheEnd(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		hosts := w.serve(t, f)
		c := w.newClient(t, f)
		guest := c.open(t)
		host := receive(t, hosts, "a connection")
		seg := &stack.Stray{Source: c.from, Destination: c.to, Sequence: 1001}
		var was *flow.Flow
		settle.Until(t, "the connection is joined", func() bool {
			was = w.shortcut.bonds.find(flow.Key{Proto: flow.TCP, Initiator: c.from, Target: c.to})
			return was != nil
		})
		guest.Close()
		host.Close()
		settle.Until(t, "the flow ends", func() bool { return w.flows.Len(flow.TCP) == 0 })
		if w.shortcut.bonds.isStuck(was, seg) || w.shortcut.bonds.strays() != 0 {
			t.Errorf("%d connections are remembered, want none", w.shortcut.bonds.strays())
		}
	})
}

// strays returns how many connections have segments that strayed.
func (b *bonds) strays() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.straying)
}

// age makes strays older.
func (b *bonds) age(by time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for f, last := range b.straying {
		last.since = last.since.Add(-by)
		b.straying[f] = last
	}
}
