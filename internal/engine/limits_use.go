package engine

import (
	"runtime"

	"golang.org/x/sys/unix"

	"taproot/stack/flow"
)

func flowsUse(p flow.Proto) func(*gateway, *flow.Totals) Use {
	return func(_ *gateway, t *flow.Totals) Use {
		return Use{Now: uint64(t.Proto[p].Live), Refused: t.Proto[p].Refused}
	}
}

func framesUse(_ *gateway, t *flow.Totals) Use {
	return Use{Now: uint64(t.Frames.Live), Refused: t.Frames.Refused}
}

func dialsUse(g *gateway, _ *flow.Totals) Use {
	if g.stack == nil {
		return Use{}
	}
	now, dropped := g.stack.Pending()
	return Use{Now: uint64(now), Refused: dropped + g.tcp.Stats.Evicted.Load()}
}

func shortcutDialsUse(g *gateway, _ *flow.Totals) Use {
	if g.shortcut == nil {
		return Use{}
	}
	return Use{Now: uint64(g.shortcut.Pending()), Refused: g.shortcut.Stats.Overflown.Load() + g.shortcut.Stats.Evicted.Load()}
}

func dnsUse(g *gateway, stream bool) Use {
	if g.dns == nil {
		return Use{}
	}
	datagrams, messages := g.dns.Limits()
	if stream {
		return Use{Now: uint64(messages.Now)} // others wait
	}
	return Use{Now: uint64(datagrams.Now), Refused: g.dns.Stats().Busy}
}

func dnsConnsUse(g *gateway, _ *flow.Totals) Use {
	return Use{Now: uint64(len(g.dnsConns)), Refused: g.dnsRefused.Load()}
}

func errorsUse(g *gateway, _ *flow.Totals) Use {
	if g.stack == nil {
		return Use{}
	}
	u := Use{Refused: g.tcp.Stats.Suppressed.Load() + g.udp.Stats.Suppressed.Load() + g.echo.Stats.Suppressed.Load()}
	if g.shortcut != nil {
		u.Refused += g.shortcut.Stats.Suppressed.Load()
	}
	return u
}

func asksUse(g *gateway, _ *flow.Totals) Use {
	if g.stack == nil {
		return Use{}
	}
	return Use{Refused: g.stack.Suppressed()}
}

func fragmentsUse(g *gateway, _ *flow.Totals) Use {
	if g.stack == nil {
		return Use{}
	}
	f := g.stack.Fragments()
	return Use{Now: uint64(f.Held.Load()), Refused: f.Evicted.Load()}
}

// memoryUse counts as Go's runtime does for its limit.
func memoryUse(*gateway, *flow.Totals) Use {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return Use{Now: s.Sys - s.HeapReleased}
}

func tcpMemoryUse(g *gateway, _ *flow.Totals) Use {
	if g.stack == nil {
		return Use{}
	}
	m := g.stack.Memory()
	return Use{Now: m.Used.Load(), Refused: m.Ended.Load()}
}

func descriptorsUse(g *gateway, _ *flow.Totals) Use {
	u := Use{Now: uint64(openDescriptors(g.machine.descriptors))}
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
