package portfwd

import (
	"fmt"
	"strings"

	"taproot/stack/flow"
	"taproot/stack/policy"
)

// ephemeral are the ports that a kernel gives to clients (ip(7),
// ip_local_port_range): nobody can tell a UDP server there from a client, so
// such a port must be named.
var ephemeral = portRange{32768, 60999}

// auto returns what "auto" with these ports means. There are more of them in
// w.ports.
func (w *words) auto(at where, ports string) (Published, *SyntaxError) {
	if w.proxy != 0 {
		return Published{}, syntaxError("proxy: not for automatic ports")
	}
	if w.wait {
		return Published{}, syntaxError("wait: not for automatic ports")
	}
	list := w.ports
	if ports != "" {
		list = append([]string{ports}, list...)
	}
	protos := w.protos
	if protos == nil {
		protos = []flow.Proto{flow.TCP, flow.UDP}
	}
	var p Published
	for _, proto := range protos {
		allow, err := parseAllowed(list, proto)
		if err != nil {
			return Published{}, err
		}
		p.Auto = append(p.Auto, AutoConfig{Proto: proto, Listen: at.address, Local: at.local, Source: w.source, Allow: allow})
	}
	return p, nil
}

// parseAllowed returns the ports of a list that may be published for a
// protocol.
func parseAllowed(list []string, proto flow.Proto) (policy.Ports, *SyntaxError) {
	var allowed, excluded []portRange
	for _, word := range list {
		text := strings.TrimLeft(word, "~^")
		r, err := parseRange(text)
		switch {
		case err != nil:
			return policy.Ports{}, err
		case r.first == 0:
			return policy.Ports{}, syntaxError("port 0")
		case len(word)-len(text) > 1:
			return policy.Ports{}, syntaxError("%q is no port", word)
		case word != text:
			excluded = append(excluded, r)
		default:
			allowed = append(allowed, r)
		}
	}
	if allowed == nil {
		allowed = []portRange{{1, 65535}}
		if proto == flow.UDP {
			allowed = []portRange{{1, ephemeral.first - 1}, {ephemeral.last + 1, 65535}}
		}
	}
	return portSet(without(allowed, excluded)), nil
}

// without returns the ports of list that are not in excluded.
func without(list, excluded []portRange) []portRange {
	for _, e := range excluded {
		var rest []portRange
		for _, r := range list {
			if e.first > r.last || e.last < r.first {
				rest = append(rest, r)
				continue
			}
			if r.first < e.first {
				rest = append(rest, portRange{r.first, e.first - 1})
			}
			if e.last < r.last {
				rest = append(rest, portRange{e.last + 1, r.last})
			}
		}
		list = rest
	}
	return list
}

// portSet makes a set of ranges.
func portSet(list []portRange) policy.Ports {
	var words []string
	for _, r := range list {
		words = append(words, fmt.Sprintf("%d-%d", r.first, r.last))
	}
	set, err := policy.ParsePorts(strings.Join(words, ","))
	if err != nil { // no range at all
		return policy.Ports{}
	}
	return set
}
