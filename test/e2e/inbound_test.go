package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// Ports of the host that lead to the same of the guest. Nobody listens at the second.
const (
	publishedPort = 7000
	unservedPort  = 7001
)

// TestInboundBehaviour is TestBehaviour for connections to published ports. In its rows
// "guest" is the client, outside, and the others are in the guest; in the kernel's
// column they are on the host itself.
func TestInboundBehaviour(t *testing.T) {
	t.Parallel()
	playAll(t, inbound(), func(c column) bool { return c.shortcut }, newInboundPlay)
}

// inbound is the table: what is true of any connection, and what only of these.
func inbound() []behaviour {
	windows := slices.DeleteFunc(waiting(), func(b behaviour) bool {
		return !strings.HasPrefix(b.name, "window") && !strings.HasPrefix(b.name, "small")
	})
	return slices.Concat(entering(), closing(), resetting(), windows)
}

// entering is how connections from outside begin.
func entering() []behaviour {
	return []behaviour{
		{name: "echo", on: "46", script: `
			guest connect open
			server accept
			guest peer: the host
			server peer: the outside
			guest send 5
			server recv 5
			server send 6
			guest recv 6
			guest close
			server recv 1: EOF
			server close
			server accept none`},
		{name: "the client's own port", on: "46", script: `
			guest connect open
			server accept
			server from: the same port`},
		{name: "refused", on: "46", anyWay: true,
			script: `
			guest start unserved
			guest wait end
			guest recv 1: ECONNREFUSED`,
			ours: `
			guest start unserved
			guest wait end
			guest recv 1: ECONNRESET`,
			reason: "the host's kernel has taken the connection before the guest is asked"},
		{name: "reset before accept", anyWay: true, script: `
			guest connect open
			guest send 5
			guest reset
			server accept
			server wait end
			server drain: ECONNRESET`},
		{name: "many at once", script: `
			guest connect open
			guest1 connect open
			guest2 connect open
			server accept
			server1 accept
			server2 accept`},
		{name: "a listener with one address", script: `
			listener at own
			guest connect open
			server accept
			guest give server 300000`},
		{name: "a client that vanishes", script: `
			guest connect open
			server accept
			guest send 5
			server recv 5
			guest vanish
			guest wait freed
			server quiet
			server send 5
			server wait end
			server recv 1: ECONNRESET`},
	}
}

// TestInboundDisturbed is TestShortcutDisturbed for connections to published ports,
// of which the first may come before the guest's hardware address is known.
func TestInboundDisturbed(t *testing.T) {
	t.Parallel()
	for _, tt := range disturbances() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lab.NeedProgram(t, tt.program)
			p, s := newInboundDiverted(t)
			p.lab.Eventually("connections take the shortcut", func() bool { return p.way() == byShortcut })
			old := plain("guest connect open\nserver accept\nguest send 5\nserver recv 5")
			if got := p.steps(old); got != old {
				t.Fatalf("got:\n%s\nwant:\n%s", got, old)
			}
			p.sockets["listener"].close() // way's connections have one of their own
			delete(p.sockets, "listener")
			s.must(tt.command)
			p.wantUse()
			p.lab.Eventually("connections take the shortcut again", func() bool { return p.way() == byShortcut })
			p.wantUse()
		})
	}
}

// newInboundDiverted is newDiverted with client and server at each other's place.
func newInboundDiverted(t *testing.T) (*play, *shell) {
	t.Helper()
	l := newLab(t)
	needTProxy(t, l)
	c := columns()[2]
	s := newShell(t, l, append(slices.Clone(c.options), publishing()...)...)
	p := newInboundPlayIn(t, l, c, 0, networkOf(t, l, s))
	p.anyWay = true
	t.Cleanup(p.close)
	return p, s
}

// newInboundPlay is newPlay with client and server at each other's place.
func newInboundPlay(t *testing.T, c column, family int) *play {
	t.Helper()
	l := newLab(t)
	inside := l.Host
	if !c.kernel {
		inside = networkOf(t, l, newShell(t, l, append(slices.Clone(c.options), publishing()...)...))
	}
	return newInboundPlayIn(t, l, c, family, inside)
}

// newInboundPlayIn is newInboundPlay where the server's network is there already.
func newInboundPlayIn(t *testing.T, l *lab.Lab, c column, family int, inside *lab.Namespace) *play {
	p := &play{t: t, lab: l, family: family, column: c, guest: l.Outside, outer: inside, inside: inside, sockets: map[string]*plainSocket{}}
	p.open = netip.AddrPortFrom(netip.MustParseAddr(families[family].host), publishedPort)
	return p
}

// publishing are the options that publish the ports at the host's addresses.
func publishing() (options []string) {
	for _, f := range families {
		at := netip.AddrPortFrom(netip.MustParseAddr(f.host), publishedPort)
		options = append(options, fmt.Sprintf("--publish=%v-%d:%d-%d", at, unservedPort, publishedPort, unservedPort))
	}
	return options
}

// listenInside has the listener listen in the guest, or on the host for the kernel.
func (p *play) listenInside() error {
	f := families[p.family]
	at := map[bool]string{true: "0.0.0.0", false: "::"}[f.name == "ipv4"]
	switch {
	case p.own && p.column.kernel:
		at = f.host
	case p.own:
		at = f.guest
	}
	return p.sockets["listener"].listenAt(netip.AddrPortFrom(netip.MustParseAddr(at), publishedPort))
}

// atWord has the listener have one address.
func atWord(p *play, _ string, _ []string) (string, error) {
	p.own = true
	return "", nil
}

// fromWord compares the port of the peer with that from where the client has connected.
func fromWord(p *play, actor string, _ []string) (string, error) {
	s, err := p.socket(actor)
	if err != nil {
		return "", err
	}
	name, err := unix.Getpeername(s.fd)
	if err != nil {
		return "", err
	}
	if peer := addrPort(name); peer.Port() != p.last.Port() {
		return fmt.Sprintf("%v, not %v", peer, p.last), nil
	}
	return "the same port", nil
}
