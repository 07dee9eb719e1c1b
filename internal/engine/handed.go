package engine

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"taproot/internal/relay"
	"taproot/stack/flow"
)

// handoverFormat is that of handed, and of what goes with it. It is raised with every
// change after which two builds do not understand each other; then nothing is handed
// over between them. 1, with which Last was in every message, was never released.
const handoverFormat = 2

// A handed are connections of the shortcut that an engine hands over when it yields:
// each with two sockets, and a pipe for each end that has sent what is not yet written
// to the other. Its descriptors come with it in the order of its flows, as
// relay.Passed.Descriptors has those of one. The supervisor looks at them before it
// passes them on, since the guest may have taken the engine over, and whoever goes on
// with them does again.
type handed struct {
	Flows []handedFlow `json:",omitempty"` // in the order of their ids
	Last  uint64       `json:",omitempty"` // with the last of them: the highest id that a flow has had

	lost bool // descriptors did not arrive: there was no room for them
}

// A handedFlow is one connection. Fields by end are in the order of relay.Mover.Join.
type handedFlow struct {
	flow.Info
	Held     [2]int  // bytes that are in a pipe; 0: there is none
	Finished [2]bool // the end's FIN was passed on
}

// Limits of a handed.
const (
	maxHandedFlows = maxRights / 2
	maxHeld        = 1 << 20 // bytes: what the largest pipe has
	maxHandedID    = 1 << 48 // of a flow: there is no end to those that follow
)

// errHanded says that an engine hands over what none of ours would.
var errHanded = errors.New("engine: bad connections")

// descriptors returns how many a flow comes with.
func (f *handedFlow) descriptors() int {
	n := 2
	for _, held := range f.Held {
		if held > 0 {
			n++
		}
	}
	return n
}

// check returns what is wrong with what an engine hands over after a flow with the id
// before.
func (h *handed) check(fds passed, before uint64) error {
	want := 0
	for i := range h.Flows {
		f := &h.Flows[i]
		if err := f.check(); err != nil {
			return err
		}
		if f.ID <= before {
			return fmt.Errorf("%w: flow %d after %d", errHanded, f.ID, before)
		}
		before = f.ID
		want += f.descriptors()
	}
	switch {
	case len(h.Flows) > maxHandedFlows, want != len(fds):
		return fmt.Errorf("%w: %d flows with %d descriptors, want %d", errHanded, len(h.Flows), len(fds), want)
	case max(h.Last, before) > maxHandedID:
		return fmt.Errorf("%w: flow %d", errHanded, max(h.Last, before))
	case h.Last != 0 && h.Last < before:
		return fmt.Errorf("%w: flow %d after the last", errHanded, before)
	}
	return h.checkKinds(fds)
}

// check returns what is wrong with a flow, but for its descriptors.
func (f *handedFlow) check() error {
	if err := checkFlow(&f.Info); err != nil {
		return err
	}
	if f.Proto != flow.TCP || f.Way != flow.Shortcut || (f.Rule != 0) != f.Inbound {
		return fmt.Errorf("%w: flow %d is none of the shortcut", errHanded, f.ID)
	}
	for i, held := range f.Held {
		if held < 0 || held > maxHeld || held > 0 && f.Finished[i] {
			return fmt.Errorf("%w: flow %d holds %d bytes", errHanded, f.ID, held)
		}
	}
	return nil
}

// checkKinds wants sockets and pipes where they must be, and nothing else: a directory
// would be a way out of an engine's root. As many as there must be are there.
func (h *handed) checkKinds(fds passed) error {
	for i := range h.Flows {
		n := h.Flows[i].descriptors()
		for j, fd := range fds[:n] {
			want := uint32(unix.S_IFSOCK)
			if j >= 2 {
				want = unix.S_IFIFO
			}
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				return fmt.Errorf("%w: %w", errHanded, err)
			}
			if st.Mode&unix.S_IFMT != want {
				return fmt.Errorf("%w: flow %d: descriptor %d is of mode %#o", errHanded, h.Flows[i].ID, j, st.Mode)
			}
		}
		fds = fds[n:]
	}
	return nil
}

// passed returns a flow's connection, and the descriptors of those that follow.
func (f *handedFlow) passed(fds passed) (relay.Passed, passed) {
	p := relay.Passed{Held: f.Held, Finished: f.Finished}
	copy(p.Ends[:], fds[:2])
	fds = fds[2:]
	for i, held := range f.Held {
		if held > 0 {
			p.Pipes[i], fds = fds[0], fds[1:]
		}
	}
	return p, fds
}

// without takes the flows out that are not wanted and resets their connections. It
// returns what comes with the others.
func (h *handed) without(fds passed, unwanted func(*handedFlow, *relay.Passed) bool) passed {
	var kept passed
	h.Flows = slices.DeleteFunc(h.Flows, func(f handedFlow) bool {
		var p relay.Passed
		p, fds = f.passed(fds)
		if unwanted(&f, &p) {
			p.Reset()
			return true
		}
		kept = append(kept, p.Descriptors()...)
		return false
	})
	return kept
}
