package stack

import (
	"net"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// NetConn returns the connection as a net.Conn, for what the gateway itself
// serves. The Conn must not be used any more.
func (c *Conn) NetConn() net.Conn {
	return gonet.NewTCPConn(&c.queue, c.ep)
}
