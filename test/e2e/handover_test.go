package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"taproot/test/lab"
)

// A traffic is a connection with hashed streams both ways that go on until it is told
// to stop.
type traffic struct {
	conversation
	stop  chan struct{}
	pause time.Duration // between two pieces
	rests bool          // nothing moves before stop
	half  bool          // the other end has sent its FIN before
	hash  [2][2][32]byte
	size  [2][2]int64 // that were sent and received, by end
	err   error
}

// send sends random pieces from one end until it is told to stop, and then FIN.
func (c *traffic) send(end int) error {
	conn, hash := c.ends[end].(*net.TCPConn), sha256.New()
	random := rand.NewChaCha8([32]byte{byte(end)})
	b := make([]byte, 16<<10)
	for stopped := false; !stopped; {
		if c.rests {
			<-c.stop
		}
		select {
		case <-c.stop:
			stopped = true
		case <-time.After(c.pause):
		}
		n := 1 + rand.IntN(len(b))
		random.Read(b[:n])
		hash.Write(b[:n])
		c.size[end][0] += int64(n)
		if _, err := conn.Write(b[:n]); err != nil {
			return fmt.Errorf("%s, end %d: %w", c.name, end, err)
		}
	}
	hash.Sum(c.hash[end][0][:0])
	return conn.CloseWrite()
}

// receive receives all that the other end sends.
func (c *traffic) receive(end int) error {
	hash := sha256.New()
	n, err := io.Copy(hash, c.ends[end])
	hash.Sum(c.hash[1-end][1][:0])
	c.size[1-end][1] = n
	if err != nil {
		return fmt.Errorf("%s, end %d, after %d bytes: %w", c.name, end, n, err)
	}
	return nil
}

// run moves bytes both ways, or one way only where one end has sent its FIN.
func (c *traffic) run() {
	var wg sync.WaitGroup
	var errs [4]error
	for end := range c.ends {
		wg.Go(func() {
			if c.half && end == 1 {
				errs[end] = c.ends[1].(*net.TCPConn).CloseWrite()
				sha256.New().Sum(c.hash[1][0][:0]) // of nothing
				return
			}
			errs[end] = c.send(end)
		})
		wg.Go(func() { errs[2+end] = c.receive(end) })
	}
	wg.Wait()
	c.err = errors.Join(errs[:]...)
}

// check wants every byte to have arrived, when run has returned.
func (c *traffic) check(t *testing.T) {
	t.Helper()
	if c.err != nil {
		t.Error(c.err)
		return
	}
	for end := range c.ends {
		if c.hash[end][0] != c.hash[end][1] || c.size[end][0] != c.size[end][1] {
			t.Errorf("%s, end %d: %d bytes were sent, and %d others came", c.name, end, c.size[end][0], c.size[end][1])
		}
	}
}

// crowdOf opens n connections each way, of both families in turn: fast and slow ones,
// some that rest and some that are half closed.
func crowdOf(t *testing.T, l *lab.Lab, guest *lab.Namespace, n int) []*traffic {
	t.Helper()
	outside, inside := l.Outside.Listen("tcp", ":0"), guest.Listen("tcp", ":80")
	defer outside.Close()
	defer inside.Close()
	var all []*traffic
	for i := range 2 * n {
		f := families[i/2%2]
		c := &traffic{stop: make(chan struct{}), pause: time.Duration(1+i%7) * 10 * time.Millisecond, rests: i%5 == 4, half: i%10 == 3}
		if c.name = fmt.Sprintf("%s %d", f.name, i); i%2 == 0 {
			c.ends[0], c.ends[1] = open(t, guest, join(f.outside, port(outside.Addr())), outside)
		} else {
			c.ends[1], c.ends[0] = open(t, l.Outside, join(f.host, 8080), inside)
		}
		for _, end := range c.ends {
			end.SetDeadline(time.Now().Add(5 * lab.Patience)) // for all that the test does
		}
		all = append(all, c)
	}
	return all
}

// TestHandover restarts the engine again and again while a hundred connections of the
// shortcut are open in both directions: none of them is lost, and no byte. By frames,
// each is reset.
func TestHandover(t *testing.T) {
	t.Parallel()
	const restarts = 5
	l := newLab(t)
	lab.Need(t, lab.IPv6)
	needTProxy(t, l)
	w := newWeb(t, l, "--shortcut=on", "-p", "*:8080:80")
	guest := networkOf(t, l, w.shell)
	other := copied(t, l, l.TaprootPath())
	all := crowdOf(t, l, guest, 50)
	before := w.ctl("flows")
	if got := strings.Count(before, "shortcut"); got != len(all) {
		t.Fatalf("flows: got %d by the shortcut, want %d:\n%s", got, len(all), before)
	}
	var wg sync.WaitGroup
	for _, c := range all {
		wg.Go(c.run)
	}
	for i := range restarts {
		args := []string{"restart"}
		if i%2 == 1 {
			args = append(args, "--binary="+other)
		}
		old := process(t, l, engineName).PID
		begun := time.Now()
		w.ctl(args...)
		t.Logf("restart %d: %v", i, time.Since(begun))
		if process(t, l, engineName).PID == old {
			t.Error("still the same engine")
		}
	}
	wantSameFlows(t, before, w.ctl("flows"))
	for _, c := range all {
		close(c.stop)
	}
	wg.Wait()
	var moved int64
	for _, c := range all {
		c.check(t)
		moved += c.size[0][0] + c.size[1][0]
	}
	t.Logf("%d bytes over %d restarts", moved, restarts)
	l.Eventually("the flows are over", func() bool { return !strings.Contains(w.ctl("flows"), "shortcut") })
	wantText(t, "standard error", w.Err(), "")
}

// wantSameFlows wants the same flows in two tables of ctl, by their ids and ends.
func wantSameFlows(t *testing.T, before, after string) {
	t.Helper()
	ids := func(table string) (list []string) {
		for line := range strings.Lines(table) {
			if f := strings.Fields(line); len(f) > 1 && strings.Contains(line, "shortcut") {
				list = append(list, f[0])
			}
		}
		return list
	}
	if got, want := ids(after), ids(before); !slices.Equal(got, want) {
		t.Errorf("flows: got %v, want %v", got, want)
	}
}
