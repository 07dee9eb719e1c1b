package pasta

// usage is shown with what is wrong with the options.
const usage = `Usage: pasta [OPTION]... [COMMAND [ARG]...]
       pasta [OPTION]... PID
       pasta [OPTION]... --netns PATH|NAME
'pasta --help' lists the options.
`

// Help is the help text, written by hand, with the defaults in parentheses.
const Help = `Usage: pasta [OPTION]... [COMMAND [ARG]...]
       pasta [OPTION]... PID
       pasta [OPTION]... --netns PATH|NAME

Give a network namespace the host's network without root (this is taproot).
The namespace is a new one with COMMAND in it (default: a login shell), that of
a process, or one with a path or a name below /run/netns. An existing one is
served in the background: pasta returns when everything works, with status 0.

General:
  -d, --debug             log each step
      --trace             the same
  -q, --quiet             log errors only
  -f, --foreground        stay in the foreground
  -e, --stderr            no effect, messages go to standard error anyway
  -l, --log-file PATH     log to a file only
      --log-size BYTES    size at which its older half is given up (1048576)
      --stats DELAY       print counters every DELAY seconds; foreground only
      --runas UID[:GID]   become this user, numbers or names; only for root
  -c, --conf-path PATH    make a socket at PATH for pesto and taproot ctl (none)
  -p, --pcap FILE         write what passes the device to a capture file
  -P, --pid FILE          write the process id of what stays to a file
  -F, --fd FD             not supported
      --chroot-fallback   no effect, there is no chroot
      --no-follow         do not follow changes of the host's addresses, routes
                          and resolv.conf
      --shortcut auto|on|off
                          TCP from socket to socket, by rules in the namespace;
                          only in taproot (auto)
  -h, --help              print this help and exit
      --version           print the version and exit

Addresses. What is not given is copied from the host's interface with the
default route, and follows it:
  -m, --mtu BYTES         MTU of the device, 0 to leave it alone (65520)
  -a, --address ADDR[/LENGTH]
                          address, one of each family at most
  -n, --netmask MASK      IPv4 netmask, in dots or as a number of bits
  -M, --mac-addr MAC      hardware address of the gateway (9a:55:9a:55:9a:55)
      --ns-mac-addr MAC   hardware address of the device
  -g, --gateway ADDR      gateway, one of each family at most
  -i, --interface NAME    the host's interface to copy
  -o, --outbound ADDR     source address of outgoing traffic
      --outbound-if4 NAME interface of outgoing IPv4
      --outbound-if6 NAME interface of outgoing IPv6
  -4, --ipv4-only         no IPv6
  -6, --ipv6-only         no IPv4
  -I, --ns-ifname NAME    name of the device (that of the host's interface)
      --no-copy-routes    no routes but the default one
      --no-copy-addrs     no addresses but the first one

Names:
  -D, --dns ADDR|none     name server to tell by DHCP; may be repeated
      --dns-forward ADDR  what is sent to ports 53 and 853 of this address goes
                          to the host's name server
      --dns-host ADDR     that name server (those of resolv.conf)
  -S, --search LIST|none  search domains to tell by DHCP
      --dhcp-dns          tell the name servers by DHCP, DHCPv6 and NDP
      --no-dhcp-dns       do not (default)
      --dhcp-search       tell the search domains
      --no-dhcp-search    do not (default)
  -H, --hostname NAME     host name, of COMMAND and by DHCP (pasta-HOST)
      --fqdn NAME         full name to tell by DHCP

Access to the host:
      --map-host-loopback ADDR|none
                          address that means the host's loopback (the gateway's)
      --no-map-gw         the gateway's address does not
      --map-guest-addr ADDR|none
                          address that means the host's own address (none)

Protocols:
      --no-tcp            no TCP
      --no-udp            no UDP
      --no-icmp           no ICMP, nor router advertisements
      --no-dhcp           no DHCP server
      --no-ndp            no router advertisements
      --no-dhcpv6         no DHCPv6 server
      --no-ra             no router advertisements

Namespace:
      --userns PATH       user namespace to join (that of PID, or the one
                          that the network namespace belongs to)
      --netns PATH|NAME   network namespace to join
      --netns-only        join no user namespace
      --no-netns-quit     stay when the namespace is gone
      --config-net        set the device up: addresses, routes, MTU

Ports:
  -t, --tcp-ports SPEC    TCP ports of the namespace, reached from the host
  -u, --udp-ports SPEC    UDP ports of the namespace, reached from the host
  -T, --tcp-ns SPEC       TCP ports of the host, reached from the namespace
  -U, --udp-ns SPEC       UDP ports of the host, reached from the namespace
                          Each may be repeated (auto). SPEC is one of
        none              none
        auto              those on which somebody listens
        all               all but those for clients
        80,443            these
        8000-8010         this range
        8080:80           8080 leads to 80, ranges likewise
        8080:10.0.2.9/80  at this address of the namespace
        ~22               all but 22 and those for clients
        8000-8010,~8005   this range without 8005
        8000-8010,auto    those of this range on which somebody listens
                          with the address or the interface to listen on
                          before it: 127.0.0.1/8080, %eth0/8080,
                          192.0.2.1%eth0/8080
      --freebind          listen on addresses that the host does not have
      --host-lo-to-ns-lo  the host's loopback leads to the namespace's loopback
      --no-splice         do not
      --splice-only       nothing but ports from loopback to loopback

pasta(1) of taproot tells more: man taproot-pasta.
`

// versionText returns what --version prints: podman shows it to people as it
// is.
func versionText(version string) string {
	return "pasta taproot-" + version + "\n" +
		"This is taproot under the name of pasta. It follows pasta of July 2026.\n"
}
