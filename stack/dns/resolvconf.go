package dns

import (
	"net/netip"
	"slices"
	"strings"
)

const (
	// maxServers is how many name servers resolvers use, MAXNS of resolv.h.
	maxServers = 3

	// serverPort is where they listen; resolv.conf cannot say otherwise.
	serverPort = 53
)

// A ResolvConf is what a resolv.conf(5) file says.
type ResolvConf struct {
	// Servers are the first three name servers, at port 53; an IPv6 address
	// may have a zone. If there are none the host's resolver would ask
	// 127.0.0.1, which is for the caller to decide.
	Servers []netip.AddrPort

	// Search are the domains of the last search or domain line, without final
	// dots. The root, which systemd-resolved writes for "none", is left out.
	Search []string

	// Options are the words of all option lines, such as "ndots:2".
	Options []string
}

// ParseResolvConf reads a resolv.conf(5) file the way glibc does: what it does
// not know or cannot read it passes over. Everything in the result is safe to
// be written into such a file again: one word of plain characters.
func ParseResolvConf(text []byte) ResolvConf {
	var c ResolvConf
	for line := range strings.Lines(string(text)) {
		keyword, values := parseLine(line)
		switch {
		case len(values) == 0:
		case keyword == "nameserver":
			c.addServer(values[0])
		case keyword == "domain":
			c.Search = domains(values[:1])
		case keyword == "search":
			c.Search = domains(values)
		case keyword == "options":
			c.Options = append(c.Options, slices.DeleteFunc(values, isNoOption)...)
		}
	}
	return c
}

// parseLine splits a line into words, without what follows a comment sign.
// glibc knows comments only at the start of a line; elsewhere they are neither
// addresses nor domains, so nothing is lost.
func parseLine(line string) (keyword string, values []string) {
	words := strings.Fields(line)
	if i := slices.IndexFunc(words, isComment); i >= 0 {
		words = words[:i]
	}
	if len(words) == 0 {
		return "", nil
	}
	return words[0], words[1:]
}

func isComment(word string) bool { return word[0] == '#' || word[0] == ';' }

func (c *ResolvConf) addServer(word string) {
	addr, err := netip.ParseAddr(word)
	if err != nil || len(c.Servers) >= maxServers || !isPlain(addr.Zone()) {
		return
	}
	c.Servers = append(c.Servers, netip.AddrPortFrom(addr.Unmap(), serverPort))
}

// domains returns those of words that are domain names.
func domains(words []string) []string {
	var list []string
	for _, w := range words {
		w = strings.TrimSuffix(w, ".")
		if isDomain(w) {
			list = append(list, w)
		}
	}
	return list
}

// isDomain reports whether s fits into a message (RFC 1035 section 2.3.4) and
// is plain.
func isDomain(s string) bool {
	const maxText = maxName - 2 // without the first length byte and the root
	if len(s) > maxText || !isPlain(s) {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabel {
			return false
		}
	}
	return true
}

func isNoOption(word string) bool { return !isPlain(word) }

// isPlain reports whether s has only characters that mean nothing to any
// reader of configuration files.
func isPlain(s string) bool {
	for i := range len(s) {
		c := lower(s[i])
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("-_.:", rune(c)) {
			return false
		}
	}
	return true
}
