package e2e

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// words are what sockets do.
var words = map[string]func(p *play, actor string, args []string) (string, error){
	"mptcp": func(p *play, actor string, _ []string) (string, error) {
		_, err := p.make(actor, unix.IPPROTO_MPTCP)
		return "", err
	},
	"set":      onSocket(setOption),
	"bind":     bindWord,
	"start":    startWord,
	"finish":   onSocket(func(s *plainSocket, _ []string) (string, error) { return "", s.finish() }),
	"connect":  connectWord,
	"accept":   acceptWord,
	"send":     onSocket(func(s *plainSocket, args []string) (string, error) { return "", s.send(number(args, 1), 0) }),
	"urgent":   onSocket(func(s *plainSocket, args []string) (string, error) { return "", s.send(1, unix.MSG_OOB) }),
	"fill":     onSocket(func(s *plainSocket, _ []string) (string, error) { return "", s.fill() }),
	"recv":     onSocket(recvWord),
	"give":     giveWord,
	"quiet":    onSocket(quietWord),
	"drain":    onSocket(drainWord),
	"wait":     waitWord,
	"peer":     peerWord,
	"from":     fromWord,
	"at":       atWord,
	"way":      wayWord,
	"shutdown": onSocket(func(s *plainSocket, _ []string) (string, error) { return "", unix.Shutdown(s.fd, unix.SHUT_WR) }),
	"close":    ending((*plainSocket).close),
	"reset":    ending((*plainSocket).reset),
	"vanish":   ending((*plainSocket).vanish),
}

func onSocket(f func(s *plainSocket, args []string) (string, error)) func(*play, string, []string) (string, error) {
	return func(p *play, actor string, args []string) (string, error) {
		s, err := p.socket(actor)
		if err != nil {
			return "", err
		}
		return f(s, args)
	}
}

// ending is a word after which the actor has no socket any more.
func ending(f func(s *plainSocket) error) func(*play, string, []string) (string, error) {
	return func(p *play, actor string, _ []string) (string, error) {
		s, err := p.socket(actor)
		if err != nil {
			return "", err
		}
		delete(p.sockets, actor)
		return "", f(s)
	}
}

// options are those of setsockopt(2) by the names that scripts have for them.
var options = map[string]struct{ level, name int }{
	"syncnt":      {unix.IPPROTO_TCP, unix.TCP_SYNCNT},
	"usertimeout": {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT}, // milliseconds
	"keepalive":   {unix.SOL_SOCKET, unix.SO_KEEPALIVE},
	"keepidle":    {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},  // seconds
	"keepintvl":   {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}, // seconds
	"keepcnt":     {unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
	"fastconnect": {unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT},
	"fastopen":    {unix.IPPROTO_TCP, unix.TCP_FASTOPEN},
	"oobinline":   {unix.SOL_SOCKET, unix.SO_OOBINLINE},
	"reuseaddr":   {unix.SOL_SOCKET, unix.SO_REUSEADDR},
	"mark":        {unix.SOL_SOCKET, unix.SO_MARK},
	"transparent": {unix.IPPROTO_IP, unix.IP_TRANSPARENT},
	"freebind":    {unix.IPPROTO_IP, unix.IP_FREEBIND},
	"rcvbuf":      {unix.SOL_SOCKET, unix.SO_RCVBUF},
	"tos":         {unix.IPPROTO_IP, unix.IP_TOS},
}

// setOption NAME VALUE sets an option; the value of "device" is a name.
func setOption(s *plainSocket, args []string) (string, error) {
	if args[0] == "device" {
		return "", unix.BindToDevice(s.fd, args[1])
	}
	o, ok := options[args[0]]
	if !ok {
		return "", errScript
	}
	return "", unix.SetsockoptInt(s.fd, o.level, o.name, number(args[1:], 1))
}

// bindWord binds to an address of the guest: "own [PORT]", "any [PORT]",
// "loopback", or "same", which is from where the guest has connected last.
func bindWord(p *play, actor string, args []string) (string, error) {
	s, err := p.socket(actor)
	if err != nil {
		return "", err
	}
	f := families[p.family]
	a := netip.AddrPortFrom(netip.MustParseAddr(f.guest), uint16(number(args[1:], 0)))
	switch args[0] {
	case "own":
	case "loopback":
		a = netip.AddrPortFrom(netip.MustParseAddr(f.loopback), 0)
	case "any":
		zero := map[bool]netip.Addr{true: netip.IPv4Unspecified(), false: netip.IPv6Unspecified()}[a.Addr().Is4()]
		a = netip.AddrPortFrom(zero, a.Port())
	case "same":
		a = p.last
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return "", err
		}
	default:
		return "", errScript
	}
	return "", unix.Bind(s.fd, sockaddr(a))
}

// startWord TARGET begins to connect.
func startWord(p *play, actor string, args []string) (string, error) {
	s, err := p.socket(actor)
	if err != nil {
		return "", err
	}
	target, err := p.target(args[0])
	if err != nil {
		return "", err
	}
	err = s.start(target)
	if name, nameErr := unix.Getsockname(s.fd); nameErr == nil {
		p.last = addrPort(name)
	}
	return "", err
}

// connectWord TARGET is connect(2).
func connectWord(p *play, actor string, args []string) (string, error) {
	if result, err := startWord(p, actor, args); err != nil {
		return result, err
	}
	return "", p.sockets[actor].finish()
}

// acceptWord takes a connection from the listener. "accept none" wants none. "accept
// used" passes over those that end without a byte: a target may have accepted what
// the guest had given up before.
func acceptWord(p *play, actor string, args []string) (string, error) {
	listener, err := p.socket("listener")
	if err != nil {
		return "", err
	}
	if len(args) == 1 && args[0] == "none" {
		if _, err := listener.poll(unix.POLLIN, 0); err == unix.ETIME {
			return "", nil
		}
		return "there is one", nil
	}
	s, err := listener.accept()
	for err == nil && len(args) == 1 && args[0] == "used" && !s.isUsed() {
		s.close()
		s, err = listener.accept()
	}
	if err != nil {
		return "", err
	}
	p.sockets[actor] = s
	if p.column.kernel || p.anyWay {
		return "", nil
	}
	return p.wrongWay(actor)
}

// isUsed waits for the first byte, or the end, and tells whether it was a byte.
func (s *plainSocket) isUsed() bool {
	if _, err := s.poll(unix.POLLIN, lab.Patience); err != nil {
		return false
	}
	n, _, err := unix.Recvfrom(s.fd, make([]byte, 1), unix.MSG_PEEK)
	return err == nil && n > 0
}

// wrongWay says which way the last connection goes if it is not the column's. The
// host has it before the guest's end is on the shortcut.
func (p *play) wrongWay(actor string) (string, error) {
	if p.column.shortcut {
		err := until(func() (bool, error) { way, err := wayWord(p, actor, nil); return way == byShortcut, err })
		if err == unix.ETIME {
			return "by " + byFrames, nil
		}
		return "", err
	}
	way, err := wayWord(p, actor, nil)
	if err == nil && way == byShortcut {
		return "by " + way, nil
	}
	return "", err
}

// The ways that a connection may go.
const (
	byFrames   = "frames"
	byShortcut = "shortcut"
)

// wayWord says which way connections to the listener go now: on the shortcut, the
// guest's namespace has a socket with the listener's port or, of connections from
// outside, with the port from which the last client has connected.
func wayWord(p *play, _ string, _ []string) (string, error) {
	port := p.open.Port()
	if p.inside != nil {
		port = p.last.Port() // of the socket that stands for the client
	}
	_, found, err := ownPort(p.outer, port)
	if found {
		return byShortcut, err
	}
	return byFrames, err
}

// recvWord N receives so many bytes.
func recvWord(s *plainSocket, args []string) (string, error) {
	want := number(args, 1)
	n, err := s.recv(want)
	return got(n, want, err)
}

// giveWord ACTOR N sends so many bytes while the other receives them.
func giveWord(p *play, actor string, args []string) (string, error) {
	from, err1 := p.socket(actor)
	to, err2 := p.socket(args[0])
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	sent, size := make(chan error, 1), number(args[1:], 1)
	go func() { sent <- from.send(size, 0) }()
	n, err := to.recv(size)
	if result, err := got(n, size, err); result != "" || err != nil {
		return result, err
	}
	return "", <-sent
}

// drainWord receives all there is and says how it ends. How much there was is
// not said.
func drainWord(s *plainSocket, _ []string) (string, error) {
	if _, err := s.recv(math.MaxInt); err != nil {
		return "", err
	}
	return "EOF", nil
}

// quietWord wants that nothing has come and nothing has ended.
func quietWord(s *plainSocket, _ []string) (string, error) {
	n, err := unix.Read(s.fd, make([]byte, 1))
	switch {
	case err == unix.EAGAIN:
		return "", nil
	case err != nil:
		return "", err
	case n == 0:
		return "EOF", nil
	default:
		return "data", nil
	}
}

// waitWord waits for a state of the socket:
//
//	data N      so many bytes can be received
//	fin         the peer has sent its FIN
//	end         the connection has ended, by a reset for instance
//	resent N    so many segments were sent again
//	probed N    a closed window of the peer was probed so often, or with TAPROOT_SLOW
//	            in the environment for a minute
//	freed       from where the guest has connected last, there is nothing more (a
//	            process that is just being started may hold a socket a little longer)
//	timewait    from where the guest has connected last, there is TIME-WAIT
//	keptalive N so many keep-alive probes were sent, by all sockets there
func waitWord(p *play, actor string, args []string) (string, error) {
	s, err := p.socket(actor)
	if err != nil {
		return "", err
	}
	n := number(args[1:], 1)
	switch args[0] {
	case "data":
		return "", until(func() (bool, error) { got, err := s.waiting(); return got >= n, err })
	case "fin":
		_, err := s.poll(unix.POLLRDHUP, lab.Patience)
		return "", err
	case "end":
		_, err := s.poll(0, lab.Patience)
		if i, infoErr := s.info(); err != nil && infoErr == nil {
			p.t.Logf("%s goes on: %+v", actor, *i)
		}
		return "", err
	case "resent":
		return "", until(func() (bool, error) { i, err := s.info(); return err == nil && i.Total_retrans >= uint32(n), err })
	case "probed":
		limit := lab.Patience
		if os.Getenv("TAPROOT_SLOW") != "" {
			n, limit = 8, 3*time.Minute // 0.2 s, twice that each time: a minute
		}
		return "", within(limit, func() (bool, error) { i, err := s.info(); return err == nil && int(i.Backoff) >= n, err })
	case "freed":
		return "", until(func() (bool, error) { _, inUse, err := ownPort(p.guest, p.last.Port()); return !inUse, err })
	case "timewait":
		return "", until(func() (bool, error) {
			state, _, err := ownPort(p.guest, p.last.Port())
			return state == unix.BPF_TCP_TIME_WAIT, err
		})
	case "keptalive":
		before, err := keepAlives(p.guest)
		if err != nil {
			return "", err
		}
		return "", until(func() (bool, error) { now, err := keepAlives(p.guest); return now >= before+n, err })
	default:
		return "", errScript
	}
}

// keepAlives is how many keep-alive probes sockets of a namespace have sent.
func keepAlives(n *lab.Namespace) (int, error) {
	var text []byte
	err := n.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/netstat")
		return err
	})
	if err != nil {
		return 0, err
	}
	// Lines come in pairs: "TcpExt: NAME..." and "TcpExt: VALUE...".
	lines := strings.Split(string(text), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for at, name := range names {
			if name == "TCPKeepAlive" && at < len(values) {
				return strconv.Atoi(values[at])
			}
		}
	}
	return 0, fmt.Errorf("TCPKeepAlive: not in %d lines", len(lines))
}

// peerWord says who the peer is.
func peerWord(p *play, actor string, _ []string) (string, error) {
	s, err := p.socket(actor)
	if err != nil {
		return "", err
	}
	name, err := unix.Getpeername(s.fd)
	if err != nil {
		return "", err
	}
	f, peer := families[p.family], addrPort(name)
	switch peer.Addr().String() {
	case f.outside:
		return "the outside", nil
	case f.host:
		return "the host", nil
	case f.guest:
		return "the guest", nil
	default:
		return peer.String(), nil
	}
}

// ownPort is the state of a namespace's connection whose own port is this, as
// the kernel numbers them, and whether there is one.
func ownPort(n *lab.Namespace, port uint16) (state int, found bool, err error) {
	err = n.Do(func() error {
		for _, table := range []string{"tcp", "tcp6"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + table)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			for line := range strings.Lines(string(text)) {
				// "sl: ADDRESS:PORT ADDRESS:PORT STATE ...", all in hexadecimal.
				if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
					number, err := strconv.ParseUint(f[3], 16, 8)
					state, found = int(number), true
					return err
				}
			}
		}
		return nil
	})
	return state, found, err
}
