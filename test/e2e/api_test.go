package e2e

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// A web is an instance called web, with a shell in it.
type web struct {
	*shell
	l    *lab.Lab
	path string // of its socket
	http http.Client
}

// newWeb starts an instance.
func newWeb(t *testing.T, l *lab.Lab, options ...string) *web {
	t.Helper()
	return newWebOf(l, newShell(t, l, append(options, "--name=web")...))
}

// newWebOf is the instance that a shell is in.
func newWebOf(l *lab.Lab, s *shell) *web {
	w := &web{shell: s, l: l, path: filepath.Join(runtimeDir(l), "taproot", "web.sock")}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", w.path)
		},
		DisableKeepAlives: true,
	}
	w.http = http.Client{Transport: transport, Timeout: lab.Patience}
	return w
}

// ask makes a request as root of the laboratory, who may, and returns the answer
// and its status.
func (w *web) ask(method, path, body string) (map[string]any, int) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, "http://taproot"+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	answer, err := w.http.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	var v map[string]any
	if err := json.NewDecoder(answer.Body).Decode(&v); err != nil && err != io.EOF {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return v, answer.StatusCode
}

// ctl runs taproot ctl as the user.
func (w *web) ctl(args ...string) string {
	w.t.Helper()
	return taproot(w.l, append([]string{"ctl", "web"}, args...)...).MustRun()
}

// listenInGuest makes an echo server in the guest's namespace, on IPv4.
func (w *web) listenInGuest(handle func(*net.TCPConn)) int {
	w.t.Helper()
	return serveTCP(w.t, networkOf(w.t, w.l, w.shell), handle)
}

// talk sends a line to a port of the host's loopback, and returns the error
// of what does not come back.
func talk(c net.Conn) error {
	c.SetDeadline(time.Now().Add(lab.Patience))
	if _, err := c.Write([]byte("hello\n")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 6))
	return err
}

func (w *web) dial(address string) net.Conn {
	w.t.Helper()
	var c net.Conn
	err := w.l.Host.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", address, lab.Patience)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// TestControl publishes, lists and kills while an instance runs.
func TestControl(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := newWeb(t, l)
	port := w.listenInGuest(echo)
	wantContains(t, "ls", taproot(l, "ls").MustRun(), "NAME", "web", "10.0.2.100/24", "running")

	rules := w.ctl("publish", fmt.Sprintf("127.0.0.1:18080:%d", port))
	wantContains(t, "publish", rules, "127.0.0.1:18080", fmt.Sprintf("guest:%d", port), "open")
	c := w.dial("127.0.0.1:18080")
	if err := talk(c); err != nil {
		t.Fatal(err)
	}
	wantContains(t, "flows", w.ctl("flows", "--rule=1"), "tcp", "inbound", "10.0.2.2:", fmt.Sprintf("10.0.2.100:%d", port))
	wantContains(t, "ports", w.ctl("ports"), "1  ")
	answer, _ := w.ask("GET", "/v1/rules/1", "")
	if counters, _ := answer["counters"].(map[string]any); counters["live"] != 1.0 || counters["opened"] != 1.0 || counters["bytes_to_target"] != 6.0 {
		t.Errorf("counters: got %v, want one flow with 6 bytes", answer["counters"])
	}
	wantText(t, "kill", w.ctl("flows", "--rule=1", "--kill"), "1 ended")
	c.SetReadDeadline(time.Now().Add(lab.Patience))
	if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("killed: got %v, want a reset", err)
	}

	c = w.dial("127.0.0.1:18080")
	if err := talk(c); err != nil {
		t.Fatal(err)
	}
	w.ctl("unpublish", "1")
	if err := talk(c); err != nil {
		t.Errorf("a connection of a rule that is gone: %v", err)
	}
	if err := l.Host.Do(func() error { _, err := net.Dial("tcp", "127.0.0.1:18080"); return err }); err == nil {
		t.Error("the port is still open")
	}
	bad := taproot(l, "ctl", "web", "unpublish", "1").MustStart()
	if got := bad.Status(); got != 125 {
		t.Errorf("unpublish again: status %d, want 125", got)
	}
}

// TestFlowsOut lists and ends what the guest has opened, by both ways.
func TestFlowsOut(t *testing.T) {
	for _, option := range []string{"--shortcut=auto", "--shortcut=off"} {
		t.Run(option, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			w := newWeb(t, l, option)
			port := serveTCP(t, l.Outside, echo)
			w.must("mkfifo " + l.Dir + "/in")
			w.must("(" + program(l, "hold", join(lab.Outside4, port)) + " <" + l.Dir + "/in >" + l.Dir + "/out 2>&1 &)")
			w.must("exec 9>" + l.Dir + "/in")
			filter := fmt.Sprintf("/v1/flows?port=%d&proto=tcp&direction=outbound", port)
			lab.Eventually(t, "the flow is listed", func() bool {
				answer, _ := w.ask("GET", filter, "")
				list, _ := answer["flows"].([]any)
				return len(list) == 1
			})
			lab.Eventually(t, "the flow is gone", func() bool {
				if _, status := w.ask("DELETE", filter, ""); status != http.StatusOK {
					t.Fatalf("kill: got status %d", status)
				}
				answer, _ := w.ask("GET", filter, "")
				list, _ := answer["flows"].([]any)
				return len(list) == 0
			})
		})
	}
}

// TestFlowLimitEvent: who watches is told that a guest has met a limit, once, and
// not of each flow that is refused.
func TestFlowLimitEvent(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := newWeb(t, l)
	events := taproot(l, "ctl", "web", "events").MustStart()
	lab.Eventually(t, "events are told", func() bool { return strings.Contains(events.Out(), "start") })
	guest := networkOf(t, l, w.shell)
	const most = 256 // flow.Config.MaxICMP
	ping := func(identifiers int) {
		if err := guest.Do(func() error { return echoRequests(lab.Outside4, identifiers) }); err != nil {
			t.Fatal(err)
		}
	}
	ping(most / 2)
	w.ctl("stats") // answered after what came before
	if strings.Contains(events.Out(), "flow-limit") {
		t.Errorf("below the limit: got %q", events.Out())
	}
	lab.Eventually(t, "the limit is told", func() bool {
		ping(2 * most) // frames may be lost
		return strings.Contains(events.Out(), "flow-limit (icmp)")
	})
	var told int
	var refused float64
	lab.Eventually(t, fmt.Sprintf("a peak of %d, and the rest refused", most), func() bool {
		told = strings.Count(events.Out(), "flow-limit")
		answer, _ := w.ask("GET", "/v1/stats", "")
		protocols, _ := answer["protocols"].(map[string]any)
		icmp, _ := protocols["icmp"].(map[string]any)
		refused, _ = icmp["refused"].(float64)
		if peak, _ := icmp["peak"].(float64); peak > most {
			t.Fatalf("stats: got %v, want at most %d flows", icmp, most)
		} else if peak == most && refused >= most/2 {
			return true
		}
		ping(2 * most)
		return false
	})
	if told > int(refused)/10 {
		t.Errorf("got %d events for %v flows, want one a second at most", told, refused)
	}
}

// echoRequests sends an echo request of each identifier from 1 on.
func echoRequests(to string, identifiers int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	address := &unix.SockaddrInet4{Addr: netip.MustParseAddr(to).As4()}
	for id := 1; id <= identifiers; id++ {
		// The sum of type 8 and the identifier is its own checksum's complement.
		request := binary.BigEndian.AppendUint16([]byte{8, 0}, ^uint16(0x0800+id))
		request = append(binary.BigEndian.AppendUint16(request, uint16(id)), 0, 0)
		if err := unix.Sendto(fd, request, 0, address); err != nil {
			return os.NewSyscallError("sendto", err)
		}
	}
	return nil
}

// TestControlEngineKilled wants the API to say what is true while the engine
// dies, and rules to be kept.
func TestControlEngineKilled(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := newWeb(t, l)
	port := w.listenInGuest(echo)
	w.ctl("publish", fmt.Sprintf("127.0.0.1:18080:%d", port))
	events := taproot(l, "ctl", "web", "events", "--json").MustStart()
	lab.Eventually(t, "events are told", func() bool { return strings.Contains(events.Out(), `"start"`) })
	old := process(t, l, engineName)
	if err := syscall.Kill(old.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if answer, status := w.ask("GET", "/v1/flows", ""); status != http.StatusServiceUnavailable {
		t.Errorf("an engine that is stopped: got %v, want status 503", answer)
	}
	if err := syscall.Kill(old.PID, syscall.SIGKILL); err != nil && err != syscall.ESRCH { // the supervisor may have done it
		t.Fatal(err)
	}
	lab.Eventually(t, "another engine is known", func() bool {
		answer, _ := w.ask("GET", "/v1/info", "")
		state, _ := answer["engine"].(map[string]any)
		return state["restarts"] == 1.0 && state["state"] == "running"
	})
	if answer, status := w.ask("GET", "/v1/stats", ""); status != http.StatusOK {
		t.Errorf("stats: got %v, want status 200", answer)
	}
	if err := talk(w.dial("127.0.0.1:18080")); err != nil {
		t.Errorf("the port after that: %v", err)
	}
	lab.Eventually(t, "both events are told", func() bool {
		return strings.Contains(events.Out(), `"engine-died"`) && strings.Contains(events.Out(), `"engine-started"`)
	})
	fmt.Fprintln(w.in, "exit 0")
	if got := events.Status(); got != 0 {
		t.Errorf("events: status %d, want 0 at the instance's end", got)
	}
	w.Status()
	if _, err := os.Lstat(filepath.Dir(w.path)); !os.IsNotExist(err) {
		t.Errorf("the socket's directory is left behind: %v", err)
	}
}

// A request is on its way to the API, on a connection of its own.
type request struct {
	net.Conn
	*http.Request
}

// send makes a request and does not wait for the answer. It is sent at once: who says
// nothing for five seconds is hung up on.
func (w *web) send(method, path, body string) request {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, "http://taproot"+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := net.Dial("unix", w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	r.Close = true
	if err := r.Write(c); err != nil {
		w.t.Fatal(err)
	}
	return request{c, r}
}

// answer waits for the answer, wants its status and reads what is in it.
func (r request) answer(t *testing.T, status int, v any) {
	t.Helper()
	defer r.Conn.Close()
	r.SetDeadline(time.Now().Add(lab.Patience))
	answer, err := http.ReadResponse(bufio.NewReader(r.Conn), r.Request)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != status {
		t.Errorf("%s %s: got %s, want %d", r.Method, r.URL, answer.Status, status)
	}
	if err := json.NewDecoder(answer.Body).Decode(v); err != nil && err != io.EOF {
		t.Errorf("%s %s: %v", r.Method, r.URL, err)
	}
}

// TestControlCrowd has a thousand clients publish and unpublish at once.
func TestControlCrowd(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := newWeb(t, l)
	var published, unpublished []request
	for range 1000 {
		published = append(published, w.send("POST", "/v1/rules", `{"publish":["127.0.0.1::80"]}`))
	}
	for _, r := range published {
		var answer struct {
			Rules []struct {
				ID int `json:"id"`
			} `json:"rules"`
		}
		if r.answer(t, http.StatusCreated, &answer); len(answer.Rules) != 1 {
			t.Fatalf("publish: got %+v, want a rule", answer)
		}
		unpublished = append(unpublished, w.send("DELETE", fmt.Sprintf("/v1/rules/%d", answer.Rules[0].ID), ""))
	}
	for _, r := range unpublished {
		r.answer(t, http.StatusNoContent, nil)
	}
	if answer, _ := w.ask("GET", "/v1/rules", ""); len(answer["rules"].([]any)) != 0 {
		t.Errorf("left: %v", answer["rules"])
	}
}

// TestNames wants a name that lives refused, and one of a dead instance taken
// over.
func TestNames(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := newWeb(t, l)
	second := guest(l, []string{"--name=web"}, "true").MustStart()
	if got := second.Status(); got != 125 {
		t.Errorf("a second: status %d, want 125", got)
	}
	wantContains(t, "a second", second.Err(), "in use by a live instance, process ", "taproot ls")
	w.Process.Kill()
	w.Wait()
	guest(l, []string{"--name=web"}, "true").MustRun()
	guest(l, []string{"--api=off"}, "test", "!", "-e", w.path).MustRun()
}

// TestControlStranger wants another user turned away, who can get at the socket
// only because the directory and the socket were opened to him.
func TestControlStranger(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "curl")
	lab.Need(t, lab.SubIDs)
	l := newLab(t)
	w := newWeb(t, l)
	for _, path := range []string{filepath.Dir(w.path), w.path} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	stranger := l.Host.Command("curl", "-sS", "--unix-socket", w.path, "http://taproot/v1/info")
	stranger.SysProcAttr.Credential = &syscall.Credential{Uid: 1, Gid: 1, NoSetGroups: true}
	if stranger.MustStart().Status() == 0 {
		t.Errorf("a stranger was answered: %s", stranger.Out())
	}
	if _, status := w.ask("GET", "/v1/info", ""); status != http.StatusOK {
		t.Errorf("the user: status %d, want 200", status)
	}
}
