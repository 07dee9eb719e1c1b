package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// apiPath is a place for an API socket.
func (s slirp) apiPath() string { return filepath.Join(s.session.RuntimeDir, "api.sock") }

// call sends a request as rootlesskit and podman do, with a half-close after
// it, and returns the reply.
func (s slirp) call(api, request string) (string, error) {
	return s.callParts(api, true, request)
}

// callParts sends a request in several writes.
func (s slirp) callParts(api string, halfClose bool, parts ...string) (string, error) {
	conn, err := s.Host.Dial(context.Background(), "unix", api)
	for s.original && errors.Is(err, unix.EAGAIN) {
		// The original's backlog is 0. Only those who wait in connect(2)
		// get in when there is another client.
		conn, err = s.Host.Dial(context.Background(), "unix", api)
	}
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(lab.Patience))
	for _, part := range parts {
		if _, err := io.WriteString(conn, part); err != nil {
			return "", err
		}
	}
	if halfClose {
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
			return "", err
		}
	}
	reply, err := io.ReadAll(conn)
	return string(reply), err
}

// ask is call for requests that have to be answered.
func (s slirp) ask(t *testing.T, api, request string) string {
	t.Helper()
	reply, err := s.call(api, request)
	if err != nil {
		t.Fatalf("%s: %v after %q", request, err, reply)
	}
	return reply
}

// forward publishes a port, of which it returns the address on the host.
func (s slirp) forward(t *testing.T, api, protocol, host, guest string) string {
	t.Helper()
	s.forwardID(t, api, protocol, host, guest)
	return host
}

// forwardID is forward for those who want the number.
func (s slirp) forwardID(t *testing.T, api, protocol, host, guest string) int {
	t.Helper()
	reply := s.ask(t, api, addRequest(t, protocol, host, guest))
	var r struct{ Return struct{ ID int } }
	if err := json.Unmarshal([]byte(reply), &r); err != nil || r.Return.ID == 0 {
		t.Fatalf("add_hostfwd %s %s to %s: got %q (%v), want an id", protocol, host, guest, reply, err)
	}
	return r.Return.ID
}

// addRequest is the request to publish a port, as rootlesskit writes it.
func addRequest(t *testing.T, protocol, host, guest string) string {
	t.Helper()
	hostAddr, hostPort, err1 := net.SplitHostPort(host)
	guestAddr, guestPort, err2 := net.SplitHostPort(guest)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"execute":"add_hostfwd","arguments":{"proto":%q,"host_addr":%q,"host_port":%s,"guest_addr":%q,"guest_port":%s}}`,
		protocol, hostAddr, hostPort, guestAddr, guestPort)
}

// wantFree waits until nobody listens at a TCP address of the host any more.
func (s slirp) wantFree(t *testing.T, address string) {
	t.Helper()
	s.Eventually("nobody listens at "+address, func() bool {
		err := s.Host.Do(func() error {
			listener, err := net.Listen("tcp", address)
			if err == nil {
				listener.Close()
			}
			return err
		})
		return err == nil
	})
}

// bad is how the reply to a request begins that is refused. Ours goes on.
func bad(tail string) string { return fmt.Sprintf(`{"error":{"desc":"bad request: %s"`, tail) }

// TestSlirpAPI sends every request in order, to one instance.
func TestSlirpAPI(t *testing.T) {
	t.Parallel()
	const add = `{"execute":"add_hostfwd","arguments":{%s}}`
	long := func(n int) string { return `{"execute":"` + strings.Repeat("x", n-len(`{"execute":""}`)) + `"}` }
	tests := []struct {
		name, request, want string
		original            string // what the original says instead, where it is known to be wrong
	}{
		{name: "no json", request: `foo`, want: bad("cannot parse JSON")},
		{name: "nothing", request: ``, want: bad("cannot parse JSON")},
		{name: "no object", request: `[]`, want: bad("json_object() failed")},
		{name: "no execute", request: `{}`, want: bad("no execute found")},
		{name: "unknown", request: `{"execute":"frobnicate"}`, want: bad("unknown execute")},
		{name: "largest", request: long(4095), want: bad("unknown execute")},
		{name: "too large", request: long(4096), want: bad("too large message")},
		{name: "tcp", request: fmt.Sprintf(add, `"proto":"tcp","host_addr":"127.0.0.1","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80`),
			want: `{"return":{"id":1}}`},
		{name: "udp with a newline", request: fmt.Sprintf(add, `"proto":"udp","host_addr":"127.0.0.1","host_port":8080,"guest_addr":"","guest_port":80`) + "\n",
			want: `{"return":{"id":2}}`},
		{name: "no addresses", request: fmt.Sprintf(add, `"proto":"tcp","host_port":8081,"guest_port":81`),
			want: `{"return":{"id":3}}`},
		{name: "empty addresses", request: fmt.Sprintf(add, `"proto":"tcp","host_addr":"","host_port":8082,"guest_addr":"","guest_port":82`),
			want: `{"return":{"id":4}}`},
		{name: "fraction", request: fmt.Sprintf(add, `"proto":"tcp","host_addr":"127.0.0.1","host_port":8083.9,"guest_port":83.1`),
			want: `{"return":{"id":5}}`},
		{name: "port in use", request: fmt.Sprintf(add, `"proto":"tcp","host_addr":"127.0.0.1","host_port":8080,"guest_port":80`),
			want: `{"error":{"desc":"bad request: add_hostfwd: slirp_add_hostfwd failed"`},
		{name: "not our address", request: fmt.Sprintf(add, `"proto":"tcp","host_addr":"203.0.113.250","host_port":8080,"guest_port":80`),
			want: `{"error":{"desc":"bad request: add_hostfwd: slirp_add_hostfwd failed"`},
		{name: "other protocol", request: fmt.Sprintf(add, `"proto":"sctp","host_port":8090,"guest_port":80`),
			want: bad("add_hostfwd: bad arguments.proto")},
		{name: "large protocol", request: fmt.Sprintf(add, `"proto":"TCP","host_port":8090,"guest_port":80`),
			want: bad("add_hostfwd: bad arguments.proto")},
		{name: "tcp6", request: fmt.Sprintf(add, `"proto":"tcp6","host_port":8090,"guest_port":80`),
			want: bad("add_hostfwd: bad arguments.proto")},
		{name: "bad host address", request: fmt.Sprintf(add, `"proto":"tcp","host_addr":"foo","host_port":8090,"guest_port":80`),
			want: bad("add_hostfwd: bad arguments.host_addr")},
		{name: "no host port", request: fmt.Sprintf(add, `"proto":"tcp","guest_port":80`),
			want: bad("add_hostfwd: bad arguments.host_port")},
		{name: "host port 0", request: fmt.Sprintf(add, `"proto":"tcp","host_port":0,"guest_port":80`),
			want: bad("add_hostfwd: bad arguments.host_port")},
		{name: "bad guest address", request: fmt.Sprintf(add, `"proto":"tcp","host_port":8090,"guest_addr":"foo","guest_port":80`),
			want: bad("add_hostfwd: bad arguments.guest_addr")},
		{name: "no guest port", request: fmt.Sprintf(add, `"proto":"tcp","host_port":8090`),
			want: bad("add_hostfwd: bad arguments.guest_port")},
		{name: "guest port 0", request: fmt.Sprintf(add, `"proto":"tcp","host_port":8090,"guest_port":0`),
			want: bad("add_hostfwd: bad arguments.guest_port")},
		{name: "remove without number", request: `{"execute":"remove_hostfwd","arguments":{}}`,
			want: bad("remove_hostfwd: bad arguments.id")},
		{name: "remove unknown", request: `{"execute":"remove_hostfwd","arguments":{"id":99}}`,
			want: bad("remove_hostfwd: bad arguments.id")},
		{name: "remove", request: `{"execute":"remove_hostfwd","arguments":{"id":2}}`, want: `{"return":{}}`},
		{name: "remove again", request: `{"execute":"remove_hostfwd","arguments":{"id":2}}`,
			want: bad("remove_hostfwd: bad arguments.id")},
		{name: "number not used again", request: fmt.Sprintf(add, `"proto":"udp","host_addr":"127.0.0.1","host_port":8080,"guest_port":80`),
			want: `{"return":{"id":6}}`},
		{name: "same port, other protocol", request: fmt.Sprintf(add, `"proto":"tcp","host_addr":"127.0.0.1","host_port":8090,"guest_port":80`),
			want: `{"return":{"id":7}}`},
		{name: "same port, other address", request: fmt.Sprintf(add, `"proto":"tcp","host_addr":"127.0.0.2","host_port":8090,"guest_port":80`),
			want: `{"return":{"id":8}}`},
		{name: "ipv6 host", request: fmt.Sprintf(add, `"proto":"tcp","host_addr":"::1","host_port":8091,"guest_port":80`),
			want: `{"return":{"id":9}}`, original: bad("add_hostfwd: bad arguments.host_addr")},
		{name: "more than asked for", request: `{"execute":"list_hostfwd","id":7,"arguments":{"x":[1,{}]}}`, want: `"id":1`},
	}
	eachSlirp(t, func(t *testing.T, s slirp) {
		api := s.apiPath()
		h := s.attach(t, s.target(t), "--enable-ipv6", "--api-socket="+api)
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				if s.original && tt.original != "" {
					tt.want = tt.original
				}
				got := s.with(t).ask(t, api, tt.request)
				if strings.HasSuffix(tt.want, "}") && got != tt.want { // ours may add the cause
					t.Errorf("got %s, want %s", got, tt.want)
				}
				wantContains(t, "reply", got, tt.want)
			})
		}
		t.Run("no protocol", func(t *testing.T) {
			request := fmt.Sprintf(add, `"host_port":8099,"guest_port":80`)
			got, err := s.call(api, request)
			if s.original { // the original crashes
				if got != "" || h.Status() != 139 {
					t.Errorf("got %q (%v) and status %d, want it to crash", got, err, h.Status())
				}
			} else {
				wantContains(t, "reply", got, bad("add_hostfwd: bad arguments.proto"))
			}
		})
		if !s.original {
			h.stop(t)
		}
	})
}

// An entry is what list_hostfwd tells about a port.
type entry struct {
	ID        int    `json:"id"`
	Proto     string `json:"proto"`
	HostAddr  string `json:"host_addr"`
	HostPort  int    `json:"host_port"`
	GuestAddr string `json:"guest_addr"`
	GuestPort int    `json:"guest_port"`
}

// TestSlirpAPIList: the list, in the shape of the original's program; ours also
// in the shape of its manual.
func TestSlirpAPIList(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		api := s.apiPath()
		s.attach(t, s.target(t), "--api-socket="+api)
		s.forward(t, api, "tcp", "127.0.0.1:8080", "10.0.2.100:80")
		s.forward(t, api, "udp", "0.0.0.0:8080", "10.0.2.100:81")
		reply := s.ask(t, api, `{"execute":"list_hostfwd"}`)
		var got struct {
			Entries []entry `json:"entries"`
			Return  struct {
				Entries []entry `json:"entries"`
			} `json:"return"`
		}
		if err := json.Unmarshal([]byte(reply), &got); err != nil {
			t.Fatalf("got %s: %v", reply, err)
		}
		want := []entry{
			{1, "tcp", "127.0.0.1", 8080, "10.0.2.100", 80},
			{2, "udp", "0.0.0.0", 8080, "10.0.2.100", 81},
		}
		if fmt.Sprint(got.Entries) != fmt.Sprint(want) {
			t.Errorf("entries: got %v, want %v", got.Entries, want)
		}
		if fmt.Sprint(got.Return.Entries) != fmt.Sprint(want) && !s.original {
			t.Errorf("return.entries: got %v, want %v", got.Return.Entries, want)
		}
		if strings.HasSuffix(reply, "\n") {
			t.Error("the reply ends with a newline")
		}
	})
}

// TestSlirpAPIReading: how requests may come.
func TestSlirpAPIReading(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		api := s.apiPath()
		s.attach(t, s.target(t), "--api-socket="+api)
		const list = `{"execute":"list_hostfwd"}`
		wantList := func(t *testing.T, reply string, err error) {
			t.Helper()
			if err != nil || !strings.Contains(reply, `"entries":[]`) {
				t.Errorf("got %q (%v), want an empty list", reply, err)
			}
		}
		t.Run("no half-close", func(t *testing.T) {
			reply, err := s.callParts(api, false, list)
			wantList(t, reply, err)
		})
		t.Run("sequence", func(t *testing.T) {
			for range 64 {
				reply, err := s.call(api, list)
				wantList(t, reply, err)
			}
		})
		t.Run("in parallel", func(t *testing.T) {
			var all sync.WaitGroup
			for range 32 {
				all.Go(func() {
					reply, err := s.call(api, list)
					wantList(t, reply, err)
				})
			}
			all.Wait()
		})
		t.Run("one read", func(t *testing.T) {
			// podman reads once.
			conn, err := s.Host.Dial(t.Context(), "unix", api)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, list); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 2048)
			n, err := conn.Read(b)
			wantList(t, string(b[:n]), err)
		})
		if s.original { // it answers what the first read returns, whoever waits for the rest
			return
		}
		t.Run("split", func(t *testing.T) {
			conn, err := s.Host.Dial(t.Context(), "unix", api)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for _, part := range []string{`{"exe`, `cute":"list`, `_hostfwd"`} {
				if _, err := io.WriteString(conn, part); err != nil {
					t.Fatal(err)
				}
				// Somebody else is served between any two parts of it.
				reply, err := s.call(api, list)
				wantList(t, reply, err)
			}
			if _, err := io.WriteString(conn, "}"); err != nil {
				t.Fatal(err)
			}
			reply, err := io.ReadAll(conn)
			wantList(t, string(reply), err)
		})
		t.Run("silent clients", func(t *testing.T) {
			for range 50 {
				conn, err := s.Host.Dial(t.Context(), "unix", api)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
			}
			reply, err := s.call(api, list)
			wantList(t, reply, err)
		})
	})
}

// TestSlirpAPIGarbage: 10,000 requests of all kinds hurt nobody but themselves.
func TestSlirpAPIGarbage(t *testing.T) {
	t.Parallel()
	garbage := []string{
		"", "\n", "{", "}", "[", "null", "0", `"execute"`, "\x00\xff\xfe", `{"execute":null}`, `{"execute":7}`,
		`{"execute":"add_hostfwd"}`, `{"execute":"add_hostfwd","arguments":[]}`, `{"execute":"add_hostfwd","arguments":null}`,
		`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":-1,"guest_port":80}}`,
		`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":1e99,"guest_port":80}}`,
		`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":"80","guest_port":80}}`,
		`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":65536,"guest_port":80}}`,
		`{"execute":"add_hostfwd","arguments":{"proto":7,"host_port":80,"guest_port":80}}`,
		`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":7,"host_port":8090,"guest_port":80}}`,
		`{"execute":"remove_hostfwd","arguments":{"id":"1"}}`, `{"execute":"remove_hostfwd","arguments":{"id":-1}}`,
		`{"execute":"remove_hostfwd","arguments":{"id":1e30}}`, `{"execute":"remove_hostfwd"}`,
		strings.Repeat("[", 4000), strings.Repeat("x", 100_000), `{"execute":"list_hostfwd"}{"execute":"list_hostfwd"}`,
	}
	ourSlirp(t, func(t *testing.T, s slirp) {
		api := s.apiPath()
		h := s.attach(t, s.target(t), "--api-socket="+api)
		s.forward(t, api, "tcp", "127.0.0.1:8080", "10.0.2.100:80")
		var all sync.WaitGroup
		for worker := range 8 {
			all.Go(func() {
				for i := range 10_000 / 8 {
					request := garbage[(worker+i)%len(garbage)]
					// The rest of what is only begun is waited for.
					begun := strings.Trim(request, "{[\n") == ""
					// Who sends too much is hung up on while still writing.
					s.callParts(api, begun || i%2 == 0, request)
				}
			})
		}
		all.Wait()
		reply := s.ask(t, api, `{"execute":"list_hostfwd"}`)
		if got := strings.Count(reply, `"host_port":8080,`); got != 2 || strings.Count(reply, `"id"`) != 2 {
			t.Errorf("after the garbage: got %s, want the one port in both shapes", reply)
		}
		h.stop(t)
	})
}
