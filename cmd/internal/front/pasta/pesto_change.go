package pasta

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"taproot/internal/api"
	"taproot/portfwd"
)

// A change is the way from the rules that there are to those that shall be. It is
// thought through before anything is done: a rule that is taken out and put in
// again stays, with its sockets, and what makes no sense changes nothing.
type change struct {
	live []item        // they stay
	gone []item        // to be removed
	add  []publication // to be added
}

// An item is a rule of the instance.
type item struct {
	id   int
	rule portfwd.Rule
	auto *portfwd.AutoConfig // of an automatic one; rule has no port then
}

// An absentError says that a rule is to be deleted that is not there.
type absentError struct{ option, text string }

// Error implements error.
func (e *absentError) Error() string {
	return fmt.Sprintf("No such rule for option '%s %s'", e.option, e.text)
}

// Hint says how to find out.
func (e *absentError) Hint() string { return "pesto --show lists the rules; one is deleted as a whole" }

// change carries the steps out, all or none.
func (p *pesto) change(ctx context.Context, c *api.Client, rules []api.Rule) error {
	var way change
	for i := range rules {
		if rules[i].By != 0 {
			continue // it comes and goes with that one
		}
		it, err := itemOf(&rules[i])
		if err != nil {
			return err
		}
		way.live = append(way.live, it)
	}
	for _, s := range p.steps {
		if err := way.take(s); err != nil {
			return err
		}
	}
	return way.carryOut(ctx, c)
}

// itemOf returns a rule of the instance as it is compared.
func itemOf(r *api.Rule) (item, error) {
	if r.Follows != "" {
		c, err := r.Auto()
		return item{r.ID, c.Rule(0), &c}, err
	}
	rule, err := r.Rule()
	return item{r.ID, rule, nil}, err
}

// take plans a step.
func (w *change) take(s step) error {
	if s.do == actionClear {
		w.clear(s.direction)
		return nil
	}
	for _, p := range s.what {
		if s.do == actionAdd {
			w.insert(p)
		} else if err := w.remove(p); err != nil {
			return err
		}
	}
	return nil
}

// clear takes all rules of a direction out.
func (w *change) clear(d portfwd.Direction) {
	w.live = slices.DeleteFunc(w.live, func(i item) bool {
		if i.rule.Direction == d {
			w.gone = append(w.gone, i)
		}
		return i.rule.Direction == d
	})
	w.add = slices.DeleteFunc(w.add, func(p publication) bool { return p.direction() == d })
}

// direction returns the direction of all that is published.
func (p *publication) direction() portfwd.Direction {
	if p.auto != nil {
		return p.auto.Direction
	}
	return p.rules[0].Direction
}

// insert puts rules in. Those that were taken out come back.
func (w *change) insert(p publication) {
	if p.auto != nil {
		w.insertAuto(p)
		return
	}
	var rest []portfwd.Rule
	for _, r := range p.rules {
		i := slices.IndexFunc(w.gone, func(i item) bool { return i.auto == nil && sameRule(i.rule, r) && i.rule.Local == r.Local })
		if i < 0 {
			rest = append(rest, r)
			continue
		}
		w.live, w.gone = append(w.live, w.gone[i]), slices.Delete(w.gone, i, i+1)
		p.optional = true // one is there
	}
	if p.rules = rest; rest != nil {
		w.add = append(w.add, p)
	}
}

// remove takes rules out: each, or if the publication is weak at least one.
func (w *change) remove(p publication) error {
	if p.auto != nil {
		return w.removeAuto(p)
	}
	found := 0
	for _, r := range p.rules {
		if w.removeRule(r) {
			found++
		}
	}
	if found == 0 || found < len(p.rules) && !p.weak {
		return &absentError{p.option, p.text}
	}
	return nil
}

// removeRule takes one rule out, if it is there.
func (w *change) removeRule(r portfwd.Rule) bool {
	if i := slices.IndexFunc(w.live, func(i item) bool { return i.auto == nil && sameRule(i.rule, r) }); i >= 0 {
		w.gone, w.live = append(w.gone, w.live[i]), slices.Delete(w.live, i, i+1)
		return true
	}
	for n := range w.add {
		rules := w.add[n].rules
		i := slices.IndexFunc(rules, func(added portfwd.Rule) bool { return sameRule(added, r) })
		if i < 0 {
			continue
		}
		if w.add[n].rules = slices.Delete(slices.Clone(rules), i, i+1); len(rules) == 1 {
			w.add = slices.Delete(w.add, n, n+1)
		}
		return true
	}
	return false
}

// sameRule tells whether two rules listen at the same and lead to the same, as far
// as pasta's words can tell.
func sameRule(a, b portfwd.Rule) bool {
	return a.Direction == b.Direction && a.Proto == b.Proto && a.Count() == b.Count() &&
		a.Listen == b.Listen && a.Device == b.Device && targetPort(a) == targetPort(b) && a.Target.Addr() == b.Target.Addr() &&
		a.ListenUnix == b.ListenUnix && a.TargetUnix == b.TargetUnix
}

// targetPort returns the first port that a rule leads to.
func targetPort(r portfwd.Rule) uint16 {
	if p := r.Target.Port(); p != 0 {
		return p
	}
	return r.Listen.Port()
}

// carryOut makes the rules what they shall be. If that cannot be, they are again
// what they were, under other ids. Ports are free before others want them.
func (w *change) carryOut(ctx context.Context, c *api.Client) error {
	to := &remote{client: c}
	for i, g := range w.gone {
		// Somebody else may have been faster.
		if err := c.Unpublish(ctx, g.id); err != nil && !hasCode(err, api.CodeNotFound) {
			return errors.Join(err, w.restore(ctx, to, w.gone[:i]))
		}
	}
	// Automatic ones come last: what is named is there before others publish it.
	slices.SortStableFunc(w.add, func(a, b publication) int { return cmp.Compare(a.late(), b.late()) })
	if err := publish(ctx, to, w.add); err != nil {
		return errors.Join(err, w.restore(ctx, to, w.gone))
	}
	return nil
}

// restore takes back what was done.
func (w *change) restore(ctx context.Context, to *remote, gone []item) error {
	var errs []error
	for _, id := range to.added {
		if err := to.client.Unpublish(ctx, id); err != nil && !hasCode(err, api.CodeNotFound) {
			errs = append(errs, err)
		}
	}
	for _, g := range gone {
		var err error
		if g.auto != nil {
			_, err = to.AddAuto(ctx, *g.auto)
		} else {
			_, err = to.Add(ctx, g.rule)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("rule that was there: %w", err))
		}
	}
	return errors.Join(errs...)
}

// A remote is the table of an instance.
type remote struct {
	client *api.Client
	added  []int // ids
}

// Add publishes a rule. What the instance could not bind is a
// *portfwd.BindError.
func (r *remote) Add(ctx context.Context, rule portfwd.Rule) (id int, err error) {
	return r.add(ctx, rule, api.SpecOf(&rule))
}

// AddAuto adds an automatic rule.
func (r *remote) AddAuto(ctx context.Context, c portfwd.AutoConfig) (id int, err error) {
	return r.add(ctx, c.Rule(0), api.AutoSpecOf(&c))
}

func (r *remote) add(ctx context.Context, rule portfwd.Rule, spec api.RuleSpec) (id int, err error) {
	rules, err := r.client.Publish(ctx, api.Publication{Rules: []api.RuleSpec{spec}})
	if err != nil {
		return 0, remoteError(rule, err)
	}
	if len(rules.Rules) != 1 {
		return 0, fmt.Errorf("answer: %d rules, want 1", len(rules.Rules))
	}
	id = rules.Rules[0].ID
	r.added = append(r.added, id)
	return id, nil
}

// remoteError returns an instance's failure as the error that the table has here.
func remoteError(rule portfwd.Rule, err error) error {
	f := (*api.Failure)(nil)
	if !errors.As(err, &f) || f.Port == 0 {
		return err
	}
	errno, known := map[string]syscall.Errno{api.CodeConflict: syscall.EADDRINUSE, api.CodeForbidden: syscall.EACCES}[f.Code]
	if !known {
		return err
	}
	return &portfwd.BindError{Proto: rule.Proto, Port: f.Port, Addr: rule.Listen.Addr(), Err: errno}
}

// hasCode tells whether an instance's failure is of a kind.
func hasCode(err error, code string) bool {
	f := (*api.Failure)(nil)
	return errors.As(err, &f) && f.Code == code
}
