package engine

import "sync/atomic"

// A Counter counts since the engine was started.
type Counter struct {
	Name  string // words with "_" between them
	Help  string // what is counted, a sentence
	Value uint64
}

// A counter is where the engine finds a Counter's value.
type counter struct {
	name, help string
	value      func(g *gateway) *atomic.Uint64
}

// A counterGroup are the counters of one part of the gateway.
type counterGroup struct {
	exists   func(g *gateway) bool // else they are 0
	counters []counter
}

// counterTable lists all counters. Supervisor and engine are the same program,
// and speak of them by their place in it.
func counterTable() []counterGroup {
	hasStack := func(g *gateway) bool { return g.stack != nil }
	return []counterGroup{
		{hasStack, linkCounters()},
		{hasStack, framesCounters()},
		{func(g *gateway) bool { return g.shortcut != nil }, shortcutCounters()},
		{hasStack, datagramCounters()},
		{func(g *gateway) bool { return g.ports != nil }, portsCounters()},
	}
}

// counts returns the values of all counters.
func (g *gateway) counts() []uint64 {
	var values []uint64
	for _, group := range counterTable() {
		exists := group.exists(g)
		for _, c := range group.counters {
			v := uint64(0)
			if exists {
				v = c.value(g).Load()
			}
			values = append(values, v)
		}
	}
	return values
}

// namedCounts returns the counters that an engine has sent; nil if it cannot
// mean ours.
func namedCounts(values []uint64) []Counter {
	var list []Counter
	for _, group := range counterTable() {
		for _, c := range group.counters {
			if len(list) == len(values) {
				return nil
			}
			list = append(list, Counter{c.name, c.help, values[len(list)]})
		}
	}
	if len(list) != len(values) {
		return nil
	}
	return list
}

func linkCounters() []counter {
	return []counter{
		{"frames_received", "Frames that the guest has sent.", func(g *gateway) *atomic.Uint64 { return &g.stack.Link().Received }},
		{"frames_sent", "Frames that were sent to the guest.", func(g *gateway) *atomic.Uint64 { return &g.stack.Link().Sent }},
		{"frames_malformed", "Frames of the guest that were dropped because they contradict themselves.", func(g *gateway) *atomic.Uint64 { return &g.stack.Link().Malformed }},
		{"frames_foreign", "Frames of the guest to another hardware address.", func(g *gateway) *atomic.Uint64 { return &g.stack.Link().Foreign }},
		{"frames_spoofed", "Frames of the guest from an address that is not its own.", func(g *gateway) *atomic.Uint64 { return &g.stack.Link().Spoofed }},
		{"fragments_expired", "Packets of the guest whose fragments did not all come in time.", func(g *gateway) *atomic.Uint64 { return &g.stack.Fragments().Expired }},
		{"fragments_malformed", "Fragments of the guest that contradict themselves or others of their packet.", func(g *gateway) *atomic.Uint64 { return &g.stack.Fragments().Malformed }},
		{"frames_unsent", "Frames that the guest's device did not take.", func(g *gateway) *atomic.Uint64 { return &g.stack.Link().Unsent }},
	}
}

func framesCounters() []counter {
	return []counter{
		{"tcp_frames_connected", "Connections of the guest that were made by frames.", func(g *gateway) *atomic.Uint64 { return &g.tcp.Stats.Connected }},
		{"tcp_frames_denied", "Connections of the guest by frames that the policy denied.", func(g *gateway) *atomic.Uint64 { return &g.tcp.Stats.Denied }},
		{"tcp_frames_refused", "Connections of the guest by frames that the target refused.", func(g *gateway) *atomic.Uint64 { return &g.tcp.Stats.Refused }},
		{"tcp_frames_unreachable", "Connections of the guest by frames whose target was out of reach.", func(g *gateway) *atomic.Uint64 { return &g.tcp.Stats.Unreachable }},
		{"tcp_frames_exhausted", "Connections of the guest by frames for which there was no flow or descriptor left.", func(g *gateway) *atomic.Uint64 { return &g.tcp.Stats.Exhausted }},
		{"tcp_frames_evicted", "Connections of the guest by frames that gave way to others before their target had answered.", func(g *gateway) *atomic.Uint64 { return &g.tcp.Stats.Evicted }},
		{"tcp_frames_small", "Times that buffers of connections by frames were made small because memory was short.", func(g *gateway) *atomic.Uint64 { return &g.stack.Memory().Tight }},
	}
}

func shortcutCounters() []counter {
	return []counter{
		{"tcp_shortcut_connected", "Connections of the guest that took the shortcut.", func(g *gateway) *atomic.Uint64 { return &g.shortcut.Stats.Connected }},
		{"tcp_shortcut_denied", "Connections of the guest on the shortcut that the policy denied.", func(g *gateway) *atomic.Uint64 { return &g.shortcut.Stats.Denied }},
		{"tcp_shortcut_refused", "Connections of the guest on the shortcut that the target refused.", func(g *gateway) *atomic.Uint64 { return &g.shortcut.Stats.Refused }},
		{"tcp_shortcut_unreachable", "Connections of the guest on the shortcut whose target was out of reach.", func(g *gateway) *atomic.Uint64 { return &g.shortcut.Stats.Unreachable }},
		{"tcp_shortcut_exhausted", "Connections of the guest on the shortcut for which there was no flow or descriptor left.", func(g *gateway) *atomic.Uint64 { return &g.shortcut.Stats.Exhausted }},
		{"tcp_shortcut_evicted", "Connections of the guest on the shortcut that gave way to others before their target had answered.", func(g *gateway) *atomic.Uint64 { return &g.shortcut.Stats.Evicted }},
		{"tcp_shortcut_handed", "Connections of the guest that went by frames because the shortcut did not work.", func(g *gateway) *atomic.Uint64 { return &g.shortcut.Stats.Handed }},
		{"tcp_shortcut_strangers", "Connections that came to the shortcut past the rules, and were reset.", func(g *gateway) *atomic.Uint64 { return &g.shortcut.Stats.Unknown }},
	}
}

func datagramCounters() []counter {
	return []counter{
		{"udp_denied", "Datagrams of the guest that the policy denied.", func(g *gateway) *atomic.Uint64 { return &g.udp.Stats.Denied }},
		{"udp_full", "Datagrams of the guest that were dropped at the limit of flows or descriptors.", func(g *gateway) *atomic.Uint64 { return &g.udp.Stats.Full }},
		{"udp_evicted", "UDP flows that gave way to others of the guest: never answered, or of clients of published ports.", func(g *gateway) *atomic.Uint64 { return &g.udp.Stats.Evicted }},
		{"udp_dropped", "Datagrams of the guest that were dropped because the host was not ready.", func(g *gateway) *atomic.Uint64 { return &g.udp.Stats.Dropped }},
		{"udp_filtered", "Datagrams from outside that nobody in the guest had asked for.", func(g *gateway) *atomic.Uint64 { return &g.udp.Stats.Filtered }},
		{"icmp_denied", "Echo requests of the guest that the policy denied.", func(g *gateway) *atomic.Uint64 { return &g.echo.Stats.Denied }},
		{"icmp_full", "Echo requests of the guest that were dropped at the limit of flows or descriptors.", func(g *gateway) *atomic.Uint64 { return &g.echo.Stats.Full }},
		{"icmp_evicted", "Echo identifiers that were never answered and gave way to others.", func(g *gateway) *atomic.Uint64 { return &g.echo.Stats.Evicted }},
	}
}

func portsCounters() []counter {
	return []counter{
		{"ports_connected", "Connections by published ports that were made.", func(g *gateway) *atomic.Uint64 { return &g.ports.Stats.Connected }},
		{"ports_refused", "Connections by published ports that the target refused.", func(g *gateway) *atomic.Uint64 { return &g.ports.Stats.Refused }},
		{"ports_unreachable", "Connections by published ports whose target was out of reach.", func(g *gateway) *atomic.Uint64 { return &g.ports.Stats.Unreachable }},
		{"ports_full", "Flows by published ports that met the limit.", func(g *gateway) *atomic.Uint64 { return &g.ports.Stats.Full }},
		{"ports_evicted", "UDP flows that gave way to clients of published ports: never answered, or of other clients.", func(g *gateway) *atomic.Uint64 { return &g.ports.Stats.Evicted }},
		{"ports_exhausted", "Times that published ports had no descriptor left.", func(g *gateway) *atomic.Uint64 { return &g.ports.Stats.Exhausted }},
		{"ports_dropped", "Datagrams by published ports that were dropped.", func(g *gateway) *atomic.Uint64 { return &g.ports.Stats.Dropped }},
		{"ports_unroutable", "Clients of published ports for whom the guest has no address.", func(g *gateway) *atomic.Uint64 { return &g.ports.Stats.Unroutable }},
	}
}
