package engine

import (
	"math"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/nat"
)

// A Limit says how much there may be of something in the engine, how much there is
// now, and how often somebody was turned away because of it.
type Limit struct {
	Name string // words with "_" between them
	Help string // what is limited, a sentence
	Use
}

// A Use is the numbers of a Limit. Max is 0 where there is no limit.
type Use struct{ Now, Max, Refused uint64 }

// A limit is where the engine finds a Limit's numbers.
type limit struct {
	name, help string
	use        func(g *gateway, t *flow.Totals) Use
}

// limitTable lists all limits. As with counterTable, their places have a meaning.
// The reason for each number is where it is declared.
func limitTable() []limit {
	return []limit{
		{"flows_tcp", "TCP connections.", flowsUse(flow.TCP)},
		{"flows_tcp_frames", "TCP connections by frames, which cost more memory.", framesUse},
		{"flows_udp", "UDP address pairs.", flowsUse(flow.UDP)},
		{"flows_icmp", "Echo identifiers.", flowsUse(flow.ICMP)},
		{"dials_frames", "Connections of the guest by frames whose target has not answered yet.", dialsUse},
		{"dials_shortcut", "Connections of the guest by the shortcut whose target or guest has not answered yet.", shortcutDialsUse},
		{"dns_datagrams", "DNS queries over UDP under way.", func(g *gateway, _ *flow.Totals) Use { return dnsUse(g, false) }},
		{"dns_messages", "DNS queries over TCP under way.", func(g *gateway, _ *flow.Totals) Use { return dnsUse(g, true) }},
		{"dns_connections", "DNS connections of the guest.", dnsConnsUse},
		{"icmp_errors", "ICMP errors of ours about datagrams and echo requests, in a second; how many there are now is not counted.", errorsUse},
		{"memory", "Bytes of memory of the engine's, which it goes beyond only for moments.", memoryUse},
		{"tcp_memory", "Bytes of memory in use, beyond which connections by frames that hold much are reset.", tcpMemoryUse},
		{"descriptors", "Descriptors of the engine's; without one, flows are refused.", descriptorsUse},
	}
}

// Limits returns all limits of an engine, without numbers.
func Limits() []Limit { return namedLimits(make([]Use, len(limitTable()))) }

// uses returns the numbers of all limits; t are those of the flows.
func (g *gateway) uses(t *flow.Totals) []Use {
	var list []Use
	for _, l := range limitTable() {
		list = append(list, l.use(g, t))
	}
	return list
}

// namedLimits returns the limits that an engine has sent; nil if it cannot mean
// ours.
func namedLimits(uses []Use) []Limit {
	table := limitTable()
	if len(uses) != len(table) {
		return nil
	}
	list := make([]Limit, len(table))
	for i, l := range table {
		list[i] = Limit{l.name, l.help, uses[i]}
	}
	return list
}

func flowsUse(p flow.Proto) func(*gateway, *flow.Totals) Use {
	return func(_ *gateway, t *flow.Totals) Use {
		return Use{uint64(t.Proto[p].Live), uint64(t.Limit[p]), t.Proto[p].Refused}
	}
}

func framesUse(_ *gateway, t *flow.Totals) Use {
	return Use{uint64(t.Frames.Live), uint64(t.Frames.Limit), t.Frames.Refused}
}

func dialsUse(g *gateway, _ *flow.Totals) Use {
	if g.stack == nil {
		return Use{Max: stack.MaxPending}
	}
	now, dropped := g.stack.Pending()
	return Use{uint64(now), stack.MaxPending, dropped + g.tcp.Stats.Evicted.Load()}
}

func shortcutDialsUse(g *gateway, _ *flow.Totals) Use {
	if g.shortcut == nil {
		return Use{Max: stack.MaxPending}
	}
	return Use{uint64(g.shortcut.Pending()), stack.MaxPending, g.shortcut.Stats.Overflown.Load()}
}

func dnsUse(g *gateway, stream bool) Use {
	if g.dns == nil {
		return Use{}
	}
	datagrams, messages := g.dns.Limits()
	if stream {
		return Use{uint64(messages.Now), uint64(messages.Max), 0} // they wait
	}
	return Use{uint64(datagrams.Now), uint64(datagrams.Max), g.dns.Stats().Busy}
}

func dnsConnsUse(g *gateway, _ *flow.Totals) Use {
	return Use{uint64(len(g.dnsConns)), maxDNSConns, g.dnsRefused.Load()}
}

func errorsUse(g *gateway, _ *flow.Totals) Use {
	u := Use{Max: nat.ErrorsPerSecond}
	if g.stack != nil {
		u.Refused = g.udp.Stats.Suppressed.Load() + g.echo.Stats.Suppressed.Load()
	}
	return u
}

// memoryUse counts as Go's runtime does for its limit.
func memoryUse(*gateway, *flow.Totals) Use {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	u := Use{Now: s.Sys - s.HeapReleased}
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		u.Max = uint64(limit)
	}
	return u
}

func tcpMemoryUse(g *gateway, _ *flow.Totals) Use {
	if g.stack == nil {
		return Use{}
	}
	m := g.stack.Memory()
	return Use{m.Used.Load(), m.Budget, m.Ended.Load()}
}

func descriptorsUse(g *gateway, _ *flow.Totals) Use {
	u := Use{Now: uint64(openDescriptors(g.files)), Max: g.files}
	if g.ports != nil {
		u.Refused = g.ports.Stats.Exhausted.Load()
	}
	if g.stack != nil {
		u.Refused += g.tcp.Stats.NoDescriptor.Load() + g.udp.Stats.NoDescriptor.Load() + g.echo.Stats.NoDescriptor.Load()
	}
	if g.shortcut != nil {
		u.Refused += g.shortcut.Stats.NoDescriptor.Load()
	}
	return u
}

// maxDescriptors returns how many descriptors we may have. It is asked for before
// the engine is confined.
func maxDescriptors() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0 // not known
	}
	return limit.Cur
}

// openDescriptors counts our descriptors, of which there may be most, without
// /proc, which is not there for the engine: ppoll(2) tells of those that are not
// open. After a window without any it stops, since the kernel gives the lowest.
func openDescriptors(most uint64) int {
	window := int(min(most, 1024)) // more at once than there may be is an error
	fds := make([]unix.PollFd, window)
	n := 0
	for first := 0; first < int(most); first += window {
		for i := range fds {
			fds[i] = unix.PollFd{Fd: int32(first + i)}
		}
		if _, err := unix.Ppoll(fds, &unix.Timespec{}, nil); err != nil {
			return n
		}
		before := n
		for _, fd := range fds {
			if fd.Revents&unix.POLLNVAL == 0 {
				n++
			}
		}
		if n == before {
			return n
		}
	}
	return n
}
