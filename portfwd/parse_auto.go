package portfwd

import (
	"strings"

	"taproot/stack/flow"
	"taproot/stack/policy"
)

// These are the ports that a kernel gives to clients (ip(7),
// ip_local_port_range). Nobody can tell a UDP server there from a client, so
// such a port must be named.
const firstEphemeral, lastEphemeral = 32768, 60999

// wordAuto stands for the port of an automatic rule.
const wordAuto = "auto"

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
	var allowed, excluded policy.Ports
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
			excluded = excluded.With(policy.PortRange(r.first, r.last))
		default:
			allowed = allowed.With(policy.PortRange(r.first, r.last))
		}
	}
	if allowed.None() {
		allowed = policy.AllPorts()
		if proto == flow.UDP {
			allowed = allowed.Without(policy.PortRange(firstEphemeral, lastEphemeral))
		}
	}
	return allowed.Without(excluded), nil
}
