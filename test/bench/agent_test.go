package main

import (
	"net"
	"testing"
	"time"

	"taproot/test/lab"
)

// opDuration is how long the measurements in these tests take: enough for
// one operation on a machine that does something else, too.
const opDuration = 200 * time.Millisecond

// pair starts an agent that serves on loopback and one that measures, and
// returns the latter as the conductor sees it.
func pair(t *testing.T) (outside *Agent, guest *remote, at Servers) {
	t.Helper()
	outside = newAgent()
	running := new(service)
	if err := outside.serve(t.Context(), ServeArgs{Address: "127.0.0.1", DNSPort: "0"}, running, &at); err != nil {
		t.Fatal(err)
	}
	here, there := net.Pipe()
	guest = newRemote(here)
	done := make(chan error)
	go func() { done <- serveAgent(there, newAgent()) }()
	t.Cleanup(func() {
		guest.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := running.Close(); err != nil {
			t.Error(err)
		}
	})
	return outside, guest, at
}

func TestStream(t *testing.T) {
	tests := []struct {
		name  string
		flows int
		down  bool
	}{
		{"up", 1, false}, {"up", 3, false}, {"down", 1, true}, {"down", 3, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			outside, guest, at := pair(t)
			args := OpenArgs{Address: at.Sink, Flows: tt.flows, Down: tt.down}
			if tt.down {
				args.Address = at.Source
			}
			if err := guest.call(t.Context(), "Open", args, &Nothing{}); err != nil {
				t.Fatal(err)
			}
			if err := guest.call(t.Context(), "Stream", opDuration, &Nothing{}); err != nil {
				t.Fatal(err)
			}
			received := Received{Bytes: outside.received.n.Load()}
			if tt.down {
				if err := guest.call(t.Context(), "Received", Nothing{}, &received); err != nil {
					t.Fatal(err)
				}
			}
			if received.Bytes == 0 {
				t.Error("nothing was received")
			}
		})
	}
}

func TestHalt(t *testing.T) {
	_, guest, at := pair(t)
	if err := guest.call(t.Context(), "Open", OpenArgs{Address: at.Sink, Flows: 2}, &Nothing{}); err != nil {
		t.Fatal(err)
	}
	call := guest.start("Stream", time.Hour, &Nothing{})
	lab.Eventually(t, "the stream ends", func() bool {
		// A deadline that Stream sets afterwards would win.
		if err := guest.call(t.Context(), "Halt", Nothing{}, &Nothing{}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-call.Done:
			return true
		default:
			return false
		}
	})
	if call.Error != nil {
		t.Error(call.Error)
	}
}

func TestPingPong(t *testing.T) {
	_, guest, at := pair(t)
	args := PingPongArgs{Address: at.PingPong, Rounds: 50, Limit: time.Minute}
	var reply Latency
	if err := guest.call(t.Context(), "PingPong", args, &reply); err != nil {
		t.Fatal(err)
	}
	if reply.N != args.Rounds || reply.P50 <= 0 || reply.P99 < reply.P50 || reply.Max < reply.P99 {
		t.Errorf("got %+v, want %d ordered times", reply, args.Rounds)
	}
}

func TestConnect(t *testing.T) {
	_, guest, at := pair(t)
	var reply Connects
	args := ConnectArgs{Address: at.Close, Clients: 4, Duration: opDuration}
	if err := guest.call(t.Context(), "Connect", args, &reply); err != nil {
		t.Fatal(err)
	}
	if reply.Done == 0 || reply.FailedPercent() != 0 || reply.PerSecond() == 0 || reply.Took.N != reply.Done {
		t.Errorf("got %+v, want successes only", reply)
	}
}

func TestConnectRefused(t *testing.T) {
	_, guest, at := pair(t)
	listener, err := listenTCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	refused := listener.Addr().String()
	var reply Connects
	if err := guest.call(t.Context(), "Connect", ConnectArgs{Address: refused, Clients: 1, Duration: opDuration}, &reply); err != nil {
		t.Fatal(err)
	}
	if reply.Done != 0 || reply.FailedPercent() != 100 || reply.First == "" {
		t.Errorf("got %+v, want failures only", reply)
	}
	for method, args := range map[string]any{
		"Reach":    ReachArgs{Address: refused, Limit: time.Millisecond},
		"Open":     OpenArgs{Address: refused, Flows: 1},
		"PingPong": PingPongArgs{Address: refused, Rounds: 1},
	} {
		if err := guest.call(t.Context(), method, args, nil); err == nil {
			t.Errorf("%s: got no error, want one", method)
		}
	}
	if err := guest.call(t.Context(), "Reach", ReachArgs{Address: at.Close, Limit: time.Second}, nil); err != nil {
		t.Error(err)
	}
}

func TestHold(t *testing.T) {
	_, guest, at := pair(t)
	const count = 40
	for _, server := range at.Hold {
		var held Held
		if err := guest.call(t.Context(), "Hold", HoldArgs{Address: server, Count: count}, &held); err != nil {
			t.Fatal(err)
		}
		if held.Refused != 0 {
			t.Errorf("got %+v, want none refused", held)
		}
	}
	var used Used
	if err := guest.call(t.Context(), "Use", Nothing{}, &used); err != nil {
		t.Fatal(err)
	}
	if want := count * len(at.Hold); used.Done != want || used.Lost != 0 || used.Elapsed == 0 {
		t.Errorf("got %+v, want %d done", used, want)
	}
	// The servers wait for their clients at the end of the test.
	if err := guest.call(t.Context(), "Release", Nothing{}, nil); err != nil {
		t.Error(err)
	}
}

func TestHoldRefused(t *testing.T) {
	_, guest, _ := pair(t)
	var held Held
	// Nobody listens on port 1 of loopback.
	if err := guest.call(t.Context(), "Hold", HoldArgs{Address: "127.0.0.1:1", Count: 3}, &held); err != nil {
		t.Fatal(err)
	}
	if held.Refused != 3 || held.First == "" {
		t.Errorf("got %+v, want 3 refused and a reason", held)
	}
}

func TestTrains(t *testing.T) {
	tests := []struct {
		name, method string
		down         bool
	}{
		{"up", "SendTrains", false}, {"down", "FetchTrains", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			outside, guest, at := pair(t)
			args := TrainArgs{Address: at.Trains, Duration: opDuration}
			if tt.down {
				args.Address = at.TrainSource
			}
			if err := guest.call(t.Context(), tt.method, args, &Nothing{}); err != nil {
				t.Fatal(err)
			}
			received := Received{Bytes: outside.received.n.Load()}
			if tt.down {
				if err := guest.call(t.Context(), "Received", Nothing{}, &received); err != nil {
					t.Fatal(err)
				}
			}
			if received.Bytes < segmentSize {
				t.Errorf("got %d bytes, want datagrams", received.Bytes)
			}
		})
	}
}

func TestQuery(t *testing.T) {
	_, guest, at := pair(t)
	var reply Queries
	if err := guest.call(t.Context(), "Query", QueryArgs{Resolver: at.DNS, Clients: 3, Duration: opDuration}, &reply); err != nil {
		t.Fatal(err)
	}
	if reply.Done == 0 || reply.Lost != 0 || reply.First != "" {
		t.Errorf("got %+v, want answers only", reply)
	}
	// The echo server returns the query, which is no answer.
	reply = Queries{}
	if err := guest.call(t.Context(), "Query", QueryArgs{Resolver: at.Echo, Clients: 1, Duration: opDuration}, &reply); err != nil {
		t.Fatal(err)
	}
	if reply.Done != 0 || reply.Lost == 0 || reply.First == "" {
		t.Errorf("got %+v, want failures only", reply)
	}
}

func TestSpout(t *testing.T) {
	outside, guest, at := pair(t)
	const run = 7
	if err := outside.Expect(run, nil); err != nil {
		t.Fatal(err)
	}
	for _, other := range []uint64{run - 1, run} { // those of another run do not count
		args := SpoutArgs{Address: at.Drain, Run: other, Size: 64, Rate: 1000, Duration: opDuration}
		var reply Spouted
		if err := guest.call(t.Context(), "Spout", args, &reply); err != nil {
			t.Fatal(err)
		}
		if reply.Sent == 0 || reply.Elapsed < opDuration {
			t.Fatalf("got %+v, want datagrams for %v", reply, opDuration)
		}
		if other != run {
			continue
		}
		lab.Eventually(t, "all datagrams arrive", func() bool {
			return outside.datagram.count.Load() >= int64(reply.Sent)
		})
		if got, want := outside.datagram.count.Load(), int64(reply.Sent); got != want {
			t.Errorf("got %d datagrams, want %d", got, want)
		}
	}
}

func TestRequest(t *testing.T) {
	_, guest, at := pair(t)
	var reply Requests
	args := RequestArgs{Address: at.Echo, Flows: 5, Duration: opDuration}
	if err := guest.call(t.Context(), "Request", args, &reply); err != nil {
		t.Fatal(err)
	}
	if reply.Done < args.Flows || reply.Took.N != reply.Done || reply.PerSecond() == 0 {
		t.Errorf("got %+v, want answers on every flow", reply)
	}
}

func TestTail(t *testing.T) {
	var kept tail
	for range 2 * tailSize {
		if _, err := kept.Write([]byte("a\n")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kept.Write([]byte("the end\n")); err != nil {
		t.Fatal(err)
	}
	text := kept.String()
	if got, want := text[len(text)-9:], "a the end"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if len(kept.text) > tailSize {
		t.Errorf("got %d bytes, want %d", len(kept.text), tailSize)
	}
}
