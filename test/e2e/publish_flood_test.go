package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"taproot/test/lab"
)

// clientsProgram ADDRESS N is N clients at ports from 10000, who say one thing each and
// are gone.
func clientsProgram(args []string) int {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return quit(err)
	}
	server, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return quit(err)
	}
	for i := range n {
		c, err := net.DialUDP("udp", &net.UDPAddr{Port: 10000 + i}, net.UDPAddrFromAddrPort(server))
		if err != nil {
			return quit(err)
		}
		c.Write([]byte("x"))
		c.Close()
	}
	fmt.Println(n)
	return 0
}

// TestPublishUDPFlood: clients who are never answered, or who are and do not hear it,
// fill the table of flows, and give way to others and to the guest's own.
func TestPublishUDPFlood(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(t *testing.T, guest *lab.Namespace){
		"silent":   func(_ *testing.T, guest *lab.Namespace) { guest.ListenPacket("udp", ":80") },
		"answered": func(t *testing.T, guest *lab.Namespace) { serveUDPEcho(t, guest, ":80") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			floodPublishedUDP(t, serve)
		})
	}
}

// floodPublishedUDP floods a published port behind which something is served, and wants
// others to be served beside it.
func floodPublishedUDP(t *testing.T, serve func(t *testing.T, guest *lab.Namespace)) {
	t.Helper()
	const clients = 10000 // more than may be
	l := newLab(t)
	w := newFlooded(t, l, "-p", "*:8080:80/udp", "-p", "*:8081:81/udp")
	guest := networkOf(t, l, w.shell)
	serve(t, guest)
	serveUDPEcho(t, guest, ":81")
	serveName(t, l.Outside, "udp4", ":7000", "outside")
	l.Eventually("the table is full", func() bool {
		l.Outside.Program("clients", join(lab.Host4, 8080), fmt.Sprint(clients)).MustRun()
		flows := w.limit("flows_udp")
		return flows.Now == flows.Limit
	})
	c := dialUDP(t, l.Outside, join(lab.Host4, 8081))
	askMany(t, []net.Conn{c}, []string{numbered(1, 100)})
	wantCall(t, guest, "udp", join(lab.Outside4, 7000), "outside "+lab.Host4)
	l.Eventually("clients gave way", func() bool {
		stats, _ := w.ask("GET", "/v1/stats", "")
		counters, _ := stats["counters"].(map[string]any)
		got, _ := counters["ports_evicted"].(float64)
		return got > 0
	})
}
