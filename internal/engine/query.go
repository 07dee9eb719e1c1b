package engine

import (
	"errors"
	"fmt"
	"net/netip"

	"taproot/stack/flow"
)

// A query asks the engine about what only it knows. It answers each in its turn,
// in one or more messages. One of the fields besides ID is set, or none: the answer
// then tells that what it was told before is done.
type query struct {
	ID    uint64
	Find  *flow.Filter `json:",omitempty"` // flows
	Kill  *flow.Filter `json:",omitempty"` // flows
	Count bool         `json:",omitempty"` // all counters
}

// An answer is a part of what the engine says to a query.
type answer struct {
	ID   uint64 // of the query
	More bool   `json:",omitempty"` // another part follows
	Busy bool   `json:",omitempty"` // the query was not taken

	Flows  []flow.Info  `json:",omitempty"`
	Killed int          `json:",omitempty"`
	Totals *flow.Totals `json:",omitempty"` // without Rules
	Counts []uint64     `json:",omitempty"` // in the order of counterTable
	Uses   []Use        `json:",omitempty"` // in the order of limitTable
	Rules  []ruleCount  `json:",omitempty"`
}

// A ruleCount are the flows of one rule.
type ruleCount struct {
	Rule int
	flow.RuleStats
}

// pageFlows and pageRules are how many flows and rules an answer has at most:
// with their longest addresses and numbers they fit into maxMessage.
const (
	pageFlows = 256
	pageRules = 512
)

// errAnswer says that the engine's answer is none that an engine of ours gives.
var errAnswer = errors.New("engine: bad answer")

// check returns what is wrong with an answer: the engine has read what the guest
// sent, and is believed no more than the guest.
func (a *answer) check() error {
	if len(a.Flows) > pageFlows || len(a.Rules) > pageRules || a.Killed < 0 {
		return fmt.Errorf("%w: %d flows, %d rules, %d killed", errAnswer, len(a.Flows), len(a.Rules), a.Killed)
	}
	for i := range a.Flows {
		if err := checkFlow(&a.Flows[i]); err != nil {
			return err
		}
	}
	for _, r := range a.Rules {
		if r.Rule <= 0 || r.Live < 0 {
			return fmt.Errorf("%w: rule %d with %d flows", errAnswer, r.Rule, r.Live)
		}
	}
	if a.Counts != nil && namedCounts(a.Counts) == nil {
		return fmt.Errorf("%w: %d counters", errAnswer, len(a.Counts))
	}
	if a.Uses != nil && namedLimits(a.Uses) == nil {
		return fmt.Errorf("%w: %d limits", errAnswer, len(a.Uses))
	}
	if a.Totals == nil {
		return nil
	}
	for p, s := range a.Totals.Proto {
		if s.Live < 0 || s.Peak < s.Live || a.Totals.Limit[p] <= 0 {
			return fmt.Errorf("%w: %d flows, %d at most, limit %d", errAnswer, s.Live, s.Peak, a.Totals.Limit[p])
		}
	}
	if a.Totals.Shortcut < 0 || len(a.Totals.Rules) > 0 {
		return fmt.Errorf("%w: %d flows by the shortcut, %d rules", errAnswer, a.Totals.Shortcut, len(a.Totals.Rules))
	}
	return nil
}

// checkFlow returns what is wrong with a flow.
func checkFlow(f *flow.Info) error {
	plain := func(a netip.AddrPort) bool { return a.Addr().IsValid() && len(a.Addr().Zone()) <= maxZone }
	switch {
	case f.ID == 0, f.Rule < 0, f.Rule == 0 && f.Inbound,
		f.Proto > flow.ICMP, f.Way > flow.Shortcut,
		!plain(f.Initiator), !plain(f.Target):
		return fmt.Errorf("%w: flow %d", errAnswer, f.ID)
	}
	return nil
}

// maxZone is the longest zone of an address in bytes: the name of an interface
// (IFNAMSIZ-1 of linux/if.h).
const maxZone = 15
