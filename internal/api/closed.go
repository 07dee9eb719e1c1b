package api

import (
	"fmt"
	"net/http"

	"taproot/portfwd"
	"taproot/stack/flow"
)

// A Closed names rules that cannot be added, because an option of who started the
// instance has closed what they would open.
type Closed struct {
	Direction portfwd.Direction
	Proto     flow.Proto // flow.TCP or flow.UDP
	Option    string     // as it was given: "--disable-host-loopback"
}

// ClosedHost says that an option has closed the host's loopback to the guest.
func ClosedHost(option string) []Closed {
	return []Closed{{portfwd.Outbound, flow.TCP, option}, {portfwd.Outbound, flow.UDP, option}}
}

// allows returns why rules that are wanted cannot be added, nil if they can.
func (s *Server) allows(wanted portfwd.Published) *Failure {
	for _, r := range wanted.Rules {
		if f := s.allowsOne(r.Direction, r.Proto); f != nil {
			return f
		}
	}
	for _, a := range wanted.Auto {
		if f := s.allowsOne(a.Direction, a.Proto); f != nil {
			return f
		}
	}
	return nil
}

func (s *Server) allowsOne(d portfwd.Direction, proto flow.Proto) *Failure {
	what := "publish " + proto.String()
	if d == portfwd.Outbound {
		what = "reach " + proto.String()
	}
	for _, c := range s.cfg.Closed {
		if c.Direction == d && c.Proto == proto {
			return &Failure{
				status: http.StatusForbidden, Code: CodeForbidden,
				Message: fmt.Sprintf("%s: closed by %s, with which %s was started", what, c.Option, s.cfg.Name),
				Remedy:  "who starts it without that option opens it",
			}
		}
	}
	return nil
}
