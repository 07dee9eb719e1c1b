package main

import (
	"context"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"sync"
	"time"
)

// hello is what an agent writes first on its connection to the conductor: its
// role and a token that says which of several agents of the role it is,
// padded with spaces to helloSize bytes.
const helloSize = 64

// An Agent serves the operations of a guest and of the outside. One type for
// both, because who sends and who receives differs by measurement only. Its
// exported methods are called by net/rpc, each on a goroutine of its own.
type Agent struct {
	started  time.Time
	received counter // payload bytes of bulk traffic that arrived
	datagram sink

	mu sync.Mutex
	// held are the idle connections of Hold.
	// +checklocks:mu
	held []net.Conn
	// flows are the connections of Open, and move is what Stream does with them.
	// +checklocks:mu
	flows []net.Conn
	// +checklocks:mu
	move func(net.Conn) error
}

// newAgent returns an agent that has received nothing.
func newAgent() *Agent {
	return &Agent{started: time.Now()}
}

// runAgent connects to the conductor's socket, says who it is and serves the
// service until the conductor hangs up.
func runAgent(socket, role, token string, service any) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "%-*s", helloSize, role+" "+token); err != nil {
		return fmt.Errorf("say hello to %s: %w", socket, err)
	}
	return serveAgent(conn, service)
}

// serveAgent answers calls on conn until the other end closes it.
func serveAgent(conn net.Conn, service any) error {
	server := rpc.NewServer()
	if err := server.RegisterName("Agent", service); err != nil {
		return fmt.Errorf("register agent: %w", err)
	}
	server.ServeConn(conn)
	return nil
}

// A remote is the conductor's end of an agent.
type remote struct {
	client *rpc.Client
}

// newRemote takes conn over.
func newRemote(conn net.Conn) *remote {
	return &remote{client: rpc.NewClient(conn)}
}

// Close hangs up, which ends the agent.
func (r *remote) Close() error {
	return r.client.Close()
}

// call invokes method of the agent and waits for its reply or for ctx.
func (r *remote) call(ctx context.Context, method string, args, reply any) error {
	return await(ctx, r.start(method, args, reply))
}

// start invokes method of the agent without waiting; see await.
func (r *remote) start(method string, args, reply any) *rpc.Call {
	return r.client.Go("Agent."+method, args, reply, make(chan *rpc.Call, 1))
}

// await waits for the reply to call or for ctx.
func await(ctx context.Context, call *rpc.Call) error {
	select {
	case <-call.Done:
		if call.Error != nil {
			return fmt.Errorf("%s: %w", call.ServiceMethod, call.Error)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", call.ServiceMethod, ctx.Err())
	}
}

// Nothing stands for no argument or no reply: net/rpc wants both, and its
// encoding wants an exported field.
type Nothing struct{ Unused bool }

// Ping replies with the process id of the agent, as the agent sees it.
func (a *Agent) Ping(_ Nothing, pid *int) error {
	*pid = os.Getpid()
	return nil
}
