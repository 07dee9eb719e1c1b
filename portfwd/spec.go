package portfwd

import (
	"net/netip"
	"strconv"

	"taproot/stack/flow"
)

// Spec returns the rule in the form that ParsePublish reads, or ParseReach for
// an outbound one. It is empty for a rule that neither can make.
func (r Rule) Spec() string {
	if r.Loopback || r.Freebind || r.Weak || r.Device != "" || r.Target.Addr().IsValid() {
		return ""
	}
	if r.Direction == Outbound {
		return r.specOutbound()
	}
	s := r.specAddress() + r.specListen()
	if s != "" || r.TargetUnix != "" {
		s += ":"
	}
	s += r.specTarget() + r.specProto()
	if r.Source != SourcePreserve {
		s += ",source=" + r.Source.String()
	}
	if r.Proxy != 0 {
		s += ",proxy=v" + strconv.Itoa(int(r.Proxy))
	}
	if r.Wait {
		s += "," + wordWait
	}
	return s
}

// Spec returns the rule in the form that ParsePublish or ParseReach reads, "" if
// neither can make it.
func (e Entry) Spec() string {
	r := e.Rule
	if !e.Follows {
		return r.Spec()
	}
	if r.Loopback || r.Freebind || r.Device != "" || r.Direction == Outbound || e.Allow.None() {
		return ""
	}
	s := r.specAddress() + wordAuto
	if !e.Allow.All() {
		s += ":" + e.Allow.String()
	}
	s += "/" + r.Proto.String()
	if r.Source != SourcePreserve {
		s += ",source=" + r.Source.String()
	}
	return s
}

func (r Rule) specOutbound() string {
	if r.Listen.Addr().IsValid() {
		return ""
	}
	s, listen := r.specTarget(), r.specListen()
	if listen == "" {
		listen = "0" // one that is missing is the target's
	}
	if listen != s || r.TargetUnix != "" {
		s += ":" + listen
	}
	return s + r.specProto()
}

// specAddress returns the address with what keeps it apart from a port.
func (r Rule) specAddress() string {
	switch a := r.Listen.Addr(); {
	case r.ListenUnix != "" || r.Local:
		return ""
	case !a.IsValid():
		return "*:"
	case a.Is6():
		return "[" + a.String() + "]:"
	default:
		return a.String() + ":"
	}
}

func (r Rule) specListen() string {
	switch {
	case r.ListenUnix != "":
		return unixPrefix + r.ListenUnix
	case r.Listen.Port() == 0:
		return ""
	}
	return r.specPorts(r.Listen)
}

func (r Rule) specTarget() string {
	if r.TargetUnix != "" {
		return unixPrefix + r.TargetUnix
	}
	return r.specPorts(r.target())
}

// specPorts returns the rule's ports, the first of which is a's.
func (r Rule) specPorts(a netip.AddrPort) string {
	s := strconv.Itoa(int(a.Port()))
	if n := r.Count(); n > 1 {
		s += "-" + strconv.Itoa(int(a.Port())+n-1)
	}
	return s
}

func (r Rule) specProto() string {
	if r.Proto == flow.UDP {
		return "/udp"
	}
	return ""
}
