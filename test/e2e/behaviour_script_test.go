package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// A play performs the script of one row of the table in one column. A script
// has a line for each step, which ends before the next begins:
//
//	ACTOR WORD [ARGUMENT]...[: RESULT]
//
// Actors are sockets, "net", and the "listener" of the outside. The sockets
// whose name begins with "guest" are made in the guest. A result is the name
// of an error, "EOF", or whatever the word says; there is none where all went
// well. The words are in [words] and netWords.
type play struct {
	t      *testing.T
	lab    *lab.Lab
	family int // of families
	column column
	guest  *lab.Namespace // where its sockets are
	outer  *lab.Namespace // where those of the shortcut are

	inside *lab.Namespace // of connections from outside, where the others are; else nil
	own    bool           // there, the listener has one address

	anyWay bool // which way connections take is not looked at

	sockets map[string]*plainSocket
	open    netip.AddrPort // where listener is
	last    netip.AddrPort // from where the guest has connected last
}

// newPlay builds the network of a column, and in it the guest.
func newPlay(t *testing.T, c column, family int) *play {
	t.Helper()
	l := newLab(t)
	guest := c.guest(t, l)
	return &play{t: t, lab: l, family: family, column: c, guest: guest, outer: guest, sockets: map[string]*plainSocket{}}
}

// with is the same play for a subtest.
func (p play) with(t *testing.T) *play {
	p.t, p.lab = t, p.lab.With(t)
	return &p
}

// check performs a row, prepared for its column, and compares.
func (p *play) check(row behaviour) {
	p.t.Helper()
	p.anyWay = row.anyWay
	if row.guest != nil {
		row.guest(p)
	}
	want := plain(row.script)
	if !p.column.kernel && row.ours != "" {
		want = plain(row.ours)
	}
	if got := p.perform(want); got != want {
		p.t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// perform does a script step by step and returns it with the results that
// there were. Then its sockets are closed.
func (p *play) perform(script string) string {
	p.t.Helper()
	defer p.close()
	return p.steps(script)
}

// close closes the sockets that are left.
func (p *play) close() {
	for _, s := range p.sockets {
		s.close()
	}
	clear(p.sockets)
}

// steps is perform for a script that goes on.
func (p *play) steps(script string) string {
	p.t.Helper()
	var transcript strings.Builder
	for line := range strings.Lines(script) {
		step, _, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if step == "" {
			continue
		}
		transcript.WriteString(step)
		if result := p.step(strings.Fields(step)); result != "" {
			transcript.WriteString(": " + result)
		}
		transcript.WriteByte('\n')
	}
	return transcript.String()
}

// step does one step and returns its result.
func (p *play) step(fields []string) string {
	p.t.Helper()
	actor, word, args := fields[0], fields[1], fields[2:]
	var result string
	var err error
	if f, ok := netWords[word]; ok && actor == "net" {
		result, err = f(p, args)
	} else if f, ok := words[word]; ok && actor != "net" {
		result, err = f(p, actor, args)
	} else {
		p.t.Fatalf("script: %q: unknown", fields)
	}
	if err != nil {
		return errno(err)
	}
	return result
}

// socket is that of an actor. If there is none yet, it is made.
func (p *play) socket(actor string) (*plainSocket, error) {
	if s := p.sockets[actor]; s != nil {
		return s, nil
	}
	return p.make(actor, unix.IPPROTO_TCP)
}

// make makes the socket of an actor; the listener listens at once.
func (p *play) make(actor string, protocol int) (*plainSocket, error) {
	where, family := p.lab.Outside, unix.AF_INET
	if strings.HasPrefix(actor, "guest") {
		where = p.guest
	} else if p.inside != nil {
		where = p.inside
	}
	if p.family == 1 {
		family = unix.AF_INET6
	}
	err := where.Do(func() (err error) {
		p.sockets[actor], err = newPlainSocket(family, protocol)
		return err
	})
	if err == nil && actor == "listener" && p.inside != nil {
		return p.sockets[actor], p.listenInside()
	}
	if err == nil && actor == "listener" {
		p.open, err = p.sockets[actor].listen(netip.MustParseAddr(families[p.family].outside))
	}
	return p.sockets[actor], err
}

// target is the address that a name of a script means.
func (p *play) target(name string) (netip.AddrPort, error) {
	switch name {
	case "open":
		_, err := p.socket("listener")
		return p.open, err
	case "unserved":
		return netip.AddrPortFrom(p.open.Addr(), unservedPort), nil
	case "inside": // where the rules of the shortcut lead
		return netip.MustParseAddrPort("192.0.0.8:1"), nil
	}
	addresses, ok := map[string][2]string{
		"closed":     {lab.Outside4, lab.Outside6},
		"nohost":     {lab.NoHost4, lab.NoHost6},
		"nonet":      {lab.NoNet4, lab.NoNet6},
		"prohibited": {lab.Prohibited4, lab.Prohibited6},
		"silent":     {lab.Silent4, lab.Silent6},
		"denied":     {lab.Metadata4, lab.Metadata6},
	}[name]
	if !ok {
		p.t.Fatalf("script: target %q: unknown", name)
	}
	return netip.AddrPortFrom(netip.MustParseAddr(addresses[p.family]), 9), nil
}

// number is one argument of a word, or what it means without.
func number(args []string, without int) int {
	if len(args) == 0 {
		return without
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return without
	}
	return n
}

// listen binds the socket to a port of the kernel's choice and listens there.
func (s *plainSocket) listen(a netip.Addr) (netip.AddrPort, error) {
	if err := s.listenAt(netip.AddrPortFrom(a, 0)); err != nil {
		return netip.AddrPort{}, err
	}
	name, err := unix.Getsockname(s.fd)
	return addrPort(name), err
}

// listenAt binds the socket and listens.
func (s *plainSocket) listenAt(a netip.AddrPort) error {
	// Connections from before may have the port.
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(s.fd, sockaddr(a)); err != nil {
		return err
	}
	return unix.Listen(s.fd, 128)
}

// netWords are what happens to the network between host and outside.
var netWords = map[string]func(p *play, args []string) (string, error){
	// cut: packets vanish, in both directions.
	"cut": func(p *play, _ []string) (string, error) {
		p.lab.Router.Drop(families[p.family].outside, families[p.family].host)
		return "", nil
	},
	"mend": func(p *play, _ []string) (string, error) {
		p.lab.Router.Mend(families[p.family].outside, families[p.family].host)
		return "", nil
	},
	// mtu N: that of the way beyond the router, which neither end can know.
	"mtu": func(p *play, args []string) (string, error) {
		p.lab.Router.PathMTU(number(args, 0), families[p.family].outside, families[p.family].host)
		return "", nil
	},
}

// until waits for a condition, and returns ETIME if it waits in vain.
func until(condition func() (bool, error)) error { return within(lab.Patience, condition) }

// within is until with another limit.
func within(limit time.Duration, condition func() (bool, error)) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(2 * time.Millisecond) {
		if ok, err := condition(); ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return unix.ETIME
		}
	}
}

// errScript is a step that makes no sense.
var errScript = errors.New("script: no such argument")

// got is the result of receiving n bytes, of which there came less.
func got(n, want int, err error) (string, error) {
	switch {
	case err != nil && n == 0:
		return "", err
	case err != nil:
		return fmt.Sprintf("%d, %s", n, errno(err)), nil
	case n == 0:
		return "EOF", nil
	case n < want:
		return fmt.Sprintf("%d, EOF", n), nil
	default:
		return "", nil
	}
}
