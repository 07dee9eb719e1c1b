package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"taproot/test/lab"
)

// TestConnectErrors: what the host meets is what the guest sees.
func TestConnectErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, target, want string
		needs              []lab.Feature
	}{
		{"refused ipv4", lab.Outside4, "ECONNREFUSED", nil},
		{"host ipv4", lab.NoHost4, "EHOSTUNREACH", nil},
		{"network ipv4", lab.NoNet4, "ENETUNREACH", nil},
		{"prohibited ipv4", lab.Prohibited4, "EHOSTUNREACH", nil},
		{"silent ipv4", lab.Silent4, "ETIMEDOUT", nil},
		{"refused ipv6", lab.Outside6, "ECONNREFUSED", []lab.Feature{lab.IPv6}},
		{"address ipv6", lab.NoHost6, "EHOSTUNREACH", []lab.Feature{lab.IPv6}},
		{"network ipv6", lab.NoNet6, "ENETUNREACH", []lab.Feature{lab.IPv6}},
		{"prohibited ipv6", lab.Prohibited6, "EACCES", []lab.Feature{lab.IPv6}},
		{"silent ipv6", lab.Silent6, "ETIMEDOUT", []lab.Feature{lab.IPv6}},
	}
	for _, options := range [][]string{nil, {"--offload=off"}} {
		t.Run(strings.Join(options, " "), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			s := newShell(t, l, options...)
			for _, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					lab.Need(t, tt.needs...)
					// Two SYNs are enough to see silence: 1+2 s. The
					// router needs 3 s to find that nobody has NoHost6.
					retries := "4"
					if tt.want == "ETIMEDOUT" {
						retries = "1"
					}
					s.with(t).must("echo " + retries + " >/proc/sys/net/ipv4/tcp_syn_retries")
					got := s.with(t).must(program(l, "connect", join(tt.target, 9)))
					wantText(t, "connect", got, tt.want)
				})
			}
		})
	}
}

// TestHalfClose closes one direction and uses the other, both ways.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	const size = 3_000_000
	for _, options := range [][]string{nil, {"--offload=off"}} {
		t.Run(strings.Join(options, " "), func(t *testing.T) {
			l := newLab(t)
			afterEnd := serveTCP(t, l.Outside, func(conn *net.TCPConn) {
				fmt.Fprint(conn, hash(conn))
			})
			endsFirst := serveTCP(t, l.Outside, func(conn *net.TCPConn) {
				io.WriteString(conn, "greeting ")
				conn.CloseWrite()
				io.Copy(io.Discard, conn)
			})
			for _, f := range families {
				t.Run(f.name, func(t *testing.T) {
					lab.Need(t, f.needs...)
					l := l.With(t)
					got := guestProgram(l, options, "halfclose", join(f.outside, afterEnd), fmt.Sprint(size)).MustRun()
					wantText(t, "answer after the guest's end", got, hash(body(size)))
					got = guestProgram(l, options, "halfclose", join(f.outside, endsFirst), fmt.Sprint(size)).MustRun()
					wantText(t, "answer before the guest's end", got, "greeting")
				})
			}
		})
	}
}

func TestNetcat(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "nc")
	l := newLab(t)
	port := serveTCP(t, l.Outside, func(conn *net.TCPConn) {
		fmt.Fprint(conn, hash(conn))
	})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			lab.Need(t, f.needs...)
			c := guest(l.With(t), nil, "nc", "-N", f.outside, fmt.Sprint(port))
			c.Stdin = strings.NewReader("some words\n")
			wantText(t, "answer", c.MustRun(), hash(strings.NewReader("some words\n")))
		})
	}
}

// TestReset passes resets on, both ways.
func TestReset(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			lab.Need(t, f.needs...)
			l := l.With(t)
			resets := serveTCP(t, l.Outside, func(conn *net.TCPConn) {
				conn.Read(make([]byte, 1))
				conn.SetLinger(0)
			})
			c := guestProgram(l, nil, "hold", join(f.outside, resets))
			c.Stdin = strings.NewReader("\n")
			wantText(t, "the guest sees", c.MustRun(), "connected\nECONNRESET")

			seen := make(chan error, 1)
			listens := serveTCP(t, l.Outside, func(conn *net.TCPConn) {
				io.ReadFull(conn, make([]byte, len("hello")))
				conn.Write([]byte("x"))
				_, err := conn.Read(make([]byte, 1))
				seen <- err
			})
			guestProgram(l, nil, "reset", join(f.outside, listens)).MustRun()
			if err := <-seen; err == nil || errno(err) != "ECONNRESET" {
				t.Errorf("the server sees: got %v, want ECONNRESET", err)
			}
		})
	}
}

// TestInitiatorWaits: the guest's handshake is only completed after the host's.
func TestInitiatorWaits(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := guestProgram(l, nil, "connect", join(lab.Silent4, 9)).MustStart()
	select {
	case <-c.Done():
		t.Errorf("connected to nobody: %q", c.Out())
	case <-time.After(2 * time.Second): // not a wait for something: for nothing
	}
}

func TestManyConnections(t *testing.T) {
	const many = 1000
	for _, options := range [][]string{nil, {"--offload=off"}} {
		t.Run(strings.Join(options, " "), func(t *testing.T) {
			l := newLab(t)
			for _, f := range families {
				t.Run(f.name, func(t *testing.T) {
					lab.Need(t, f.needs...)
					l := l.With(t)
					port := serveTCP(t, l.Outside, echo)
					got := guestProgram(l, options, "many", join(f.outside, port), fmt.Sprint(many)).MustRun()
					wantText(t, "connections", got, fmt.Sprint(many))
				})
			}
		})
	}
}

// TestChurn opens and closes with 32 clients at a time: SYNs do not get lost. A
// machine that stands still for a second makes those late that are under way,
// which is once for each client. Where it does so again and again, one of several
// tries has to be better.
func TestChurn(t *testing.T) {
	const clients, rounds = 32, 50
	l := newLab(t)
	port := serveTCP(t, l.Outside, echo)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			lab.Need(t, f.needs...)
			l := l.With(t)
			l.Eventually(fmt.Sprintf("at most %d of %d connections are late", clients, clients*rounds), func() bool {
				got := guestProgram(l, nil, "churn", join(f.outside, port), fmt.Sprint(clients), fmt.Sprint(rounds)).MustRun()
				var good, late int
				if _, err := fmt.Sscan(got, &good, &late); err != nil || good != clients*rounds {
					t.Fatalf("connections: got %q, want %d and how many were late", got, clients*rounds)
				}
				t.Logf("%d late", late)
				return late <= clients
			})
		})
	}
}

// TestFewDescriptors runs out of descriptors: flows are refused then, not
// forgotten, and when some end others can start.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	port := serveTCP(t, l.Outside, echo)
	address := join(lab.Outside4, port)
	many := program(l, "many", address, "40")
	script := fmt.Sprintf("ulimit -n 64; exec %s run -- sh -c '%[2]s >/dev/null & %[2]s >/dev/null & %[2]s >/dev/null & wait; until %[3]s | grep connected; do :; done'",
		l.TaprootPath(), many, program(l, "connect", address))
	c := l.User("sh", "-c", script)
	if err := c.Run(); err != nil {
		// So few may also be too few to start; then it says so.
		wantFailure(t, c, 125)
		return
	}
	wantText(t, "afterwards", c.Out(), "connected")
}

func TestIperf(t *testing.T) {
	lab.NeedProgram(t, "iperf3")
	l := newLab(t)
	for _, f := range families {
		for _, way := range []string{"", "-R", "--bidir"} {
			t.Run(f.name+way, func(t *testing.T) {
				lab.Need(t, f.needs...)
				l := l.With(t)
				// One for each client: it sends the next one away while it is
				// still busy with the end of the last.
				server := l.Outside.Command("iperf3", "-s", "-1", "--forceflush").MustStart()
				l.Eventually("iperf3 listens", func() bool { return strings.Contains(server.Out(), "listening") })
				args := []string{"iperf3", "-J", "-t", "1", "-P", "2", "-c", f.outside}
				if way != "" {
					args = append(args, way)
				}
				out := guest(l, nil, args...).MustRun()
				var result struct {
					End struct {
						Received struct {
							Rate float64 `json:"bits_per_second"`
						} `json:"sum_received"`
					}
				}
				if err := json.Unmarshal([]byte(out), &result); err != nil {
					t.Fatal(err)
				}
				// No measurement, only proof that it moves: 10 Mbit/s.
				if rate := result.End.Received.Rate; rate < 10e6 {
					t.Errorf("got %.0f bit/s, want more than 10e6", rate)
				}
			})
		}
	}
}

// TestBothWaysAtOnce sends and receives on one connection at the same time.
func TestBothWaysAtOnce(t *testing.T) {
	t.Parallel()
	const size = 20_000_000
	l := newLab(t)
	port := serveTCP(t, l.Outside, func(conn *net.TCPConn) {
		var sent sync.WaitGroup
		var got string
		sent.Go(func() { io.Copy(conn, body(size)) })
		got = hash(conn)
		sent.Wait()
		fmt.Fprint(conn, got)
	})
	c := guestProgram(l, nil, "halfclose", join(lab.Outside4, port), fmt.Sprint(size))
	out := c.MustRun()
	var want bytes.Buffer
	want.ReadFrom(body(size))
	if !strings.HasPrefix(out, want.String()) {
		t.Errorf("got %d bytes that differ from what was sent", len(out))
	}
	wantText(t, "hash of what the server got", strings.TrimPrefix(out, want.String()), hash(body(size)))
}
