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
	from   side
	mtu    int  // bytes of IP packet on the guest's interface
	down   bool // to the clients
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

// direction is how the guest sees the stream.
func (s stream) direction() string { return s.from.direction(s.down) }

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
		return rowKey(s.place(), s.direction(), s.flows)
	}
	return s.from.key("tcp", s.place(), s.direction(), s.flows)
}

// costKey names the row of processor time.
func (s stream) costKey() string { return s.from.costKey(s.place(), s.direction(), s.flows) }

// title says the same in words.
func (s stream) title() string {
	place := fmt.Sprintf("MTU %d", s.mtu)
	if s.nested {
		place = "nested network"
	}
	return s.from.title(fmt.Sprintf("%s %s, %s", place, s.direction(), plural(s.flows, "flow")))
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
	rows := slices.Concat(rates, lossyRows(), pingPongRows(inGuest), besideRows(), connectRows(inGuest),
		datagramRows(inGuest, datagramSizes()...), requestRows(inGuest, requestFlows()...), segmentRows(inGuest), quicRows(), dnsRows())
	rows = append(rows, Row{Key: "start", Title: "start-up to first connect", Unit: "ms", Lower: true})
	rows = append(rows, memoryRows(inGuest)...)
	rows = append(rows, crowdRows(inGuest, crowdSizes()...)...)
	for _, f := range fronts() {
		rows = append(rows, f.rows()...)
	}
	rows = append(rows, costs...)
	return append(rows, publishedRows()...)
}

// pingPongKey names a row of round trips over TCP.
func (from side) pingPongKey(percentile string) string { return from.key("pingpong", percentile) }

// pingPongRows returns the rows of round trips over TCP.
func pingPongRows(from side) []Row {
	var rows []Row
	for _, percentile := range []string{"p50", "p99"} {
		title := from.title("TCP ping-pong, " + percentile)
		rows = append(rows, Row{Key: from.pingPongKey(percentile), Title: title, Unit: "µs", Lower: true})
	}
	return rows
}

// besideRows returns the rows of round trips beside bulk traffic.
func besideRows() []Row {
	var rows []Row
	for _, flows := range besideFlows() {
		for _, percentile := range []string{"p50", "p99"} {
			title := fmt.Sprintf("TCP ping-pong beside %s up, %s", plural(flows, "flow"), percentile)
			rows = append(rows, Row{Key: besideKey(flows, percentile), Title: title, Unit: "µs", Lower: true})
		}
	}
	return rows
}

// connectRows returns the rows of short connections.
func connectRows(from side) []Row {
	var rows []Row
	for _, n := range connectClients() {
		what := from.title("connect/close, " + plural(n, "client"))
		rows = append(rows,
			Row{Key: from.key("connect", n), Title: what, Unit: "1/s"},
			Row{Key: from.key("connect", n, "p99"), Title: what + ", p99", Unit: "ms", Lower: true},
			Row{Key: from.key("connect", n, "failed"), Title: what + ", failed", Unit: "%", Lower: true})
	}
	return rows
}

// datagramKey names the row of single datagrams from the clients.
func (from side) datagramKey(size int) string { return from.key("udp", from.away(), size) }

// requestKey names the row of datagrams to and fro.
func (from side) requestKey(flows int) string { return from.key("udp", "request", flows) }

// datagramRows returns the rows of single datagrams.
func datagramRows(from side, sizes ...int) []Row {
	var rows []Row
	for _, size := range sizes {
		what := from.title(fmt.Sprintf("UDP %s, %d B", from.away(), size))
		rows = append(rows,
			Row{Key: from.datagramKey(size), Title: what + ", loss under 1 %", Unit: "kpps"},
			Row{Key: from.costKey("udp", size), Title: what + ", CPU of each", Unit: "µs", Lower: true})
	}
	return rows
}

// requestRows returns the rows of datagrams to and fro.
func requestRows(from side, flows ...int) []Row {
	var rows []Row
	for _, n := range flows {
		what := from.title("UDP request/response, " + plural(n, "flow"))
		key := from.requestKey(n)
		rows = append(rows,
			Row{Key: key, Title: what, Unit: "k/s"},
			Row{Key: rowKey(key, "p50"), Title: what + ", p50", Unit: "µs", Lower: true},
			Row{Key: rowKey(key, "lost"), Title: what + ", lost", Unit: "%", Lower: true},
			Row{Key: from.costKey("udp", "request", n), Title: what + ", CPU of each", Unit: "µs", Lower: true})
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
		if !known || prefix == "" {
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
