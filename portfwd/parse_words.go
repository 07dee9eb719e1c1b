package portfwd

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"taproot/stack/flow"
)

// words are the parts of a rule's text that are separated by commas and "/".
type words struct {
	body    string
	protos  []flow.Proto // nil: not named
	ports   []string     // that are neither protocol nor option: of auto
	options []string

	source SourceMode
	proxy  uint8
	wait   bool
}

// wordWait is the option of a rule that waits for its address.
const wordWait = "wait"

// splitWords takes protocol and options off. source is what holds without one.
func splitWords(text string, source SourceMode) (*words, *SyntaxError) {
	list := strings.Split(text, ",")
	w := &words{source: source}
	var err *SyntaxError
	if w.body, err = w.cutProto(list[0]); err != nil {
		return nil, err
	}
	for _, word := range list[1:] {
		key, value, isOption := strings.Cut(word, "=")
		switch {
		case isOption:
			err = w.option(key, value)
		case word == wordWait && w.wait:
			err = syntaxError("%s twice", word)
		case word == wordWait:
			w.wait = true
		case w.protos != nil:
			err = w.addProto(word)
		default:
			if word, err = w.cutProto(word); err == nil {
				w.ports = append(w.ports, word)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return w, nil
}

// cutProto takes the protocol off the end of a word. What follows the last
// colon and begins with a slash is a path.
func (w *words) cutProto(word string) (rest string, err *SyntaxError) {
	last := strings.LastIndex(word, ":") + 1
	tail := word[last:]
	if strings.HasPrefix(tail, "/") || word[:last] == unixPrefix {
		return word, nil
	}
	tail, proto, found := strings.Cut(tail, "/")
	if found {
		err = w.addProto(proto)
	}
	return word[:last] + tail, err
}

func (w *words) addProto(name string) *SyntaxError {
	proto := flow.TCP
	switch name {
	case "tcp":
	case "udp":
		proto = flow.UDP
	default:
		return syntaxError("protocol %q, want tcp or udp", name)
	}
	if slices.Contains(w.protos, proto) {
		return syntaxError("%s twice", name)
	}
	w.protos = append(w.protos, proto)
	return nil
}

// option takes an option in.
func (w *words) option(key, value string) *SyntaxError {
	if slices.Contains(w.options, key) {
		return syntaxError("%s twice", key)
	}
	w.options = append(w.options, key)
	switch key {
	case "source":
		mode, err := ParseSourceMode(value)
		if err != nil {
			return syntaxError("source=%s: %v", value, err)
		}
		w.source = mode
	case "proxy":
		switch value {
		case "v1":
			w.proxy = 1
		case "v2":
			w.proxy = 2
		default:
			return syntaxError("proxy=%s: either v1 or v2", value)
		}
	default:
		return syntaxError("option %q, want proxy, source or wait", key)
	}
	return nil
}

// ParseSourceMode parses "preserve" and "gateway".
func ParseSourceMode(s string) (SourceMode, error) {
	switch s {
	case "preserve":
		return SourcePreserve, nil
	case "gateway":
		return SourceGateway, nil
	}
	return 0, syntaxError("either preserve or gateway")
}

// A where is the address that a rule begins with.
type where struct {
	address netip.Addr // invalid: local, or all
	local   bool       // there is none
}

// cutAddress takes the address off the beginning of a body.
func cutAddress(body string) (at where, rest string, err *SyntaxError) {
	if inside, ok := strings.CutPrefix(body, "["); ok {
		text, rest, found := strings.Cut(inside, "]:")
		a, bad := netip.ParseAddr(text)
		if !found || bad != nil || !a.Is6() {
			return at, "", syntaxError("no IPv6 address in brackets")
		}
		return checkAddress(a.Unmap(), rest)
	}
	first, rest, found := strings.Cut(body, ":")
	switch {
	case found && first == "*":
		return where{}, rest, nil
	case found && strings.Contains(first, "."):
		a, bad := netip.ParseAddr(first)
		if bad != nil {
			return at, "", syntaxError("%q is no address", first)
		}
		return checkAddress(a, rest)
	case first == "auto", found && first+":" == unixPrefix:
	case strings.Trim(first, "0123456789-") != "":
		return at, "", syntaxError("%q is neither an address nor a port", first)
	}
	return where{local: true}, body, nil
}

func checkAddress(a netip.Addr, rest string) (where, string, *SyntaxError) {
	if a.IsMulticast() {
		return where{}, "", syntaxError("%v is an address of a group", a)
	}
	return where{address: a}, rest, nil
}

// cutSides takes what is before the guest's part from what follows. Without a
// colon there is only the latter.
func cutSides(body string) (host, guest string, err *SyntaxError) {
	if at := strings.LastIndex(body, ":"+unixPrefix); at >= 0 {
		host, guest = body[:at], body[at+1:]
	} else if at := strings.LastIndex(body, ":"); at >= 0 && body[:at+1] != unixPrefix {
		host, guest = body[:at], body[at+1:]
	} else {
		return "", body, nil
	}
	if strings.Contains(host, ":") && !strings.HasPrefix(host, unixPrefix) {
		return "", "", syntaxError("too many colons")
	}
	return host, guest, nil
}

// A portRange are ports that follow each other; first is 0 for one that the
// kernel picks.
type portRange struct{ first, last uint16 }

func (r portRange) count() int { return int(r.last-r.first) + 1 }

// parseSides parses the ports of two sides, which must be as many. The first
// may be missing.
func parseSides(from, to string) (a, b portRange, err *SyntaxError) {
	if b, err = parseRange(to); err != nil {
		return a, b, err
	}
	if from == "" {
		return a, b, nil
	}
	if a, err = parseRange(from); err != nil {
		return a, b, err
	}
	if a.first != 0 && a.count() != b.count() {
		return a, b, &SyntaxError{
			text:   "ranges of " + strconv.Itoa(a.count()) + " and " + strconv.Itoa(b.count()) + " ports",
			remedy: "both must be as long: 8000-8009:80-89",
		}
	}
	return a, b, nil
}

// parseRange parses "80" and "80-89".
func parseRange(s string) (r portRange, err *SyntaxError) {
	first, last, isRange := strings.Cut(s, "-")
	if r.first, err = parsePort(first); err != nil {
		return r, err
	}
	if r.last = r.first; isRange {
		if r.last, err = parsePort(last); err != nil {
			return r, err
		}
		if r.first == 0 || r.last < r.first {
			return r, syntaxError("%q is no range of ports", s)
		}
	}
	return r, nil
}

// parsePort parses a number of at most 65535.
func parsePort(s string) (uint16, *SyntaxError) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, syntaxError("%q is no port", s)
	}
	return uint16(n), nil
}

// nearForms returns what may have been meant by a text that is wrong, likeliest
// first.
func nearForms(text string) []string {
	list := []string{
		strings.ToLower(text),
		strings.ReplaceAll(text, " ", ""),
		strings.NewReplacer(":tcp", "/tcp", ":udp", "/udp", ",tcp", "/tcp", ",udp", "/udp").Replace(text),
		strings.NewReplacer("->", ":", "=", ":", "..", "-").Replace(text),
		strings.TrimPrefix(text, "localhost:"),
		strings.TrimPrefix(text, "any:"),
		"unix:" + text,
	}
	for i := range text { // an IPv6 address without brackets
		if text[i] == ':' {
			if a, err := netip.ParseAddr(text[:i]); err == nil && a.Is6() {
				list = append(list, "["+text[:i]+"]"+text[i:])
			}
		}
	}
	return slices.DeleteFunc(list, func(s string) bool { return s == text })
}
