package relay

import (
	"testing"
)

// An owner keeps what it may kill by.
type owner struct{ kill interface{ Kill() } }

func (o *owner) SetKiller(k interface{ Kill() }) { o.kill = k }

// TestKill ends a connection from outside, at rest and while its peer does not
// read, and again when it is over.
func TestKill(t *testing.T) {
	for _, full := range []bool{false, true} {
		m, _ := newMover(t, 1)
		l, o := prepareLine(t), &owner{}
		err := m.Join(l.a, l.b, Counters{Outbound: &l.outbound, Inbound: &l.inbound, Owner: o}, func(inOrder bool) {
			l.inOrder = inOrder
			close(l.ended)
		})
		if err != nil {
			t.Fatal(err)
		}
		if full {
			l.fill(t)
		}
		o.kill.Kill()
		l.wantEnd(t, false)
		wantReset(t, "left", l.left)
		wantReset(t, "right", l.right)
		o.kill.Kill()
		other := newLine(t, m) // in the same slot
		o.kill.Kill()
		other.left.Close()
		other.right.Close()
		other.wantEnd(t, true)
	}
}

// TestKillStream is TestKill for the guest's end of a connection.
func TestKillStream(t *testing.T) {
	m, _ := newMover(t, 1)
	host, peer := connectFD(t)
	b, o := &bench{guest: newFakeStream(1 << 20), peer: peer, ended: make(chan struct{})}, &owner{}
	if err := m.JoinStream(b.guest, host, Counters{Outbound: &b.outbound, Inbound: &b.inbound, Owner: o}, b.end); err != nil {
		t.Fatal(err)
	}
	o.kill.Kill()
	b.wantEnd(t, false)
	wantReset(t, "host", peer)
	o.kill.Kill()
}
