package front

import (
	"github.com/spf13/cobra"

	"taproot/cmd/internal/front/pasta"
	"taproot/cmd/internal/front/slirp"
)

// helpOf returns the help text of a command. The texts are written by hand, fit
// 80 columns, and each option ends with its default; a test holds them to the
// options there are.
func helpOf(c *cobra.Command) string {
	if c.Name() == "ctl" || c.HasParent() && c.Parent().Name() == "ctl" {
		return ctlHelp
	}
	switch c.Name() {
	case "run":
		return runHelp
	case "attach":
		return attachHelp
	case "ls":
		return lsHelp
	case "check":
		return checkHelp
	case "version":
		return versionHelp
	case "completion":
		return completionHelp
	case "help":
		return helpHelp
	case slirp.Name:
		return slirp.Help
	case pasta.Name:
		return pasta.Help
	case pasta.PestoName:
		return pasta.PestoHelp
	}
	return rootHelp
}

const rootHelp = `Usage: taproot COMMAND [OPTION]... [ARG]...

Give a command its own network without root: a namespace with a TAP device,
a TCP/IP stack in user space behind it, and ordinary sockets on the host side.

Commands:
  run         run a command in a network of its own
  attach      give an existing network namespace a network
  ctl         look into an instance that runs, and change its ports
  ls          list your instances
  check       say what this machine allows, and how to get the rest
  version     print the version
  completion  print a completion script for a shell
  help        print the help of a command

Commands that are other programs, and run by their names too:
  slirp4netns  give an existing namespace a network, as slirp4netns does
  pasta        give a command or a namespace the host's network, as pasta does
  pesto        change the ports of a running pasta, as pesto does

Options:
      --version  print the version and exit (default: off)
  -h, --help     print this help and exit (default: off)

Example:
  taproot run -- curl https://example.org/

'taproot help COMMAND' tells more, taproot(1) all.
`

// networkHelp is what run and attach have in common: netOptions.
const networkHelp = `Network of the guest:
      --net=CIDR|auto    IPv4 network; offset 2 is the gateway, 3 the resolver,
                         100 the guest; auto picks a range that is free on the
                         host (default: 10.0.2.0/24)
      --net6=CIDR|auto   the same for IPv6 (default: fd00::/64)
      --ipv4=on|off      IPv4 in the guest (default: on)
      --ipv6=on|off      IPv6 in the guest (default: on)
      --mtu=BYTES        MTU of the TAP device, 576 to 65521, with IPv6 at
                         least 1280 (default: 1500)
      --ifname=NAME      name of the TAP device (default: tap0)
      --mac=MAC          hardware address of the TAP device (default: random)
      --dns=ADDR[:PORT]|auto|off
                         what answers the guest's queries: a resolver (repeat
                         for more), auto for those of the host's resolv.conf,
                         off to leave names alone (default: auto)
      --offload=auto|on|off
                         segmentation and checksum offload of the TAP device;
                         on fails where the kernel has none (default: auto)
      --shortcut=auto|on|off
                         TCP from socket to socket, without frames, by rules
                         in the guest's namespace; auto leaves a namespace of
                         another user alone, on fails where the kernel lacks
                         what it needs (default: auto)
      --sandbox=auto|require|off
                         what the process gives up that reads what the guest
                         sends; auto skips, and logs, what this machine does
                         not offer, require fails then (default: auto)
      --limit=NAME=NUMBER
                         how much there may be of something that 'taproot ctl
                         NAME stats' lists, as in memory=256M; repeat for more
                         (default: docs/limits.md)

What the guest may reach besides other machines:
      --host-loopback=PORT[,PORT|FIRST-LAST]...|all|none
                         ports of the host's loopback, at the gateway's
                         address (default: none)
      --allow-host=PORT[,PORT|FIRST-LAST]...|all|none
                         ports of the host's other addresses (default: none)
      --allow-link-local
                         169.254.0.0/16, fe80::/10 and the addresses of cloud
                         metadata (default: off)

Ports (repeat an option for more; docs: taproot(1), PUBLISHING):
  -p, --publish=[ADDRESS:][HOSTPORT:]GUESTPORT[/tcp|/udp][,OPTION]...
                         a port of the host that leads to one of the guest's;
                         or ranges, unix:PATH:GUESTPORT, auto[:PORTS] for what
                         the guest listens on. Without ADDRESS on the host's
                         loopback; options are proxy=v1|v2, wait and
                         source=preserve|gateway (default: none)
      --reach=HOSTPORT[:GUESTPORT][/udp]
                         a port of the guest's loopback that leads to one of
                         the host's; or unix:PATH:GUESTPORT (default: none)
      --source=preserve|gateway
                         whom the guest sees as client of a published port:
                         the real one, or the gateway (default: preserve)

`

const runHelp = `Usage: taproot run [OPTION]... [--] [COMMAND [ARG]...]

Run COMMAND (default: your shell) in new user, network and mount namespaces
that reach the host's networks through taproot. The exit status is COMMAND's.
Options end at COMMAND: its own options need no '--' before them.

` + networkHelp + `Namespaces:
      --keep-id          your user and group id inside instead of root's
                         (default: off)
      --map-auto         root inside, and your subordinate ids from 1 on
                         (default: off)
      --pid              new PID namespace (default: off)
      --ipc              new IPC namespace (default: off)
      --uts              new UTS namespace (default: off)

Other:
` + apiHelp + `  -v, --verbose          log each step to standard error (default: off)
  -h, --help             print this help and exit (default: off)

Exit status: COMMAND's; 128+n after signal n; 125 if taproot fails, 126 if
COMMAND cannot be executed, 127 if it is not found, 2 for a wrong option.

Examples:
  taproot run                                        a shell
  taproot run -- curl https://example.org/           one command
  taproot run -p 8080:80 -- httpd                    a server
  taproot run --host-loopback=5432 -- psql -h host.taproot.internal
`

const attachHelp = `Usage: taproot attach [OPTION]... PID|PATH|NAME
       taproot attach [OPTION]... --tap-fd=FD

Give an existing network namespace a network: that of a process, of a path, or
of a name in $XDG_RUNTIME_DIR/netns or /run/netns. Stays until nothing holds
the namespace any more.

Namespace:
      --userns=PATH      user namespace to join first; the owner is the one that
                         the network namespace belongs to (default: the owner)
      --tap-fd=FD        a TAP device that the caller opened, instead of a
                         namespace (default: none)
      --configure=on|off
                         set addresses, MTU and routes of the device, which is
                         only opened otherwise (default: on)
      --ready-fd=FD      descriptor that gets the byte 1 and is closed when
                         the network works (default: none)
      --exit-fd=FD       descriptor that ends it when it hangs up
                         (default: none)

` + networkHelp + `Other:
` + apiHelp + `  -v, --verbose          log each step to standard error (default: off)
  -h, --help             print this help and exit (default: off)

Exit status: 0 when the namespace is gone or the exit descriptor hung up, 125
if taproot fails, 2 for a wrong option; a signal ends it by that signal.

Example:
  unshare --user --map-root-user --net --fork sh -c 'echo $$; exec sh'
  taproot attach 4711    # in another terminal, with the number printed there
`

// apiHelp is what run and attach have in common: apiOptions.
const apiHelp = `      --name=NAME        what 'taproot ctl' calls it (default: made up)
      --api=PATH|auto|off
                         socket of 'taproot ctl'; auto is NAME.sock in
                         $XDG_RUNTIME_DIR/taproot (default: auto)
`

const ctlHelp = `Usage: taproot ctl [NAME] COMMAND [OPTION]... [ARG]...

Look into an instance that runs, and change its ports. NAME may be left out if
there is only one, and is a path for one with --api=PATH.

Commands:
  info                what it is, and how it does
  ports               published ports, with their ids and counters
  publish PORT...     publish ports, in the words of 'taproot run --publish'
  unpublish ID...     take published ports back
  flows               live connections, and what UDP and ping have instead
  stats               all counters
  events              what happens, until the instance leaves
  restart             another engine in place of the one that runs

Options:
      --instance=NAME the same as NAME (default: the only one)
      --json          print JSON, with the fields of the API (default: off)
  -h, --help          print this help and exit (default: off)

Options of publish:
      --reach=PORT    as 'taproot run --reach', besides (default: none)
      --fd=NUMBER     this open socket is what the one PORT listens with, for
                      ports that you may not open (default: none)

Options of unpublish, and of flows:
      --kill          end its connections too; end these flows (default: off)

Options of restart:
      --binary=PATH   a program of another build (default: the same as now)

Options of flows, to show or end only some; repeat proto and way for more:
      --proto=tcp|udp|icmp            (default: any)
      --direction=inbound|outbound    from the host, or others (default: any)
      --way=frames|shortcut           (default: any)
      --address=ADDRESS|NETWORK       of one of both ends (default: any)
      --port=PORT                     of one of both ends (default: any)
      --rule=ID                       of a published port (default: any)
      --id=ID                         (default: any)
      --all                           really all, for --kill (default: off)

Exit status: 0, 125 if the instance says no or does not answer, 2 for a wrong
option.

Examples:
  taproot ctl ports
  taproot ctl web publish 8080:80 127.0.0.1:5353:53/udp
  taproot ctl web unpublish 1 --kill
  taproot ctl flows --address=198.51.100.0/24 --kill
  taproot ctl web events --json | while read -r event; do ...; done
`

const lsHelp = `Usage: taproot ls [OPTION]...

List your instances that run: name, process, namespace, addresses, how the
engine does, age. What dead ones have left behind is removed.

Options:
      --json  print JSON, a list of what 'ctl info' prints (default: off)
  -h, --help  print this help and exit (default: off)
`

const checkHelp = `Usage: taproot check [OPTION]...

Say what this machine allows, one line each: ok, degraded or missing, the
feature, what was found, and a command that mends it.

Options:
      --json  print JSON (default: off)
  -h, --help  print this help and exit (default: off)

Exit status: 0 if 'taproot run' would work, 1 if not.
`

const versionHelp = `Usage: taproot version

Print the version.

Options:
  -h, --help  print this help and exit (default: off)
`

const completionHelp = `Usage: taproot completion bash|zsh|fish|powershell

Print a completion script for a shell. For bash, in this session:
  . <(taproot completion bash)

Options:
  -h, --help  print this help and exit (default: off)
`

const helpHelp = `Usage: taproot help [COMMAND]

Print the help of a command.

Options:
  -h, --help  print this help and exit (default: off)
`
