package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// newDiverted is a play and the shell in its guest, whose TCP takes the
// shortcut. Its connections may go any way.
func newDiverted(t *testing.T, options ...string) (*play, *shell) {
	t.Helper()
	l := newLab(t)
	needTProxy(t, l)
	c := columns()[2]
	s := newShell(t, l, append(slices.Clone(c.options), options...)...)
	p := newPlayIn(t, l, networkOf(t, l, s))
	t.Cleanup(p.close)
	return p, s
}

// newPlayIn is a play whose guest's network is there already.
func newPlayIn(t *testing.T, l *lab.Lab, guest *lab.Namespace) *play {
	return &play{t: t, lab: l, column: columns()[2], guest: guest, outer: guest, anyWay: true, sockets: map[string]*plainSocket{}}
}

// way makes a connection and uses it, and says which way it went, or all that
// happened if that is not what should.
func (p *play) way() string {
	p.t.Helper()
	lines := strings.Split(plain(`
		guest connect open
		server accept
		guest way
		guest send 5
		server recv 5
		server send 70000
		guest recv 70000
		guest close
		server recv 1: EOF`), "\n")
	want := slices.Clone(lines)
	by := *p
	by.sockets = map[string]*plainSocket{}
	got := by.perform(strings.Join(lines, "\n"))
	for _, way := range []string{byFrames, byShortcut} {
		want[2] = lines[2] + ": " + way
		if got == strings.Join(want, "\n") {
			return way
		}
	}
	return got
}

// wantWay makes a connection that has to go that way.
func (p *play) wantWay(way string) {
	p.t.Helper()
	if got := p.way(); got != way {
		p.t.Errorf("a connection: got %s, want it to go by %s", got, way)
	}
}

// wantUsable wants that what is to be reached is, by whichever way, and that
// nothing else is.
func (p *play) wantUsable() {
	p.t.Helper()
	if got := p.way(); got != byFrames && got != byShortcut {
		p.t.Errorf("a connection: got %s", got)
	}
	want := plain(`
		guest connect closed: ECONNREFUSED
		guest1 connect denied: EHOSTUNREACH
		guest2 connect nonet: ENETUNREACH`)
	by := *p
	by.sockets = map[string]*plainSocket{}
	if got := by.perform(want); got != want {
		p.t.Errorf("refusals: got:\n%s\nwant:\n%s", got, want)
	}
}

// A disturbance is what a guest does to the rules.
type disturbance struct{ name, program, command string }

func disturbances() []disturbance {
	return []disturbance{
		{"ruleset flushed", "nft", "nft flush ruleset"},
		{"table deleted", "nft", "nft delete table ip taproot"},
		{"chain flushed", "nft", "nft flush chain ip taproot prerouting"},
		{"other rules loaded", "nft", "nft -f - <<'END'\nflush ruleset\ntable inet own { chain c { type filter hook input priority 0; }; }\nEND"},
		{"rules saved and loaded", "nft", "nft list ruleset >r.nft && nft flush ruleset && nft -f r.nft"},
		{"routing rule deleted", "ip", "ip rule del pref 60"},
		{"routing table flushed", "ip", "ip route flush table 29793"},
		{"addresses flushed and set", "ip", "ip addr flush dev tap0 && ip addr add 10.0.2.100/24 dev tap0 && ip route add default via 10.0.2.2"},
		{"device down and up", "ip", "ip link set tap0 down && ip link set tap0 up && ip route add default via 10.0.2.2"},
	}
}

// TestShortcutDisturbed: whatever a guest does to the rules, its connections
// work, new ones by frames for a while.
func TestShortcutDisturbed(t *testing.T) {
	t.Parallel()
	for _, tt := range disturbances() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lab.NeedProgram(t, tt.program)
			p, s := newDiverted(t)
			p.wantWay(byShortcut)
			old := plain("guest connect open\nserver accept\nguest send 5\nserver recv 5")
			if got := p.steps(old); got != old {
				t.Fatalf("got:\n%s\nwant:\n%s", got, old)
			}
			s.must(tt.command)
			p.wantUsable()
			p.wantUse()
			p.lab.Eventually("connections take the shortcut again", func() bool { return p.way() == byShortcut })
			p.wantUsable()
		})
	}
}

// wantUse wants that the connection of guest and server, which was there before,
// still works.
func (p *play) wantUse() {
	p.t.Helper()
	script := plain(`
		guest send 70000
		server recv 70000
		server send 70000
		guest recv 70000`)
	if got := p.steps(script); got != script {
		p.t.Errorf("the connection from before: got:\n%s\nwant:\n%s", got, script)
	}
}

// TestShortcutFlushedUnderLoad flushes the rules while 16 clients connect all
// the time. No connection may be lost.
func TestShortcutFlushedUnderLoad(t *testing.T) {
	lab.NeedProgram(t, "nft")
	const clients, rounds = 16, 40
	p, s := newDiverted(t)
	port := serveTCP(t, p.lab.Outside, echo)
	p.wantWay(byShortcut)
	out := s.must(fmt.Sprintf(`%s & for i in 1 2 3 4 5; do sleep 0.1; nft flush ruleset || exit 1; done; wait $!`,
		program(p.lab, "churn", join(lab.Outside4, port), fmt.Sprint(clients), fmt.Sprint(rounds))))
	var good int
	if _, err := fmt.Sscan(out, &good); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	t.Logf("%d of %d connections", good, clients*rounds)
	if lost := clients*rounds - good; lost > 0 {
		t.Errorf("lost: got %d of %d connections, want none", lost, clients*rounds)
	}
	p.lab.Eventually("connections take the shortcut again", func() bool { return p.way() == byShortcut })
}

// TestShortcutFirewalls: other rules in the guest's namespace do there what they
// do without a shortcut.
func TestShortcutFirewalls(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, program, commands string
		way                     string // in the end, or any
	}{
		{"nft input", "nft", `nft add table inet f
			nft add chain inet f in '{ type filter hook input priority 0; policy drop; }'
			nft add rule inet f in ct state established,related accept
			nft add rule inet f in iif lo accept
			nft add rule inet f in meta l4proto '{ icmp, ipv6-icmp }' accept`, ""},
		{"iptables input", "iptables", `iptables -P INPUT DROP
			iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
			iptables -A INPUT -i lo -j ACCEPT`, ""},
		{"iptables invalid", "iptables", `iptables -A INPUT -m conntrack --ctstate INVALID -j DROP
			iptables -A OUTPUT -m conntrack --ctstate INVALID -j DROP
			iptables -t mangle -A PREROUTING -p tcp ! --syn -m conntrack --ctstate NEW -j DROP`, byShortcut},
		{"output by device", "nft", `nft add table inet f
			nft add chain inet f out '{ type filter hook output priority 0; policy drop; }'
			nft add rule inet f out oifname '{ tap0, lo }' accept`, byShortcut},
		{"marks", "iptables", `iptables -t mangle -A PREROUTING -j CONNMARK --restore-mark --mask 0xff
			iptables -t mangle -A OUTPUT -j MARK --set-xmark 7/0xff
			iptables -t mangle -A POSTROUTING -j CONNMARK --save-mark --mask 0xff`, byShortcut},
		{"whole marks", "iptables", `for t in iptables ip6tables; do
				$t -t mangle -A PREROUTING -j CONNMARK --restore-mark
				$t -t mangle -A OUTPUT -j MARK --set-mark 7
				$t -t mangle -A OUTPUT -j CONNMARK --save-mark
				$t -t mangle -A POSTROUTING -j CONNMARK --save-mark
			done`, byShortcut},
		{"marks by nft", "nft", `nft -f - <<'END'
			table inet f {
				chain out { type route hook output priority mangle; meta mark set 7; ct mark set meta mark; }
				chain late { type route hook output priority 300; meta mark set 7; ct mark set meta mark; }
				chain in { type filter hook prerouting priority 300; meta mark set ct mark; }
				chain arrived { type filter hook input priority 0; ct mark set 9; }
			}
END`, byShortcut},
		{"not tracked", "nft", `nft add table inet f
			nft add chain inet f out '{ type filter hook output priority raw; }'
			nft add chain inet f in '{ type filter hook prerouting priority raw; }'
			nft add rule inet f out meta l4proto tcp notrack
			nft add rule inet f in meta l4proto tcp notrack`, ""},
		{"routing by mark", "ip", `ip rule add fwmark 7 lookup 7
			ip route add default via 10.0.2.2 table 7
			ip rule add from 10.0.2.100 lookup 7`, ""},
		{"own masquerade", "nft", `nft add table ip f
			nft add chain ip f post '{ type nat hook postrouting priority srcnat; }'
			nft add rule ip f post oifname tap0 masquerade`, byShortcut},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lab.NeedProgram(t, tt.program)
			p, s := newDiverted(t)
			s.must("( set -e\n" + tt.commands + "\n)")
			for range 5 {
				p.wantUsable()
			}
			if tt.way != "" { // when the supervisor has looked at them
				p.lab.Eventually("connections go by "+tt.way, func() bool { return p.way() == tt.way })
			}
			t.Logf("connections go by %s", p.way())
		})
	}
	t.Run("reject", func(t *testing.T) {
		t.Parallel()
		lab.NeedProgram(t, "nft")
		p, s := newDiverted(t)
		s.must(`nft add table ip f
			nft add chain ip f out '{ type filter hook output priority 0; }'
			nft add rule ip f out ip daddr ` + lab.Second4 + ` reject with icmp type admin-prohibited`)
		port := serveTCP(t, p.lab.Outside, echo)
		got := s.must(program(p.lab, "connect", join(lab.Second4, port), join(lab.Outside4, port)))
		wantText(t, "connect", got, "EHOSTUNREACH\nconnected")
	})
}

// TestShortcutOvertaken: where a routing rule of the guest's leads packets out of the
// device that ours would lead inside, connections that are there and new ones work,
// and the reason is told.
func TestShortcutOvertaken(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "ip")
	p, s := newDiverted(t, "--verbose")
	p.wantWay(byShortcut)
	old := plain("guest connect open\nserver accept\nguest send 5\nserver recv 5")
	if got := p.steps(old); got != old {
		t.Fatalf("got:\n%s\nwant:\n%s", got, old)
	}
	s.must("ip rule add pref 10 iif lo lookup main") // of what is sent here
	for range 3 {
		p.wantUsable()
		p.wantUse()
	}
	p.lab.Eventually("the reason is told", func() bool {
		return strings.Contains(s.Err(), `why="what the rules of the shortcut divert does not arrive"`)
	})
	s.must("ip rule del pref 10")
	p.lab.Eventually("connections take the shortcut again", func() bool { return p.way() == byShortcut })
	p.wantUse()
}

// TestShortcutIsNoWayAround: who makes the listener accept what the engine has
// not dialled gets a reset, and nobody else hears of it.
func TestShortcutIsNoWayAround(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "nft", "ip")
	p, s := newDiverted(t)
	s.must(`( set -e
		ip addr add 192.0.0.8/32 dev lo
		ip rule add pref 10 fwmark 9 lookup 9
		ip route add local default dev lo src 10.0.2.100 table 9
		nft add table ip own
		nft add chain ip own pre '{ type filter hook prerouting priority -160; }'
		nft add rule ip own pre meta mark 9 meta l4proto tcp tproxy to 192.0.0.8:1 accept )`)
	denied, err := p.make("denied", unix.IPPROTO_TCP)
	if err == nil {
		err = unix.Bind(denied.fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(lab.Metadata4).As4(), Port: 9})
	}
	if err := errors.Join(err, unix.Listen(denied.fd, 8)); err != nil {
		t.Fatal(err)
	}
	script := plain(`
		guest set mark 9
		guest start denied
		guest wait end
		guest recv 1: ECONNRESET
		guest2 start inside
		guest2 wait end
		guest2 recv 1: ECONNRESET`)
	if got := p.steps(script); got != script {
		t.Errorf("got:\n%s\nwant:\n%s", got, script)
	}
	if _, err := denied.poll(unix.POLLIN, 0); err != unix.ETIME {
		t.Errorf("a connection at the denied address: got %v, want none", err)
	}
	p.wantUsable()
}
