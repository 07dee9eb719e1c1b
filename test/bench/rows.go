package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The two MTUs of the throughput rows: the truth about most paths, and the
// largest that slirp4netns and pasta use (their recommended and default one).
const (
	mtuEthernet = 1500
	mtuLarge    = 65520
)

// A Row is one measured quantity.
type Row struct {
	Key   string // stable name, for -rows and -json
	Title string
	Unit  string
	Lower bool // less is better
}

// rowKey joins the parts of a row's key.
func rowKey(parts ...any) string {
	words := make([]string, len(parts))
	for i, part := range parts {
		words[i] = fmt.Sprint(part)
	}
	return strings.Join(words, "-")
}

// A stream is one of the throughput measurements.
type stream struct {
	mtu    int // bytes of IP packet on the guest's interface
	down   bool
	flows  int
	nested bool // from a network behind the guest's
}

// streams returns the throughput measurements in the order of the table.
func streams() []stream {
	var all []stream
	for _, kind := range []struct {
		mtu    int
		nested bool
		flows  []int
	}{
		{mtu: mtuEthernet, flows: []int{1, 4, 8, 16, 64, 256}},
		{mtu: mtuLarge, flows: []int{1, 8}},
		{mtu: mtuEthernet, flows: []int{1, 8}, nested: true},
	} {
		for _, down := range []bool{false, true} {
			for _, flows := range kind.flows {
				all = append(all, stream{mtu: kind.mtu, down: down, flows: flows, nested: kind.nested})
			}
		}
	}
	return all
}

// column reports whether the stream is one of the eight that most promises are
// about: one or eight flows, straight from the guest.
func (s stream) column() bool { return !s.nested && (s.flows == 1 || s.flows == 8) }

// direction is how the guest sees a transfer.
func direction(down bool) string {
	if down {
		return "down"
	}
	return "up"
}

// place is what distinguishes the stream from those with as many flows.
func (s stream) place() string {
	if s.nested {
		return "nested"
	}
	return strconv.Itoa(s.mtu)
}

// rateKey names the throughput row.
func (s stream) rateKey() string {
	if s.nested {
		return rowKey(s.place(), direction(s.down), s.flows)
	}
	return rowKey("tcp", s.place(), direction(s.down), s.flows)
}

// costKey names the row of processor time.
func (s stream) costKey() string { return rowKey("cpu", s.place(), direction(s.down), s.flows) }

// title says the same in words.
func (s stream) title() string {
	place := fmt.Sprintf("MTU %d", s.mtu)
	if s.nested {
		place = "nested network"
	}
	return fmt.Sprintf("%s %s, %s", place, direction(s.down), plural(s.flows, "flow"))
}

// plural writes a number and its noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Counts of clients, sizes of datagrams and flows of the rows below.
func connectClients() []int { return []int{1, 32} }
func datagramSizes() []int  { return []int{64, 1400} }
func requestFlows() []int   { return []int{1, 1000} }

// besideFlows are the numbers of bulk flows beside a ping-pong.
func besideFlows() []int { return []int{1, 8} }

// besideKey names a row of ping-pong beside bulk flows.
func besideKey(flows int, percentile string) string {
	return rowKey("pingpong", "beside", flows, percentile)
}

// allRows returns every row in the order of the table.
func allRows() []Row {
	var rates, costs []Row
	for _, s := range streams() {
		rates = append(rates, Row{Key: s.rateKey(), Title: "TCP, " + s.title(), Unit: "Gbit/s"})
		costs = append(costs, Row{Key: s.costKey(), Title: "CPU, " + s.title(), Unit: "s/GB", Lower: true})
	}
	rows := slices.Concat(rates, lossyRows(), pingPongRows(), connectRows(), datagramRows(), segmentRows(), quicRows(), dnsRows())
	rows = append(rows, Row{Key: "start", Title: "start-up to first connect", Unit: "ms", Lower: true})
	rows = append(rows, memoryRows()...)
	for _, f := range fronts() {
		rows = append(rows, f.rows()...)
	}
	return append(rows, costs...)
}

// pingPongRows returns the rows of round trips over TCP.
func pingPongRows() []Row {
	rows := []Row{
		{Key: "pingpong-p50", Title: "TCP ping-pong, p50", Unit: "µs", Lower: true},
		{Key: "pingpong-p99", Title: "TCP ping-pong, p99", Unit: "µs", Lower: true},
	}
	for _, flows := range besideFlows() {
		for _, percentile := range []string{"p50", "p99"} {
			title := fmt.Sprintf("TCP ping-pong beside %s up, %s", plural(flows, "flow"), percentile)
			rows = append(rows, Row{Key: besideKey(flows, percentile), Title: title, Unit: "µs", Lower: true})
		}
	}
	return rows
}

// connectRows returns the rows of short connections.
func connectRows() []Row {
	var rows []Row
	for _, n := range connectClients() {
		who := plural(n, "client")
		rows = append(rows,
			Row{Key: rowKey("connect", n), Title: "connect/close, " + who, Unit: "1/s"},
			Row{Key: rowKey("connect", n, "p99"), Title: "connect/close, " + who + ", p99", Unit: "ms", Lower: true},
			Row{Key: rowKey("connect", n, "failed"), Title: "connect/close, " + who + ", failed", Unit: "%", Lower: true})
	}
	return rows
}

// datagramRows returns the rows of single datagrams.
func datagramRows() []Row {
	var rows []Row
	for _, size := range datagramSizes() {
		rows = append(rows, Row{Key: rowKey("udp", "out", size), Title: fmt.Sprintf("UDP out, %d B, loss under 1 %%", size), Unit: "kpps"})
	}
	for _, n := range requestFlows() {
		what := "UDP request/response, " + plural(n, "flow")
		rows = append(rows,
			Row{Key: rowKey("udp", "request", n), Title: what, Unit: "k/s"},
			Row{Key: rowKey("udp", "request", n, "p50"), Title: what + ", p50", Unit: "µs", Lower: true},
			Row{Key: rowKey("udp", "request", n, "lost"), Title: what + ", lost", Unit: "%", Lower: true})
	}
	return rows
}

// A selection is the prefixes of the row keys that were asked for; an empty
// one means all.
type selection []string

// parseSelection reads a comma-separated list.
func parseSelection(list string) (selection, error) {
	if list == "" {
		return nil, nil
	}
	var chosen selection
	rows := allRows()
	for prefix := range strings.SplitSeq(list, ",") {
		known := slices.ContainsFunc(rows, func(r Row) bool { return strings.HasPrefix(r.Key, prefix) })
		if !known {
			return nil, fmt.Errorf("rows %q: no row begins so", prefix)
		}
		chosen = append(chosen, prefix)
	}
	return chosen, nil
}

// has reports whether one of keys was asked for.
func (s selection) has(keys ...string) bool {
	if len(s) == 0 {
		return true
	}
	return slices.ContainsFunc(keys, func(key string) bool {
		return slices.ContainsFunc(s, func(prefix string) bool { return strings.HasPrefix(key, prefix) })
	})
}
