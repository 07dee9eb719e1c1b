package main

import "fmt"

// A bar is what the project promises about one row: our value divided by the
// peer's is at least (rows where more is better) or at most (where less is)
// the factor.
type bar struct {
	key    string
	factor float64
	peer   string // the peer that counts; empty means the best one
}

// bars returns the promises in the order of the table.
func bars() []bar {
	var all []bar
	for _, s := range streams() {
		factor := 4.0 // offloads: one frame carries 64 KiB at any MTU
		if s.mtu == mtuLarge {
			factor = 0.7
		}
		all = append(all, bar{key: s.rateKey(), factor: factor})
	}
	all = append(all, bar{key: "pingpong-p50", factor: 2})
	for _, n := range connectClients() {
		all = append(all, bar{key: rowKey("connect", n), factor: 0.5, peer: "pasta"})
	}
	return all
}

// A Verdict says how a bar was met.
type Verdict struct {
	Row   Row
	Bar   string  // the promise in words
	Ratio float64 // ours to the peer's
	Peer  string
	Pass  bool
	Short float64 // percent that is missing; 0 if Pass
}

// String is the verdict in one word, or with what is missing.
func (v Verdict) String() string {
	if v.Pass {
		return "PASS"
	}
	return fmt.Sprintf("SHORT by %.0f %%", v.Short)
}

// verdicts judges every bar that both sides have a value for.
func (r *Results) verdicts() []Verdict {
	ours, ok := r.contestant(Ours)
	if !ok {
		return nil
	}
	var all []Verdict
	for _, b := range bars() {
		row, ok := r.row(b.key)
		if !ok {
			continue
		}
		if verdict, ok := r.judge(b, row, ours); ok {
			all = append(all, verdict)
		}
	}
	return all
}

// judge compares one row. It is false if a value is missing.
func (r *Results) judge(b bar, row Row, ours string) (Verdict, bool) {
	value, has := r.value(ours, row.Key)
	theirs, peer, ok := r.best(Peer, row)
	if b.peer != "" {
		peer = b.peer
		theirs, ok = r.value(b.peer, row.Key)
	}
	if !has || !ok || theirs == 0 {
		return Verdict{}, false
	}
	verdict := Verdict{Row: row, Ratio: value / theirs, Peer: peer}
	if row.Lower {
		verdict.Bar = fmt.Sprintf("<= %.1fx %s", b.factor, b.against())
		verdict.Pass = verdict.Ratio <= b.factor
		verdict.Short = 100 * (verdict.Ratio/b.factor - 1)
	} else {
		verdict.Bar = fmt.Sprintf(">= %.1fx %s", b.factor, b.against())
		verdict.Pass = verdict.Ratio >= b.factor
		verdict.Short = 100 * (1 - verdict.Ratio/b.factor)
	}
	verdict.Short = max(verdict.Short, 0)
	return verdict, true
}

// against names the other side of a bar.
func (b bar) against() string {
	if b.peer == "" {
		return "best peer"
	}
	return b.peer
}

// contestant returns the name of the first contestant of a standing.
func (r *Results) contestant(standing Standing) (string, bool) {
	for _, c := range r.Contestants {
		if c.Standing == standing {
			return c.Name, true
		}
	}
	return "", false
}

// row finds a row by its key.
func (r *Results) row(key string) (Row, bool) {
	for _, row := range r.Rows {
		if row.Key == key {
			return row, true
		}
	}
	return Row{}, false
}
