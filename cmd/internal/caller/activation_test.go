package caller

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestListeners executes this test again as systemd would start it, and once
// with less than was promised, once in another one's name.
func TestListeners(t *testing.T) {
	const child = "TAPROOT_TEST_ACTIVATED"
	if os.Getenv(child) != "" {
		for _, f := range Listeners() {
			l, err := net.FileListener(f)
			if err != nil {
				fmt.Println(err)
				continue
			}
			fmt.Println("socket", l.Addr())
		}
		fmt.Println("left", os.Getenv(listenPID)+os.Getenv(listenFDs)+os.Getenv(listenNames), len(Listeners()))
		return
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	socket := fmt.Sprintf("socket %v\n", l.Addr())
	for _, tt := range []struct {
		name, pid, n string
		want         string
	}{
		{"one", "$$", "1", socket + "left  0\n"},
		{"promised more", "$$", "2000000000", socket + "left  0\n"},
		{"of another process", "1", "1", "left  0\n"},
		{"no number", "$$", "x", "left  0\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			script := fmt.Sprintf(`LISTEN_PID=%s LISTEN_FDS=%s LISTEN_FDNAMES=http exec "$0" -test.run='^TestListeners$'`, tt.pid, tt.n)
			c := exec.Command("/bin/sh", "-c", script, os.Args[0])
			c.Env, c.ExtraFiles = append(os.Environ(), child+"=1"), []*os.File{f}
			out, err := c.Output()
			if got := strings.TrimSuffix(string(out), "PASS\n"); err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}
