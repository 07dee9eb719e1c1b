package shortcut

import (
	"testing"

	"taproot/stack/flow"
	"taproot/stack/shortcut/mark"
)

// TestJoinedStray: a segment of a connection to the guest that comes as a frame is put
// back, and the rules are known not to work if it began with them.
func TestJoinedStray(t *testing.T) {
	withDialer(t, func(t *testing.T, g *dialWorld) {
		c := g.newClient(t, g.family)
		f, err := g.flows.OpenBy(flow.Key{Proto: flow.TCP, Initiator: c.to, Target: c.from}, flow.Shortcut)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		g.dialer.Joined(f)
		c.stray(t, 0, 1001)
		c.wantStray(t, 1001)
		if n := g.broken.Load(); n != 1 || g.dialer.Stats.Strayed.Load() != 1 {
			t.Errorf("got broken %d times and %d strays, want once and 1", n, g.dialer.Stats.Strayed.Load())
		}
		c.stray(t, mark.Local, 1001) // the guest forwards what is put back
		g.dialer.SetEnabled(true)
		c.stray(t, 0, 1001) // a connection from before proves nothing
		c.wantStray(t, 1001)
		if n := g.broken.Load(); n != 1 {
			t.Errorf("broken %d times, want once", n)
		}
		g.dialer.Ended(f)
		c.stray(t, 0, 1001)
		if tcp := c.next(t); tcp[13]&flagRST == 0 {
			t.Errorf("after the end: got %x, want RST", tcp)
		}
		if n := g.dialer.bonds.strays(); n != 0 {
			t.Errorf("%d connections are remembered, want none", n)
		}
	})
}

// TestJoinedLost: a connection to the guest that makes no progress while there are no
// rules is reset, and one that cannot make any.
func TestJoinedLost(t *testing.T) {
	for name, lose := range map[string]func(*Dialer){
		"no progress": func(d *Dialer) { d.bonds.age(2 * loyalty) },
		"suspended":   func(d *Dialer) { d.Suspend() },
	} {
		t.Run(name, func(t *testing.T) {
			withDialer(t, func(t *testing.T, g *dialWorld) {
				c := g.newClient(t, g.family)
				f, err := g.flows.OpenBy(flow.Key{Proto: flow.TCP, Initiator: c.to, Target: c.from}, flow.Shortcut)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				killed := make(chan struct{})
				f.SetKiller(killing(killed))
				g.dialer.Joined(f)
				defer g.dialer.Ended(f)
				c.stray(t, 0, 1001)
				c.wantStray(t, 1001)
				lose(g.dialer)
				c.stray(t, 0, 1001)
				receive(t, killed, "the end of the connection")
			})
		})
	}
}

// killing is a flow.Killer that says when it was called.
type killing chan struct{}

func (k killing) Kill() { close(k) }
