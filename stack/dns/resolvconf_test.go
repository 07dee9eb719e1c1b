package dns

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestParseResolvConf(t *testing.T) {
	for _, tt := range []struct{ name, in, servers, search, options string }{
		{name: "empty"},
		{name: "usual", in: "# made by hand\nnameserver 192.0.2.1\nsearch example.com corp.example.com\noptions ndots:2 edns0\n",
			servers: "192.0.2.1:53", search: "example.com corp.example.com", options: "ndots:2 edns0"},
		{name: "systemd-resolved", in: "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n",
			servers: "127.0.0.53:53", options: "edns0 trust-ad"},
		{name: "IPv6", in: "nameserver 2001:db8::1\nnameserver fe80::1%eth0\nnameserver ::ffff:192.0.2.9",
			servers: "[2001:db8::1]:53 [fe80::1%eth0]:53 192.0.2.9:53"},
		{name: "three at most", in: "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n",
			servers: "192.0.2.1:53 192.0.2.2:53 192.0.2.3:53"},
		{name: "bad ones do not count", in: "nameserver x\nnameserver\nnameserver 192.0.2.300\nnameserver fe80::1%a/b\nnameserver 192.0.2.1",
			servers: "192.0.2.1:53"},
		{name: "white space and line ends", in: "\tnameserver\t192.0.2.1  \r\n  search  a.example \r\n\r\n",
			servers: "192.0.2.1:53", search: "a.example"},
		{name: "comments", in: ";nameserver 192.0.2.8\n#search x\nnameserver 192.0.2.1 # first\nsearch a.example ; b.example\noptions ndots:1 #x",
			servers: "192.0.2.1:53", search: "a.example", options: "ndots:1"},
		{name: "last search or domain", in: "search a.example b.example\ndomain c.example d.example\n", search: "c.example"},
		{name: "last domain or search", in: "domain c.example\nsearch a.example. b.example\n", search: "a.example b.example"},
		{name: "options add up", in: "options ndots:2\noptions timeout:1 attempts:3", options: "ndots:2 timeout:1 attempts:3"},
		{name: "what is not plain", in: "search a..b ü.example \x00 a.example $(x) " + strings.Repeat("a", 64) + "\noptions a=b rotate",
			search: "a.example", options: "rotate"},
		{name: "keywords are whole words", in: "nameservers 192.0.2.1\nNameserver 192.0.2.2\nsortlist 1.2.3.4\n"},
		{name: "search without values", in: "search a.example\nsearch\n", search: "a.example"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := ParseResolvConf([]byte(tt.in))
			if got := join(c.Servers); got != tt.servers {
				t.Errorf("Servers: got %v, want %v", got, tt.servers)
			}
			if got := join(c.Search); got != tt.search {
				t.Errorf("Search: got %v, want %v", got, tt.search)
			}
			if got := join(c.Options); got != tt.options {
				t.Errorf("Options: got %v, want %v", got, tt.options)
			}
		})
	}
}

// join returns the elements with spaces between them.
func join[T any](list []T) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = fmt.Sprint(v)
	}
	return strings.Join(words, " ")
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch a.example b.example\noptions ndots:2\n"))
	f.Add([]byte("; x\ndomain c.example\r\nsearch .\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c := ParseResolvConf(text)
		if len(c.Servers) > maxServers {
			t.Errorf("Servers: got %v, want at most %v", len(c.Servers), maxServers)
		}
		var b strings.Builder
		for _, s := range c.Servers {
			fmt.Fprintf(&b, "nameserver %s\n", s.Addr())
		}
		fmt.Fprintf(&b, "search %s\noptions %s\n", strings.Join(c.Search, " "), strings.Join(c.Options, " "))
		again := ParseResolvConf([]byte(b.String()))
		if !slices.Equal(again.Servers, c.Servers) || !slices.Equal(again.Search, c.Search) || !slices.Equal(again.Options, c.Options) {
			t.Errorf("written and read again: got %v, want %v", again, c)
		}
	})
}
