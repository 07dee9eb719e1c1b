package userns

import (
	"encoding/binary"
	"math"
	"net/netip"

	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
	"taproot/userns/nft"
)

// Priorities of our chains among those of others (netfilter_ipv4.h).
const (
	// beforeTracking is before connection tracking (raw, -300).
	beforeTracking = -300

	// last is after all others: a mark that they set does not undo ours, and they
	// see packets as they would without us.
	last = math.MaxInt32

	// beforeNAT is before translation of sources (100): the first chain that
	// decides about a connection decides.
	beforeNAT = 99
)

// Flags of TCP (RFC 9293 section 3.1).
const (
	flagsOffset = 13   // in the segment
	bareMask    = 0x17 // FIN, SYN, RST and ACK
	bareSYN     = 0x02
	synACK      = 0x12
)

// A ruleset makes the rules of one family for a device.
type ruleset struct {
	family uint8  // unix.NFPROTO_*
	link   uint32 // index of the device
	to     netip.AddrPort
	bound  netip.Addr // next hop of sockets that are bound to the device
	except []netip.Addr
	behind []netip.Prefix // networks whose SYNs are diverted too
	wants  options
}

// options are what the rules can do without.
type options struct {
	nested bool // SYNs forwarded from other networks are diverted too
	fib    bool // SYNs whose source is not local are left alone

	// entering lets sockets that stand for clients of published ports connect to
	// the guest.
	entering bool
}

// allOptions are all of them, nested if that is wanted.
func allOptions(nested bool) options { return options{nested: nested, fib: true, entering: true} }

// fibRule is the rule that wants options.fib, as errors name it.
const fibRule = "rule local transparent"

// table returns the table of all rules. Those for the packets of a connection
// come first; those for SYNs are reached by SYNs only.
func (r *ruleset) table() nft.Table {
	t := nft.Table{Family: r.family, Name: mark.Table}
	t.Chains = append(t.Chains,
		nft.Chain{Name: "local", Rules: r.signed(mark.Local)},
		nft.Chain{Name: "back", Rules: []nft.Rule{
			// What was led astray has been diverted before.
			{Name: "stray", Exprs: nft.Join(flags(), nft.IsNot([]byte{bareSYN}), direction(original), label(mark.Flow))},
			{Name: "divert", Exprs: nft.Join(inside(), r.toListener(), nft.Accept())},
		}},
		nft.Chain{Name: "output", Type: "route", Hook: unix.NF_INET_LOCAL_OUT, Priority: last, Rules: r.output()},
		nft.Chain{Name: "prerouting", Type: "filter", Hook: unix.NF_INET_PRE_ROUTING, Priority: last, Rules: r.prerouting()})
	if r.wants.entering {
		t.Chains = append(t.Chains, r.entering()...)
	}
	if r.wants.nested {
		t.Chains = append(t.Chains, r.crowded()...)
	} else {
		t.Chains = append(t.Chains, r.alone()...)
	}
	return t
}

// crowded returns the chains for a guest that may have nested networks or translate
// addresses. They are two: a nat chain costs each connection and each datagram.
func (r *ruleset) crowded() []nft.Chain {
	return []nft.Chain{
		{Name: "nested", Rules: r.signed(mark.Nested)},
		{Name: "forward", Type: "filter", Hook: unix.NF_INET_FORWARD, Priority: last, Rules: []nft.Rule{
			{Name: "syn", Exprs: nft.Join(r.device(unix.NFT_META_OIF), nft.LoadMeta(unix.NFT_META_IIF), nft.IsNot(native(r.link)), isTCP(), bare(), nft.Jump("nested"))},
		}},
		{Name: "postrouting", Type: "nat", Hook: unix.NF_INET_POST_ROUTING, Priority: beforeNAT, Rules: []nft.Rule{
			{Name: "keep", Exprs: nft.Join(r.device(unix.NFT_META_OIF), isTCP(), bare(), r.isOurs(), r.keepSource())},
		}},
	}
}

// alone returns what stands in their place. Where somebody translates sources, to
// the same ones even, nothing keeps them then: the kernel ends masqueraded
// connections that go on by another device. So those go by frames.
func (r *ruleset) alone() []nft.Chain {
	return []nft.Chain{
		{Name: "translated", Type: "filter", Hook: unix.NF_INET_POST_ROUTING, Priority: last, Rules: []nft.Rule{
			{Name: "others", Exprs: nft.Join(notTCP(), nft.Accept())},
			{Name: "take back", Exprs: nft.Join(r.device(unix.NFT_META_OIF), bare(), r.isOurs(),
				ctBits(unix.NFT_CT_STATUS, statusSourceDone), r.setDSCP(0))},
		}},
	}
}

// output returns the rules for what is sent here: packets of diverted connections,
// the listener's first answers, answers to clients of published ports, and SYNs.
func (r *ruleset) output() []nft.Rule {
	rules := []nft.Rule{
		{Name: "others", Exprs: nft.Join(notTCP(), nft.Accept())},
		{Name: "inside", Exprs: nft.Join(diverted(), inside(), nft.Accept())},
	}
	if r.wants.entering {
		rules = append(rules, nft.Rule{Name: "to client", Exprs: nft.Join(toClient(), inside(), nft.Accept())})
	}
	return append(rules,
		nft.Rule{Name: "answer", Exprs: nft.Join(flags(), nft.Is([]byte{synACK}), answered(), label(mark.Flow), nft.Accept())},
		nft.Rule{Name: "syn", Exprs: nft.Join(r.device(unix.NFT_META_OIF), bare(), nft.Jump("local"))})
}

// prerouting returns the rules for what comes in: packets of diverted connections
// by lo, what was put back, SYNs in general, and packets of diverted connections
// from other networks.
//
// All go to the socket that has their connection, or else to the listener. Its own
// lookup would find the former for the kernel too, and costs nothing, as it is not
// made twice; the latter is for the last segment of a handshake with SYN cookies.
func (r *ruleset) prerouting() []nft.Rule {
	rules := []nft.Rule{
		{Name: "others", Exprs: nft.Join(notTCP(), nft.Accept())},
		{Name: "lo", Exprs: nft.Join(onDevice(unix.NFT_META_IIF, loopbackIndex), diverted(), inside(), r.toListener(), nft.Accept())},
		{Name: "rest of lo", Exprs: nft.Join(onDevice(unix.NFT_META_IIF, loopbackIndex), nft.Accept())},
		{Name: "put back", Exprs: nft.Join(r.device(unix.NFT_META_IIF), r.hasDSCP(mark.Local, 0x3f), nft.Jump("back"))},
	}
	if r.wants.entering {
		rules = append(rules,
			nft.Rule{Name: "entering", Exprs: nft.Join(r.device(unix.NFT_META_IIF), bare(), r.hasDSCP(mark.Entering, 0x3f), entered(), nft.Accept())},
			nft.Rule{Name: "to client", Exprs: nft.Join(toClient(), inside(), nft.Accept())})
	}
	return append(rules, nft.Rule{Name: "inside", Exprs: nft.Join(diverted(), inside(), r.toListener(), nft.Accept())})
}

// signed returns the rules that sign a SYN to the device with a code point,
// unless it cannot be diverted.
func (r *ruleset) signed(dscp byte) []nft.Rule {
	var rules []nft.Rule
	for _, addr := range r.except {
		rules = append(rules, nft.Rule{Name: "except " + addr.String(), Exprs: nft.Join(r.destination(addr), nft.Return())})
	}
	rules = append(rules,
		// Without an entry there is nothing to remember the connection by.
		nft.Rule{Name: "untracked", Exprs: nft.Join(ctBits(unix.NFT_CT_STATE, stateInvalid|stateUntracked), nft.Return())},
		// What is put back must have the addresses that the entry has.
		nft.Rule{Name: "translated", Exprs: nft.Join(ctBits(unix.NFT_CT_STATUS, statusTranslated), nft.Return())})
	if dscp == mark.Local {
		if r.bound.IsValid() {
			rules = append(rules, nft.Rule{Name: "bound", Exprs: nft.Join(r.viaBound(), nft.Return())})
		}
		if r.wants.fib {
			rules = append(rules, nft.Rule{Name: "transparent", Exprs: nft.Join(sourceNotLocal(), nft.Return())})
		}
	}
	if dscp == mark.Nested {
		// Others must not lose the guest's translation of their source.
		for _, p := range r.behind {
			rules = append(rules, nft.Rule{Name: "sign " + p.String(), Exprs: nft.Join(r.sourceIn(p), r.sign(dscp))})
		}
		return rules
	}
	return append(rules, nft.Rule{Name: "sign", Exprs: r.sign(dscp)})
}

// Bits of a connection's state and status as nf_tables has them
// (nf_conntrack_common.h).
const (
	stateInvalid     = 1 << 0
	stateNew         = 1 << 3
	stateUntracked   = 1 << 6
	statusTranslated = 1<<4 | 1<<5 // IPS_SRC_NAT, IPS_DST_NAT
	statusSourceDone = 1 << 7      // IPS_SRC_NAT_DONE: translation was asked, where there is one
)

// loopbackIndex is the index of lo in every network namespace.
const loopbackIndex = 1

// native returns a number as the kernel has it.
func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// device matches packets that come from the device (NFT_META_IIF) or go to it
// (NFT_META_OIF).
func (r *ruleset) device(key uint32) nft.Expr { return onDevice(key, r.link) }

func onDevice(key, link uint32) nft.Expr {
	return nft.Join(nft.LoadMeta(key), nft.Is(native(link)))
}

// isTCP matches TCP.
func isTCP() nft.Expr {
	return nft.Join(nft.LoadMeta(unix.NFT_META_L4PROTO), nft.Is([]byte{unix.IPPROTO_TCP}))
}

// notTCP matches everything else.
func notTCP() nft.Expr {
	return nft.Join(nft.LoadMeta(unix.NFT_META_L4PROTO), nft.IsNot([]byte{unix.IPPROTO_TCP}))
}

// bare matches SYNs without ACK, of TCP.
func bare() nft.Expr { return nft.Join(flags(), nft.Is([]byte{bareSYN})) }

// flags loads the flags of a segment, those in bareMask.
func flags() nft.Expr {
	return nft.Join(nft.Load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, flagsOffset, 1), nft.Mask([]byte{bareMask}, []byte{0}))
}

// Directions of a connection, as connection tracking has them (enum ip_conntrack_dir).
const (
	original = 0
	reply    = 1
)

// diverted matches packets of diverted connections from the initiator, of TCP. A
// bare SYN opens another connection of the same ports, which is to be asked for.
func diverted() nft.Expr {
	return nft.Join(labelled(mark.Flow), direction(original), flags(), nft.IsNot([]byte{bareSYN}))
}

// answered matches packets back to who has sent a SYN with a code point. Where the
// guest sends one itself, it is from what the SYN was put back for: the listener.
//
// Only then the connection is diverted. A SYN that was put back may yet be dropped
// by a filter of the guest's, and its connection goes another way then.
func answered() nft.Expr { return nft.Join(labelled(mark.Signed), direction(reply)) }

func direction(d byte) nft.Expr {
	return nft.Join(nft.LoadCt(unix.NFT_CT_DIRECTION), nft.Is([]byte{d}))
}

// labelled matches packets of connections whose label has the bit.
func labelled(bit uint32) nft.Expr {
	return nft.Join(nft.LoadCt(unix.NFT_CT_LABELS), nft.Mask(labelOf(bit), labelOf(0)), nft.IsNot(labelOf(0)))
}

// label adds a bit to a connection's label.
func label(bit uint32) nft.Expr {
	return nft.Join(nft.Immediate(labelOf(bit)), nft.StoreCt(unix.NFT_CT_LABELS))
}

// labelOf returns a whole label: of a part, the nft program would not list what it
// can load.
func labelOf(bits uint32) []byte { return append(native(bits), make([]byte, 12)...) }

// sign gives a SYN a code point, and remembers it.
func (r *ruleset) sign(dscp byte) nft.Expr { return nft.Join(r.setDSCP(dscp), label(mark.Signed)) }

// become sets our bits of a mark.
func become(value uint32) nft.Expr { return nft.Mask(native(^uint32(mark.Mask)), native(value)) }

// inside marks a packet to be delivered inside.
func inside() nft.Expr {
	return nft.Join(nft.LoadMeta(unix.NFT_META_MARK), become(mark.Packet), nft.StoreMeta(unix.NFT_META_MARK))
}

// ctBits matches if any of the bits of a connection's state or status is set.
func ctBits(key, bits uint32) nft.Expr {
	return nft.Join(nft.LoadCt(key), nft.Mask(native(bits), native(0)), nft.IsNot(native(0)))
}

// sourceNotLocal matches what a socket sends from an address that it was allowed
// to bind to and that is nobody's here.
func sourceNotLocal() nft.Expr {
	return nft.Join(nft.LoadSourceType(), nft.IsNot(native(unix.RTN_LOCAL)))
}

// toListener gives a segment to the socket of its connection, or else to the
// listener. That it is one of TCP is known, but the nft program does not load what
// it has listed unless the rule itself says so.
func (r *ruleset) toListener() nft.Expr {
	return nft.Join(isTCP(), nft.TProxy(r.family, r.to.Addr().AsSlice(), r.to.Port()))
}
