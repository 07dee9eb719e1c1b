package portfwd

import "taproot/stack/policy"

// A State says what a rule's ports do.
type State uint8

// The states of a rule.
const (
	// StateOpen: clients are let in.
	StateOpen State = iota

	// StateWaiting: the host does not have the rule's address yet, and the
	// rule listens as soon as it does. Entry.Err says what is missing.
	StateWaiting

	// StateRefusing: nobody listens at the rule's target, and clients are
	// refused until somebody does.
	StateRefusing

	// StateFollowing: the rule is automatic, and publishes what others listen on.
	// With Entry.Err nobody can tell who does, and its ports stay as they are.
	StateFollowing
)

// String returns the state in lower case.
func (s State) String() string {
	switch s {
	case StateWaiting:
		return "waiting"
	case StateRefusing:
		return "refusing"
	case StateFollowing:
		return "following"
	}
	return "open"
}

// An Entry is a rule of a Table.
type Entry struct {
	ID int

	// Rule is the rule as it was added; its Listen has the port that the
	// kernel picked.
	Rule Rule

	// Bound is how many of the rule's ports are open: less than Rule.Count
	// only if the rule is weak, waits, or is automatic.
	Bound int

	// Follows tells that the rule is automatic, see AutoConfig, and Allow which
	// ports it may publish. It has no port itself.
	Follows bool
	Allow   policy.Ports

	// By is the id of the automatic rule that the rule is a port of, 0 for none:
	// it is there as long as somebody listens.
	By int

	State State

	// Err is why the state is not StateOpen, "" if it is.
	Err string
}

// An entry is never changed, but replaced by another one of the same id.
type entry struct {
	Entry
	sockets []bound
	paused  []int // indices of sockets, see Refuser
}
