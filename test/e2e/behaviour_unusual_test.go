package e2e

import "taproot/test/lab"

// unusual is what few programs do.
func unusual() []behaviour {
	return []behaviour{
		{name: "urgent byte from guest, read inline", script: `
			guest connect open
			server accept
			server set oobinline
			guest send 5
			guest urgent
			guest send 5
			server recv 11`},
		{name: "urgent byte from server, read inline", script: `
			guest set oobinline
			guest connect open
			server accept
			server send 5
			server urgent
			server send 5
			guest recv 11`},
		{name: "fast open without a cookie", on: "46", guest: sysctl("net/ipv4/tcp_fastopen", "1"), script: `
			guest set fastconnect
			listener set fastopen 5
			guest connect open
			guest send 5
			server accept
			server recv 5
			server send 5
			guest recv 5
			guest2 set fastconnect
			guest2 connect open
			guest2 send 5
			server2 accept
			server2 recv 5
			server2 send 5
			guest2 recv 5`},
		{name: "fast open with data in the SYN", on: "46", guest: sysctl("net/ipv4/tcp_fastopen", "5"), script: `
			guest set fastconnect
			guest connect open
			guest send 1000
			server accept
			server recv 1000
			server send 5
			guest recv 5
			guest close
			server recv 1: EOF`},
		{name: "fast open, refused", guest: sysctl("net/ipv4/tcp_fastopen", "5"), script: `
			guest set fastconnect
			guest connect closed
			guest send 5
			guest wait end
			guest recv 1: ECONNREFUSED`},
		{name: "MPTCP from guest", on: "46", script: `
			guest mptcp
			guest connect open
			server accept
			guest give server 300000
			server give guest 300000
			guest close
			server recv 1: EOF`},
		{name: "MPTCP at both ends", script: `
			guest mptcp
			listener mptcp
			guest connect open
			server accept
			guest give server 300000
			server give guest 300000
			server close
			guest recv 1: EOF`},
		{name: "MPTCP refused", script: `
			guest mptcp
			guest connect closed: ECONNREFUSED`},
		{name: "bound to the device", on: "46", anyWay: true, script: `
			guest set device tap0
			guest connect open
			server accept
			guest send 5
			server recv 5
			server send 5
			guest recv 5
			guest close
			server recv 1: EOF`},
		{name: "bound to the device, refused", script: `
			guest set device tap0
			guest connect closed: ECONNREFUSED`},
		{name: "bound to an address and a low port", on: "46", script: `
			guest bind own 777
			guest connect open
			server accept
			guest send 5
			server recv 5
			server send 5
			guest recv 5`},
		{name: "bound to a port", on: "46", script: `
			guest bind any 40777
			guest connect open
			server accept
			guest send 5
			server recv 5`},
		{name: "bound to a loopback address", script: `
			guest bind loopback
			guest start open: EINVAL`},
		{name: "with a mark of the guest's own", on: "46", script: `
			guest set mark 7
			guest connect open
			server accept
			guest send 5
			server recv 5
			server send 5
			guest recv 5
			guest2 set mark 2147483647
			guest2 connect open
			server2 accept
			guest2 send 5
			server2 recv 5`},
		{name: "with a mark that the guest routes by", guest: command("ip", `
			ip rule add fwmark 7 lookup 7
			ip route add default via 10.0.2.2 dev tap0 table 7
			ip rule add fwmark 8 lookup 8
			ip route add prohibit default table 8`), script: `
			guest set mark 7
			guest connect open
			server accept
			guest send 5
			server recv 5
			server send 5
			guest recv 5
			guest2 set mark 8
			guest2 connect open: EACCES`},
		{name: "transparent", on: "46", script: `
			guest set transparent
			guest bind own
			guest connect open
			server accept
			guest send 5
			server recv 5
			server send 5
			guest recv 5`},
	}
}

// sysctl writes a setting of the guest's.
func sysctl(name, value string) func(p *play) {
	return func(p *play) { p.guest.Sysctl(name, value) }
}

// command runs a shell's commands in the guest's network, which need a program.
func command(program, lines string) func(p *play) {
	return func(p *play) {
		lab.NeedProgram(p.t, program)
		p.guest.Command("sh", "-e", "-c", lines).MustRun()
	}
}
