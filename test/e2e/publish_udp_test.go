package e2e

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"taproot/test/lab"
)

// askMany sends each datagram by its connection, without waiting, and wants each
// to come back there. What the kernel drops on a busy machine is sent again.
func askMany(t *testing.T, conns []net.Conn, datagrams []string) {
	t.Helper()
	missing := make(map[net.Conn]map[string]bool)
	for i, d := range datagrams {
		c := conns[i%len(conns)]
		if missing[c] == nil {
			missing[c] = make(map[string]bool)
		}
		missing[c][d] = true
	}
	wait := time.Second // longer each time: what is asked again is more to do
	for end := time.Now().Add(lab.Patience); len(missing) > 0; wait *= 2 {
		if time.Now().After(end) {
			t.Fatalf("%d of %d clients miss answers", len(missing), len(conns))
		}
		for c, wanted := range missing {
			for d := range wanted {
				if _, err := c.Write([]byte(d)); err != nil {
					t.Fatal(err)
				}
			}
		}
		pause := time.Now().Add(wait)
		for c, wanted := range missing {
			collectAnswers(t, c, wanted, pause)
			if len(wanted) == 0 {
				delete(missing, c)
			}
		}
	}
}

// collectAnswers takes answers until all are there or it is time to ask again.
func collectAnswers(t *testing.T, c net.Conn, wanted map[string]bool, pause time.Time) {
	t.Helper()
	b := make([]byte, 1<<16)
	c.SetReadDeadline(pause)
	for len(wanted) > 0 {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if d := string(b[:n]); !asked(d) {
			t.Fatalf("%v: got %d bytes %.20q, which nobody sent", c.LocalAddr(), n, d)
		} else {
			delete(wanted, d) // or it was asked twice
		}
	}
}

// numbered makes a datagram of a size that no other one equals; asked reports
// whether a datagram is such a one.
func numbered(n, size int) string {
	d := fmt.Sprintf("%d of %d ", n, size)
	return d + strings.Repeat("x", max(0, size-len(d)))
}

func asked(d string) bool {
	var n, size int
	_, err := fmt.Sscanf(d, "%d of %d ", &n, &size)
	return err == nil && d == numbered(n, size)
}

// TestPublishUDPSizes: datagrams that clients send in a row arrive as they are,
// joined on the way or not, larger than a packet or not, and so do the answers.
func TestPublishUDPSizes(t *testing.T) {
	t.Parallel()
	// What a socket's buffer takes at once: the largest come alone.
	bursts := [][]int{{20, 100, 100, 100, 50, 1200, 1200, 1200, 1452, 1452, 1472, 1472, 1473, 20, 20}, {4000, 4000, 9000}, {60000}, {65507}}
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			l := newLab(t)
			_, guest := newPublished(t, l, append([]string{"-p", "*:8080:80/udp"}, v.options...)...)
			for _, f := range families {
				t.Run(f.name, func(t *testing.T) {
					lab.Need(t, f.needs...)
					l := l.With(t)
					serveUDPEcho(t, guest, join(f.guest, 80))
					for from, address := range map[*lab.Namespace]string{l.Outside: f.host, l.Host: f.loopback} {
						c := dialUDP(t, from, join(address, 8080))
						for _, sizes := range bursts {
							var datagrams []string
							for i, size := range sizes {
								datagrams = append(datagrams, numbered(i, size))
							}
							askMany(t, []net.Conn{c}, datagrams)
						}
					}
				})
			}
		})
	}
}

// TestPublishUDPClients: a thousand clients, each of whom gets its own answers.
func TestPublishUDPClients(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, guest := newPublished(t, l, "-p", "*:8080:80/udp")
	serveUDPEcho(t, guest, ":80")
	const count, part = 1000, 100 // what the sockets' buffers take at once
	var conns []net.Conn
	var datagrams []string
	for i := range count {
		address := lab.Host4
		if i%2 == 1 && lab.IPv6.Available() {
			address = lab.Host6
		}
		conns = append(conns, dialUDP(t, l.Outside, join(address, 8080)))
		datagrams = append(datagrams, numbered(i, 100))
	}
	for range 3 {
		for i := 0; i < count; i += part {
			askMany(t, conns[i:i+part], datagrams[i:i+part])
		}
	}
}

// dialUDP is a client's socket, which takes answers from there only.
func dialUDP(t *testing.T, from *lab.Namespace, address string) net.Conn {
	t.Helper()
	c, err := from.Dial(context.Background(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestPublishUDPFamilies: a client reaches a program that has the port in the other
// family only, as with TCP.
func TestPublishUDPFamilies(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	lab.Need(t, lab.IPv6)
	_, guest := newPublished(t, l, "-p", "*:7001:81/udp", "-p", "*:7002:82/udp")
	serveName(t, guest, "udp4", ":81", "four")
	serveName(t, guest, "udp6", ":82", "six")
	wantCall(t, l.Host, "udp", "[::1]:7001", "four "+gateway4)
	wantCall(t, l.Host, "udp", "127.0.0.1:7002", "six "+gateway6)
	wantCall(t, l.Outside, "udp", join(lab.Host6, 7001), "four "+gateway4)
	wantCall(t, l.Outside, "udp", join(lab.Host4, 7002), "six "+gateway6)
	wantCall(t, l.Outside, "udp", join(lab.Host4, 7001), "four "+lab.Outside4)
}
