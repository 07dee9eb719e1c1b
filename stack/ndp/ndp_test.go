package ndp

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
)

func config() Config {
	return Config{
		Prefix:    netip.MustParsePrefix("fd00::64/64"),
		MTU:       65520,
		DHCP:      true,
		Resolvers: []netip.Addr{netip.MustParseAddr("fd00::3"), netip.MustParseAddr("fd00::4")},
		Search:    []string{"corp.example.com", "example.com"},
		RouterMAC: net.HardwareAddr{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee},
		Lifetime:  time.Hour,
	}
}

func advertise(t *testing.T, c Config) *ndp.RouterAdvertisement {
	t.Helper()
	b, err := Advertisement(c)
	if err != nil {
		t.Fatal(err)
	}
	const most = 1280 - 40
	if len(b) > most || b[0] != 134 || b[1] != 0 || b[2] != 0 || b[3] != 0 {
		t.Errorf("message of %v bytes, begins with %x", len(b), b[:4])
	}
	m, err := ndp.ParseMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	return m.(*ndp.RouterAdvertisement)
}

// option returns the option of type T, and fails the test if there are not as
// many as wanted.
func option[T ndp.Option](t *testing.T, ra *ndp.RouterAdvertisement, want int) (found T) {
	t.Helper()
	n := 0
	for _, o := range ra.Options {
		if o, ok := o.(T); ok {
			found = o
			n++
		}
	}
	if n != want {
		t.Errorf("options of type %T: got %v, want %v", found, n, want)
	}
	return found
}

func TestAdvertisement(t *testing.T) {
	ra := advertise(t, config())
	if !ra.ManagedConfiguration || !ra.OtherConfiguration || ra.CurrentHopLimit != 64 || ra.RouterLifetime != time.Hour {
		t.Errorf("header: got %+v", ra)
	}
	p := option[*ndp.PrefixInformation](t, ra, 1)
	if got := netip.PrefixFrom(p.Prefix, int(p.PrefixLength)).String(); got != "fd00::/64" {
		t.Errorf("prefix: got %v, want fd00::/64", got)
	}
	if !p.OnLink || p.AutonomousAddressConfiguration || p.ValidLifetime != time.Hour || p.PreferredLifetime != time.Hour {
		t.Errorf("prefix: got %+v", p)
	}
	if got := option[*ndp.MTU](t, ra, 1).MTU; got != 65520 {
		t.Errorf("MTU: got %v, want 65520", got)
	}
	if got := option[*ndp.LinkLayerAddress](t, ra, 1).Addr.String(); got != "5a:94:ef:e4:0c:ee" {
		t.Errorf("link-layer address: got %v", got)
	}
	if got := option[*ndp.RecursiveDNSServer](t, ra, 1); !slices.Equal(got.Servers, config().Resolvers) || got.Lifetime != time.Hour {
		t.Errorf("RDNSS: got %+v", got)
	}
	if got := option[*ndp.DNSSearchList](t, ra, 1); !slices.Equal(got.DomainNames, config().Search) {
		t.Errorf("DNSSL: got %+v", got)
	}
}

// TestAdvertisementOfSlirp4netns lets the guest make up its address.
func TestAdvertisementOfSlirp4netns(t *testing.T) {
	ra := advertise(t, Config{Prefix: netip.MustParsePrefix("fd00::/64"), Autonomous: true, RouterMAC: config().RouterMAC})
	if p := option[*ndp.PrefixInformation](t, ra, 1); !p.OnLink || !p.AutonomousAddressConfiguration {
		t.Errorf("prefix: got %+v, want on-link and autonomous", p)
	}
	if ra.ManagedConfiguration || ra.OtherConfiguration || ra.RouterLifetime != 1800*time.Second {
		t.Errorf("header: got %+v", ra)
	}
}

func TestAdvertisementLeavesOut(t *testing.T) {
	c := config()
	c.MTU, c.Resolvers, c.Search, c.Lifetime, c.DHCP = 0, nil, nil, 0, false
	ra := advertise(t, c)
	option[*ndp.MTU](t, ra, 0)
	option[*ndp.RecursiveDNSServer](t, ra, 0)
	option[*ndp.DNSSearchList](t, ra, 0)
	if ra.ManagedConfiguration || ra.OtherConfiguration {
		t.Error("M or O without DHCPv6")
	}
	if ra.RouterLifetime != defaultLifetime {
		t.Errorf("lifetime: got %v, want %v", ra.RouterLifetime, defaultLifetime)
	}
}

func TestAdvertisementOfLongSearchList(t *testing.T) {
	name := func(first string, size int) string {
		return (first + strings.Repeat("."+strings.Repeat("a", 50), 5))[:size]
	}
	c := config()
	c.Lifetime = 1000 * time.Hour
	c.Search = []string{name("a", 100), name("too-long", 239), name("b", 100), name("c", 238), name("too-much", 100), "d"}
	ra := advertise(t, c)
	var got []string
	for _, o := range ra.Options {
		if o, ok := o.(*ndp.DNSSearchList); ok {
			got = append(got, o.DomainNames...)
		}
	}
	if want := []string{c.Search[0], c.Search[2], c.Search[3], "d"}; !slices.Equal(got, want) {
		t.Errorf("search list: got %v, want %v", got, want)
	}
	if ra.RouterLifetime != maxLifetime {
		t.Errorf("lifetime: got %v, want %v", ra.RouterLifetime, maxLifetime)
	}
}

func TestAdvertisementRefuses(t *testing.T) {
	for _, prefix := range []netip.Prefix{{}, netip.MustParsePrefix("10.0.2.0/24")} {
		c := config()
		c.Prefix = prefix
		if _, err := Advertisement(c); err == nil {
			t.Errorf("%v: got no error", prefix)
		}
	}
}
