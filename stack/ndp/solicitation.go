package ndp

// What a solicitation begins with: RFC 4861 section 4.1.
const (
	typeSolicitation = 133
	solicitationSize = 8 // bytes before the options
	optionUnit       = 8 // bytes that an option's length counts
)

// IsSolicitation reports whether icmp, an ICMPv6 message from its type on, is
// a valid router solicitation (RFC 4861 section 6.1.1). Hop limit, checksum
// and source address are the caller's to check.
func IsSolicitation(icmp []byte) bool {
	if len(icmp) < solicitationSize || icmp[0] != typeSolicitation || icmp[1] != 0 {
		return false
	}
	options := icmp[solicitationSize:]
	for len(options) > 0 {
		if len(options) < optionUnit {
			return false
		}
		size := int(options[1]) * optionUnit
		if size == 0 || size > len(options) {
			return false
		}
		options = options[size:]
	}
	return true
}
