package engine

import (
	"sync/atomic"
	"time"
)

// A restraint decides how long the reader of the device leaves the guest's frames in
// its queue. The link's reader owns it.
type restraint struct {
	frames, refused uint64 // until the last look
}

// resting is how long frames are left in the queue when most of those before were
// refused, after the 200 us that were spent on these (link.Config.Rest).
const resting = time.Millisecond

// rest returns how long the next frames are to wait, of which there are always more.
// A guest that sends what is refused, faster than we can refuse it, would have all of
// a processor for that, and what its own connections need one for would wait.
func (r *restraint) rest(frames, refused uint64) time.Duration {
	newFrames, newRefused := frames-r.frames, refused-r.refused
	r.frames, r.refused = frames, refused
	if newRefused == 0 || 2*newRefused < newFrames {
		return 0
	}
	return resting
}

// rest is stack.Config.Rest.
func (g *gateway) rest() time.Duration {
	return g.restraint.rest(g.stack.Link().Received.Load(), g.inVain())
}

// inVain counts what the guest has sent in vain, on any way that its frames can go.
func (g *gateway) inVain() uint64 {
	_, dropped := g.stack.Pending()
	n := dropped + g.stack.Suppressed()
	for _, c := range []*atomic.Uint64{
		&g.stack.Link().Malformed, &g.stack.Link().Foreign, &g.stack.Link().Spoofed,
		&g.stack.Fragments().Evicted, &g.stack.Fragments().Malformed,
		&g.tcp.Stats.Denied, &g.tcp.Stats.Exhausted, &g.tcp.Stats.Evicted,
		&g.udp.Stats.Denied, &g.udp.Stats.Full, &g.udp.Stats.Evicted,
		&g.echo.Stats.Denied, &g.echo.Stats.Full, &g.echo.Stats.Evicted,
	} {
		n += c.Load()
	}
	if g.shortcut != nil {
		n += g.shortcut.Stats.Denied.Load() + g.shortcut.Stats.Overflown.Load() + g.shortcut.Stats.Evicted.Load()
	}
	if g.dns != nil {
		n += g.dns.Stats().Busy
	}
	return n
}
