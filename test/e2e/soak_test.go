package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"taproot/test/lab"
)

// soakTime is how long TestSoak uses its instance: 5 seconds, or what SOAKTIME says.
func soakTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("SOAKTIME")
	if text == "" {
		return 5 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("SOAKTIME: %v", err)
	}
	return d
}

// A soak is an instance that is used, disturbed and changed all the time.
type soak struct {
	*web
	t     *testing.T
	guest *lab.Namespace
	ends  context.Context // when clients begin nothing new

	exchanged, cut   atomic.Int64 // streams that were whole, and that a fault ended
	asked, answered  atomic.Int64 // datagrams
	moved            atomic.Int64 // bytes of whole streams
	faults           map[string]int
	supervisor       int // process
	publishedOnePort int
}

// A dialer connects to where an echo is.
type dialer func(ctx context.Context) (net.Conn, error)

// stream sends random bytes, of a random number, to an echo and holds the hash of what
// comes back against theirs. An error is what ended it before; wrong bytes fail the
// test.
func (s *soak) stream(name string, dial dialer) error {
	ctx, cancel := context.WithTimeout(context.Background(), lab.Patience)
	defer cancel()
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(lab.Patience))
	size := 1 + rand.Int64N(1<<uint(rand.IntN(21))) // mostly short ones, up to a megabyte
	random := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(s.exchanged.Load())})
	sent, got := sha256.New(), sha256.New()
	wrote := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.MultiWriter(c, sent), random, size)
		wrote <- err
	}()
	_, err = io.CopyN(got, c, size)
	if writeErr := <-wrote; err == nil {
		err = writeErr
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		s.t.Errorf("%s: %d bytes came back as others", name, size)
	}
	s.moved.Add(2 * size)
	return nil
}

// streams exchanges one stream after the other until it is time.
func (s *soak) streams(name string, dial dialer) {
	for s.ends.Err() == nil {
		err := s.stream(name, dial)
		switch {
		case err == nil:
			s.exchanged.Add(1)
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
			s.t.Errorf("%s: hangs: %v", name, err)
		default:
			s.cut.Add(1)
		}
	}
}

// datagrams asks a UDP echo again and again. What comes back was sent; not all does.
func (s *soak) datagrams(name string, n *lab.Namespace, address string) {
	for s.ends.Err() == nil {
		c, err := n.Dial(s.ends, "udp", address)
		if err != nil {
			continue
		}
		b := make([]byte, 1500)
		for i := range 50 {
			want := fmt.Sprintf("%s %d", name, i)
			c.SetDeadline(time.Now().Add(time.Second))
			s.asked.Add(1)
			if _, err := c.Write([]byte(want)); err != nil {
				continue // an error of the one before
			}
			size, err := c.Read(b)
			if err != nil {
				continue
			}
			s.answered.Add(1)
			if got := string(b[:size]); len(got) < len(name) || got[:len(name)] != name {
				s.t.Errorf("%s: got %q, which was never sent", name, got)
			}
		}
		c.Close()
	}
}

// A fault is something that happens to an instance, and how seldom: an engine that
// dies ten times in a minute is given up.
type fault struct {
	name   string
	seldom time.Duration
	do     func() error
}

func (s *soak) allFaults() []fault {
	inGuest := func(name string, args ...string) func() error {
		return func() error { return s.guest.Command(name, args...).Run() }
	}
	resolver := 0
	return []fault{
		{"engine killed", 8 * time.Second, func() error { return s.signalEngine(syscall.SIGKILL) }},
		{"engine replaced", 2 * time.Second, func() error {
			_, status := s.ask("POST", "/v1/restart", "{}")
			return okay(status)
		}},
		{"engine stopped for a moment", time.Second, func() error {
			if err := s.signalEngine(syscall.SIGSTOP); err != nil {
				return err
			}
			<-time.After(50 * time.Millisecond)
			return s.signalEngine(syscall.SIGCONT)
		}},
		{"rules flushed", time.Second, inGuest("nft", "flush", "ruleset")},
		{"device down and up", 2 * time.Second, inGuest("sh", "-c",
			"ip link set tap0 down && ip link set tap0 up && ip route replace default via "+gateway4)},
		{"resolv.conf changed", time.Second / 4, func() error {
			resolver++
			server := [...]string{lab.Outside4, lab.Second4}[resolver%2]
			return s.l.Host.Command("sh", "-c", "echo nameserver "+server+" >/etc/new && mv /etc/new /etc/resolv.conf").Run()
		}},
		{"port published and unpublished", time.Second / 4, s.changePorts},
		{"flows ended", time.Second, func() error {
			_, status := s.ask("DELETE", "/v1/flows?all=1", "")
			return okay(status)
		}},
	}
}

// okay is the error of a status of the API. Between two engines there is no answer.
func okay(status int) error {
	if status/100 == 2 || status == 503 {
		return nil
	}
	return fmt.Errorf("API: status %d", status)
}

// signalEngine signals the engine of now, if there is one.
func (s *soak) signalEngine(signal syscall.Signal) error {
	for _, p := range s.l.Processes() {
		if len(p.Args) >= len(engineName) && p.Args[:len(engineName)] == engineName {
			if err := syscall.Kill(p.PID, signal); err != syscall.ESRCH { // it may have ended since
				return err
			}
		}
	}
	return nil
}

// changePorts publishes a port, asks for the list and takes the port back.
func (s *soak) changePorts() error {
	answer, status := s.ask("POST", "/v1/rules", fmt.Sprintf(`{"publish":["127.0.0.1:9000:%d"]}`, s.publishedOnePort))
	if err := okay(status); err != nil || status == 503 {
		return err
	}
	list, _ := answer["rules"].([]any)
	if len(list) != 1 {
		return fmt.Errorf("published: got %v", answer)
	}
	rule, _ := list[0].(map[string]any)
	_, status = s.ask("DELETE", fmt.Sprint("/v1/rules/", rule["id"]), "")
	return okay(status)
}

// disturb plays faults in random order until it is time.
func (s *soak) disturb() {
	all := s.allFaults()
	last := make([]time.Time, len(all))
	for s.ends.Err() == nil {
		i := rand.IntN(len(all))
		if time.Since(last[i]) < all[i].seldom {
			<-time.After(10 * time.Millisecond)
			continue
		}
		last[i] = time.Now()
		if err := all[i].do(); err != nil {
			s.t.Errorf("%s: %v", all[i].name, err)
		}
		s.faults[all[i].name]++
	}
}

// newSoak starts what is to be used.
func newSoak(t *testing.T) *soak {
	t.Helper()
	l := newLab(t)
	serveDNS(t, l.Outside, lab.Outside4, "first")
	serveDNS(t, l.Outside, lab.Second4, "second")
	c := guest(l, []string{"-p", "8080:80", "-p", "8080:80/udp", "--name=web"}, "sh")
	c.Stay()
	w := newWebOf(l, startShell(t, c))
	ctx, cancel := context.WithTimeout(t.Context(), soakTime(t))
	t.Cleanup(cancel)
	s := &soak{web: w, t: t, guest: networkOf(t, l, w.shell), ends: ctx, faults: make(map[string]int), supervisor: w.Process.Pid}
	s.publishedOnePort = w.listenInGuest(echo)
	serveTCPAt(s.guest, ":80", echo)
	serveUDPEcho(t, s.guest, guest4+":80")
	return s
}

// use has clients exchange streams and datagrams both ways until it is time.
func (s *soak) use(wg *sync.WaitGroup) {
	outside := join(lab.Outside4, serveTCP(s.t, s.l.Outside, echo))
	udp := join(lab.Outside4, serveUDPEcho(s.t, s.l.Outside, join(lab.Outside4, 0)))
	out := func(ctx context.Context) (net.Conn, error) { return s.guest.Dial(ctx, "tcp", outside) }
	in := func(ctx context.Context) (net.Conn, error) { return s.l.Host.Dial(ctx, "tcp", "127.0.0.1:8080") }
	for range 4 {
		wg.Go(func() { s.streams("out", out) })
		wg.Go(func() { s.streams("in", in) })
	}
	wg.Go(func() { s.datagrams("out", s.guest, udp) })
	wg.Go(func() { s.datagrams("in", s.l.Host, "127.0.0.1:8080") })
}

// TestSoak uses an instance with all that it has while everything that may happen to
// it does. No byte is wrong, nobody waits in vain, and in the end all works and
// nothing is left over. make soak gives it ten minutes.
func TestSoak(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "nft", "ip")
	s := newSoak(t)
	before := descriptorsOf(t, s.supervisor)
	var wg sync.WaitGroup
	s.use(&wg)
	s.disturb()
	begun := time.Now()
	wg.Wait()
	t.Logf("the last client was done after %v", time.Since(begun))
	t.Logf("%d streams with %d MB, %d cut short; %d datagrams, %d answered; faults: %v",
		s.exchanged.Load(), s.moved.Load()>>20, s.cut.Load(), s.asked.Load(), s.answered.Load(), s.faults)
	if s.exchanged.Load() == 0 || s.answered.Load() == 0 {
		t.Error("nothing got through")
	}
	s.wantHealth(before)
}

// wantHealth wants everything to work, and nothing to be left over.
func (s *soak) wantHealth(before int) {
	s.t.Helper()
	tcp := join(lab.Outside4, serveTCP(s.t, s.l.Outside, echo))
	for name, dial := range map[string]dialer{
		"out": func(ctx context.Context) (net.Conn, error) { return s.guest.Dial(ctx, "tcp", tcp) },
		"in":  func(ctx context.Context) (net.Conn, error) { return s.l.Host.Dial(ctx, "tcp", "127.0.0.1:8080") },
	} {
		s.l.Eventually(name+": ten streams in a row", func() bool {
			for range 10 {
				if s.stream(name, dial) != nil {
					return false
				}
			}
			return true
		})
	}
	s.l.Eventually("no flow of TCP is left", func() bool {
		answer, status := s.ask("GET", "/v1/flows?proto=tcp", "")
		list, _ := answer["flows"].([]any)
		return status == 200 && len(list) == 0
	})
	answer, _ := s.ask("GET", "/v1/rules", "")
	if list, _ := answer["rules"].([]any); len(list) != 2 {
		s.t.Errorf("rules: got %v, want the two from the start", answer)
	}
	const kept = 4 // a watch of resolv.conf that another name of it has
	s.l.Eventually("as many descriptors as before", func() bool { return descriptorsOf(s.t, s.supervisor) <= before+kept })
	if got := residentOf(s.t, s.supervisor); got > 100<<20 {
		s.t.Errorf("supervisor: got %d MB resident, want 100 at most", got>>20)
	}
	if got := residentOf(s.t, process(s.t, s.l, engineName).PID); got > 300<<20 {
		s.t.Errorf("engine: got %d MB resident, want 300 at most", got>>20)
	}
}
