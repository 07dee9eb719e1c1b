package callers

import (
	"strconv"
	"strings"
	"syscall"
	"testing"

	"taproot/test/lab"
)

// rootlesskit is a command of rootlesskit, with these options besides those for
// slirp4netns as such.
func (w *world) rootlesskit(options string, command ...string) *lab.Cmd {
	args := append([]string{"--net=slirp4netns", "--copy-up=/etc", "--copy-up=/run"}, strings.Fields(options)...)
	return w.user("rootlesskit", append(args, command...)...)
}

// eachRootlesskit is each for tests with rootlesskit.
func eachRootlesskit(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	lab.Need(t, lab.SubIDs)
	each(t, []string{"rootlesskit", "ip"}, test)
}

// TestRootlesskit: rootlesskit makes the device and configures it; names are
// looked up, and the host's loopback is closed.
func TestRootlesskit(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, options, address, call string }{
		{"plain", "--disable-host-loopback", "10.0.2.100", "--mtu 65520 -r 3 --disable-host-loopback ID tap0"},
		{"confined", "--mtu=1500 --cidr=10.0.9.0/24 --ipv6 --slirp4netns-sandbox=auto --slirp4netns-seccomp=auto", "10.0.9.100",
			"--mtu 1500 -r 3 --cidr 10.0.9.0/24 --enable-sandbox --enable-seccomp --enable-ipv6 ID tap0"},
		// As dockerd-rootless.sh starts it.
		{"docker", "--mtu=65520 --slirp4netns-sandbox=auto --slirp4netns-seccomp=auto --disable-host-loopback " +
			"--port-driver=builtin --propagation=rslave", "10.0.2.100",
			"--mtu 65520 -r 3 --disable-host-loopback --enable-sandbox --enable-seccomp ID tap0"},
	}
	eachRootlesskit(t, func(t *testing.T, w *world) {
		for _, tt := range tests {
			out := w.rootlesskit(tt.options, "sh", "-c", "ip address show tap0 && "+w.fetch()).MustRun()
			wantContains(t, tt.name, out, " "+tt.address+"/24 ", greeting)
			w.wantCall(t, tt.call)
		}
	})
}

// TestRootlesskitPorts: both port drivers.
func TestRootlesskitPorts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		driver string
		seen   string // what the service sees of a client outside; "" is anything
	}{
		{"builtin", ""},
		{"slirp4netns", lab.Outside4},
	}
	eachRootlesskit(t, func(t *testing.T, w *world) {
		for _, tt := range tests {
			for range 2 { // the port is free again at once
				c := w.rootlesskit("--state-dir="+w.Dir+"/state --port-driver="+tt.driver+" -p 0.0.0.0:8080:80/tcp -p 0.0.0.0:8080:80/udp",
					w.ProgramArgs("serve", ":80")...)
				c.MustStart()
				for _, network := range []string{"tcp", "udp"} {
					wantPeer(t, w.Host, network, "127.0.0.1:8080")
					var want []string
					if tt.seen != "" {
						want = []string{tt.seen}
					}
					wantPeer(t, w.Outside, network, lab.Host4+":8080", want...)
				}
				if tt.seen != "" {
					w.wantShortcut(t, lab.Host4+":8080")
				}
				// It ends its command and kills slirp4netns with SIGKILL.
				c.Signal(syscall.SIGTERM)
				c.Status()
				w.wantNothingLeft(t)
			}
		}
		w.wantCall(t, "--mtu 65520 -r 3 --api-socket "+w.Dir+"/state/.s4nn.sock ID tap0")
	})
}

// TestRootlesskitPortsLater publishes and takes back while the command runs, as
// dockerd's proxy does, and has taproot ctl see it.
func TestRootlesskitPortsLater(t *testing.T) {
	t.Parallel()
	eachRootlesskit(t, func(t *testing.T, w *world) {
		lab.NeedProgram(t, "rootlessctl")
		state := w.Dir + "/state"
		c := w.rootlesskit("--state-dir="+state+" --port-driver=slirp4netns", w.ProgramArgs("serve", ":80")...)
		c.MustStart()
		ctl := func(args ...string) *lab.Cmd {
			return w.user("rootlessctl", append([]string{"--socket=" + state + "/api.sock"}, args...)...)
		}
		w.Eventually("rootlesskit answers", func() bool { return ctl("info").MustStart().Status() == 0 })
		for id := range 3 { // the port is free again at once
			ctl("add-ports", "0.0.0.0:8080:80/tcp", "0.0.0.0:8080:80/udp").MustRun()
			for _, network := range []string{"tcp", "udp"} {
				wantPeer(t, w.Outside, network, lab.Host4+":8080", lab.Outside4)
			}
			if !w.original {
				wantContains(t, "ports", w.user(w.TaprootPath(), "ctl", "ports").MustRun(), "0.0.0.0:8080", "tcp", "udp")
			}
			ctl("remove-ports", strconv.Itoa(2*id+1), strconv.Itoa(2*id+2)).MustRun()
			if _, err := whoAmI(w.Outside, "tcp", lab.Host4+":8080"); err == nil {
				t.Error("the port is still open")
			}
		}
		c.Signal(syscall.SIGTERM)
		c.Status()
		w.wantNothingLeft(t)
	})
}
