package main

import "fmt"

// A bar is what the project promises about one row: our value divided by
// somebody's is at least (rows where more is better) or at most (where less is)
// the factor.
type bar struct {
	key    string
	factor float64
	ours   string // the contestant that is judged; empty means taproot as it comes
	peer   string // the contestant that counts; empty means the best peer

	// alone makes factor a bound of our value itself, in the row's unit.
	alone bool
}

// bars returns the promises in the order of the table.
func bars() []bar {
	all := streamBars()
	all = append(all, bar{key: "pingpong-p50", factor: 1})
	for _, n := range connectClients() {
		all = append(all, bar{key: inGuest.key("connect", n), factor: 1})
	}
	for _, size := range datagramSizes() {
		all = append(all, bar{key: inGuest.datagramKey(size), factor: 1})
	}
	for _, down := range []bool{false, true} {
		all = append(all, bar{key: inGuest.segmentKey(down), factor: 5})
	}
	all = append(all,
		bar{key: inGuest.requestKey(1000), factor: 1},
		bar{key: "dns-queries", factor: 1},
		bar{key: "start", factor: 1.2, peer: "pasta"},
		bar{key: front(Pasta).firstKey(), factor: 1.2, peer: "pasta"},
		bar{key: inGuest.memoryEach(), factor: 8.192, alone: true}, // 8 KiB
		bar{key: inGuest.memoryDescriptors(), factor: 3, alone: true})
	for _, f := range fronts() {
		all = append(all, bar{key: f.pssKey(manyHelpers), factor: 12, alone: true})
	}
	all = append(all, publishedBars()...)
	return append(all, offBars()...)
}

// streamBars are the promises about bulk TCP.
func streamBars() []bar {
	var rates, costs []bar
	for _, s := range streams() {
		switch {
		case s.nested:
			rates = append(rates, bar{key: s.rateKey(), factor: 4})
		case s.column() && s.mtu == mtuEthernet:
			rates = append(rates, bar{key: s.rateKey(), factor: 8}, bar{key: s.rateKey(), factor: 0.6, peer: "kernel"})
		case s.column():
			rates = append(rates, bar{key: s.rateKey(), factor: 1.2})
		case s.flows == 256 && !s.down:
			rates = append(rates, bar{key: s.rateKey(), factor: 5})
		case s.flows == 256:
			rates = append(rates, bar{key: s.rateKey(), factor: 1.5})
		}
		costs = append(costs, bar{key: s.costKey(), factor: 0.7})
	}
	return append(rates, costs...)
}

// offBars are the promises about the stack path alone.
func offBars() []bar {
	var all []bar
	for _, s := range streams() {
		factor := 4.0 // offloads: one frame carries 64 KiB at any MTU
		if s.mtu == mtuLarge {
			factor = 0.8
		}
		if s.column() {
			all = append(all, bar{key: s.rateKey(), factor: factor, ours: offName})
		}
	}
	for _, n := range connectClients() {
		all = append(all, bar{key: inGuest.key("connect", n), factor: 0.8, ours: offName})
	}
	return all
}

// A Verdict says how a bar was met.
type Verdict struct {
	Row      Row
	Ours     string  // the contestant that is judged
	Bar      string  // the promise in words
	Ratio    float64 // ours to the peer's, or ours to the bound
	Measured string  // what the bar is about
	Peer     string  // "-" if there is none
	Pass     bool
	Short    float64 // percent that is missing; 0 if Pass
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
		if b.ours == "" {
			b.ours = ours
		}
		row, ok := r.row(b.key)
		if !ok {
			continue
		}
		if verdict, ok := r.judge(b, row); ok {
			all = append(all, verdict)
		}
	}
	return all
}

// judge compares one row. It is false if a value is missing.
func (r *Results) judge(b bar, row Row) (Verdict, bool) {
	value, has := r.value(b.ours, row.Key)
	theirs, peer, ok := r.rival(b, row)
	if !has || !ok || theirs == 0 {
		return Verdict{}, false
	}
	verdict := Verdict{Row: row, Ours: b.ours, Ratio: value / theirs, Peer: peer}
	bound := b.factor
	verdict.Measured = ratio(value, theirs, true)
	verdict.Bar = fmt.Sprintf("%.1fx %s", bound, b.against())
	if b.alone {
		bound = 1
		verdict.Measured = number(value) + " " + row.Unit
		verdict.Bar = fmt.Sprintf("%.1f %s", b.factor, row.Unit)
	}
	if row.Lower {
		verdict.Bar = "<= " + verdict.Bar
		verdict.Pass = verdict.Ratio <= bound
		verdict.Short = 100 * (verdict.Ratio/bound - 1)
	} else {
		verdict.Bar = ">= " + verdict.Bar
		verdict.Pass = verdict.Ratio >= bound
		verdict.Short = 100 * (1 - verdict.Ratio/bound)
	}
	verdict.Short = max(verdict.Short, 0)
	return verdict, true
}

// rival returns what the bar compares with, and whose it is.
func (r *Results) rival(b bar, row Row) (value float64, name string, ok bool) {
	switch {
	case b.alone:
		return b.factor, none, true
	case b.peer == "":
		return r.best(Peer, row)
	}
	value, ok = r.value(b.peer, row.Key)
	return value, b.peer, ok
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
