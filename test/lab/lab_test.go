package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	os.Exit(Main(m, Programs{
		"dial":   dialProgram,
		"orphan": orphanProgram,
	}))
}

// dialProgram connects and says what came of it.
func dialProgram(args []string) int {
	conn, err := net.DialTimeout(args[0], args[1], Patience)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer conn.Close()
	_, err = io.Copy(os.Stdout, conn)
	if err != nil {
		return 1
	}
	return 0
}

// orphanProgram leaves a child behind.
func orphanProgram([]string) int {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 1
	}
	_, err = os.StartProcess("/bin/sleep", []string{"sleep", "1000"},
		&os.ProcAttr{Env: os.Environ(), Files: []*os.File{null, null, null}})
	if err != nil {
		return 1
	}
	return 0
}

// greet answers every connection with one line.
func greet(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintln(conn, "hello", conn.RemoteAddr().(*net.TCPAddr).IP)
		conn.Close()
	}
}

func TestPlainRouting(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, listen, from string }{
		{"ipv4", Outside4, Host4},
		{"ipv4 second", Second4, Host4},
		{"ipv4 metadata", Metadata4, Host4},
		{"ipv6", Outside6, Host6},
		{"ipv6 second", Second6, Host6},
		{"ipv6 metadata", Metadata6, Host6},
	}
	l := New(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if netip.MustParseAddr(tt.listen).Is6() {
				Need(t, IPv6)
			}
			l := l.With(t)
			address := net.JoinHostPort(tt.listen, "80")
			go greet(l.Outside.Listen("tcp", address))
			words := l.ProgramArgs("dial", "tcp", address)
			if got, want := l.User(words[0], words[1:]...).MustRun(), "hello "+tt.from+"\n"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, address string
		want          error
	}{
		{"refused ipv4", Outside4, syscall.ECONNREFUSED},
		{"refused ipv6", Outside6, syscall.ECONNREFUSED},
		{"no host ipv4", NoHost4, syscall.EHOSTUNREACH},
		{"no host ipv6", NoHost6, syscall.EHOSTUNREACH},
		{"no network ipv4", NoNet4, syscall.ENETUNREACH},
		{"no network ipv6", NoNet6, syscall.ENETUNREACH},
		{"prohibited ipv4", Prohibited4, syscall.EHOSTUNREACH},
		{"prohibited ipv6", Prohibited6, syscall.EACCES},
		{"silent ipv4", Silent4, os.ErrDeadlineExceeded},
		{"silent ipv6", Silent6, os.ErrDeadlineExceeded},
	}
	l := New(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if netip.MustParseAddr(tt.address).Is6() {
				Need(t, IPv6)
			}
			limit := Patience
			if tt.want == os.ErrDeadlineExceeded {
				limit = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := l.Host.Dial(ctx, "tcp", net.JoinHostPort(tt.address, "9"))
			var timeout net.Error
			isTimeout := errors.As(err, &timeout) && timeout.Timeout()
			if !errors.Is(err, tt.want) && !(isTimeout && tt.want == os.ErrDeadlineExceeded) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestUserOwnsNothing(t *testing.T) {
	t.Parallel()
	l := New(t)
	text := l.User("cat", "/proc/self/status").MustRun()
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch name {
		case "CapEff", "CapPrm", "CapInh", "CapAmb":
			if value != "0000000000000000" {
				t.Errorf("%s: got %s, want none", name, value)
			}
		case "Uid":
			if want := "1000\t1000\t1000\t1000"; value != want {
				t.Errorf("uid: got %q, want %q", value, want)
			}
		}
	}
	// Not even the loopback interface is the user's.
	if err := l.User("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward").Run(); err == nil {
		t.Error("the user may change the host's network")
	}
}

func TestOwnEtc(t *testing.T) {
	t.Parallel()
	l := New(t)
	if got := l.User("cat", "/etc/resolv.conf").MustRun(); got != ResolvConf {
		t.Errorf("got %q, want %q", got, ResolvConf)
	}
	err := l.Host.Do(func() error { return os.Remove("/etc/resolv.conf") })
	if err != nil {
		t.Fatal(err)
	}
	if err := l.User("cat", "/etc/resolv.conf").Run(); err == nil {
		t.Error("resolv.conf is still there")
	}
	if got := l.User("cat", "/etc/passwd").MustRun(); !strings.Contains(got, "root:") {
		t.Errorf("passwd: got %q, want the machine's", got)
	}
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	l := New(t)
	words := l.ProgramArgs("orphan")
	l.User(words[0], words[1:]...).MustRun()
	var left []Process
	l.Eventually("a process that was left behind", func() bool {
		left = l.Processes() // which may overlook one when others end (proc(5))
		return len(left) > 0
	})
	if len(left) != 1 || !strings.Contains(left[0].Args, "sleep") {
		t.Fatalf("got %v, want the orphan", left)
	}
	if err := syscall.Kill(left[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.Eventually("the orphan is reaped", func() bool { return len(l.Processes()) == 0 })
}

func TestTUN(t *testing.T) {
	Need(t, TUN)
	l := New(t)
	if err := l.User("sh", "-c", "exec 3<>/dev/net/tun").Run(); err != nil {
		t.Error(err)
	}
}

func TestParseStat(t *testing.T) {
	tests := []struct {
		name, stat string
		want       Process
		ok         bool
	}{
		{"plain", "7 (sh) S 1 7 7", Process{PID: 7, Parent: 1, State: 'S', Name: "sh", Args: "[sh]"}, true},
		{"spaces and parentheses", "8 (a) b (c) Z 7 1", Process{PID: 8, Parent: 7, State: 'Z', Name: "a) b (c", Args: "[a) b (c]"}, true},
		{"empty", "", Process{}, false},
		{"cut", "9 (sh) S", Process{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parseStat(tt.stat)
			if got != tt.want || ok != tt.ok {
				t.Errorf("got %v %v, want %v %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestPTY(t *testing.T) {
	t.Parallel()
	l := New(t)
	c := l.User("sh", "-c", "test -t 0 && read line </dev/tty && echo got $line")
	terminal := c.PTY()
	c.MustStart()
	if _, err := io.WriteString(terminal, "word\n"); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(terminal)
	for lines.Scan() {
		if strings.TrimSpace(lines.Text()) == "got word" {
			return
		}
	}
	t.Errorf("the terminal ended: %v", lines.Err())
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		New(b)
	}
}

func TestSession(t *testing.T) {
	l := New(t)
	s := l.Session()
	target := s.Command("unshare", "--map-root-user", "--net", "sh", "-c", "echo ready && exec cat")
	in, err := target.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	target.MustStart()
	l.Eventually("the namespaces are there", func() bool { return target.Out() == "ready\n" })
	user := fmt.Sprintf("--user=/proc/%d/ns/user", target.Process.Pid)
	got := s.Command("nsenter", user, "--preserve-credentials", "id", "-u").MustRun()
	if got != "0\n" {
		t.Errorf("another command's id in the user namespace of the first: got %q, want 0", got)
	}
	got = s.Command("sh", "-c", `id -u; echo $XDG_RUNTIME_DIR; touch $XDG_RUNTIME_DIR/f`).MustRun()
	if want := fmt.Sprintf("%d\n%s\n", UserID, s.RuntimeDir); got != want {
		t.Errorf("the user's id and directory: got %q, want %q", got, want)
	}
}
