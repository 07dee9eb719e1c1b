package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"taproot/test/lab"
)

// A pair are two connections to the same server on the outside: one from the guest,
// one from a plain program on the host. Whatever happens to the host, the first fares
// as the second does.
type pair struct {
	t    *testing.T
	ends map[string]net.Conn
}

// newPair connects to a server that echoes.
func newPair(t *testing.T, guest, host *lab.Namespace, address string) *pair {
	t.Helper()
	return &pair{t, map[string]net.Conn{"guest": dialPublished(t, guest, address), "host": dialPublished(t, host, address)}}
}

// echoes tells whether a byte comes back from an end within a limit. What was sent
// before and did not come back yet counts as well.
func (p *pair) echoes(end string, limit time.Duration) error {
	p.t.Helper()
	c := p.ends[end]
	c.SetDeadline(time.Now().Add(limit))
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 64))
	return err
}

// wantEchoes wants both ends to work.
func (p *pair) wantEchoes(when string) {
	p.t.Helper()
	for _, end := range []string{"host", "guest"} {
		if err := p.echoes(end, lab.Patience); err != nil {
			p.t.Errorf("%s: the connection of the %s: got %v, want it to work", when, end, err)
		}
	}
}

// wantSilence wants neither end to work, and neither to have failed.
func (p *pair) wantSilence(when string) {
	p.t.Helper()
	for _, end := range []string{"host", "guest"} {
		if err := p.echoes(end, nobodyLimit); !errors.Is(err, os.ErrDeadlineExceeded) {
			p.t.Errorf("%s: the connection of the %s: got %v, want silence", when, end, err)
		}
	}
}

// ip runs ip(8) on the host as root.
func ip(l *lab.Lab, line string) {
	l.Host.Command("ip", strings.Fields(line)...).MustRun()
}

// restoreRoutes gives the host what the kernel took from it when its interface went
// down.
func restoreRoutes(l *lab.Lab) { ip(l, "route add default via "+lab.Router4) }

// TestHostInterface sets the host's interface down and up: meanwhile the guest is
// told what a program on the host is told, and afterwards all goes on, old
// connections too.
func TestHostInterface(t *testing.T) {
	lab.NeedProgram(t, "ip")
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		port := serveTCP(t, l.Outside, echo)
		address := join(lab.Outside4, port)
		s, guest := newPublished(t, l, options...)
		p := newPair(t, guest, l.Host, address)
		p.wantEchoes("before")
		ip(l, "link set "+lab.HostInterface+" down")
		want := l.Host.Program("connect", address).MustRun()
		wantText(t, "connect while the interface is down", s.must(program(l, "connect", address)), strings.TrimSpace(want))
		p.wantSilence("while the interface is down")
		ip(l, "link set "+lab.HostInterface+" up")
		restoreRoutes(l)
		l.Eventually("new connections", func() bool { return s.must(program(l, "connect", address)) == "connected\n" })
		p.wantEchoes("afterwards")
	})
}

// TestHostMoves gives the host another address and another router while connections
// run. New ones use both at once; old ones fare as those of the host, which wait for
// their address.
func TestHostMoves(t *testing.T) {
	lab.NeedProgram(t, "ip")
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		const moved, otherRouter = "192.0.2.77", "192.0.2.254"
		l.Router.Addresses("host0", otherRouter+"/24")
		serveName(t, l.Outside, "tcp", ":7000", "tcp")
		serveName(t, l.Outside, "udp4", ":7000", "udp")
		echoes := join(lab.Outside4, serveTCP(t, l.Outside, echo))
		at := join(lab.Outside4, 7000)
		_, guest := newPublished(t, l, options...)
		p := newPair(t, guest, l.Host, echoes)
		udp := newUDPClient(t, guest, at)
		wantText(t, "UDP before", udp.ask(), "udp "+lab.Host4)
		ip(l, "route del default")
		ip(l, "addr del "+lab.Host4+"/24 dev "+lab.HostInterface)
		ip(l, "addr add "+moved+"/24 dev "+lab.HostInterface)
		ip(l, "route add default via "+otherRouter)
		wantCall(t, guest, "tcp", at, "tcp "+moved)
		wantCall(t, guest, "udp", at, "udp "+moved)
		wantText(t, "UDP of before", udp.ask(), "udp "+moved)
		p.wantSilence("without their address")
		ip(l, "addr add "+lab.Host4+"/24 dev "+lab.HostInterface)
		p.wantEchoes("with their address again")
	})
}

// A udpClient is one UDP socket in the guest, which stays open.
type udpClient struct {
	t *testing.T
	net.Conn
}

func newUDPClient(t *testing.T, n *lab.Namespace, address string) *udpClient {
	t.Helper()
	c, err := n.Dial(context.Background(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &udpClient{t, c}
}

// ask asks again and again until there is an answer, as programs do.
func (c *udpClient) ask() string {
	c.t.Helper()
	deadline, b := time.Now().Add(lab.Patience), make([]byte, 1500)
	for time.Now().Before(deadline) {
		c.SetDeadline(time.Now().Add(time.Second))
		if _, err := c.Write([]byte("?")); err != nil {
			continue // an error of the datagram before
		}
		if n, err := c.Read(b); err == nil {
			return string(b[:n])
		}
	}
	return "silence"
}

// TestResolvConfBroken takes the host's resolv.conf away in all ways that there are.
// Names are answered again as soon as it is back, and the supervisor, which the file
// was changed a thousand times for, has as many descriptors as before.
func TestResolvConfBroken(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	serveDNS(t, l.Outside, lab.Outside4, "first")
	serveDNS(t, l.Outside, lab.Second4, "second")
	s, guest := newPublished(t, l)
	supervisor, engine := s.Process.Pid, process(t, l, engineName).PID
	answers := func(name, want string) {
		t.Helper()
		l.Eventually(name+": "+want+" answers", func() bool { return askName(guest) == want })
	}
	in := func(script string) { l.Host.Command("sh", "-ec", "cd /etc; "+script).MustRun() }
	write := func(server string) string { return "echo nameserver " + server + " >" }
	answers("as it was", "first")
	before := descriptorsOf(t, supervisor)
	for name, script := range map[string]string{
		"deleted":   "rm -rf resolv.conf",
		"empty":     "rm -rf resolv.conf; : >resolv.conf",
		"directory": "rm -rf resolv.conf; mkdir resolv.conf",
		"dangling":  "rm -rf resolv.conf; ln -s nothing resolv.conf",
		"a loop":    "rm -rf resolv.conf; ln -s resolv.conf resolv.conf",
		"garbage":   "rm -rf resolv.conf; head -c 100000 /dev/urandom >resolv.conf",
		"unread":    "rm -rf resolv.conf; " + write(lab.Outside4) + "resolv.conf; chmod 0 resolv.conf",
		"fifo":      "rm -rf resolv.conf; mkfifo resolv.conf",
	} {
		in(script)
		l.Eventually(name+": any answer", func() bool { return askName(guest) != silence })
		in("rm -rf resolv.conf; " + write(lab.Second4) + "resolv.conf")
		answers("after "+name, "second")
		in(write(lab.Outside4) + "new; mv new resolv.conf")
		answers("after "+name, "first")
	}
	in("i=0; while [ $i -lt 1000 ]; do " + write(lab.Outside4) + "new; mv new resolv.conf; i=$((i+1)); done; " + write(lab.Second4) + "resolv.conf")
	answers("after a thousand changes", "second")
	l.Eventually("as many descriptors as before", func() bool { return descriptorsOf(t, supervisor) <= before })
	if now := process(t, l, engineName).PID; now != engine {
		t.Errorf("engine: got process %d, want still %d", now, engine)
	}
}

// askName asks the guest's resolver for a text and returns that, or the error. It
// does not look at the guest's resolv.conf, which is gone with the host's where that
// is no link.
func askName(guest *lab.Namespace) string {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return guest.Dial(ctx, network, join(resolver4, 53))
	}}
	ctx, cancel := context.WithTimeout(context.Background(), lab.Patience)
	defer cancel()
	texts, err := r.LookupTXT(ctx, "name.example.test.")
	if failed := (*net.DNSError)(nil); errors.As(err, &failed) && failed.Timeout() {
		return silence
	}
	if err != nil {
		return err.Error()
	}
	return strings.Join(texts, " ")
}

// descriptorsOf counts those of a process.
func descriptorsOf(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestSuspended stops everything for longer than the supervisor lets an engine be
// silent, as a machine that sleeps does. With TAPROOT_SLOW=1 that is a minute.
func TestSuspended(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		t.Parallel()
		asleep := 7 * time.Second
		if os.Getenv("TAPROOT_SLOW") != "" {
			asleep = time.Minute
		}
		port := serveTCP(t, l.Outside, echo)
		s, guest := newPublished(t, l, append(options, "-p", "8080:80")...)
		serveEchoes(t, guest, 80)
		wantCall(t, l.Host, "tcp", "127.0.0.1:8080", "80 "+gateway4)
		c := dialPublished(t, guest, join(lab.Outside4, port))
		engine := process(t, l, engineName).PID
		all := l.Processes()
		for _, p := range all {
			syscall.Kill(p.PID, syscall.SIGSTOP)
		}
		<-time.After(asleep)
		for _, p := range all {
			syscall.Kill(p.PID, syscall.SIGCONT)
		}
		wantCall(t, l.Host, "tcp", "127.0.0.1:8080", "80 "+gateway4)
		c.SetDeadline(time.Now().Add(lab.Patience))
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Errorf("the connection from before: got %v, want it to go on", err)
		}
		wantText(t, "a new connection", s.must(program(l, "connect", join(lab.Outside4, port))), "connected")
		if now := process(t, l, engineName).PID; now != engine {
			t.Errorf("engine: got process %d, want still %d", now, engine)
		}
	})
}
