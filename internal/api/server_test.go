package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/engine"
	"taproot/portfwd"
	"taproot/stack/flow"
	"taproot/stack/policy"
	"taproot/test/settle"
)

func TestInfo(t *testing.T) {
	b := newBench(t)
	got, err := b.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "web" || got.Version != "v1" || got.PID == 0 || got.Socket != b.path || got.Engine.Restarts != 2 ||
		got.Guest.PID != 4711 || got.Guest.Addresses[0].String() != "10.0.2.100/24" || got.Shortcut.Why == "" {
		t.Errorf("got %+v", got)
	}
}

// TestPublish publishes, lists and unpublishes.
func TestPublish(t *testing.T) {
	b := newBench(t)
	added, err := b.Publish(t.Context(), Publication{
		Publish: []string{"127.0.0.1::80"},
		Rules:   []RuleSpec{{Proto: "udp", Listen: End{Address: netip.MustParseAddr("127.0.0.1")}, Target: End{Port: 53}}},
	})
	if err != nil || len(added.Rules) != 2 {
		t.Fatalf("got %+v and error %v, want two rules", added, err)
	}
	first := added.Rules[0]
	if first.ID != 1 || first.Listen.Port == 0 || first.State != "open" || first.Counters == nil || first.Counters.Opened != 5 {
		t.Errorf("got %+v, want an open one with its counters", first)
	}
	list, err := b.Rules(t.Context())
	if err != nil || !reflect.DeepEqual(list, added) {
		t.Errorf("list: got %+v and error %v, want %+v", list, err, added)
	}
	if err := b.Unpublish(t.Context(), first.ID); err != nil {
		t.Error(err)
	}
	err = b.UnpublishKill(t.Context(), first.ID)
	if f := (*Failure)(nil); !errors.As(err, &f) || f.Code != CodeNotFound {
		t.Errorf("again: got %v, want %s", err, CodeNotFound)
	}
}

// TestPublishAuto wants an automatic rule to be one for each protocol, without
// ports.
func TestPublishAuto(t *testing.T) {
	b := newBench(t)
	added, err := b.Publish(t.Context(), Publication{Publish: []string{"*:auto:8000-8999,~8080/tcp,udp"}})
	if err != nil || len(added.Rules) != 2 {
		t.Fatalf("got %+v and error %v, want two rules", added, err)
	}
	for i, want := range []Rule{{ID: 1, Spec: "*:auto:8000-8079,8081-8999/tcp"}, {ID: 2, Spec: "*:auto:8000-8079,8081-8999/udp"}} {
		r := added.Rules[i]
		if r.ID != want.ID || r.Spec != want.Spec || r.State != "following" || r.Follows != "8000-8079,8081-8999" || r.Ports != 0 || r.Counters != nil {
			t.Errorf("got %+v, want %+v", r, want)
		}
		if err := b.Unpublish(t.Context(), r.ID); err != nil {
			t.Error(err)
		}
	}
	if list := b.table.List(); len(list) != 0 {
		t.Errorf("left: %v", list)
	}
}

// TestPublishFollows wants an automatic rule that was said field by field to be said
// the same.
func TestPublishFollows(t *testing.T) {
	b := newBench(t)
	for _, want := range []portfwd.AutoConfig{
		{Proto: flow.UDP, Allow: policy.AllPorts()},
		{Direction: portfwd.Outbound, Allow: policy.PortRange(80, 90)},
		{Listen: netip.MustParseAddr("127.0.0.1"), Device: "lo", Freebind: true, Source: portfwd.SourceGateway, Allow: policy.PortRange(80, 80)},
		{Local: true, Loopback: true},
	} {
		asked := AutoSpecOf(&want)
		added, err := b.Publish(t.Context(), Publication{Rules: []RuleSpec{asked}})
		if err != nil || len(added.Rules) != 1 {
			t.Fatalf("%+v: got %+v and error %v, want one rule", want, added, err)
		}
		if r := added.Rules[0]; r.RuleSpec != asked || r.State != "following" {
			t.Errorf("got %+v, want %+v", r, asked)
		}
		if got, err := added.Rules[0].Auto(); err != nil || got != want {
			t.Errorf("got %+v and error %v, want %+v", got, err, want)
		}
	}
}

// TestPublishNothing wants nothing left of what cannot be published as a whole,
// and to be told why.
func TestPublishNothing(t *testing.T) {
	b := newBench(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	for _, tt := range []struct {
		p    Publication
		code string
	}{
		{Publication{}, CodeBadRequest},
		{Publication{Publish: []string{"127.0.0.1::80", "nonsense"}}, CodeBadRequest},
		{Publication{Publish: []string{"auto"}, Adopt: true}, CodeBadRequest},
		{Publication{Publish: []string{"auto:80"}, Rules: []RuleSpec{{Ports: -1}}}, CodeBadRequest},
		{Publication{Reach: []string{"x"}}, CodeBadRequest},
		{Publication{Rules: []RuleSpec{{Proto: "icmp"}}}, CodeBadRequest},
		{Publication{Rules: []RuleSpec{{Direction: "up"}}}, CodeBadRequest},
		{Publication{Rules: []RuleSpec{{Ports: -1}}}, CodeBadRequest},
		{Publication{Rules: []RuleSpec{{Follows: "8000", Ports: 1}}}, CodeBadRequest},
		{Publication{Rules: []RuleSpec{{Follows: "8000", Target: End{Port: 80}}}}, CodeBadRequest},
		{Publication{Rules: []RuleSpec{{Follows: "x"}}}, CodeBadRequest},
		{Publication{Rules: []RuleSpec{{Follows: "all"}}, Adopt: true}, CodeBadRequest},
		{Publication{Publish: []string{"127.0.0.1::80", fmt.Sprintf("127.0.0.1:%d:80", port)}}, CodeConflict},
		{Publication{Publish: []string{"80"}, Adopt: true}, CodeBadRequest},
	} {
		_, err := b.Publish(t.Context(), tt.p)
		if f := (*Failure)(nil); !errors.As(err, &f) || f.Code != tt.code {
			t.Errorf("%+v: got %v, want %s", tt.p, err, tt.code)
		}
	}
	if list := b.table.List(); len(list) != 0 {
		t.Errorf("left: %v", list)
	}
}

// TestAdopt publishes a socket that comes with the request.
func TestAdopt(t *testing.T) {
	b := newBench(t)
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := b.Adopt(t.Context(), Publication{Publish: []string{"80"}}, f)
	if err != nil || len(got.Rules) != 1 {
		t.Fatalf("got %+v and error %v, want one rule", got, err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	if r := got.Rules[0]; r.Listen.Address != at.Addr().Unmap() || r.Listen.Port != at.Port() || r.Target.Port != 80 {
		t.Errorf("got %+v, want one from %v to port 80", r, at)
	}
	_, err = b.Adopt(t.Context(), Publication{Publish: []string{"80"}}, os.Stdin)
	if f := (*Failure)(nil); !errors.As(err, &f) || f.Code != CodeBadRequest {
		t.Errorf("no socket: got %v, want %s", err, CodeBadRequest)
	}
}

// TestUnusedDescriptors wants those closed that nobody asked for.
func TestUnusedDescriptors(t *testing.T) {
	b := newBench(t)
	c := b.dial(t)
	rights := make([]int, 2*maxRights)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range rights {
		rights[i] = fds[0]
	}
	if _, _, err := c.WriteMsgUnix([]byte("GET /v1/info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), unix.UnixRights(rights...), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	unix.Close(fds[0])
	defer unix.Close(fds[1])
	if n, err := unix.Read(fds[1], make([]byte, 1)); n != 0 || err != nil { // the end comes when the last is closed
		t.Errorf("got %d bytes and %v, want the end", n, err)
	}
}

func TestFlows(t *testing.T) {
	b := newBench(t)
	got, err := b.Flows(t.Context(), url.Values{"proto": {"tcp", "udp"}, "way": {"shortcut"}, "direction": {"inbound"}, "address": {"10.0.0.0/8"}, "port": {"80"}, "rule": {"3"}, "id": {"9"}})
	if err != nil || len(got.Flows) != 2 {
		t.Fatalf("got %+v and error %v, want two", got, err)
	}
	want := flow.Filter{
		ID: 9, Protos: []flow.Proto{flow.TCP, flow.UDP}, Ways: []flow.Way{flow.Shortcut},
		Inbound: true, Address: netip.MustParsePrefix("10.0.0.0/8"), Port: 80, Rule: 3,
	}
	b.instance.mu.Lock()
	if asked := b.instance.asked; !reflect.DeepEqual(asked, want) {
		t.Errorf("filter: got %+v, want %+v", asked, want)
	}
	b.instance.mu.Unlock()
	if f := got.Flows[1]; f.Direction != "inbound" || f.Rule != 1 || f.BytesToInitiator != 4 || f.Proto != "udp" || f.Way != "frames" {
		t.Errorf("got %+v", f)
	}
	killed, err := b.Kill(t.Context(), url.Values{"all": {"1"}})
	if err != nil || killed.Killed != 2 {
		t.Errorf("got %+v and error %v, want 2", killed, err)
	}
}

// TestNoEngine wants the truth while there is none.
func TestNoEngine(t *testing.T) {
	b := newBench(t)
	if _, err := b.Publish(t.Context(), Publication{Publish: []string{"127.0.0.1::80"}}); err != nil {
		t.Fatal(err)
	}
	b.instance.fail(engine.ErrNoEngine, engine.EngineStarting)
	_, flowsErr := b.Flows(t.Context(), nil)
	_, statsErr := b.Stats(t.Context())
	for _, err := range []error{flowsErr, statsErr} {
		if f := (*Failure)(nil); !errors.As(err, &f) || f.Code != CodeNoEngine {
			t.Errorf("got %v, want %s", err, CodeNoEngine)
		}
	}
	rules, err := b.Rules(t.Context())
	if err != nil || rules.Engine != "starting" || len(rules.Rules) != 1 || rules.Rules[0].Counters != nil {
		t.Errorf("got %+v and error %v, want a rule without counters", rules, err)
	}
	b.instance.fail(engine.ErrSilent, engine.EngineRunning)
	if rules, err = b.Rules(t.Context()); err != nil || rules.Engine == "running" || rules.Rules[0].Counters != nil {
		t.Errorf("silent: got %+v and error %v", rules, err)
	}
}

func TestEvents(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan Event)
	ended := make(chan error, 1)
	go func() {
		ended <- b.Events(ctx, func(e Event) error {
			told <- e
			return nil
		})
	}()
	if got := <-told; got.Event != "start" || len(got.Rules) != 0 {
		t.Errorf("got %+v, want the start", got)
	}
	b.instance.events <- engine.Event{Kind: engine.EventEngineDied, Why: "killed"}
	if got := <-told; got.Event != "engine-died" || got.Why != "killed" {
		t.Errorf("got %+v, want a death", got)
	}
	if _, err := b.Publish(t.Context(), Publication{Publish: []string{"127.0.0.1::80"}}); err != nil {
		t.Fatal(err)
	}
	if got := <-told; got.Event != "rule-added" || got.Rule == nil || got.Rule.ID != 1 {
		t.Errorf("got %+v, want a rule", got)
	}
	b.server.Close()
	if err := <-ended; err != io.EOF {
		t.Errorf("end: got %v, want %v", err, io.EOF)
	}
}

// TestBadRequests wants each answered with a reason, and the next one served.
func TestBadRequests(t *testing.T) {
	b := newBench(t)
	refused := 0
	big := `{"publish":["` + strings.Repeat("x", maxBody) + `"]}`
	for _, tt := range []struct {
		method, target, body string
		status               int
	}{
		{"GET", "/", "", 404},
		{"GET", "/v2/info", "", 404},
		{"GET", "/v1/rules/7", "", 404},
		{"PUT", "/v1/rules", "", 405},
		{"POST", "/v1/info", "", 405},
		{"GET", "/v1/info?x=1", "", 400},
		{"GET", "/v1/rules/x", "", 400},
		{"DELETE", "/v1/rules/-1", "", 400},
		{"DELETE", "/v1/rules/99999999999", "", 400},
		{"DELETE", "/v1/rules/1?kill=yes", "", 400},
		{"DELETE", "/v1/rules/1?kill=1&kill=1", "", 400},
		{"DELETE", "/v1/flows", "", 400},
		{"DELETE", "/v1/flows?all=0", "", 400},
		{"DELETE", "/v1/flows?&", "", 400},
		{"GET", "/v1/flows?port=70000", "", 400},
		{"GET", "/v1/flows?port=0", "", 400},
		{"GET", "/v1/flows?proto=sctp", "", 400},
		{"GET", "/v1/flows?address=host", "", 400},
		{"GET", "/v1/flows?direction=up", "", 400},
		{"GET", "/v1/flows?way=%zz", "", 400},
		{"POST", "/v1/rules", "", 400},
		{"POST", "/v1/rules", "null", 400},
		{"POST", "/v1/rules", "[]", 400},
		{"POST", "/v1/rules", `{"publish":["80"]} {}`, 400},
		{"POST", "/v1/rules", `{"publsh":["80"]}`, 400},
		{"POST", "/v1/rules", `{"rules":[{"listen":{"port":70000}}]}`, 400},
		{"POST", "/v1/rules", strings.Repeat("[", 20000), 400},
		{"POST", "/v1/rules", big, 413},
	} {
		what := tt.method + " " + tt.target + " " + tt.body[:min(len(tt.body), 40)]
		r, err := http.NewRequestWithContext(t.Context(), tt.method, "http://x"+tt.target, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := b.http.Do(r)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		var f failed
		if failure := decode(answer.Body, &f); failure != nil || f.Error == nil || f.Error.Message == "" || f.Error.Code == "" {
			t.Errorf("%s: the answer gives no reason: %v", what, failure)
		}
		answer.Body.Close()
		refused++
		if answer.StatusCode != tt.status {
			t.Errorf("%s: got %d (%v), want %d", what, answer.StatusCode, f.Error, tt.status)
		}
	}
	stats, err := b.Stats(t.Context())
	if err != nil {
		t.Fatalf("afterwards: %v", err)
	}
	if l := stats.Limits["api_requests"]; l.Refused != uint64(refused) || l.Limit != maxBody {
		t.Errorf("api_requests: got %+v, want %d refused", l, refused)
	}
}

// TestSlowClients wants others served while clients connect and say nothing, or
// half of it.
func TestSlowClients(t *testing.T) {
	b := newBench(t)
	for range 100 {
		b.dial(t)
		c := b.dial(t)
		if _, err := c.Write([]byte("POST /v1/rules HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Info(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestManyClients has a thousand add and remove rules, a hundred at once: a machine
// may be too slow for more to say something within headerTimeout.
func TestManyClients(t *testing.T) {
	b := newBench(t)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 100)
	for range 1000 {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			c := NewClient(b.path)
			defer c.Close()
			rules, err := c.Publish(t.Context(), Publication{Publish: []string{"127.0.0.1::80"}})
			if err != nil {
				t.Error(err)
				return
			}
			if err := c.Unpublish(t.Context(), rules.Rules[0].ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if list := b.table.List(); len(list) != 0 {
		t.Errorf("%d rules are left", len(list))
	}
}

// TestTrust wants strangers turned away before they are listened to.
func TestTrust(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.TempDir() + "/s", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	uids := make(chan uint32, 2)
	trusted := false
	var strangers atomic.Uint64
	g := &guard{UnixListener: l, strangers: &strangers, slots: make(chan struct{}, 1), trusts: func(uid uint32) bool {
		uids <- uid
		trusted = !trusted
		return !trusted // the second one
	}}
	for range 2 {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(settle.Patience))
	}
	c, err := g.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if got := strangers.Load(); got != 1 {
		t.Errorf("strangers: got %d, want 1", got)
	}
	if len(uids) != 2 || <-uids != uint32(unix.Geteuid()) {
		t.Errorf("got %d questions, want 2 about us", len(uids))
	}
}
