package portfwd

// A ChangeKind says what happened to a rule.
type ChangeKind uint8

// The kinds of changes.
const (
	RuleAdded   ChangeKind = iota
	RuleChanged            // its State, or what goes with it
	RuleRemoved
)

// String returns the kind in lower case.
func (k ChangeKind) String() string {
	switch k {
	case RuleChanged:
		return "changed"
	case RuleRemoved:
		return "removed"
	}
	return "added"
}

// A Change is what happened to a rule of a Table: Entry is how it was left.
type Change struct {
	Kind  ChangeKind
	Entry Entry
}

// changesQueued is how many changes wait for who is told of them: some kilobytes
// for one who sleeps, and more than a thousand clients change at once.
const changesQueued = 2048

// Changes returns the rules by id, and from then on tells every change of them,
// in order. Whoever does not receive is not waited for: with 2,048 changes
// waiting the channel is closed, and who wants to go on asks again. It is also
// closed by stop, which must be called, and by Close.
func (t *Table) Changes() (list []Entry, changes <-chan Change, stop func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := make(chan Change, changesQueued)
	if t.closed {
		close(c)
	} else {
		t.told[c] = struct{}{}
	}
	return entries(t.allLocked()), c, func() { t.untell(c) }
}

// tellLocked tells everybody of a change.
//
// +checklocks:t.mu
func (t *Table) tellLocked(kind ChangeKind, e Entry) {
	for c := range t.told {
		select {
		case c <- Change{kind, e}:
		default:
			t.untellLocked(c)
		}
	}
}

func (t *Table) untell(c chan Change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.untellLocked(c)
}

// +checklocks:t.mu
func (t *Table) untellLocked(c chan Change) {
	if _, ok := t.told[c]; ok {
		delete(t.told, c)
		close(c)
	}
}
