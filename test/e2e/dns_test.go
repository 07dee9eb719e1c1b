package e2e

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"taproot/test/lab"
)

func TestDNS(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "dig")
	l := newLab(t)
	serveDNS(t, l.Outside, lab.Outside4, "outside")
	s := newShell(t, l)
	tests := []struct{ name, options, want string }{
		{"udp", "+notcp www.example.test A", lab.Outside4},
		{"udp AAAA", "+notcp www.example.test AAAA", lab.Outside6},
		{"tcp", "+tcp www.example.test A", lab.Outside4},
		{"search list", "+search www A", lab.Outside4},
		{"DO bit", "+dnssec do.example.test TXT", `"do=true"`},
		{"no DO bit", "+nodnssec do.example.test TXT", `"do=false"`},
		{"the gateway's name", "host.taproot.internal A", gateway4},
		{"the gateway's name AAAA", "host.taproot.internal AAAA", gateway6},
	}
	for _, tt := range tests {
		for _, server := range []string{"", "@" + resolver4, "@" + resolver6} {
			t.Run(tt.name+server, func(t *testing.T) {
				if server == "@"+resolver6 {
					lab.Need(t, lab.IPv6)
				}
				wantText(t, "answer", s.with(t).must("dig +short +tries=4 +time=10 "+server+" "+tt.options), tt.want)
			})
		}
	}
	t.Run("unknown name", func(t *testing.T) {
		wantContains(t, "dig", s.with(t).must("dig +tries=4 +time=10 nothing.example.test"), "status: NXDOMAIN")
	})
}

// TestDNSBig asks for an answer of more than 4 KB.
func TestDNSBig(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "dig")
	l := newLab(t)
	serveDNS(t, l.Outside, lab.Outside4, "outside")
	s := newShell(t, l)
	size := regexp.MustCompile(`MSG SIZE  rcvd: (\d+)`)
	truncated := regexp.MustCompile(`flags:[a-z ]* tc[ ;]`)
	tests := []struct {
		name, options string
		big, tc       bool
	}{
		{"udp", "+notcp +bufsize=8192", true, false},
		{"tcp", "+tcp", true, false},
		{"truncated", "+notcp +ignore +bufsize=1232", false, true},
		{"tcp after truncation", "+notcp +bufsize=1232", true, false},
		{"no EDNS", "+notcp +noedns +ignore", false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := s.with(t).must("dig +tries=4 +time=10 " + tt.options + " big.example.test TXT")
			m := size.FindStringSubmatch(out)
			if m == nil {
				t.Fatalf("no answer: %s", out)
			}
			if n, err := strconv.Atoi(m[1]); err != nil || (n > 4000) != tt.big {
				t.Errorf("size: got %s bytes, want more than 4000: %v", m[1], tt.big)
			}
			if got := truncated.MatchString(out); got != tt.tc {
				t.Errorf("truncated: got %v, want %v", got, tt.tc)
			}
		})
	}
}

// TestDNSOnLoopback has the host's resolver where systemd-resolved has it.
func TestDNSOnLoopback(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "dig")
	l := newLab(t)
	serveDNS(t, l.Host, "127.0.0.53", "stub")
	setResolvConf(t, l, "nameserver 127.0.0.53\n")
	got := guest(l, nil, "dig", "+short", "+tries=4", "+time=10", "name.example.test", "TXT").MustRun()
	wantText(t, "who answers", got, `"stub"`)
	// The way to the stub is for queries only.
	at := guestProgram(l, nil, "connect", "127.0.0.53:53").MustRun()
	wantText(t, "the guest's own loopback", at, "ECONNREFUSED")
}

// TestDNSLinkLocal has the host's resolver where a router's advertisement leaves it:
// at an address of the link only, behind a device that has a name.
func TestDNSLinkLocal(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "dig", "ip")
	lab.Need(t, lab.IPv6)
	l := newLab(t)
	const address, device = "fe80::53", "host0"
	l.Router.Command("ip", "address", "add", address+"/64", "dev", device, "nodad").MustRun()
	var index int
	if err := l.Router.Do(func() error {
		i, err := net.InterfaceByName(device)
		if err == nil {
			index = i.Index
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	serveDNS(t, l.Router, fmt.Sprintf("%s%%%d", address, index), "near")
	zoned := address + "%" + lab.HostInterface
	for _, tt := range []struct{ name, conf, option string }{
		{"resolv.conf", "nameserver " + address + "%nosuchdevice\nnameserver " + zoned + "\n", "--dns=auto"},
		{"option", lab.ResolvConf, "--dns=[" + zoned + "]:53"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := l.With(t)
			setResolvConf(t, l, tt.conf)
			for _, way := range []string{"+notcp", "+tcp"} {
				got := guest(l, []string{tt.option}, "dig", "+short", "+tries=4", "+time=10", way, "name.example.test", "TXT").MustRun()
				wantText(t, "who answers", got, `"near"`)
			}
		})
	}
}

func TestDNSOption(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "dig")
	l := newLab(t)
	serveDNS(t, l.Outside, lab.Outside4, "first")
	serveDNS(t, l.Outside, lab.Second4, "second")
	dig := []string{"dig", "+short", "+tries=4", "+time=10", "name.example.test", "TXT"}
	tests := []struct {
		name, option, want string
	}{
		{"auto", "--dns=auto", `"first"`},
		{"address", "--dns=" + lab.Second4, `"second"`},
		{"address and port", "--dns=" + lab.Second4 + ":53", `"second"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantText(t, "who answers", guest(l.With(t), []string{tt.option}, dig...).MustRun(), tt.want)
		})
	}
	t.Run("off", func(t *testing.T) {
		got := guest(l.With(t), []string{"--dns=off"}, "cat", "/etc/resolv.conf").MustRun()
		if got != lab.ResolvConf {
			t.Errorf("resolv.conf: got %q, want the host's own", got)
		}
	})
}

// TestResolvConfFollowed changes the host's resolv.conf under a running guest
// in each way that programs do.
func TestResolvConfFollowed(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "dig")
	l := newLab(t)
	serveDNS(t, l.Outside, lab.Outside4, "first")
	serveDNS(t, l.Outside, lab.Second4, "second")
	s := newShell(t, l)
	const first, second = "nameserver " + lab.Outside4, "nameserver " + lab.Second4
	steps := []struct{ name, script, want string }{
		{"as it was", "true", "first"},
		{"in place", "echo " + second + " >resolv.conf", "second"},
		{"renamed", "echo " + first + " >new && mv new resolv.conf", "first"},
		{"symlink", "mkdir -p run && echo " + second + " >run/a && ln -s run/a new && mv -T new resolv.conf", "second"},
		{"another symlink", "echo " + first + " >run/b && ln -s run/b new && mv -T new resolv.conf", "first"},
		{"in place behind the symlink", "echo " + second + " >run/b", "second"},
		{"renamed behind the symlink", "echo " + first + " >run/new && mv run/new run/b", "first"},
		{"removed and written", "rm resolv.conf && echo " + second + " >resolv.conf", "second"},
	}
	for _, step := range steps {
		l.Host.Command("sh", "-ec", "cd /etc; "+step.script).MustRun()
		l.Eventually(step.name+": "+step.want+" answers", func() bool {
			out, _ := s.do("dig +short +tries=1 +time=10 name.example.test TXT")
			return out == `"`+step.want+"\"\n"
		})
	}
}

// setResolvConf writes the host's resolv.conf.
func setResolvConf(t *testing.T, l *lab.Lab, content string) {
	t.Helper()
	from := l.WriteFile("resolv.conf", content)
	l.Host.Command("cp", from, "/etc/resolv.conf").MustRun()
}

// TestDNSNobody has a host whose resolver does not listen: the guest hears of
// it at once.
func TestDNSNobody(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "dig")
	l := newLab(t)
	s := newShell(t, l)
	for _, way := range []string{"+notcp", "+tcp"} {
		t.Run(way, func(t *testing.T) {
			lab.Eventually(t, "the guest hears of it before the forwarder's own patience ends", func() bool {
				out, _ := s.with(t).do("dig +tries=1 +time=4 " + way + " www.example.test")
				return strings.Contains(out, "status: SERVFAIL")
			})
		})
	}
}
