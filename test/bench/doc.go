// Bench measures what a guest gets from taproot, from the peers that are
// installed (slirp4netns, pasta) and from the kernel's own NAT through a veth
// pair, which needs real privilege and is here as the limit.
//
//	go run ./test/bench                  # everything, under ten minutes
//	go run ./test/bench -quick           # one short round, under two minutes
//	go run ./test/bench -rows tcp-1500   # only rows whose key starts so
//	go run ./test/bench -rows front      # only what container runtimes wait and pay for
//	go run ./test/bench -markdown        # tables for the README
//
// # Method
//
// Everything runs in one laboratory of package lab: a namespace "host" in which the helpers
// run as an ordinary user, and a namespace "outside", joined by a veth pair
// with offloads and an MTU so large that it is never the bottleneck. The
// contestants take turns: one round starts every helper once for each MTU, in
// an order that rotates from round to round, and makes every measurement. The
// table shows the median of the rounds.
//
// # Processes
//
// The program runs itself in each place, in a role given by its first
// argument. Roles are agents: they connect to a Unix socket of the conductor
// (the process that was started by hand) and serve net/rpc on that
// connection; when it closes they exit.
//
//	conductor ── outside   servers and their counters, namespace outside
//	          ├─ host      starts helpers, namespace host, ordinary user
//	          ├─ admin     starts the kernel limit, namespace host, its root
//	          └─ guest     load generators, started by a helper as its command
//
// # What is measured, and where
//
//   - Throughput: bytes that arrived at the receiver's socket in a fixed window
//     after a warm-up. Sender and receiver use 128 KiB buffers.
//   - CPU: user and system time of all of the helper's processes in the same
//     window, per 10^9 bytes. What the kernel limit costs is not visible there.
//   - Ping-pong: one byte each way over one TCP connection, blocking sockets.
//   - Connect/close: connect, read the end of file that the server sends at
//     once, close. The server closes first, so the ports of the guest do not
//     run out. Failures and timeouts are counted.
//   - Datagrams out: the rate offered is raised until more than 1 % is lost;
//     the figure is the rate received at the highest rate that was not.
//   - Datagram request and response: one request in flight per socket.
//   - Start-up: from nothing (no namespace) to the first successful connect of
//     a program in the guest, median of 20.
//   - Fronts: taproot under the names slirp4netns and pasta against the
//     originals, on namespaces that were there before, with options as
//     container runtimes exec them. Ready is the byte on the ready descriptor
//     (slirp4netns), or the end of the process that was started (pasta). A
//     guest that waits for it then connects. Median of 20, in turns. Memory is
//     that of a helper's processes together, divided by the number of helpers
//     that run; the share of pages that several have (PSS) shrinks with it.
//   - Memory: PSS (RSS where the kernel refuses PSS) of all of the helper's
//     processes, idle and per connection with 1,000 idle ones.
package main
