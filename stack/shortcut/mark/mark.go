package mark

// Code points, as values of the six bits.
const (
	Local    = 0b110011
	Nested   = 0b110111
	Entering = 0b111011
)

// Bits of a packet's mark.
const (
	Mask   = 0x7000_0000 // those of ours
	Packet = 0x5000_0000 // deliver it inside, whatever its destination
	Answer = 0x1000_0000 // from the listener or what it accepted
	Client = 0x2000_0000 // from a socket of ours that stands for a client
)

// Bits of a connection's label, in the first 32 of its 128, in host byte order.
const (
	Signed  = 0x2000_0000 // its SYN carries a code point
	Flow    = 0x4000_0000 // it is diverted
	Entered = 0x1000_0000 // it is from a socket that stands for a client
)

// What stands in the guest's namespace.
const (
	// Table is the name of our table of nf_tables, one for each family.
	Table = "taproot"

	// RouteInside is the routing table by which every address is inside.
	RouteInside = 29793

	// RouteBound is the routing table of sockets that are bound to the device.
	RouteBound = 29794

	// Preference is that of our routing rules (ip-rule(8)), after the kernel's rule
	// for local addresses. It is low, to come before those that guests make, and
	// leaves room for those whose preference the kernel chooses: one less than the
	// lowest that it finds.
	Preference = 60
)
