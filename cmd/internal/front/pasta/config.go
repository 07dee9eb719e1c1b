package pasta

import (
	"net/netip"
	"os"

	"taproot/internal/engine"
	"taproot/internal/plan"
	"taproot/stack/nat"
	"taproot/stack/policy"
	"taproot/userns"
)

// dnsTLS is the port of DNS over TLS (RFC 7858), which --dns-forward is about as
// well. What is said there is none of our business.
const dnsTLS = 853

// config returns the engine's configuration for checked options, without what
// is open or called.
func (o *options) config(ephemeral portRange) engine.Config {
	everything := policy.AllPorts()
	c := engine.Config{
		Plan:      o.planner(),
		Down:      !o.configure,
		KeepFiles: true,
		DNS: engine.DNS{
			Off:     !o.dnsForward.any(),
			Servers: o.servers(),
			Ports:   ports([]portRange{{dnsTLS, dnsTLS}}),
		},
		Announce: engine.Announce{
			DNS: o.dhcpDNS && !o.dnsOff, Resolvers: o.dns,
			Search: o.dhcpSearch && !o.searchOff, Domains: o.search,
			Hostname: o.hostname, FQDN: o.fqdn,
		},
		HostAt:         o.guestAddrs.list(),
		HostLoopback:   everything, // where an address means it, see planner and maps
		AllowHost:      everything,
		AllowLinkLocal: true,
		Maps:           o.maps(),
		Bind: nat.Bind{
			Addr4: o.outbound[ipv4], Addr6: o.outbound[ipv6],
			Device4: o.outbound4, Device6: o.outbound6,
		},
		Without: engine.Without{
			TCP: o.noTCP, UDP: o.noUDP, ICMP: o.noICMP,
			DHCP: o.noDHCP, DHCPv6: o.noDHCPv6, RA: o.noRA,
		},
		Auto:     o.automatic(ephemeral),
		NoFollow: o.noFollow,
		Shortcut: o.shortcut,
		Stats:    o.stats,
	}
	if o.spliceOnly {
		c.Plan = nil
	}
	return c
}

// servers returns where --dns-forward leads to; nil for the host's resolv.conf.
func (o *options) servers() []netip.AddrPort {
	const domain = 53 // RFC 1035 section 4.2
	var list []netip.AddrPort
	for _, a := range o.dnsHost.list() {
		list = append(list, netip.AddrPortFrom(a, domain))
	}
	return list
}

// maps returns the addresses that mean the host's loopback.
func (o *options) maps() []policy.Map {
	var list []policy.Map
	for i, host := range [2]netip.Addr{ipv4: netip.AddrFrom4([4]byte{127, 0, 0, 1}), ipv6: netip.IPv6Loopback()} {
		if a := o.loopbacks[i]; a.IsValid() {
			list = append(list, policy.Map{Guest: a, Host: host, Ports: policy.AllPorts()})
		}
	}
	return list
}

// A planner copies the host's network for the guest.
type planner struct {
	plan.Copy

	// foreign says for which families the gateway's address does not mean the
	// host.
	foreign [2]bool
}

// Plan implements engine.Planner.
func (p planner) Plan(warn plan.Warn) (plan.Plan, error) {
	result, err := p.Copy.Plan(warn)
	for i, f := range result.Families() {
		f.Foreign = f.Foreign || p.foreign[i]
	}
	return result, err
}

func (o *options) planner() planner {
	c := plan.Copy{
		Template: o.template, Interface: o.ifname, MTU: o.mtu, MAC: o.guestMAC, GatewayMAC: o.mac,
		MapGateway: true,
		V4:         o.family(ipv4), V6: o.family(ipv6),
	}
	c.V4.Off, c.V6.Off = o.only6, o.only4 || o.mtu != 0 && o.mtu < minMTU6
	if c.V4.Bits == 0 {
		c.V4.Bits = o.netmask
	}
	p := planner{Copy: c}
	for i := range p.foreign {
		p.foreign[i] = o.loopbackOff != "" || o.loopbacks[i].IsValid()
	}
	return p
}

func (o *options) family(i int) plan.CopyFamily {
	f := plan.CopyFamily{
		Bits: o.bits[i], Gateway: o.gateways[i], Resolver: o.dnsForward[i],
		NoRoutes: o.noRoutes, NoAddresses: o.noAddresses,
	}
	if a := o.addresses[i]; a.IsValid() {
		f.Addresses = []netip.Addr{a}
	}
	return f
}

// attachment returns what exists already: the target of the modes that have
// one.
func (o *options) attachment() (engine.Attachment, error) {
	a := engine.Attachment{Follow: userns.FollowTarget, Stay: o.noQuit}
	var err error
	if o.mode() == modeProcess {
		a.Target.PID, err = o.pid()
	} else {
		a.Target.NetNS, err = o.namespacePath()
	}
	a.Target.UserNS, a.Target.NetOnly = o.userns, o.netnsOnly
	return a, err
}

// guest returns the command and its namespaces in modeCommand.
func (o *options) guest() userns.Config {
	command := o.operands
	if len(command) == 0 {
		command = loginShell(os.Getenv("SHELL"))
	}
	return userns.Config{
		Command: command, Identity: userns.IdentityRoot,
		PID: true, IPC: true, UTS: true, Hostname: o.guestName(os.Hostname),
	}
}

// guestName returns the command's host name.
func (o *options) guestName(host func() (string, error)) string {
	if o.hostname != "" {
		return o.hostname
	}
	name, err := host()
	if err != nil {
		return Name
	}
	name = Name + "-" + name
	return name[:min(len(name), maxName)]
}

// loginShell returns the command for a login shell.
func loginShell(shell string) []string {
	if shell == "" {
		shell = "/bin/sh"
	}
	return []string{shell, "-l"}
}
