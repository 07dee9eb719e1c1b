package portfwd

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"taproot/stack/flow"
	"taproot/stack/policy"
)

func TestParsePublish(t *testing.T) {
	const tcp, udp = flow.TCP, flow.UDP
	local := func(proto flow.Proto, host, guest uint16, n int) Rule {
		return Rule{Proto: proto, Local: true, Listen: port(host), Target: port(guest), Ports: n}
	}
	at := func(listen string, guest uint16) Rule {
		return Rule{Listen: addrPort(listen), Target: port(guest), Ports: 1}
	}
	for _, tt := range []struct {
		text string
		want []Rule
	}{
		{"80", []Rule{local(tcp, 0, 80, 1)}},
		{":80", []Rule{local(tcp, 0, 80, 1)}},
		{"0:80", []Rule{local(tcp, 0, 80, 1)}},
		{"8080:80", []Rule{local(tcp, 8080, 80, 1)}},
		{"8080:80/tcp", []Rule{local(tcp, 8080, 80, 1)}},
		{"8080:80/udp", []Rule{local(udp, 8080, 80, 1)}},
		{"8080:80/tcp,udp", []Rule{local(tcp, 8080, 80, 1), local(udp, 8080, 80, 1)}},
		{"8000-8009:80-89", []Rule{local(tcp, 8000, 80, 10)}},
		{"80-82", []Rule{local(tcp, 0, 80, 1), local(tcp, 0, 81, 1), local(tcp, 0, 82, 1)}},
		{"1-65535:1-65535", []Rule{local(tcp, 1, 1, 65535)}},
		{"127.0.0.1:8080:80", []Rule{at("127.0.0.1:8080", 80)}},
		{"127.0.0.1::80", []Rule{at("127.0.0.1:0", 80)}},
		{"127.0.0.1:0:80", []Rule{at("127.0.0.1:0", 80)}},
		{"127.0.0.1:80", []Rule{at("127.0.0.1:0", 80)}},
		{"0.0.0.0:8080:80", []Rule{at("0.0.0.0:8080", 80)}},
		{"[::1]:8080:80", []Rule{at("[::1]:8080", 80)}},
		{"[::1]::80", []Rule{at("[::1]:0", 80)}},
		{"[fe80::1%eth0]:8080:80", []Rule{at("[fe80::1%eth0]:8080", 80)}},
		{"[::ffff:192.0.2.2]:8080:80", []Rule{at("192.0.2.2:8080", 80)}},
		{"*:8080:80", []Rule{{Listen: port(8080), Target: port(80), Ports: 1}}},
		{"8080:80,proxy=v2", []Rule{{Local: true, Listen: port(8080), Target: port(80), Ports: 1, Proxy: 2}}},
		{"192.0.2.1:80:80,wait", []Rule{{Listen: addrPort("192.0.2.1:80"), Target: port(80), Ports: 1, Wait: true}}},
		{"80/tcp,proxy=v1,source=gateway", []Rule{{Local: true, Target: port(80), Ports: 1, Proxy: 1, Source: SourceGateway}}},
		{"unix:/run/a.sock:80", []Rule{{ListenUnix: "/run/a.sock", Target: port(80), Ports: 1}}},
		{"unix:/run/a.sock:80/tcp", []Rule{{ListenUnix: "/run/a.sock", Target: port(80), Ports: 1}}},
		{"unix:/run/a:b.sock:80", []Rule{{ListenUnix: "/run/a:b.sock", Target: port(80), Ports: 1}}},
		{"unix:/a:unix:/b", []Rule{{ListenUnix: "/a", TargetUnix: "/b", Ports: 1}}},
		{"8080:unix:/b", []Rule{{Local: true, Listen: port(8080), TargetUnix: "/b", Ports: 1}}},
		{"192.0.2.2:8080:unix:/b", []Rule{{Listen: addrPort("192.0.2.2:8080"), TargetUnix: "/b", Ports: 1}}},
		{":unix:/b", []Rule{{Local: true, TargetUnix: "/b", Ports: 1}}},
	} {
		got, err := ParsePublish(tt.text, SourcePreserve)
		if err != nil || !reflect.DeepEqual(got, Published{Rules: tt.want}) {
			t.Errorf("%s: got %+v, %v, want %+v", tt.text, got, err, tt.want)
		}
	}
}

func TestParsePublishSource(t *testing.T) {
	for text, want := range map[string]SourceMode{
		"80": SourceGateway, "80,source=gateway": SourceGateway, "80,source=preserve": SourcePreserve,
	} {
		got, err := ParsePublish(text, SourceGateway)
		if err != nil || got.Rules[0].Source != want {
			t.Errorf("%s: got %+v, %v, want %v", text, got, err, want)
		}
	}
}

func TestParseAuto(t *testing.T) {
	auto := func(proto flow.Proto, ports string) AutoConfig {
		set, err := policy.ParsePorts(ports)
		if err != nil {
			t.Fatal(err)
		}
		return AutoConfig{Proto: proto, Local: true, Allow: set}
	}
	everywhere := auto(flow.TCP, "all")
	everywhere.Local, everywhere.Source = false, SourceGateway
	for _, tt := range []struct {
		text string
		want []AutoConfig
	}{
		{"auto", []AutoConfig{auto(flow.TCP, "all"), auto(flow.UDP, "1-32767,61000-65535")}},
		{"auto/tcp", []AutoConfig{auto(flow.TCP, "all")}},
		{"auto:80", []AutoConfig{auto(flow.TCP, "80"), auto(flow.UDP, "80")}},
		{"auto:8000-8999,~8080/tcp", []AutoConfig{auto(flow.TCP, "8000-8079,8081-8999")}},
		{"auto,^22/tcp", []AutoConfig{auto(flow.TCP, "1-21,23-65535")}},
		{"auto:40000/udp", []AutoConfig{auto(flow.UDP, "40000")}},
		{"auto:80,~80/tcp", []AutoConfig{auto(flow.TCP, "none")}},
		{"*:auto/tcp,source=gateway", []AutoConfig{everywhere}},
	} {
		got, err := ParsePublish(tt.text, SourcePreserve)
		if err != nil || !reflect.DeepEqual(got, Published{Auto: tt.want}) {
			t.Errorf("%s: got %+v, %v, want %+v", tt.text, got, err, tt.want)
		}
	}
}

func TestParseReach(t *testing.T) {
	out := func(proto flow.Proto, host, guest uint16, n int) Rule {
		return Rule{Direction: Outbound, Proto: proto, Listen: port(guest), Target: port(host), Ports: n}
	}
	for _, tt := range []struct {
		text string
		want []Rule
	}{
		{"5432", []Rule{out(flow.TCP, 5432, 5432, 1)}},
		{"5432:15432", []Rule{out(flow.TCP, 5432, 15432, 1)}},
		{"5432:0", []Rule{out(flow.TCP, 5432, 0, 1)}},
		{"53/udp", []Rule{out(flow.UDP, 53, 53, 1)}},
		{"53/tcp,udp", []Rule{out(flow.TCP, 53, 53, 1), out(flow.UDP, 53, 53, 1)}},
		{"80-89:8000-8009", []Rule{out(flow.TCP, 80, 8000, 10)}},
		{"unix:/a", []Rule{{Direction: Outbound, TargetUnix: "/a", Ports: 1}}},
		{"unix:/a:5432", []Rule{{Direction: Outbound, Listen: port(5432), TargetUnix: "/a", Ports: 1}}},
		{"unix:/a:unix:/a", []Rule{{Direction: Outbound, ListenUnix: "/a", TargetUnix: "/a", Ports: 1}}},
		{"5432:unix:/a", []Rule{{Direction: Outbound, ListenUnix: "/a", Target: port(5432), Ports: 1}}},
	} {
		got, err := ParseReach(tt.text)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, %v, want %+v", tt.text, got, err, tt.want)
		}
	}
}

// TestParseErrors wants a cause, and a remedy that is near to what was meant.
func TestParseErrors(t *testing.T) {
	const example = publishExample
	for _, tt := range []struct{ text, err, hint string }{
		{"", `"" is no port`, example},
		{"http", `"http" is neither an address nor a port`, example},
		{"::1:8080:80", "too many colons", "did you mean [::1]:8080:80?"},
		{"localhost:8080:80", `"localhost" is neither an address nor a port`, "did you mean 8080:80?"},
		{"8080:80:udp", "too many colons", "did you mean 8080:80/udp?"},
		{"8080:80,udp", `"udp" is no option`, "did you mean 8080:80/udp?"},
		{"8080:80/TCP", `protocol "TCP", want tcp or udp`, "did you mean 8080:80/tcp?"},
		{"80/sctp", `protocol "sctp", want tcp or udp`, example},
		{"8080->80", `"8080->80" is neither an address nor a port`, "did you mean 8080:80?"},
		{"80:70000", `"70000" is no port`, example},
		{"80:0", "port 0 of the guest", example},
		{"80-90:80-81", "ranges of 11 and 2 ports", "both must be as long: 8000-8009:80-89"},
		{"90-80", `"90-80" is no range of ports`, example},
		{"80-189", "110 ports without a number on the other side, at most 100", example},
		{"300.1.1.1:80:80", `"300.1.1.1" is no address`, example},
		{"[127.0.0.1]:80:80", "no IPv6 address in brackets", example},
		{"[::1:80", "no IPv6 address in brackets", example},
		{"224.0.0.1:80:80", "224.0.0.1 is an address of a group", example},
		{"80,fast", `"fast" is no option`, example},
		{"80,fast=1", `option "fast", want proxy, source or wait`, example},
		{"80,proxy=v3", "proxy=v3: either v1 or v2", example},
		{"80,source=me", "source=me: either preserve or gateway", example},
		{"80,source=gateway,source=gateway", "source twice", example},
		{"192.0.2.1:80,wait,wait", "wait twice", example},
		{"80,wait", "bad rule: it waits for an address, and names none", example},
		{"auto,wait", "wait: not for automatic ports", example},
		{"80/tcp,tcp", "tcp twice", example},
		{"80/udp,proxy=v1", "proxy: a UDP datagram has no stream to begin with a header", "leave proxy out, or use /tcp"},
		{"auto,proxy=v1", "proxy: not for automatic ports", example},
		{"auto:x", `"x" is no port`, example},
		{"auto,~~22", `"~~22" is no port`, example},
		{"auto:0", "port 0", example},
		{"/run/a.sock:80", `"/run/a.sock" is no address`, "did you mean unix:/run/a.sock:80?"},
		{"unix:/run/a.sock", "a Unix socket that leads nowhere", "say which port of the guest it leads to: unix:/run/a.sock:80"},
		{"unix:a.sock:80", `bad rule: Unix socket "a.sock", want an absolute path of at most 107 bytes`, example},
		{"unix:/a:80/udp", "bad rule: a Unix socket for udp, want tcp", example},
		{"unix:/a:80-81", "2 ports on one Unix socket", example},
		{"127.0.0.1:unix:/a:80", "a Unix socket has no address", example},
	} {
		p, err := ParsePublish(tt.text, SourcePreserve)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%s: got %+v, %v, want a SyntaxError", tt.text, p, err)
			continue
		}
		if syntax.Error() != tt.err || syntax.Hint() != tt.hint {
			t.Errorf("%s: got %q, hint %q, want %q, hint %q", tt.text, syntax, syntax.Hint(), tt.err, tt.hint)
		}
	}
}

func TestParseReachErrors(t *testing.T) {
	for _, tt := range []struct{ text, err, hint string }{
		{"", `"" is no port`, reachExample},
		{"0", "port 0 of the host", reachExample},
		{":5432", `"" is no port`, reachExample},
		{"127.0.0.1:5432", `"127.0.0.1" is no port`, reachExample},
		{"5432:tcp", `"tcp" is no port`, "did you mean 5432/tcp?"},
		{"80,source=gateway", "source: not for what the guest reaches", reachExample},
		{"80,wait", "wait: not for what the guest reaches", reachExample},
		{"80-81:unix:/a", "2 ports on one Unix socket", reachExample},
		{"unix:a", `bad rule: Unix socket "a", want an absolute path of at most 107 bytes`, reachExample},
	} {
		rules, err := ParseReach(tt.text)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%s: got %+v, %v, want a SyntaxError", tt.text, rules, err)
			continue
		}
		if syntax.Error() != tt.err || syntax.Hint() != tt.hint {
			t.Errorf("%s: got %q, hint %q, want %q, hint %q", tt.text, syntax, syntax.Hint(), tt.err, tt.hint)
		}
	}
}

func TestSpec(t *testing.T) {
	for text, want := range map[string]string{
		"0:80": "80", "127.0.0.1:80": "127.0.0.1::80", "*:0:80": "*::80", "[::0001]:8080:80/tcp": "[::1]:8080:80",
		"80,source=preserve": "80", "80:80,proxy=v1,source=gateway": "80:80,source=gateway,proxy=v1", "0:unix:/a": ":unix:/a",
	} {
		p, err := ParsePublish(text, SourcePreserve)
		if err != nil || p.Rules[0].Spec() != want {
			t.Errorf("%s: got %v, %v, want %s", text, p, err, want)
		}
	}
	if got := (Rule{Loopback: true}).Spec(); got != "" {
		t.Errorf("a rule that cannot be written: got %q, want none", got)
	}
}

// FuzzParsePublish wants rules that are right, and that are read again from what
// they are written as.
func FuzzParsePublish(f *testing.F) {
	for _, s := range []string{"80", "8080:80/tcp,udp", "[::1]:8000-8009:80-89,proxy=v2", "unix:/a:unix:/b", "*:auto:1-9,~5/udp,source=gateway", "192.0.2.1:80:80,wait", "127.0.0.1::80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePublish(text, SourcePreserve)
		if err != nil {
			if hint := err.(*SyntaxError).Hint(); hint == "" {
				t.Errorf("%q: no hint", text)
			}
			return
		}
		for _, r := range p.Rules {
			again, err := ParsePublish(r.Spec(), SourcePreserve)
			if err != nil || !reflect.DeepEqual(again, Published{Rules: []Rule{r}}) {
				t.Errorf("%q: %q: got %+v, %v, want %+v", text, r.Spec(), again, err, r)
			}
		}
		for _, a := range p.Auto {
			spec := Entry{Rule: a.Rule(0), Follows: true, Allow: a.Allow}.Spec()
			again, err := ParsePublish(spec, SourcePreserve)
			if a.Allow.None() != (spec == "") || spec != "" && (err != nil || !reflect.DeepEqual(again, Published{Auto: []AutoConfig{a}})) {
				t.Errorf("%q: %q: got %+v, %v, want %+v", text, spec, again, err, a)
			}
		}
		checkRules(t, p.Rules)
	})
}

// FuzzParseReach is the same for what the guest reaches.
func FuzzParseReach(f *testing.F) {
	for _, s := range []string{"5432", "5432:15432/udp", "unix:/a", "unix:/a:unix:/b", "80:unix:/a", "53/tcp,udp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := ParseReach(text)
		if err != nil {
			return
		}
		for _, r := range rules {
			again, err := ParseReach(r.Spec())
			if err != nil || !reflect.DeepEqual(again, []Rule{r}) {
				t.Errorf("%q: %q: got %+v, %v, want %+v", text, r.Spec(), again, err, r)
			}
		}
		checkRules(t, rules)
	})
}

func checkRules(t *testing.T, rules []Rule) {
	t.Helper()
	for _, r := range rules {
		if err := r.check(); err != nil || strings.Contains(r.String(), "invalid") {
			t.Errorf("%v: %v", r, err)
		}
	}
}
