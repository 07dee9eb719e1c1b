package portfwd

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"taproot/stack/flow"
)

// A Published is what one option of a command line publishes.
type Published struct {
	Rules []Rule

	Auto []AutoConfig // automatic rules
}

// A SyntaxError says what is wrong with the text of a rule.
type SyntaxError struct {
	text   string
	remedy string
}

// Error implements error. The text that was parsed is not in it.
func (e *SyntaxError) Error() string { return e.text }

// Hint returns the nearest right form, or an example.
func (e *SyntaxError) Hint() string { return e.remedy }

// withRemedy gives an error that has none a remedy: the form next to text that
// parses, or the example.
func (e *SyntaxError) withRemedy(example, text string, parses func(near string) bool) *SyntaxError {
	if e.remedy != "" {
		return e
	}
	e.remedy = example
	near := nearForms(text)
	if i := slices.IndexFunc(near, parses); i >= 0 {
		e.remedy = fmt.Sprintf("did you mean %s?", near[i])
	}
	return e
}

func syntaxError(format string, args ...any) *SyntaxError {
	return &SyntaxError{text: fmt.Sprintf(format, args...)}
}

// publishExample is for who wrote something that is not near anything.
const publishExample = "for example: 8080:80, 127.0.0.1:8080:80/udp, [::1]:8000-8009:80-89, unix:/run/web.sock:80, auto"

// ParsePublish parses what docker(1) and podman(1) users write to publish
// ports:
//
//	[ADDRESS:][HOSTPORT[-END]:]GUESTPORT[-END][/PROTO][,OPTION]...
//	[ADDRESS:][HOSTPORT]:unix:PATH[,OPTION]...
//	unix:PATH:GUESTPORT[,OPTION]...
//	unix:PATH:unix:PATH
//	[ADDRESS:]auto[:PORTS][/PROTO][,OPTION]...
//
// ADDRESS is one of the host's, IPv6 in brackets, or * for all of both
// families; without it the rule is Local. A missing HOSTPORT, or 0, is picked
// by the kernel. PROTO is tcp, udp or "tcp,udp"; it is tcp if missing, and both
// for auto. OPTION is proxy=v1, proxy=v2, source=preserve, source=gateway
// or wait; source is what holds without one. PORTS are those that may be published
// automatically: ports and ranges, and with ~ or ^ before them those that may
// not, separated by commas.
//
// The error is a *SyntaxError.
func ParsePublish(text string, source SourceMode) (Published, error) {
	p, err := parsePublish(text, source)
	if err == nil {
		return p, nil
	}
	return Published{}, err.withRemedy(publishExample, text, func(near string) bool {
		_, err := parsePublish(near, source)
		return err == nil
	})
}

func parsePublish(text string, source SourceMode) (Published, *SyntaxError) {
	w, err := splitWords(text, source)
	if err != nil {
		return Published{}, err
	}
	at, body, err := cutAddress(w.body)
	if err != nil {
		return Published{}, err
	}
	if first, ports, _ := strings.Cut(body, ":"); first == wordAuto {
		return w.auto(at, ports)
	}
	if len(w.ports) > 0 {
		return Published{}, syntaxError("%q is no option", w.ports[0])
	}
	rules, err := w.inbound(at, body)
	if err != nil {
		return Published{}, err
	}
	for _, r := range rules {
		if err := r.check(); err != nil {
			return Published{}, syntaxError("%v", err)
		}
	}
	return Published{Rules: rules}, nil
}

// inbound returns the rules for what follows the address.
func (w *words) inbound(at where, body string) ([]Rule, *SyntaxError) {
	base := Rule{Listen: netip.AddrPortFrom(at.address, 0), Local: at.local, Source: w.source, Proxy: w.proxy, Wait: w.wait}
	host, guest, err := cutSides(body)
	if err != nil {
		return nil, err
	}
	if host == "" && strings.HasPrefix(body, unixPrefix) {
		return nil, &SyntaxError{"a Unix socket that leads nowhere", "say which port of the guest it leads to: " + body + ":80"}
	}
	if path, ok := strings.CutPrefix(host, unixPrefix); ok {
		if !at.local {
			return nil, syntaxError("a Unix socket has no address")
		}
		base.ListenUnix, base.Local = path, false
		host = ""
	}
	if path, ok := strings.CutPrefix(guest, unixPrefix); ok {
		base.TargetUnix = path
		guest = "0"
	}
	from, to, err := parseSides(host, guest)
	if err != nil {
		return nil, err
	}
	if to.first == 0 && base.TargetUnix == "" {
		return nil, syntaxError("port 0 of the guest")
	}
	return w.rules(base, from, to)
}

// rules returns a rule for each protocol, or for each port and protocol where
// the kernel is to pick.
func (w *words) rules(base Rule, from, to portRange) ([]Rule, *SyntaxError) {
	count, each := to.count(), 1
	if from.first != 0 {
		count, each = 1, to.count()
	}
	if count > 1 && base.ListenUnix != "" {
		return nil, syntaxError("%d ports on one Unix socket", count)
	}
	if count > maxPicked {
		return nil, syntaxError("%d ports without a number on the other side, at most %d", count, maxPicked)
	}
	protos := w.protos
	if protos == nil {
		protos = []flow.Proto{flow.TCP}
	}
	var list []Rule
	for _, proto := range protos {
		if w.proxy != 0 && proto == flow.UDP {
			return nil, &SyntaxError{"proxy: a UDP datagram has no stream to begin with a header", "leave proxy out, or use /tcp"}
		}
		for i := range count {
			r := base
			r.Proto, r.Ports = proto, each
			if r.ListenUnix == "" {
				r.Listen = netip.AddrPortFrom(base.Listen.Addr(), from.first)
			}
			if r.TargetUnix == "" {
				r.Target = netip.AddrPortFrom(netip.Addr{}, to.first+uint16(i))
			}
			list = append(list, r)
		}
	}
	return list, nil
}

// maxPicked is how many ports the kernel picks for one option: each is a rule
// of its own, and nobody would look for thousands of numbers.
const maxPicked = 100
