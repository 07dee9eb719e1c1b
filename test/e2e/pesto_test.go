package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"taproot/test/lab"
)

// A pesto is a pasta that runs with a control socket and, at first, without
// ports.
type pesto struct {
	*host
	container *container
	program   string // pesto
	socket    string
}

// newPesto starts a pasta of ours. The original of 2023 has no such socket.
func newPesto(t *testing.T, options ...string) *pesto {
	t.Helper()
	h := newHost(t)
	p := &pesto{h, h.container(), filepath.Join(h.Dir, "pesto"), filepath.Join(tmpDir(h.Lab), "control")}
	if err := os.Symlink(h.TaprootPath(), p.program); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"--config-net", "-t", "none", "-c", p.socket}, others...)
	h.attach(append(append(args, options...), p.container.pid)...)
	return p
}

// run runs pesto, which has to end with a status, and returns its output.
func (p *pesto) run(status int, args ...string) string {
	p.t.Helper()
	r := combined(p.t, p.command(p.program, append(args, p.socket)...))
	if r.status != status {
		p.t.Fatalf("pesto %s: status %d, want %d, output %q", strings.Join(args, " "), r.status, status, r.output)
	}
	return r.output
}

// ctl runs taproot ctl for the same instance.
func (p *pesto) ctl(args ...string) string {
	p.t.Helper()
	return p.command(p.TaprootPath(), append([]string{"ctl", p.socket}, args...)...).MustRun()
}

// TestPesto changes ports while pasta runs. Clients are seen with their own
// addresses, and taproot ctl sees what happens.
func TestPesto(t *testing.T) {
	t.Parallel()
	p := newPesto(t)
	serveEchoes(t, p.container.Namespace, 80, 81)
	wantNobody(t, p.Outside, "tcp", join(lab.Host4, 8080))

	var events lab.Buffer
	watch := p.command(p.TaprootPath(), "ctl", p.socket, "events")
	watch.Stdout = &events
	watch.MustStart()
	p.Eventually("events", func() bool { return strings.Contains(events.String(), "start") })

	p.run(0, "-A", "-t", "8080-8080:80-80", "-u", "8080:80", "-t", lab.Host4+"/8082:81")
	for _, f := range families {
		for _, network := range []string{"tcp", "udp"} {
			wantCall(t, p.Outside, network, join(f.host, 8080), "80 "+f.outside)
		}
	}
	wantCall(t, p.Outside, "tcp", join(lab.Host4, 8082), "81 "+lab.Outside4)
	wantSame(t, "pesto --show", strings.Split(strings.TrimSpace(p.run(0, "--show")), "\n"), []string{
		"HOST", "  -t 8080:80", "  -u 8080:80", "  -t " + lab.Host4 + "/8082:81", "SPLICE"})
	wantContains(t, "ctl ports", p.ctl("ports"), "*:8080", "guest:80", lab.Host4+":8082", "open")

	busy := p.Host.Listen("tcp4", ":8083")
	defer busy.Close()
	wantContains(t, "a port that is taken", p.run(1, "-A", "-t", "8084", "-t", "8083-8083:80-80"),
		"Failed to bind port 8083 (Address already in use) for option '-t 8083-8083:80-80'")
	wantNobody(t, p.Outside, "tcp", join(lab.Host4, 8084))

	p.run(0, "-D", "-t", "8080-8080:80-80", "-u", "8080:80")
	wantCall(t, p.Outside, "tcp", join(lab.Host4, 8080), refused)
	wantNobody(t, p.Outside, "udp", join(lab.Host4, 8080))
	p.run(0, "-t", "8085:80") // in place of the rest
	wantCall(t, p.Outside, "tcp", join(lab.Host4, 8085), "80 "+lab.Outside4)
	wantCall(t, p.Outside, "tcp", join(lab.Host4, 8082), refused)
	p.Eventually("events of rules", func() bool {
		s := events.String()
		return strings.Count(s, "rule-added") >= 4 && strings.Count(s, "rule-removed") >= 3
	})

	p.container.stop()
	p.Eventually("the socket is gone", func() bool {
		_, err := os.Stat(p.socket)
		return os.IsNotExist(err)
	})
	wantContains(t, "nobody there", p.run(1), p.socket, "no such file")
	watch.Wait()
}

// TestPestoAuto: auto that is added later follows what listens, and takes back what it
// has published.
func TestPestoAuto(t *testing.T) {
	t.Parallel()
	p := newPesto(t)
	serveEchoes(t, p.container.Namespace, 8000, 8001)
	serveName(t, p.Host, "tcp", "127.0.0.1:99", "host")
	p.run(0, "-A", "-t", "8000-8010,~8001,auto", "-u", "auto", "-T", "99,auto")
	awaitCall(t, p.Outside, "tcp", join(lab.Host4, 8000), "8000 "+lab.Outside4)
	awaitCall(t, p.Outside, "udp", join(lab.Host4, 8001), "8001 "+lab.Outside4)
	awaitCall(t, p.container.Namespace, "tcp", "127.0.0.1:99", "host 127.0.0.1")
	wantNobody(t, p.Outside, "tcp", join(lab.Host4, 8001))
	wantContains(t, "pesto --show", p.run(0, "--show"), "-t 8000,8002-8010,auto", "-t 8000  # auto", "-T 99,auto")
	p.run(0, "-D", "-t", "8000-8010,~8001,auto", "-A", "-t", "8080:8000")
	wantNobody(t, p.Outside, "tcp", join(lab.Host4, 8000))
	wantCall(t, p.Outside, "tcp", join(lab.Host4, 8080), "8000 "+lab.Outside4)
	p.run(0, "-C", "HOST", "-C", "SPLICE")
	wantNobody(t, p.Outside, "udp", join(lab.Host4, 8001))
	wantSame(t, "pesto --show", strings.Fields(p.run(0, "--show")), []string{"HOST", "SPLICE"})
}

// TestPestoNamesAuto: a port that auto has published is what pesto says of it, as it
// would have been had pasta been told at the start, and auto's again afterwards.
func TestPestoNamesAuto(t *testing.T) {
	t.Parallel()
	p := newPesto(t)
	serveEchoes(t, p.container.Namespace, 80, 8080)
	p.run(0, "-A", "-t", "auto")
	awaitCall(t, p.Outside, "tcp", join(lab.Host4, 8080), "8080 "+lab.Outside4)
	p.run(0, "-A", "-t", "8080:80")
	for range 3 {
		wantCall(t, p.Outside, "tcp", join(lab.Host4, 8080), "80 "+lab.Outside4)
	}
	p.run(0, "-D", "-t", "8080:80")
	awaitCall(t, p.Outside, "tcp", join(lab.Host4, 8080), "8080 "+lab.Outside4)
}

// TestPestoWay: connections to ports that came later are flows of their rules,
// take the way of those that were there, and outlive their rule.
func TestPestoWay(t *testing.T) {
	for _, way := range []string{"shortcut", "frames"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			p := newPesto(t, "--shortcut="+map[string]string{"shortcut": "on", "frames": "off"}[way])
			port := serveTCP(t, p.container.Namespace, echo)
			p.run(0, "-A", "-t", fmt.Sprintf("8080:%d", port))
			var c net.Conn
			if err := p.Outside.Do(func() (err error) {
				c, err = net.DialTimeout("tcp", join(lab.Host4, 8080), lab.Patience)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := talk(c); err != nil {
				t.Fatal(err)
			}
			p.Eventually("the flow", func() bool {
				s := p.ctl("flows", "--way="+way, "--direction=inbound", "--rule=1")
				return strings.Contains(s, c.LocalAddr().String()) && strings.Contains(s, "6 B")
			})
			p.run(0, "-C", "HOST")
			if err := talk(c); err != nil {
				t.Errorf("after its rule: %v", err)
			}
		})
	}
}

// TestPestoLoopback: what pasta's options say of loopback holds for later ports.
func TestPestoLoopback(t *testing.T) {
	t.Parallel()
	p := newPesto(t, "--host-lo-to-ns-lo")
	serveName(t, p.container.Namespace, "tcp", "127.0.0.1:80", "inner")
	p.run(0, "-A", "-t", "8080:80")
	wantCall(t, p.Host, "tcp", "127.0.0.1:8080", "inner 127.0.0.1")
	serveName(t, p.Host, "tcp", "127.0.0.1:99", "host")
	p.run(0, "-A", "-T", "99")
	wantCall(t, p.container.Namespace, "tcp", "127.0.0.1:99", "host 127.0.0.1")
}
