package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"taproot/test/lab"
)

// TestPublishTaken: the error says who has the port, as well as that can be known
// here, and nothing is left of the rule.
func TestPublishTaken(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	newShell(t, l, "-p", "8080:80")
	second := guest(l, []string{"-p", "8079-8081:79-81"}, "true").MustStart()
	if got := second.Status(); got != 125 {
		t.Errorf("status: got %d, want 125", got)
	}
	wantContains(t, "standard error", second.Err(), "publish 127.0.0.1:8080/tcp: bind: address already in use: held by ")
	l.Host.Listen("tcp", "127.0.0.1:8090")
	third := guest(l, []string{"-p", "8090:80"}, "true").MustStart()
	third.Status()
	wantContains(t, "standard error", third.Err(), "8090/tcp: bind: address already in use: held by ")
	for _, port := range []int{8079, 8081} {
		if !canBind(l.Host, "tcp", port) {
			t.Errorf("port %d: taken, want it to be given back", port)
		}
	}
}

// TestPublishWait: a rule whose address comes later listens then.
func TestPublishWait(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		const later = "192.0.2.77"
		absent := guest(l, []string{"-p", later + ":8080:80"}, "true").MustStart()
		absent.Status()
		wantContains(t, "standard error", absent.Err(), "cannot assign requested address", "hint: the host has 127.0.0.1, "+lab.Host4)
		_, guest := newPublished(t, l, append(options, "-p", later+":8080:80,wait", "-p", "8081:80")...)
		serveEchoes(t, guest, 80)
		wantCall(t, l.Host, "tcp", "127.0.0.1:8081", "80 "+gateway4)
		l.Host.Addresses(lab.HostInterface, later+"/24")
		awaitCall(t, l.Outside, "tcp", later+":8080", "80 "+lab.Outside4)
	})
}

// TestPublishRefusing: where nobody listens in the guest, clients are refused
// like anywhere, and let in as soon as somebody does.
func TestPublishRefusing(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		_, guest := newPublished(t, l, append(options, "-p", "8080:80", "-p", "8081:81")...)
		for range 2 {
			isRefused := func() bool {
				ctx, cancel := context.WithTimeout(context.Background(), lab.Patience)
				defer cancel()
				c, err := l.Host.Dial(ctx, "tcp", "127.0.0.1:8080")
				if err == nil {
					io.Copy(io.Discard, c) // until it is reset
					c.Close()
				}
				return errors.Is(err, syscall.ECONNREFUSED)
			}
			l.Eventually("a client is refused", isRefused)
			wantNobody(t, l.Host, "tcp", "127.0.0.1:8080")
			server := serveName(t, guest, "tcp", ":80", "80")
			awaitCall(t, l.Host, "tcp", "127.0.0.1:8080", "80 "+gateway4)
			server.Close()
		}
	})
}

// TestPublishGuestGone: with the guest, its ports are free and its clients reset.
func TestPublishGuestGone(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		s, guest := newPublished(t, l, append(options, "-p", "8080:80")...)
		silent := guest.Listen("tcp", ":80")
		client := dialPublished(t, l.Host, "127.0.0.1:8080")
		server, err := silent.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		fmt.Fprintln(s.in, "exit 0")
		s.Status()
		if _, err := client.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("client: got %v, want the end", err)
		}
		if !canBind(l.Host, "tcp", 8080) {
			t.Error("the port is still taken")
		}
	})
}

// dialPublished connects, and gives what follows all of lab.Patience.
func dialPublished(t *testing.T, n *lab.Namespace, address string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.Patience)
	defer cancel()
	c, err := n.Dial(ctx, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(lab.Patience))
	return c
}

// residentOf returns how much memory a process has, in bytes.
func residentOf(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b))
	pages, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// TestPublishStuck: clients that never read, and servers that never do, cost a
// bounded amount of memory each, and nobody else waits for them.
func TestPublishStuck(t *testing.T) {
	const (
		stuck   = 20
		allowed = 8 << 20 // bytes for each: what may be under way both ways, see stack
	)
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		_, guest := newPublished(t, l, append(options, "-p", "*:8080:80", "-p", "8081:81")...)
		serveEchoes(t, guest, 81)
		wantCall(t, l.Host, "tcp", "127.0.0.1:8081", "81 "+gateway4)
		flood := guest.Listen("tcp", ":80")
		go func() {
			for {
				c, err := flood.Accept()
				if err != nil {
					return
				}
				go func() { // writes until the client's end closes it
					defer c.Close()
					for b := make([]byte, 64<<10); ; {
						if _, err := c.Write(b); err != nil {
							return
						}
					}
				}()
			}
		}()
		engine := process(t, l, engineName).PID
		before := residentOf(t, engine)
		for range stuck {
			c := dialPublished(t, l.Outside, join(lab.Host4, 8080))
			go c.Write(make([]byte, 64<<20)) // ends with c
			io.ReadFull(c, make([]byte, 1))
		}
		for range 20 {
			wantCall(t, l.Host, "tcp", "127.0.0.1:8081", "81 "+gateway4)
		}
		grown := residentOf(t, engine) - before
		t.Logf("%d bytes for each of %d clients", grown/stuck, stuck)
		if grown > stuck*allowed {
			t.Errorf("memory: got %d bytes for each client, want %d at most", grown/stuck, allowed)
		}
	})
}

// TestPublishHalfOpen: 2,000 clients that the guest's kernel never answers do
// not keep others waiting. With TAPROOT_SLOW=1 it is 10,000, for which a slow machine
// needs minutes.
func TestPublishHalfOpen(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		_, guest := newPublished(t, l, append(options, "-p", "*:8080:80", "-p", "8081:81")...)
		serveEchoes(t, guest, 80, 81)
		wantCall(t, l.Host, "tcp", "127.0.0.1:8080", "80 "+gateway4)
		guest.Drop(lab.Outside4) // the SYN arrives, and its answer does not
		n := 2000
		if os.Getenv("TAPROOT_SLOW") != "" {
			n = 10000
		}
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil {
			n = min(n, int(limit.Cur)/2)
		}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for range n / 4 {
					ctx, cancel := context.WithTimeout(context.Background(), lab.Patience)
					c, err := l.Outside.Dial(ctx, "tcp", join(lab.Host4, 8080))
					cancel()
					if err != nil {
						t.Error(err)
						return
					}
					t.Cleanup(func() { c.Close() })
				}
			})
		}
		for range 20 {
			wantCall(t, l.Host, "tcp", "127.0.0.1:8081", "81 "+gateway4)
		}
		all.Wait()
		wantCall(t, l.Host, "tcp", "127.0.0.1:8081", "81 "+gateway4)
		wantCall(t, l.Host, "tcp", "127.0.0.1:8080", "80 "+gateway4)
	})
}

// TestPublishEngineKilled: the ports outlive the engine; who comes in between
// waits a moment.
func TestPublishEngineKilled(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		_, guest := newPublished(t, l, append(options, "-p", "8080-8579:80-579", "-p", "8080:80/udp")...)
		serveEchoes(t, guest, 80, 579)
		for range 3 {
			old := process(t, l, engineName)
			if err := syscall.Kill(old.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			wantCall(t, l.Host, "tcp", "127.0.0.1:8080", "80 "+gateway4)
			wantCall(t, l.Host, "tcp", "[::1]:8579", "579 "+gateway6)
			t.Logf("served again after %v", time.Since(begun))
			wantCall(t, l.Host, "udp", "127.0.0.1:8080", "80 "+gateway4)
		}
	})
}

// TestPublishDescriptors: without descriptors new clients are turned away, those
// that are there go on, and when some leave, others are served.
func TestPublishDescriptors(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		const limit = 100
		args := append([]string{"-c", fmt.Sprintf("ulimit -n %d; exec \"$@\"", limit), "sh", l.TaprootPath(), "run"}, options...)
		c := l.User("sh", append(args, "-p", "8080:80", "--", "sleep", "1000")...)
		c.Env = append(c.Env, "TMPDIR="+tmpDir(l), "XDG_RUNTIME_DIR="+runtimeDir(l))
		c.MustStart()
		defer func() { syscall.Kill(c.Process.Pid, syscall.SIGTERM) }()
		var command lab.Process
		l.Eventually("the command runs", func() bool {
			for _, p := range l.Processes() {
				if p.Args == "sleep 1000" {
					command = p
				}
			}
			return command.PID != 0
		})
		guest := l.NamespaceOf(command.PID, "guest")
		silent := guest.Listen("tcp", ":80")
		go holdAll(silent)
		old := dialPublished(t, l.Host, "127.0.0.1:8080")
		wantByte(t, old)
		turned := 0
		for range 2 * limit {
			ctx, cancel := context.WithTimeout(context.Background(), lab.Patience)
			client, err := l.Host.Dial(ctx, "tcp", "127.0.0.1:8080")
			cancel()
			if err == nil {
				t.Cleanup(func() { client.Close() })
				client.SetDeadline(time.Now().Add(lab.Patience))
				_, err = io.ReadFull(client, make([]byte, 1))
			}
			switch {
			case errors.Is(err, syscall.ECONNRESET):
				turned++
			case err != nil:
				t.Fatalf("neither served nor turned away: %v", err)
			}
		}
		t.Logf("turned away %d of %d", turned, 2*limit)
		if turned < limit {
			t.Errorf("turned away: got %d clients of %d, want %d at least", turned, 2*limit, limit)
		}
		wantIdle(t, process(t, l, engineName).PID)
		if _, err := old.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		wantByte(t, old)
	})
}

// wantIdle wants a process to run, or to wait for its turn to, for less than half of
// the time. One that spins does nothing else, however much of a processor it gets.
func wantIdle(t *testing.T, pid int) {
	t.Helper()
	const window = time.Second
	lab.Eventually(t, "it has little to do", func() bool { // which many that wait for a processor add to
		before, begun := busyTime(t, pid), time.Now()
		<-time.After(window)
		return busyTime(t, pid)-before <= time.Since(begun)/2
	})
}

// busyTime returns how long a process's threads have run or waited for a processor:
// the first fields of schedstat (Documentation/scheduler/sched-stats.rst).
func busyTime(t *testing.T, pid int) (sum time.Duration) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("process %d: %d threads, %v", pid, len(threads), err)
	}
	for _, path := range threads {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		var ran, waited time.Duration
		if _, err := fmt.Sscan(string(b), &ran, &waited); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		sum += ran + waited
	}
	return sum
}

// TestPublishSilent: a client that connects and says nothing is seen by the guest's
// program at once, stays, and is counted; one that does not read stays too. Both end
// with their rule, if that is asked for.
func TestPublishSilent(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		w := newWeb(t, l, append(options, "-p", "*:8080:80", "-p", "8081:81")...)
		guest := networkOf(t, l, w.shell)
		serveEchoes(t, guest, 81)
		silent := guest.Listen("tcp", ":80")
		silent.(*net.TCPListener).SetDeadline(time.Now().Add(lab.Patience))
		var ends []net.Conn
		for range 2 {
			client := dialPublished(t, l.Outside, join(lab.Host4, 8080))
			server, err := silent.Accept()
			if err != nil {
				t.Fatalf("a client that says nothing: %v", err)
			}
			defer server.Close()
			if got, want := server.RemoteAddr().String(), client.LocalAddr().String(); got != want {
				t.Errorf("client: got %s, want %s", got, want)
			}
			server.SetDeadline(time.Now().Add(lab.Patience))
			ends = append(ends, client, server)
		}
		unread := make(chan error, 1)
		go func() {
			_, err := ends[1].Write(make([]byte, 64<<20))
			unread <- err
		}()
		wantCall(t, l.Host, "tcp", "127.0.0.1:8081", "81 "+gateway4)
		answer, _ := w.ask("GET", "/v1/rules/1", "")
		if counters, _ := answer["counters"].(map[string]any); counters["live"] != 2.0 || counters["bytes_to_target"] != 0.0 {
			t.Errorf("counters: got %v, want two flows and no byte to the target", answer["counters"])
		}
		w.ctl("unpublish", "--kill", "1")
		for i, c := range ends {
			_, err := io.Copy(io.Discard, c)
			if i == 1 {
				err = errors.Join(err, <-unread) // one of them is told
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("end %d: got %v, want %v", i, err, syscall.ECONNRESET)
			}
		}
		if answer, status := w.ask("GET", "/v1/rules/1", ""); status != 404 {
			t.Errorf("the rule: got %v, want it gone", answer)
		}
	})
}

// wantByte wants one byte to come.
func wantByte(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("an old connection: %v", err)
	}
}

// holdAll greets each client with a byte, and answers each byte.
func holdAll(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { // ends with the client
			defer c.Close()
			c.Write([]byte("x"))
			io.Copy(c, c)
		}()
	}
}
