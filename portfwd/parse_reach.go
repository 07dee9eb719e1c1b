package portfwd

import "strings"

// reachExample is for who wrote something that is not near anything.
const reachExample = "for example: 5432, 5432:15432, 53/udp, unix:/run/db.sock:5432"

// ParseReach parses what lets the guest reach the host's loopback, from its
// own:
//
//	HOSTPORT[-END][:GUESTPORT[-END]][/PROTO]
//	HOSTPORT:unix:PATH
//	unix:PATH[:GUESTPORT]
//	unix:PATH:unix:PATH
//
// The first one of two ports, or paths, is the host's. Without GUESTPORT the
// guest's is the same, or for a Unix socket one that its kernel picks. The
// error is a *SyntaxError.
func ParseReach(text string) ([]Rule, error) {
	rules, err := parseReach(text)
	if err == nil {
		return rules, nil
	}
	return nil, err.withRemedy(reachExample, text, func(near string) bool {
		_, err := parseReach(near)
		return err == nil
	})
}

func parseReach(text string) ([]Rule, *SyntaxError) {
	w, err := splitWords(text, SourcePreserve)
	switch {
	case err != nil:
		return nil, err
	case len(w.ports) > 0:
		return nil, syntaxError("%q is no option", w.ports[0])
	case w.wait:
		return nil, syntaxError("%s: not for what the guest reaches", wordWait)
	case len(w.options) > 0:
		return nil, syntaxError("%s: not for what the guest reaches", w.options[0])
	}
	rules, err := w.outbound(w.body)
	if err != nil {
		return nil, err
	}
	for _, r := range rules {
		if err := r.check(); err != nil {
			return nil, syntaxError("%v", err)
		}
	}
	return rules, nil
}

// outbound returns the rules for host and guest.
func (w *words) outbound(body string) ([]Rule, *SyntaxError) {
	base := Rule{Direction: Outbound}
	host, guest, err := cutSides(body)
	if err != nil {
		return nil, err
	}
	if guest == body { // there is only one
		host = body
	}
	if path, ok := strings.CutPrefix(host, unixPrefix); ok {
		base.TargetUnix = path
		if host = "0"; guest == body {
			guest = "0"
		}
	}
	if path, ok := strings.CutPrefix(guest, unixPrefix); ok {
		base.ListenUnix = path
		guest = ""
	}
	from, to, err := parseSides(guest, host)
	if err != nil {
		return nil, err
	}
	if to.first == 0 && base.TargetUnix == "" {
		return nil, syntaxError("port 0 of the host")
	}
	return w.rules(base, from, to)
}
