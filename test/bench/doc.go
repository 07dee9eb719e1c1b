// Bench measures what a guest gets from taproot, from the peers that are
// installed (slirp4netns, pasta, rootlesskit) and from the kernel's own NAT through a veth
// pair, which needs real privilege and is here as the limit. A few rows also
// tell what loopback does on the same machine.
//
//	make bench                           # everything, a quarter of an hour
//	make bench BENCH=-quick              # one short round
//	make bench BENCH='-rows tcp-1500'    # only rows whose key starts so
//	make bench BENCH='-rows front'       # only what container runtimes wait and pay for
//	make bench BENCH='-rows published'   # only published ports
//	make bench BENCH='-format markdown'  # tables for a document
//	make bench-publish RUN=docs/benchmarks/NAME
//	make bench-compare OLD=HEAD~1        # two builds in turns, judged by benchstat
//	make bench-plot                      # a picture of the last published run
//
// Taproot takes part twice: as it comes, and as taproot-off, with its shortcut
// switched off, in the rows that say what the stack path alone is worth.
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
//	          ├─ near      clients of published ports, namespace host
//	          ├─ host      starts helpers, namespace host, ordinary user
//	          ├─ admin     starts the kernel limit, namespace host, its root
//	          ├─ admin     the same on the outside, for what loopback does
//	          └─ guest     load generators, started by a helper as its command
//	             └─ guest  the same in a network behind the guest's
//
// # What is measured, and where
//
//   - Throughput: bytes that arrived at the receiver's socket in a fixed window
//     after a warm-up. Sender and receiver use 128 KiB buffers.
//   - CPU: user and system time of all of the helper's processes in the same
//     window, per 10^9 bytes. What the kernel limit costs is not visible there.
//   - Nested: the same from a network namespace behind the guest's, through a
//     bridge and a masquerade, as container engines make them inside a guest.
//   - Delay and loss: the same over a second way between host and outside, where
//     frames pass two TAP devices and the conductor, which holds each for 10 ms
//     and loses one in a thousand: the same ones in each run.
//   - Ping-pong: one byte each way over one TCP connection, blocking sockets;
//     also beside bulk traffic that began after it had connected.
//   - Connect/close: connect, read the end of file that the server sends at
//     once, close. The server closes first, so the ports of the guest do not
//     run out. Failures and timeouts are counted.
//   - Datagrams out: the rate offered is raised until more than 1 % is lost;
//     the figure is the most that was received at a rate that was not.
//   - UDP_SEGMENT/GRO: what arrives when the sender, guest or outside, gives its
//     kernel trains of datagrams as fast as it can, however much is lost.
//   - Datagram request and response: one request in flight per socket.
//   - DNS: queries by 32 clients through the helper's own resolver (the kernel's
//     limit: straight to the server), each from a new socket for a new name.
//   - QUIC: one stream by the program of test/bench/quic.
//   - Published ports: the same with the servers in the guest, at ports that the
//     helper publishes on all of the host's addresses. Clients are outside, or on
//     the host and use 127.0.0.1; "in" is towards the guest. Rootlesskit takes part
//     with its builtin port driver, whose guest sees 127.0.0.1 and not its
//     clients; windows are shorter.
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
//   - Many connections: 10,000 and then 50,000 are opened a thousand at a time,
//     until one is refused, the helper dies, takes 4 GB or 30 s. Then each is
//     used for one byte to and fro. In the first round only.
package main
