package policytest

// Addresses of the guest's network: those of a guest that was asked for nothing
// else.
const (
	Guest4, Guest6       = "10.0.2.100", "fd00::64"
	Gateway4, Gateway6   = "10.0.2.2", "fd00::2"
	Resolver4, Resolver6 = "10.0.2.3", "fd00::3"
	Network4, Network6   = "10.0.2.100/24", "fd00::64/64"
)

// The host's own addresses, from the ranges for documentation (RFC 5737,
// RFC 3849).
const (
	Host4, Host6 = "192.0.2.2", "2001:db8:0:1::2"
)

// A Destination is a row: where a guest may want to go.
type Destination struct {
	// Address is one of those that are meant.
	Address string

	// Is says what it is, in a few words.
	Is string

	// Rule is what policy.Denied.Rule has, or "" for what is allowed.
	Rule string

	// Seen is what a guest notices that sends there.
	Seen Answer
}

// An Answer is what a guest notices.
type Answer uint8

// The answers. Errors are never sent about packets to addresses that are not one
// host's (RFC 1122 §3.2.2, RFC 4443 §2.4), and what no packet may carry is dropped
// as any router does.
const (
	Open       Answer = iota // whatever the outside says: it is forwarded
	Prohibited               // ICMP "administratively prohibited" from the gateway
	OwnEcho                  // the same, but for echo, which the gateway answers
	Silence                  // nothing at all
	SilentEcho               // the same, but for echo, which the gateway answers
)

// String returns the words of the document.
func (a Answer) String() string {
	return [...]string{
		"forwarded", "prohibited", "prohibited; echo is answered by the gateway", "nothing", "nothing; echo is answered by the gateway",
	}[a]
}

// A Source is a row: what a guest may write as the source of its packets.
type Source struct {
	Address string
	Is      string
	Allowed bool // policy.Rules.Source
}

// Destinations returns the rows of destinations. Those of one rule are together.
func Destinations() []Destination { return append(allowed(), denied()...) }

func allowed() []Destination {
	return []Destination{
		{"198.51.100.1", "anything else", "", Open},
		{"2001:db8:0:2::1", "anything else", "", Open},
		{"10.0.2.55", "the guest's network, nobody's", "", Open},
		{"fd00::65", "the guest's network, nobody's", "", Open},
		{"100.64.0.1", "a carrier's network (RFC 6598)", "", Open},
		{"::ffff:198.51.100.1", "IPv4-mapped (RFC 4291): as what it holds", "", Silence},
		{"64:ff9b::c633:6401", "NAT64 (RFC 6052) of what is allowed", "", Open},
		{"64:ff9b:1::c633:6401", "local NAT64 (RFC 8215) of what is allowed", "", Open},
		{"64:ff9b:1:fffe::808:1", "local NAT64 that only looks like 254/8", "", Open},
		{"2002:c633:6401::1", "6to4 (RFC 3056) of what is allowed", "", Open},
	}
}

func denied() []Destination {
	return []Destination{
		{Gateway4, "gateway", "host-loopback", OwnEcho},
		{Gateway6, "gateway", "host-loopback", OwnEcho},
		{"::ffff:" + Gateway4, "gateway, IPv4-mapped", "host-loopback", Silence},
		{"64:ff9b::a00:202", "gateway by NAT64", "host-loopback", Prohibited},
		{"2002:a00:202::1", "gateway by 6to4", "host-loopback", Prohibited},

		{Resolver4, "resolver, but for port 53", "resolver", OwnEcho},
		{Resolver6, "resolver, but for port 53", "resolver", OwnEcho},

		{Guest4, "the guest itself", "guest", Prohibited},
		{Guest6, "the guest itself", "guest", Prohibited},

		{"0.0.0.0", "unspecified: Linux connects it to loopback", "unspecified", Silence},
		{"0.1.2.3", "this network (RFC 1122)", "unspecified", Silence},
		{"::", "unspecified: Linux connects it to loopback", "unspecified", Silence},
		{"::ffff:0.0.0.0", "unspecified, IPv4-mapped", "unspecified", Silence},
		{"64:ff9b::", "unspecified by NAT64", "unspecified", Prohibited},

		{"127.0.0.1", "loopback", "loopback", Silence},
		{"127.255.255.254", "loopback", "loopback", Silence},
		{"::1", "loopback", "loopback", Silence},
		{"::ffff:127.0.0.1", "loopback, IPv4-mapped", "loopback", Silence},
		{"64:ff9b::7f00:1", "loopback by NAT64", "loopback", Prohibited},
		{"64:ff9b:1::7f00:1", "loopback by local NAT64, length 96", "loopback", Prohibited},
		{"64:ff9b:1:7f00:0:100::", "loopback by local NAT64, length 48", "loopback", Prohibited},
		{"64:ff9b:1:7f:0:1::", "loopback by local NAT64, length 56", "loopback", Prohibited},
		{"64:ff9b:1:0:7f:0:100:0", "loopback by local NAT64, length 64", "loopback", Prohibited},
		{"2002:7f00:1::1", "loopback by 6to4", "loopback", Prohibited},
		{"2001:0:808:808::80ff:fffe", "loopback by Teredo (RFC 4380)", "loopback", Prohibited},
		{"::ffff:0:7f00:1", "loopback, IPv4-translated (RFC 7915)", "loopback", Prohibited},
		{"2001:db8::5efe:7f00:1", "loopback by ISATAP (RFC 5214)", "loopback", Prohibited},
		{"2001:db8::200:5efe:7f00:1", "loopback by ISATAP, universal", "loopback", Prohibited},

		{"224.0.0.251", "multicast", "multicast", Silence},
		{"239.0.0.1", "multicast", "multicast", Silence},
		{"ff02::1", "multicast", "multicast", SilentEcho},
		{"ff0e::1", "multicast", "multicast", Silence},
		{"2002:e000:1::", "multicast by 6to4", "multicast", Prohibited},

		{"255.255.255.255", "broadcast", "broadcast", Silence},
		{"10.0.2.255", "broadcast of the guest's network", "broadcast", Prohibited},

		{"240.0.0.1", "reserved (RFC 1112)", "reserved", Silence},
		{"255.255.255.254", "reserved (RFC 1112)", "reserved", Silence},

		{"::2", "IPv4-compatible (RFC 4291)", "ipv4-compatible", Prohibited},
		{"::127.0.0.1", "IPv4-compatible", "ipv4-compatible", Prohibited},
		{"::8.8.8.8", "IPv4-compatible", "ipv4-compatible", Prohibited},

		{Host4, "an address of the host", "host", Prohibited},
		{Host6, "an address of the host", "host", Prohibited},
		{"::ffff:" + Host4, "of the host, IPv4-mapped", "host", Silence},
		{"64:ff9b::c000:202", "of the host by NAT64", "host", Prohibited},
		{"2002:c000:202::1", "of the host by 6to4", "host", Prohibited},

		{"169.254.169.254", "metadata of most clouds", "link-local", Prohibited},
		{"169.254.0.1", "link-local (RFC 3927)", "link-local", Prohibited},
		{"fe80::2", "link-local (RFC 4291)", "link-local", Prohibited},
		{"febf::2", "link-local (RFC 4291)", "link-local", Prohibited},
		{"fd00:ec2::254", "metadata of EC2", "link-local", Prohibited},
		{"fd00:ec2::23", "pod identity of EKS", "link-local", Prohibited},
		{"fd20:ce::254", "metadata of Compute Engine", "link-local", Prohibited},
		{"100.100.100.200", "metadata of Alibaba Cloud", "link-local", Prohibited},
		{"168.63.129.16", "host agent of Azure", "link-local", Prohibited},
		{"192.0.0.192", "metadata of Oracle Cloud Classic", "link-local", Prohibited},
		{"::ffff:169.254.169.254", "link-local, IPv4-mapped", "link-local", Silence},
		{"64:ff9b::a9fe:a9fe", "link-local by NAT64", "link-local", Prohibited},
		{"64:ff9b:1:a9fe:a9:fe00::", "link-local by local NAT64, length 48", "link-local", Prohibited},
		{"2002:a9fe:a9fe::", "link-local by 6to4", "link-local", Prohibited},
	}
}

// Sources returns the rows of sources.
func Sources() []Source {
	return []Source{
		{Guest4, "the guest's own", true},
		{Guest6, "the guest's own", true},
		{"fe80::5894:1", "link-local of IPv6", true},
		{"172.17.0.2", "a private network behind the guest", true},
		{"10.88.0.5", "a private network behind the guest", true},
		{"192.168.99.1", "a private network behind the guest", true},
		{"100.64.7.2", "a carrier's network behind the guest", true},
		{"198.19.255.1", "a network for benchmarks behind the guest", true},
		{"fd12::5", "a private network behind the guest", true},

		{"10.0.2.101", "a neighbour in the guest's network", false},
		{"fd00::65", "a neighbour in the guest's network", false},
		{Gateway4, "the gateway", false},
		{Gateway6, "the gateway", false},
		{Resolver4, "the resolver", false},
		{Resolver6, "the resolver", false},
		{"10.0.2.255", "broadcast of the guest's network", false},
		{Host4, "the host", false},
		{Host6, "the host", false},
		{"8.8.8.8", "somebody outside", false},
		{"172.32.0.1", "just beyond a private network", false},
		{"2001:db8::1", "somebody outside", false},
		{"0.0.0.0", "unspecified, but to DHCP", false},
		{"::", "unspecified, but to find duplicate addresses", false},
		{"127.0.0.1", "loopback", false},
		{"::1", "loopback", false},
		{"169.254.1.1", "link-local of IPv4", false},
		{"fd00:ec2::254", "metadata of EC2", false},
		{"224.0.0.1", "multicast", false},
		{"ff02::1", "multicast", false},
		{"255.255.255.255", "broadcast", false},
		{"240.0.0.1", "reserved", false},
		{"::ffff:10.0.2.100", "IPv4-mapped", false},
	}
}
