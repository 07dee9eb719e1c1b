package userns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// attachSetup is what the tests make in namespaces.
func attachSetup(p *testTarget) Setup {
	return Setup{
		Interface: "tap0",
		MTU:       1400,
		MAC:       net.HardwareAddr{0x02, 0, 0, 1, 2, 3},
		Addresses: []netip.Prefix{
			netip.MustParsePrefix("10.0.2.100/24"), netip.MustParsePrefix("10.1.0.1/32"),
			netip.MustParsePrefix("fd00::64/64"), netip.MustParsePrefix("fd01::64/64"),
		},
		Routes: append(defaultRoutes("10.0.2.2", "fd00::2"), []Route{
			{Destination: netip.MustParsePrefix("10.9.0.0/16"), Gateway: netip.MustParseAddr("10.8.0.1")},
			{Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.0.2.1"), OnLink: true, Metric: 200},
			{Destination: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fe80::1"), Metric: 2000},
			{Destination: netip.MustParsePrefix("10.8.0.0/16")},
			{Destination: netip.MustParsePrefix("10.0.2.0/24")}, // the kernel has it already
		}...),
		Device: vethDevice{pid: p.pid},
	}
}

// nullSetup makes no device at all.
func nullSetup() Setup {
	return Setup{Interface: "tap0", Bare: true, Device: nullDevice{}}
}

// checkAttach attaches to a namespace, and wants to see it in there.
func checkAttach(t *testing.T, n *Namespace, p *testTarget) {
	t.Helper()
	f, warnings, err := n.Attach(context.Background(), attachSetup(p))
	if err != nil {
		var h interface{ Hint() string }
		if errors.As(err, &h) {
			t.Log(h.Hint())
		}
		t.Fatal(err)
	}
	f.Close()
	if len(warnings) > 0 {
		t.Errorf("got warnings %q", warnings)
	}
	seen := p.facts(t)
	if got, want := seen.Links["tap0"], (link{1400, "02:00:00:01:02:03", true}); got != want || !seen.Links["lo"].Up {
		t.Errorf("links: got %v, want tap0 as %v and lo up", seen.Links, want)
	}
	for _, want := range []string{"10.0.2.100/24", "10.1.0.1/32", "fd00::64/64", "fd01::64/64"} {
		if !slices.Contains(seen.Addresses, want) {
			t.Errorf("addresses: got %q, want %s among them", seen.Addresses, want)
		}
	}
	for _, want := range []string{
		"0.0.0.0/0 via 10.0.2.2", "0.0.0.0/0 via 192.0.2.1", "10.9.0.0/16 via 10.8.0.1",
		"::/0 via fd00::2", "::/0 via fe80::1",
	} {
		if !slices.Contains(seen.Routes, want) {
			t.Errorf("routes: got %q, want %s among them", seen.Routes, want)
		}
	}
}

// TestAttach attaches to each kind of user namespace that an ordinary user has.
func TestAttach(t *testing.T) {
	if !asUser(t) {
		return
	}
	same := rootTarget()
	same.UidMappings = singleMap(os.Getuid(), os.Getuid())
	same.GidMappings = singleMap(os.Getgid(), os.Getgid())
	for name, attr := range map[string]*syscall.SysProcAttr{
		"root":     rootTarget(),
		"same":     same,
		"unmapped": {Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET},
	} {
		t.Run(name, func(t *testing.T) {
			p := newTarget(t, "answer", attr)
			checkAttach(t, openTarget(t, Target{PID: p.pid}), p)
		})
		t.Run(name+" by path", func(t *testing.T) {
			p := newTarget(t, "answer", attr)
			checkAttach(t, openTarget(t, Target{NetNS: namespacePath(p.pid, "net")}), p)
		})
		t.Run(name+" by paths", func(t *testing.T) {
			p := newTarget(t, "answer", attr)
			target := Target{NetNS: namespacePath(p.pid, "net"), UserNS: namespacePath(p.pid, "user")}
			checkAttach(t, openTarget(t, target), p)
		})
	}
}

// TestAttachNamespaceRoot attaches as root of a user namespace, as in a rootless
// container engine.
func TestAttachNamespaceRoot(t *testing.T) {
	if !asNamespaceRoot(t) {
		return
	}
	t.Run("below", func(t *testing.T) {
		p := newTarget(t, "answer", rootTarget())
		checkAttach(t, openTarget(t, Target{PID: p.pid}), p)
	})
	t.Run("ours", func(t *testing.T) {
		p := newTarget(t, "answer", netTarget())
		checkAttach(t, openTarget(t, Target{PID: p.pid}), p)
	})
	t.Run("ours by name", func(t *testing.T) {
		p := newTarget(t, "answer", netTarget())
		target := Target{PID: p.pid, UserNS: "/proc/self/ns/user"}
		checkAttach(t, openTarget(t, target), p)
	})
	t.Run("net only", func(t *testing.T) {
		p := newTarget(t, "answer", rootTarget())
		checkAttach(t, openTarget(t, Target{PID: p.pid, NetOnly: true}), p)
	})
	t.Run("mount", func(t *testing.T) {
		p := newTarget(t, "answer", netTarget())
		checkAttach(t, openTarget(t, Target{NetNS: mountNamespace(t, p.pid)}), p)
	})
	t.Run("user below net", func(t *testing.T) {
		p := newTarget(t, "answer", belowTarget())
		checkAttach(t, openTarget(t, Target{PID: p.pid}), p)
	})
}

// TestAttachRoot attaches as root of the machine, whom a user namespace of
// somebody else does not know.
func TestAttachRoot(t *testing.T) {
	user := ordinary(t)
	if !user.root {
		t.Skip("needs root")
	}
	theirs := &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: singleMap(0, user.uid),
		GidMappings: singleMap(0, user.gid),
		Credential:  &syscall.Credential{NoSetGroups: true},
	}
	for name, attr := range map[string]*syscall.SysProcAttr{"ours": netTarget(), "theirs": theirs} {
		t.Run(name, func(t *testing.T) {
			p := newTarget(t, "answer", attr)
			checkAttach(t, openTarget(t, Target{PID: p.pid}), p)
		})
	}
}

// TestGuestNamespace attaches once more to guests of our own, with each identity.
func TestGuestNamespace(t *testing.T) {
	if !asUser(t) {
		return
	}
	for _, identity := range []Identity{IdentityRoot, IdentityKeep, IdentityAuto} {
		t.Run(identity.String(), func(t *testing.T) {
			if err := SubordinateIDs(); err != nil && identity == IdentityAuto {
				t.Skip(err)
			}
			s := defaultScript("exit", "0")
			s.Config.Identity = identity
			g, err := Start(context.Background(), s.Config, Setup{})
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			n, err := g.Namespace()
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			setup := attachSetup(&testTarget{pid: g.PID()})
			f, warnings, err := n.Attach(context.Background(), setup)
			if err != nil || len(warnings) > 0 {
				t.Fatalf("got error %v and warnings %q", err, warnings)
			}
			f.Close()
		})
	}
}

// TestAttachTwice wants addresses and routes that are there already kept.
func TestAttachTwice(t *testing.T) {
	if !asUser(t) {
		return
	}
	p := newTarget(t, "answer", rootTarget())
	n := openTarget(t, Target{PID: p.pid})
	checkAttach(t, n, p)
	s := attachSetup(p)
	s.Device = nullDevice{} // the device of the first time
	f, warnings, err := n.Attach(context.Background(), s)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("got error %v and warnings %q", err, warnings)
	}
	f.Close()
	s.Routes = []Route{{Destination: netip.MustParsePrefix("10.9.0.0/16"), Gateway: netip.MustParseAddr("10.0.2.9")}}
	_, _, err = n.Attach(context.Background(), s)
	if want := "route to 10.9.0.0/16 via 10.0.2.9: file exists"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("another route: got %v, want %q", err, want)
	}
}

func TestAttachBare(t *testing.T) {
	if !asUser(t) {
		return
	}
	p := newTarget(t, "answer", rootTarget())
	n := openTarget(t, Target{PID: p.pid})
	s := attachSetup(p)
	s.Bare = true
	f, _, err := n.Attach(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	seen := p.facts(t)
	if l := seen.Links["tap0"]; l.Up || l.MTU == 1400 || l.MAC == "02:00:00:01:02:03" || seen.Links["lo"].Up {
		t.Errorf("links: got %v, want them as they were made", seen.Links)
	}
	f, _, err = n.Attach(context.Background(), Setup{})
	if f != nil || err != nil {
		t.Errorf("no device: got %v and error %v", f, err)
	}
	if seen := p.facts(t); !seen.Links["lo"].Up {
		t.Error("no device: lo is down")
	}
}

// TestAttachAcceptRA wants a device that asks for a router and keeps no address
// of ours.
func TestAttachAcceptRA(t *testing.T) {
	if !asUser(t) {
		return
	}
	p := newTarget(t, "answer", rootTarget())
	n := openTarget(t, Target{PID: p.pid})
	s := attachSetup(p)
	s.AcceptRA, s.Addresses, s.Routes = true, s.Addresses[:2], nil
	f, warnings, err := n.Attach(context.Background(), s)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("got error %v and warnings %q", err, warnings)
	}
	f.Close()
	// 80: not tentative, as it is without duplicate address detection. The kernel
	// makes the address when it notices the carrier.
	const want = "fe8000000000000000000" + "0fffe010203 80"
	eventually(t, "the link-local address "+want, func() bool {
		got := addressesIn(p.facts(t).IfInet6, "tap0")
		return len(got) == 1 && got[0] == want
	})
}

// addressesIn returns a device's addresses and flags from if_inet6.
func addressesIn(list, device string) []string {
	var addresses []string
	for _, line := range strings.Split(list, "\n") {
		if f := strings.Fields(line); len(f) == 6 && f[5] == device {
			addresses = append(addresses, f[0]+" "+f[4])
		}
	}
	return addresses
}

// TestChange wants addresses and routes exchanged, and what others have added
// kept.
func TestChange(t *testing.T) {
	if !asUser(t) {
		return
	}
	p := newTarget(t, "answer", rootTarget())
	n := openTarget(t, Target{PID: p.pid})
	checkAttach(t, n, p)
	before := attachSetup(p)
	others := attachSetup(p)
	others.Addresses = []netip.Prefix{netip.MustParsePrefix("10.5.0.1/24")}
	others.Routes, others.Device = nil, nullDevice{}
	others.AcceptRA = true // or IPv6 would be off
	f, _, err := n.Attach(context.Background(), others)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	after := attachSetup(p)
	after.Addresses = []netip.Prefix{netip.MustParsePrefix("10.3.0.7/16"), netip.MustParsePrefix("fd03::7/64")}
	after.Routes = defaultRoutes("10.3.0.1", "fd03::1")
	if err := n.Change(context.Background(), before, after); err != nil {
		t.Fatal(err)
	}
	seen := p.facts(t)
	slices.Sort(seen.Routes)
	if want := []string{"0.0.0.0/0 via 10.3.0.1", "::/0 via fd03::1"}; !slices.Equal(seen.Routes, want) {
		t.Errorf("routes: got %q, want %q", seen.Routes, want)
	}
	for address, want := range map[string]bool{
		"10.3.0.7/16": true, "fd03::7/64": true, "10.5.0.1/24": true,
		"10.0.2.100/24": false, "10.1.0.1/32": false, "fd00::64/64": false, "fd01::64/64": false,
	} {
		if got := slices.Contains(seen.Addresses, address); got != want {
			t.Errorf("address %s: got %v, want %v", address, got, want)
		}
	}
}

// TestChangeIPv6 gives a device IPv6 that had none.
func TestChangeIPv6(t *testing.T) {
	if !asUser(t) {
		return
	}
	p := newTarget(t, "answer", rootTarget())
	n := openTarget(t, Target{PID: p.pid})
	before, after := attachSetup(p), attachSetup(p)
	before.Addresses, before.Routes = before.Addresses[:2], before.Routes[:1]
	f, _, err := n.Attach(context.Background(), before)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if got := addressesIn(p.facts(t).IfInet6, "tap0"); len(got) != 0 {
		t.Errorf("before: got %q, want none", got)
	}
	if err := n.Change(context.Background(), before, after); err != nil {
		t.Fatal(err)
	}
	if seen := p.facts(t); !slices.Contains(seen.Addresses, "fd00::64/64") || !slices.Contains(seen.Routes, "::/0 via fd00::2") {
		t.Errorf("after: got %q and %q", seen.Addresses, seen.Routes)
	}
}

func TestAttachErrors(t *testing.T) {
	if !asUser(t) {
		return
	}
	p, other := newTarget(t, "answer", rootTarget()), newTarget(t, "answer", rootTarget())
	for _, tt := range []struct {
		name   string
		target Target
		edit   func(*Setup)
		want   string
		hint   string
	}{
		{"no device", Target{PID: p.pid}, func(s *Setup) { s.Device = missingDevice{} },
			"open /dev/net/tun: no such file", "modprobe tun"},
		{"mtu", Target{PID: p.pid}, func(s *Setup) { s.MTU = 10 }, "tap0: mtu 10: invalid argument", ""},
		{"net only", Target{PID: p.pid, NetOnly: true}, nil,
			"join network namespace: operation not permitted", "join its user namespace too"},
		{"wrong user namespace", Target{NetNS: namespacePath(p.pid, "net"), UserNS: namespacePath(other.pid, "user")}, nil,
			"join network namespace: operation not permitted", "does not belong to that user namespace"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := openTarget(t, tt.target)
			s := attachSetup(p)
			if tt.edit != nil {
				tt.edit(&s)
			}
			_, _, err := n.Attach(context.Background(), s)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q in it", err, tt.want)
			}
			var h interface{ Hint() string }
			if errors.As(err, &h) != (tt.hint != "") || tt.hint != "" && !strings.Contains(h.Hint(), tt.hint) {
				t.Errorf("hint of %v: want %q", err, tt.hint)
			}
			if _, err := n.Sockets(context.Background(), []Socket{{Family: unix.AF_INET, Type: unix.SOCK_STREAM}}); tt.edit == nil && !errors.Is(err, syscall.EPERM) {
				t.Errorf("sockets: got %v, want %v", err, syscall.EPERM)
			}
		})
	}
}

// hang has a child hang in a namespace, in opening a pipe that nobody reads, until
// ctx ends. It returns the child's id, and a channel that gets what make returns.
func hang(ctx context.Context, t *testing.T, n *Namespace) (pid int, ended <-chan error) {
	t.Helper()
	pipe := t.TempDir() + "/pipe"
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	before := children(t)
	done := make(chan error, 1)
	go func() {
		_, err := n.make(ctx, []file{{pipe, unix.O_WRONLY}}, nil)
		done <- err
	}()
	eventually(t, "a child that waits", func() bool {
		for _, child := range children(t) {
			_, state, _ := strings.Cut(content("/proc/"+child+"/stat"), ") ")
			if strings.HasPrefix(state, "S") && !slices.Contains(before, child) {
				pid, _ = strconv.Atoi(child)
			}
		}
		return pid != 0
	})
	return pid, done
}

// TestAttachCancelled ends the context while the child hangs.
func TestAttachCancelled(t *testing.T) {
	if !asUser(t) {
		return
	}
	p := newTarget(t, "answer", rootTarget())
	n := openTarget(t, Target{PID: p.pid})
	ctx, cancel := context.WithCancel(context.Background())
	_, ended := hang(ctx, t, n)
	cancel()
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want %v", err, os.ErrDeadlineExceeded)
	}
	if got := children(t); len(got) != 1 {
		t.Errorf("children: got %v, want the target", got)
	}
	if _, _, err := n.Attach(ctx, nullSetup()); !errors.Is(err, context.Canceled) {
		t.Errorf("attach: got %v, want %v", err, context.Canceled)
	}
}

// TestChildIsHidden has root of the guest, who is the same user and sees our
// processes, try to trace the child that is in its namespaces, and so reach the
// memory and files of ours.
func TestChildIsHidden(t *testing.T) {
	if !asUser(t) {
		return
	}
	p := newTarget(t, "trace", rootTarget())
	trace := func(pid int) string {
		fmt.Fprintln(p.in, pid)
		line, err := p.out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(line)
	}
	n := openTarget(t, Target{PID: p.pid})
	ctx, cancel := context.WithCancel(context.Background())
	child, ended := hang(ctx, t, n)
	if got, want := trace(child), syscall.EPERM.Error(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	p.end() // a child that is traced would not be reaped
	cancel()
	<-ended
}

// children returns the children of this process, zombies too.
func children(t testing.TB) []string {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, task := range tasks {
		b, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children") // the thread may have ended
		pids = append(pids, strings.Fields(string(b))...)
	}
	return pids
}
