package flow

// A Killer ends what a flow stands for, at once, as if a reset had come. Kill
// does not block, and does nothing when the flow has ended already.
type Killer = interface{ Kill() }

// What Flow.ending is told.
const (
	hasKiller = 1 << iota
	killed
)

// Kill makes a flow's owner end it, at once: one of TCP is reset, now or when it
// has been connected.
func (f *Flow) Kill() {
	if f.ending.Or(killed)&hasKiller != 0 {
		f.killer.Kill()
	}
}

// Killed tells whether Kill was called.
func (f *Flow) Killed() bool { return f.ending.Load()&killed != 0 }

// SetKiller says what Kill is to call, once; if that was called before, k is
// killed now. Only the owner calls it.
func (f *Flow) SetKiller(k Killer) {
	f.killer = k
	if f.ending.Or(hasKiller)&killed != 0 {
		k.Kill()
	}
}
