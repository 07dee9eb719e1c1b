package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"taproot/stack"
	"taproot/stack/flow"
)

const pingRange = "/proc/sys/net/ipv4/ping_group_range"

// allowPing opens ping sockets in the test's namespace.
func allowPing(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(pingRange, []byte("0 0"), 0); err != nil {
		t.Fatal(err)
	}
}

func startEcho(t *testing.T, changes ...func(*EchoConfig)) (*Echo, *fakeGuest) {
	t.Helper()
	guest := newFakeGuest()
	cfg := EchoConfig{Config: testConfig(t, guest)}
	for _, change := range changes {
		change(&cfg)
	}
	e, err := NewEcho(cfg)
	if err != nil {
		t.Fatal(err)
	}
	start(t, e.Run)
	return e, guest
}

// request returns what the guest's stack makes of an echo request.
func request(source netip.Addr, destination string, id, seq uint16, payload string) stack.Echo {
	r := stack.Echo{
		Source: source, Destination: netip.MustParseAddr(destination),
		ID: id, Seq: seq, Payload: []byte(payload), TTL: 64,
	}
	typ := uint8(icmp4Echo)
	if source.Is6() {
		typ = icmp6Echo
	}
	r.Header = echoOriginal(netip.AddrPortFrom(source, id), netip.AddrPortFrom(r.Destination, id),
		header{uint16(len(payload)), 64, 0}, appendEcho(nil, typ, id, seq))
	return r
}

func TestEchoThereAndBack(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	allowPing(t)
	if err := PingAllowed(); err != nil {
		t.Fatalf("allowed: got %v, want nil", err)
	}
	e, guest := startEcho(t)
	for _, test := range []struct {
		guest   netip.Addr
		target  string
		id, seq uint16
		size    int
		typ     uint8
	}{
		{guest4, outside4, 7, 1, 56, 0},
		{guest4, outside4, 7, 2, 0, 0},
		{guest4, otherOutside4, 7, 1, 1473, 0},
		{guest4, outside4, 0, 1, 56, 0}, // an identifier that a socket cannot have
		{guest4, outside4, 65535, 65535, 65507, 0},
		{guest6, outside6, 7, 1, 56, 129},
		{guest6, outside6, 0xabcd, 9, 20000, 129},
	} {
		payload := strings.Repeat("p", test.size)
		e.Handle(request(test.guest, test.target, test.id, test.seq, payload))
		got := parseError(t, next(t, guest.packets))
		if string(got.quoted) != payload {
			t.Errorf("%s %d: payload of %d bytes came back changed, as %d", test.target, test.id, test.size, len(got.quoted))
		}
		got.quoted = nil
		want := icmpMessage{netip.MustParseAddr(test.target), test.guest, 63, test.typ, 0, uint32(test.id)<<16 | uint32(test.seq), nil}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s %d: got %v, want %v", test.target, test.id, got, want)
		}
	}
	if got := e.cfg.Flows.Len(flow.ICMP); got != 6 {
		t.Errorf("flows: got %d, want 6", got)
	}
}

func TestEchoForbiddenByHost(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	if err := os.WriteFile(pingRange, []byte("1 0"), 0); err != nil && !errors.Is(err, syscall.EINVAL) {
		t.Fatal(err) // EINVAL: closed already
	}
	if err := PingAllowed(); !errors.Is(err, os.ErrPermission) {
		t.Errorf("allowed: got %v, want %v", err, os.ErrPermission)
	}
	e, guest := startEcho(t)
	for _, test := range []struct {
		guest, gateway netip.Addr
		target         string
		typ, code      uint8
	}{{guest4, gateway4, outside4, 3, 13}, {guest6, gateway6, outside6, 1, 1}} {
		r := request(test.guest, test.target, 7, 1, "x")
		e.Handle(r)
		got := parseError(t, next(t, guest.packets))
		if got.source != test.gateway || got.typ != test.typ || got.code != test.code || string(got.quoted) != string(r.Header) {
			t.Errorf("%s: got %+v, want prohibited by the gateway", test.target, got)
		}
	}
	if got := e.cfg.Flows.Len(flow.ICMP); got != 0 {
		t.Errorf("flows: got %d, want 0", got)
	}
}

// Errors about an echo quote the request with the guest's identifier, also
// where the host had to use another.
func TestEchoErrors(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	allowPing(t)
	e, guest := startEcho(t)
	r := request(guest4, outside4, 7, 3, "hello")
	r.TTL = 1
	e.Handle(r)
	got := parseError(t, next(t, guest.packets))
	if got.source != gateway4 || got.typ != icmp4TimeExceeded {
		t.Errorf("TTL 1: got %+v, want time exceeded from the gateway", got)
	}

	r.TTL = 5
	e.Handle(r)
	next(t, guest.packets) // the reply; the error is about the next hop's packet
	host := netip.MustParseAddr(outside4)
	message := append(appendEcho(nil, icmp4Echo, 7, 3), "hello"...)
	inject(t, "203.0.113.9", TimeExceeded, echoOriginal(netip.AddrPortFrom(host, 7), netip.AddrPortFrom(host, 7), header{5, 1, 0}, message), 0)
	got = parseError(t, next(t, guest.packets))
	want := echoOriginal(netip.AddrPortFrom(guest4, 7), netip.AddrPortFrom(host, 7), header{5, 5, 0}, message)
	if got.source.String() != "203.0.113.9" || got.typ != icmp4TimeExceeded || string(got.quoted) != string(want) {
		t.Errorf("got %+v, want time exceeded about % x", got, want)
	}

	e.Handle(request(guest4, "192.0.2.1", 7, 1, "x"))
	got = parseError(t, next(t, guest.packets))
	if got.source != gateway4 || got.typ != 3 || got.code != 0 {
		t.Errorf("no route: got %+v, want net unreachable from the gateway", got)
	}
}

// Two guests' ends with one identifier get a socket each.
func TestEchoIdentifierTaken(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	allowPing(t)
	first, firstGuest := startEcho(t)
	second, secondGuest := startEcho(t)
	first.Handle(request(guest4, outside4, 7, 1, "first"))
	second.Handle(request(guest4, outside4, 7, 1, "second"))
	for _, test := range []struct {
		guest *fakeGuest
		want  string
	}{{firstGuest, "first"}, {secondGuest, "second"}} {
		got := parseError(t, next(t, test.guest.packets))
		if string(got.quoted) != test.want || got.rest != 7<<16|1 {
			t.Errorf("got %q %#x, want %q %#x", got.quoted, got.rest, test.want, 7<<16|1)
		}
	}
}

func TestEchoDeniedOtherwise(t *testing.T) {
	e, guest := startEcho(t, func(c *EchoConfig) { c.Denied = NetUnreachable })
	e.Handle(request(guest4, "169.254.169.254", 7, 1, "x"))
	if got := parseError(t, next(t, guest.packets)); got.typ != 3 || got.code != 0 {
		t.Errorf("got %+v, want net unreachable", got)
	}
}

func TestEchoDenied(t *testing.T) {
	e, guest := startEcho(t)
	e.Handle(request(guest4, "169.254.169.254", 7, 1, "x"))
	if got := parseError(t, next(t, guest.packets)); got.source != gateway4 || got.typ != 3 || got.code != 13 {
		t.Errorf("got %+v, want prohibited by the gateway", got)
	}
}
