package front

import (
	"fmt"
	"net"

	"github.com/spf13/pflag"

	"taproot/internal/engine"
	"taproot/internal/plan"
	"taproot/stack/policy"
	"taproot/tap"
	"taproot/userns"
)

// netOptions are the options of the guest's network as parsed, each still by
// itself.
type netOptions struct {
	net4, net6     plan.Network
	ipv4, ipv6     bool
	mtu            int
	ifname         string
	mac            net.HardwareAddr
	dns            engine.DNS
	hostLoopback   policy.Ports
	allowHost      policy.Ports
	allowLinkLocal bool
	offload        tap.Offload
	shortcut       engine.Shortcut
	sandbox        engine.SandboxMode
	limits         engine.LimitSettings
	portOptions
}

// options are the options of `run`.
type options struct {
	netOptions
	keepID        bool
	mapAuto       bool
	pid, ipc, uts bool
	verbose       bool
	apiOptions
}

// defaultMTU is the truth about most paths, and with offloads as fast as any.
const defaultMTU = 1500

// register adds the options to fs with their defaults.
func (o *options) register(fs *pflag.FlagSet) {
	fs.SortFlags = false
	o.netOptions.register(fs)
	fs.BoolVar(&o.keepID, "keep-id", false, "keep the caller's user and group id")
	fs.BoolVar(&o.mapAuto, "map-auto", false, "map root and the subordinate ids")
	fs.BoolVar(&o.pid, "pid", false, "new PID namespace")
	fs.BoolVar(&o.ipc, "ipc", false, "new IPC namespace")
	fs.BoolVar(&o.uts, "uts", false, "new UTS namespace")
	o.apiOptions.register(fs)
	fs.BoolVarP(&o.verbose, "verbose", "v", false, "log each step")
}

// register adds the options to fs with their defaults.
func (o *netOptions) register(fs *pflag.FlagSet) {
	o.registerNetwork(fs)
	o.registerPolicy(fs)
	o.portOptions.register(fs)
}

func (o *netOptions) registerNetwork(fs *pflag.FlagSet) {
	o.ipv4, o.ipv6, o.mtu, o.ifname = true, true, defaultMTU, "tap0"
	fs.Var(&value[plan.Network]{result: &o.net4, preset: "10.0.2.0/24", kind: "CIDR|auto",
		parse: last(parseNet4)}, "net", "IPv4 network of the guest")
	fs.Var(&value[plan.Network]{result: &o.net6, preset: "fd00::/64", kind: "CIDR|auto",
		parse: last(parseNet6)}, "net6", "IPv6 network of the guest")
	fs.Var(&value[bool]{result: &o.ipv4, preset: "on", kind: "on|off",
		parse: last(parseSwitch)}, "ipv4", "IPv4 in the guest")
	fs.Var(&value[bool]{result: &o.ipv6, preset: "on", kind: "on|off",
		parse: last(parseSwitch)}, "ipv6", "IPv6 in the guest")
	fs.Var(&value[int]{result: &o.mtu, preset: fmt.Sprint(defaultMTU), kind: "BYTES",
		parse: last(parseMTU)}, "mtu", "MTU of the TAP device")
	fs.Var(&value[string]{result: &o.ifname, preset: o.ifname, kind: "NAME",
		parse: last(parseInterface)}, "ifname", "name of the TAP device")
	fs.Var(&value[net.HardwareAddr]{result: &o.mac, preset: "random", kind: "MAC",
		parse: last(parseMAC)}, "mac", "hardware address of the TAP device")
	fs.Var(&value[engine.DNS]{result: &o.dns, preset: "auto", kind: "ADDR[:PORT]|auto|off",
		parse: parseDNS}, "dns", "resolver of the guest's queries")
	fs.Var(&value[tap.Offload]{result: &o.offload, preset: "auto", kind: "auto|on|off",
		parse: last(tap.ParseOffload)}, "offload", "segmentation and checksum offload")
	fs.Var(&value[engine.Shortcut]{result: &o.shortcut, preset: "auto", kind: "auto|on|off",
		parse: last(engine.ParseShortcut)}, "shortcut", "TCP from socket to socket")
	fs.Var(&value[engine.SandboxMode]{result: &o.sandbox, preset: "auto", kind: "auto|require|off",
		parse: last(engine.ParseSandbox)}, "sandbox", "confinement of the engine")
	fs.Var(&value[engine.LimitSettings]{result: &o.limits, preset: "docs/limits.md", kind: "NAME=NUMBER",
		parse: engine.ParseLimits}, "limit", "how much there may be of something")
}

func (o *netOptions) registerPolicy(fs *pflag.FlagSet) {
	fs.Var(&value[policy.Ports]{result: &o.hostLoopback, preset: "none", kind: "PORTS|all|none",
		parse: parsePorts}, "host-loopback", "ports of the host's loopback to open")
	fs.Var(&value[policy.Ports]{result: &o.allowHost, preset: "none", kind: "PORTS|all|none",
		parse: parsePorts}, "allow-host", "ports of the host's addresses to open")
	fs.BoolVar(&o.allowLinkLocal, "allow-link-local", false, "open link-local and metadata addresses")
}

// check finds what is wrong although each option by itself is right.
func (o *options) check(changed func(option string) bool) error {
	if o.keepID && o.mapAuto {
		return exclusive("--keep-id", "--map-auto")
	}
	if err := o.apiOptions.check(); err != nil {
		return err
	}
	return o.netOptions.check(changed)
}

// check finds what is wrong with the network as a whole.
func (o *netOptions) check(changed func(option string) bool) error {
	switch {
	case !o.ipv4 && !o.ipv6:
		return exclusive("--ipv4=off", "--ipv6=off")
	case !o.ipv4 && changed("net"):
		return exclusive("--ipv4=off", "--net")
	case !o.ipv6 && changed("net6"):
		return exclusive("--ipv6=off", "--net6")
	case o.ipv6 && o.mtu < minMTU6:
		return &misuse{
			err:    fmt.Errorf("--mtu=%d: IPv6 needs %d (RFC 8200 section 5)", o.mtu, minMTU6),
			remedy: "a smaller MTU needs: --ipv6=off",
		}
	}
	return nil
}

// exclusive is the error for two options of which one at most makes sense.
func exclusive(a, b string) error {
	return &misuse{
		err:    fmt.Errorf("%s and %s exclude each other", a, b),
		remedy: "leave one of them out",
	}
}

// guest returns the namespaces that checked options ask for.
func (o *options) guest() userns.Config {
	return userns.Config{Identity: o.identity(), PID: o.pid, IPC: o.ipc, UTS: o.uts}
}

// config returns the engine's configuration for checked options. Where the
// engine has the same default, a field stays zero.
func (o *netOptions) config() engine.Config {
	o.net4.Off, o.net6.Off = !o.ipv4, !o.ipv6
	published := o.published()
	return engine.Config{
		Plan:           plan.Offsets{Interface: o.ifname, MTU: o.mtu, MAC: o.mac, Net4: o.net4, Net6: o.net6},
		DNS:            o.dns,
		Announce:       engine.Announce{DNS: !o.dns.Off, Search: true},
		Offload:        o.offload,
		Shortcut:       o.shortcut,
		Sandbox:        engine.Sandbox{Mode: o.sandbox},
		Limits:         o.limits,
		HostLoopback:   o.hostLoopback,
		AllowHost:      o.allowHost,
		AllowLinkLocal: o.allowLinkLocal,
		Rules:          published.Rules,
		Auto:           published.Auto,
		Refuse:         true,
	}
}

func (o *options) identity() userns.Identity {
	switch {
	case o.keepID:
		return userns.IdentityKeep
	case o.mapAuto:
		return userns.IdentityAuto
	}
	return userns.IdentityRoot
}
