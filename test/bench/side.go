package main

// A side is where the clients of a measurement are; the servers are at the other
// end of the helper.
type side string

// The sides. The last two reach the guest's servers at ports that the helper has
// published on all of the host's addresses.
const (
	inGuest    side = ""         // the servers are outside
	onOutside  side = "outside"  // another machine, which writes to the host's address
	onLoopback side = "loopback" // the host itself, at 127.0.0.1
)

// publishedSides are the sides that write to published ports.
func publishedSides() []side { return []side{onOutside, onLoopback} }

// key names a row of the side.
func (from side) key(parts ...any) string {
	if from == inGuest {
		return rowKey(parts...)
	}
	return rowKey("published", from, rowKey(parts...))
}

// costKey names a row of processor time.
func (from side) costKey(parts ...any) string { return from.key("cpu", rowKey(parts...)) }

// title says of a row where the clients are.
func (from side) title(what string) string {
	switch from {
	case onOutside:
		return "from outside, " + what
	case onLoopback:
		return "from host loopback, " + what
	}
	return what
}

// direction is how the guest sees a transfer, to the clients (down) or from
// them.
func (from side) direction(down bool) string {
	switch {
	case from == inGuest && down:
		return "down"
	case from == inGuest:
		return "up"
	case down:
		return "out"
	}
	return "in"
}

// away is how the guest sees what clients send unasked.
func (from side) away() string {
	if from == inGuest {
		return "out"
	}
	return "in"
}

// client returns the agent that has the clients of a side.
func (t *turn) client(from side) *remote {
	switch from {
	case onOutside:
		return t.outside
	case onLoopback:
		return t.near
	}
	return t.guest
}

// server returns the agent that has the servers for a side.
func (t *turn) server(from side) *remote {
	if from == inGuest {
		return t.outside
	}
	return t.guest
}

// at returns the servers for a side, as its clients write to them.
func (t *turn) at(from side) Servers {
	switch from {
	case onOutside:
		return t.published.on(cableAddress(cableHost))
	case onLoopback:
		return t.published.on("127.0.0.1")
	}
	return t.servers
}
