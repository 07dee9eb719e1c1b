package pasta

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A portSpec is what one option of -t, -u, -T or -U says, on its own. The
// grammar stands in the package text.
type portSpec struct {
	option string // "-t", for messages
	text   string // as it was given

	none bool // nothing is published

	listen netip.Addr // the zero Addr means every address
	device string     // interface, "" for all

	maps    []portMap   // ports named one by one
	all     bool        // every other port that is neither excluded nor ephemeral
	target  netip.Addr  // where those of all lead to
	auto    bool        // only while somebody listens
	exclude []portRange // never
}

// A portRange is the ports first to last, both included.
type portRange struct{ first, last uint16 }

// A portMap is a range of ports and where it leads: to as many ports from
// toFirst on, at the address to, which is zero for the usual one.
type portMap struct {
	portRange
	to      netip.Addr
	toFirst uint16
}

// A specError says what is wrong with a portSpec. Its words begin as those of
// the original, which people search for.
type specError struct {
	text  string // the specification
	cause error
}

// Error implements error.
func (e *specError) Error() string {
	return fmt.Sprintf("Invalid port specifier %s: %v", e.text, e.cause)
}

// Unwrap gives the cause.
func (e *specError) Unwrap() error { return e.cause }

const (
	wordNone = "none"
	wordAll  = "all"
	wordAuto = "auto"
)

// Causes of a specError.
var (
	errNothing    = errors.New("empty")
	errNoPort     = errors.New("not a port from 1 to 65535")
	errBackwards  = errors.New("a range ends before it begins")
	errLengths    = errors.New("ranges of different lengths")
	errOverlap    = errors.New("a port is named twice")
	errNoAddress  = errors.New("not an address")
	errNoDevice   = errors.New("not the name of an interface")
	errFamilies   = errors.New("IPv4 cannot lead to IPv6, nor IPv6 to IPv4")
	errAutoMapped = errors.New("auto cannot be together with other target ports or addresses")
	errAllAuto    = errors.New("either all or auto")
)

// parsePorts parses the argument of a port option.
func parsePorts(option, text string) (portSpec, error) {
	s := portSpec{option: option, text: text}
	switch text {
	case wordNone:
		s.none = true
		return s, nil
	case "": // a script's empty variable shall not publish everything
		return portSpec{}, &specError{text, errNothing}
	}
	if err := s.parse(text); err != nil {
		return portSpec{}, &specError{text, err}
	}
	return s, nil
}

func (s *portSpec) parse(text string) error {
	ports, err := s.parseListen(text)
	if err != nil {
		return err
	}
	if ports == "" {
		s.all = true
		return nil
	}
	for entry := range strings.SplitSeq(ports, ",") {
		if err := s.parseEntry(entry); err != nil {
			return err
		}
	}
	return s.check()
}

// parseListen takes the address and the interface to listen on off the front of
// a specification. A slash may also belong to the target of the first entry;
// what is before it is no address then.
func (s *portSpec) parseListen(text string) (ports string, err error) {
	head, rest, found := strings.Cut(text, "/")
	if !found {
		return text, nil
	}
	host, device, hasDevice := strings.Cut(head, "%")
	if hasDevice {
		if s.device, err = parseInterface(device); err != nil {
			return "", errNoDevice
		}
	}
	if host == "" && hasDevice {
		return rest, nil
	}
	s.listen, err = parseAddr(host)
	if err == nil {
		return rest, nil
	}
	if hasDevice || !strings.ContainsAny(head, ":,") {
		return "", errNoAddress
	}
	return text, nil
}

// parseEntry parses one of the entries between commas.
func (s *portSpec) parseEntry(entry string) (err error) {
	if ports, excluded := strings.CutPrefix(entry, "~"); excluded {
		r, err := parseRange(ports)
		s.exclude = append(s.exclude, r)
		return err
	}
	ports, target, hasTarget := strings.Cut(entry, ":")
	switch {
	case entry == wordAuto:
		s.auto = true
		return nil
	case ports == wordAll:
		s.all = true
		if hasTarget {
			s.target, err = parseHost(target)
		}
		return err
	}
	var m portMap
	if m.portRange, err = parseRange(ports); err != nil {
		return err
	}
	m.toFirst = m.first
	if hasTarget {
		if err := m.parseTarget(target); err != nil {
			return err
		}
	}
	s.maps = append(s.maps, m)
	return nil
}

// parseTarget parses what stands behind the colon of an entry: ports, an
// address, or both with a slash between them.
func (m *portMap) parseTarget(text string) (err error) {
	host, ports, both := strings.Cut(text, "/")
	switch {
	case !both && isPorts(text):
		ports = text
	case !both:
		m.to, err = parseHost(text)
		return err
	default:
		if m.to, err = parseHost(host); err != nil {
			return err
		}
	}
	r, err := parseRange(ports)
	if err != nil {
		return err
	}
	if r.last-r.first != m.last-m.first {
		return errLengths
	}
	m.toFirst = r.first
	return nil
}

// isPorts tells ports from an address, which has a dot or a colon.
func isPorts(s string) bool { return !strings.ContainsAny(s, ".:[") }

// check looks at all entries together.
func (s *portSpec) check() error {
	if s.all && s.auto {
		return errAllAuto
	}
	if len(s.maps) == 0 && !s.auto {
		s.all = true // exclusions only
	}
	if s.auto && s.translates() {
		return errAutoMapped
	}
	if !sameFamily(s.listen, s.target) {
		return errFamilies
	}
	for i, m := range s.maps {
		if !sameFamily(s.listen, m.to) {
			return errFamilies
		}
		for _, other := range s.maps[:i] {
			if m.first <= other.last && other.first <= m.last {
				return errOverlap
			}
		}
	}
	return nil
}

// translates tells whether any port leads to another port or address.
func (s *portSpec) translates() bool {
	for _, m := range s.maps {
		if m.to.IsValid() || m.toFirst != m.first {
			return true
		}
	}
	return false
}

// sameFamily tells whether what arrives at listen can be led to target; zero
// addresses have both families.
func sameFamily(listen, target netip.Addr) bool {
	return !listen.IsValid() || !target.IsValid() || listen.Is4() == target.Is4()
}

// parseRange reads "80" or "80-90".
func parseRange(s string) (portRange, error) {
	first, last, isRange := strings.Cut(s, "-")
	r := portRange{}
	var err error
	if r.first, err = parsePort(first); err != nil {
		return portRange{}, err
	}
	r.last = r.first
	if isRange {
		if r.last, err = parsePort(last); err != nil {
			return portRange{}, err
		}
	}
	if r.last < r.first {
		return portRange{}, errBackwards
	}
	return r, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, errNoPort
	}
	return uint16(n), nil
}

// parseAddr reads an address, IPv6 with or without brackets. IPv4-mapped ones
// become IPv4. The unspecified addresses are right: they mean one family.
func parseAddr(s string) (netip.Addr, error) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if s, ok = strings.CutSuffix(inner, "]"); !ok || !strings.Contains(s, ":") {
			return netip.Addr{}, errNoAddress
		}
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.IsMulticast() {
		return netip.Addr{}, errNoAddress
	}
	return a.Unmap(), nil
}
