package engine

import (
	"taproot/stack"
	"taproot/stack/dns"
	"taproot/stack/flow"
	"taproot/stack/nat"
	"taproot/stack/reassembly"
)

// A Limit says how much there may be of something in the engine, how much there
// is now, and how often somebody was turned away because of it.
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
	usual      func(machine) uint64 // what it is if nobody says otherwise
	reason     string               // for that, sentences; docs/limits.md has them
	least      uint64               // that somebody may say; 0 if nobody may
	use        func(g *gateway, t *flow.Totals) Use
	number     func(*numbers) *uint64
}

// limitTable lists all limits. As with counterTable, their places have a meaning.
func limitTable() []limit {
	lists := [][]limit{flowLimits(), dialLimits(), dnsLimits(), memoryLimits()}
	var all []limit
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

func flowLimits() []limit {
	return []limit{
		{name: "flows_tcp", help: "TCP connections.", use: flowsUse(flow.TCP),
			usual: fixed(flow.DefaultTCP), least: 1, number: func(n *numbers) *uint64 { return &n.flowsTCP },
			reason: "By the shortcut an idle one costs less than 1 KB and two descriptors, which are limited besides. It is more than one address has ports for, so that one server is never out of reach because of it."},
		{name: "flows_tcp_frames", help: "TCP connections by frames, which cost more memory.", use: framesUse,
			usual: fixed(flow.DefaultFrames), least: 1, number: func(n *numbers) *uint64 { return &n.flowsFrames },
			reason: "22 KB each, when they are idle, are 360 MB of the engine's 1 GiB."},
		{name: "flows_udp", help: "UDP address pairs.", use: flowsUse(flow.UDP),
			usual: shared(flow.DefaultUDP, 4), least: 1, number: func(n *numbers) *uint64 { return &n.flowsUDP },
			reason: "They live for two minutes after the last datagram (RFC 4787 REQ-5): 68 new ones a second for ever. Each may need a descriptor, of which they get a quarter. At the limit one that was never answered gives way, then a client of a published port."},
		{name: "flows_icmp", help: "Echo identifiers.", use: flowsUse(flow.ICMP),
			usual: shared(flow.DefaultICMP, 4), least: 1, number: func(n *numbers) *uint64 { return &n.flowsICMP },
			reason: "A ping each, which lives for a minute (RFC 5508 REQ-2). More of them at once are a flood. They give way like those of UDP."},
	}
}

func dialLimits() []limit {
	return []limit{
		{name: "dials_frames", help: "Connections of the guest by frames whose target has not answered yet.", use: dialsUse,
			usual: shared(stack.MaxPending, 4), least: 4, number: func(n *numbers) *uint64 { return &n.dialsFrames },
			reason: "As long as Linux makes the queue of a server (net.core.somaxconn): a browser has a hundred, a load test thousands. Each is a goroutine and a descriptor for the two minutes that the kernel asks for. From three quarters on others give way."},
		{name: "dials_shortcut", help: "Connections of the guest by the shortcut whose target or guest has not answered yet.", use: shortcutDialsUse,
			usual: shared(stack.MaxPending, 4), least: 1, number: func(n *numbers) *uint64 { return &n.dialsShortcut },
			reason: "The same; a descriptor each and no goroutine. At the limit others give way."},
	}
}

func dnsLimits() []limit {
	return []limit{
		{name: "dns_datagrams", help: "DNS queries over UDP under way.", use: func(g *gateway, _ *flow.Totals) Use { return dnsUse(g, false) },
			usual: shared(dns.DefaultDatagrams, 16), least: 1, number: func(n *numbers) *uint64 { return &n.dnsDatagrams },
			reason: "1 KB each. With all servers down for 5 seconds it takes 205 new names a second to get there; who asked asks again."},
		{name: "dns_messages", help: "DNS queries over TCP under way.", use: func(g *gateway, _ *flow.Totals) Use { return dnsUse(g, true) },
			usual: shared(dns.DefaultMessages, 32), least: 1, number: func(n *numbers) *uint64 { return &n.dnsMessages },
			reason: "A descriptor and up to 64 KiB each: 17 MiB. Others wait."},
		{name: "dns_connections", help: "DNS connections of the guest.", use: dnsConnsUse,
			usual: fixed(maxDNSConns), least: 1, number: func(n *numbers) *uint64 { return &n.dnsConns },
			reason: "A stub resolver needs one, and those that are idle are closed after seconds."},
		{name: "icmp_errors", help: "ICMP errors of ours, in a second, of each of TCP by frames and by the shortcut, UDP and echo; how many there are now is not counted.", use: errorsUse,
			usual: fixed(nat.ErrorsPerSecond), least: 1, number: func(n *numbers) *uint64 { return &n.icmpErrors },
			reason: "RFC 1812 §4.3.2.8 and RFC 4443 §2.4 (f) ask for a limit; it is Linux's (icmp_msgs_per_sec). A guest that gets none waits."},
		{name: "neighbour_requests", help: "Requests of the guest for hardware addresses and for routers that are heard, in a second; how many there are now is not counted.", use: asksUse,
			usual: fixed(stack.AsksPerSecond), least: 10, number: func(n *numbers) *uint64 { return &n.asks },
			reason: "A kernel keeps the answer for half a minute. Each costs an answer; who gets none asks again after a second."},
		{name: "fragments", help: "Bytes of the guest's packets that are not complete, of both families, with what they cost besides.", use: fragmentsUse,
			usual: fixed(reassembly.DefaultLimit), least: 128 << 10, number: func(n *numbers) *uint64 { return &n.fragments },
			reason: "64 of the largest packets, as in Linux (ipfrag_high_thresh). The oldest give way; time is up after 15 seconds, as the guest is one hop away and sends those of a packet one after the other."},
	}
}

func memoryLimits() []limit {
	return []limit{
		{name: "memory", help: "Bytes of memory of the engine's, which it goes beyond only for moments.", use: memoryUse,
			usual: func(m machine) uint64 { return m.memory }, least: leastMemory, number: func(n *numbers) *uint64 { return &n.memory },
			reason: "All connections by frames that there may be, idle, are a third of it, and buffers as much again. No more than a quarter of the machine's, and GOMEMLIMIT says otherwise."},
		{name: "tcp_memory", help: "Bytes of memory in use, beyond which connections by frames that hold much are reset.", use: tcpMemoryUse,
			usual: func(m machine) uint64 { return m.memory / 2 }, least: leastMemory / 2, number: func(n *numbers) *uint64 { return &n.tcpMemory },
			reason: "Half of the engine's, as the garbage collector lets memory grow to twice of what is in use."},
		{name: "descriptors", help: "Descriptors of the engine's, beyond which there are no new flows; the rest is for DNS, the sockets of published ports and what is under way.", use: descriptorsUse,
			usual: func(m machine) uint64 { return m.descriptors - kept(m.descriptors) }, least: 1, number: func(n *numbers) *uint64 { return &n.descriptors },
			reason: "Four fifths of what the process may have (ulimit -n, the hard limit), 64 less if that is less, and of fewer than 256 three quarters: a new flow that is refused at once is better than a published port or a name that fails."},
	}
}

// Limits returns all limits of an engine, without numbers.
func Limits() []Limit { return namedLimits(make([]Use, len(limitTable()))) }

// uses returns the numbers of all limits; t are those of the flows.
func (g *gateway) uses(t *flow.Totals) []Use {
	var list []Use
	for _, l := range limitTable() {
		u := l.use(g, t)
		u.Max = *l.number(&g.limits)
		list = append(list, u)
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
