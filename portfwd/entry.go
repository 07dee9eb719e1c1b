package portfwd

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
)

// String returns the state in lower case.
func (s State) String() string {
	switch s {
	case StateWaiting:
		return "waiting"
	case StateRefusing:
		return "refusing"
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
	// only if the rule is weak or waits.
	Bound int

	// Auto tells that the rule follows a listener, see Auto.
	Auto bool

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
