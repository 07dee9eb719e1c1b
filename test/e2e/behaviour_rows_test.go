package e2e

import (
	"cmp"
	"slices"
	"strings"
)

// A behaviour is a row of the table.
type behaviour struct {
	name   string
	on     string        // the families, "4" where it is empty, "6" or "46"
	guest  func(p *play) // prepares the guest's network
	script string        // see play

	// anyWay is for connections that do not take the shortcut, or are over before
	// that can be seen.
	anyWay bool

	// ours is what happens with taproot where that differs from the kernel,
	// for the reason.
	ours, reason string
}

// isOn tells whether the row is for a family, as families names it.
func (b behaviour) isOn(family string) bool {
	return strings.Contains(cmp.Or(b.on, "4"), strings.TrimPrefix(family, "ipv"))
}

// behaviours is the table.
func behaviours() []behaviour {
	return slices.Concat(opening(), closing(), resetting(), waiting(), unusual())
}

// opening is what becomes of a SYN.
func opening() []behaviour {
	return []behaviour{
		{name: "echo", on: "46", script: `
			guest connect open
			server accept
			guest peer: the outside
			server peer: the host
			guest send 5
			server recv 5
			server send 6
			guest recv 6
			guest close
			server recv 1: EOF
			server close
			server accept none`},
		{name: "refused", on: "46", script: `guest connect closed: ECONNREFUSED`},
		{name: "no host", on: "46", script: `guest connect nohost: EHOSTUNREACH`},
		{name: "no network", on: "46", script: `guest connect nonet: ENETUNREACH`},
		{name: "prohibited", on: "4", script: `guest connect prohibited: EHOSTUNREACH`},
		{name: "prohibited", on: "6", script: `guest connect prohibited: EACCES`},
		{name: "denied by policy", on: "4", script: `guest connect denied: EHOSTUNREACH`},
		{name: "denied by policy", on: "6", script: `guest connect denied: EACCES`},
		{name: "denied by policy, with the code point of the shortcut", script: `
			guest set tos 204
			guest connect denied: EHOSTUNREACH`},
		{name: "silence, by count", on: "46", script: `
			guest set syncnt 1
			guest connect silent: ETIMEDOUT`},
		{name: "silence, by time", script: `
			guest set usertimeout 1500
			guest connect silent: ETIMEDOUT`},
		{name: "SYN sent again while dialling", on: "46", script: `
			net cut
			guest start open
			guest wait resent 1
			server accept none
			net mend
			guest finish
			server accept
			guest send 1000
			server recv 1000
			server accept none`},
		{name: "refused at the second try", script: `
			net cut
			guest start closed
			guest wait resent 1
			net mend
			guest finish: ECONNREFUSED`},
		{name: "given up while dialling", script: `
			net cut
			guest start open
			guest wait resent 1
			guest close
			net mend
			guest2 connect open
			guest2 send 5
			server accept used
			server recv 5
			guest2 close
			server recv 1: EOF`},
		{name: "reset before accept", anyWay: true, script: `
			guest connect open
			guest send 5
			guest reset
			server accept
			server wait end
			server drain: ECONNRESET`},
	}
}

// closing is how connections end in order.
func closing() []behaviour {
	return []behaviour{
		{name: "no bytes, guest first", on: "46", script: `
			guest connect open
			server accept
			guest shutdown
			server recv 1: EOF
			guest quiet
			server close
			guest recv 1: EOF`},
		{name: "no bytes, server first", on: "46", script: `
			guest connect open
			server accept
			server shutdown
			guest recv 1: EOF
			server quiet
			guest close
			server recv 1: EOF`},
		{name: "half-close by guest", on: "46", script: `
			guest connect open
			server accept
			guest give server 300000
			guest shutdown
			server recv 1: EOF
			server give guest 3000000
			guest quiet
			server send 5
			guest recv 5
			server close
			guest recv 1: EOF`},
		{name: "half-close by server", on: "46", script: `
			guest connect open
			server accept
			server give guest 300000
			server shutdown
			guest recv 1: EOF
			guest give server 3000000
			server quiet
			guest send 5
			server recv 5
			guest close
			server recv 1: EOF`},
		{name: "close by guest with bytes on the way", script: `
			guest connect open
			server accept
			guest send 100000
			guest close
			server recv 100000
			server recv 1: EOF`},
		{name: "close by server with bytes on the way", script: `
			guest connect open
			server accept
			server send 100000
			server close
			guest recv 100000
			guest recv 1: EOF`},
		{name: "guest's data after server's close", on: "46", script: `
			guest connect open
			server accept
			server close
			guest wait fin
			guest send 5
			guest wait end
			guest send 5: EPIPE
			guest recv 1: EOF`},
		{name: "server's data after guest's close", on: "46", script: `
			guest connect open
			server accept
			guest close
			server wait fin
			server send 5
			server wait end
			server send 5: EPIPE
			server recv 1: EOF`},
		{name: "simultaneous close", on: "46", script: `
			guest connect open
			server accept
			guest send 5
			server recv 5
			net cut
			guest shutdown
			server shutdown
			net mend
			guest recv 1: EOF
			server recv 1: EOF
			guest close
			server close`},
		{name: "port reused at once, server closed first", on: "46", script: `
			guest set reuseaddr
			guest connect open
			server accept
			server close
			guest recv 1: EOF
			guest close
			guest wait freed
			guest bind same
			guest connect open
			server accept
			guest send 5
			server recv 5
			server send 5
			guest recv 5`},
		{name: "port reused at once, guest closed first", on: "46", script: `
			guest set reuseaddr
			guest connect open
			server accept
			guest close
			server recv 1: EOF
			server close
			guest wait timewait
			guest bind same
			guest connect open
			server accept
			guest send 5
			server recv 5
			server send 5
			guest recv 5`},
		{name: "port reused after a reset", on: "46", script: `
			guest set reuseaddr
			guest connect open
			server accept
			guest reset
			guest wait freed
			guest bind same
			guest connect open
			server2 accept
			server recv 1: ECONNRESET
			guest send 5
			server2 recv 5`},
		{name: "port reused after a crash", script: `
			guest set reuseaddr
			guest connect open
			server accept
			guest send 5
			server recv 5
			guest vanish
			guest wait freed
			guest bind same
			guest connect open
			server2 accept
			server recv 1: ECONNRESET
			guest send 5
			server2 recv 5`},
	}
}

// resetting is RST from either side at any moment.
func resetting() []behaviour {
	return []behaviour{
		{name: "reset by server before data", on: "46", script: `
			guest connect open
			server accept
			server reset
			guest recv 1: ECONNRESET
			guest send 1: EPIPE`},
		{name: "reset by guest before data", on: "46", script: `
			guest connect open
			server accept
			guest reset
			server recv 1: ECONNRESET
			server send 1: EPIPE`},
		{name: "reset by server after data", script: `
			guest connect open
			server accept
			server send 1000
			guest wait data 1000
			server reset
			guest wait end
			guest recv 1000
			guest recv 1: ECONNRESET`},
		{name: "reset by guest after data", script: `
			guest connect open
			server accept
			guest send 1000
			server wait data 1000
			guest reset
			server wait end
			server recv 1000
			server recv 1: ECONNRESET`},
		{name: "close by server with unread data", on: "46", script: `
			guest connect open
			server accept
			guest send 1000
			server wait data 1000
			server close
			guest recv 1: ECONNRESET`},
		{name: "close by guest with unread data", on: "46", script: `
			guest connect open
			server accept
			server send 1000
			guest wait data 1000
			guest close
			server recv 1: ECONNRESET`},
		{name: "reset by server while the guest is stalled", script: `
			guest connect open
			server accept
			guest fill
			server reset
			guest wait end
			guest send 1: ECONNRESET
			guest send 1: EPIPE`},
		{name: "reset by guest while it is stalled", script: `
			guest connect open
			server accept
			guest fill
			guest reset
			server drain: ECONNRESET`},
		{name: "reset by guest while the server is stalled", script: `
			guest connect open
			server accept
			server fill
			guest reset
			server wait end
			server send 1: ECONNRESET
			server send 1: EPIPE`},
		{name: "reset by server while it is stalled", script: `
			guest connect open
			server accept
			server fill
			server reset
			guest drain: ECONNRESET`},
		{name: "reset by server after guest's FIN", script: `
			guest connect open
			server accept
			guest shutdown
			server recv 1: EOF
			server reset
			guest recv 1: ECONNRESET`},
		{name: "reset by guest after server's FIN", script: `
			guest connect open
			server accept
			server shutdown
			guest recv 1: EOF
			guest reset
			server recv 1: ECONNRESET`},
		{name: "reset by server after its own FIN", script: `
			guest connect open
			server accept
			server shutdown
			guest recv 1: EOF
			server reset
			guest wait end
			guest send 1: EPIPE`},
		{name: "reset by guest after its own FIN", script: `
			guest connect open
			server accept
			guest shutdown
			server recv 1: EOF
			guest reset
			server wait end
			server send 1: EPIPE`},
	}
}

// waiting is about closed windows, silence and small ways.
func waiting() []behaviour {
	return []behaviour{
		{name: "window of the server closed", script: `
			guest connect open
			server accept
			guest fill
			guest wait probed 3
			guest shutdown
			server drain: EOF
			server send 5
			guest recv 5`},
		{name: "window of the guest closed", script: `
			guest connect open
			server accept
			server fill
			server wait probed 3
			server shutdown
			guest drain: EOF
			guest send 5
			server recv 5`},
		{name: "keep-alive of an idle connection", on: "46", script: `
			guest set keepalive
			guest set keepidle 1
			guest set keepintvl 1
			guest set keepcnt 2
			guest connect open
			server accept
			guest wait keptalive 2
			guest quiet
			guest send 5
			server recv 5`},
		{name: "keep-alive without an answer", script: `
			guest set keepalive
			guest set keepidle 1
			guest set keepintvl 1
			guest set keepcnt 2
			guest connect open
			server accept
			net cut
			guest wait end
			guest recv 1: ETIMEDOUT`,
			ours: `
			guest set keepalive
			guest set keepidle 1
			guest set keepintvl 1
			guest set keepcnt 2
			guest connect open
			server accept
			net cut
			guest wait keptalive 3
			guest quiet
			net mend
			guest send 5
			server recv 5`,
			reason: "the gateway answers the guest's probes, and sends its own to the server in its own time"},
		{name: "data without an answer", script: `
			guest set usertimeout 1000
			guest connect open
			server accept
			net cut
			guest send 5
			guest wait end
			guest recv 1: ETIMEDOUT`,
			ours: `
			guest set usertimeout 1000
			guest connect open
			server accept
			net cut
			guest send 5
			guest quiet
			net mend
			server recv 5`,
			reason: "the gateway acknowledges; what it has not been able to deliver ends with the timers of the host's socket"},
		{name: "small packets on the way, from guest", on: "46", script: `
			net mtu 1300
			guest connect open
			server accept
			guest give server 300000`},
		{name: "small packets on the way, from server", on: "46", script: `
			net mtu 1300
			guest connect open
			server accept
			server give guest 300000`},
	}
}
