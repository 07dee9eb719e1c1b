package userns

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
	"taproot/userns/nft"
)

// Priorities of our chains among those of others (netfilter_ipv4.h).
const (
	// afterNAT is after connection tracking (-200), after those that change marks
	// (mangle, -150) and after translation of destinations (-100), so that what is
	// translated is known, and before filters (0).
	afterNAT = -90

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
}

// table returns the table of all rules. Those for the packets of a connection
// come first; those for SYNs are reached by SYNs only.
func (r *ruleset) table() nft.Table {
	t := nft.Table{Family: r.family, Name: mark.Table}
	t.Chains = append(t.Chains,
		nft.Chain{Name: "local", Rules: r.signed(mark.Local)},
		nft.Chain{Name: "output", Type: "route", Hook: unix.NF_INET_LOCAL_OUT, Priority: afterNAT, Rules: []nft.Rule{
			{Name: "answer", Exprs: join(ofListener(), flags(expr.CmpOpEq, synACK), flow(), accept())},
			{Name: "other answers", Exprs: join(ofListener(), accept())},
			{Name: "inside", Exprs: join(diverted(), inside(), accept())},
			{Name: "syn", Exprs: join(r.device(expr.MetaKeyOIF, expr.CmpOpEq), bare(), jump("local"))},
		}},
		nft.Chain{Name: "prerouting", Type: "filter", Hook: unix.NF_INET_PRE_ROUTING, Priority: afterNAT, Rules: r.prerouting()})
	if r.wants.nested {
		t.Chains = append(t.Chains,
			nft.Chain{Name: "nested", Rules: r.signed(mark.Nested)},
			nft.Chain{Name: "forward", Type: "filter", Hook: unix.NF_INET_FORWARD, Priority: afterNAT, Rules: []nft.Rule{
				{Name: "syn", Exprs: join(r.device(expr.MetaKeyOIF, expr.CmpOpEq), r.device(expr.MetaKeyIIF, expr.CmpOpNeq), bare(), jump("nested"))},
			}},
			nft.Chain{Name: "postrouting", Type: "nat", Hook: unix.NF_INET_POST_ROUTING, Priority: beforeNAT, Rules: []nft.Rule{
				{Name: "keep", Exprs: join(r.device(expr.MetaKeyOIF, expr.CmpOpEq), bare(), r.isOurs(), r.keepSource())},
			}})
	}
	return t
}

// prerouting returns the rules for what comes in: packets of diverted connections
// by lo, SYNs that were put back, and packets of diverted connections from other
// networks.
//
// All go to the socket that has their connection, or else to the listener. Its own
// lookup would find the former for the kernel too, and costs nothing, as it is not
// made twice; the latter is for the last segment of a handshake with SYN cookies.
func (r *ruleset) prerouting() []nft.Rule {
	rules := []nft.Rule{
		{Name: "lo", Exprs: join(onDevice(expr.MetaKeyIIF, expr.CmpOpEq, loopbackIndex), diverted(), r.toListener(), accept())},
		{Name: "rest of lo", Exprs: join(onDevice(expr.MetaKeyIIF, expr.CmpOpEq, loopbackIndex), accept())},
		{Name: "divert", Exprs: join(r.device(expr.MetaKeyIIF, expr.CmpOpEq), bare(), r.hasDSCP(mark.Local, 0x3f),
			inside(), r.toListener(), accept())},
	}
	if r.wants.nested {
		rules = append(rules, nft.Rule{Name: "inside", Exprs: join(diverted(), inside(), r.toListener(), accept())})
	}
	return rules
}

// signed returns the rules that sign a SYN to the device with a code point,
// unless it cannot be diverted.
func (r *ruleset) signed(dscp byte) []nft.Rule {
	var rules []nft.Rule
	for _, addr := range r.except {
		rules = append(rules, nft.Rule{Name: "except " + addr.String(), Exprs: join(r.destination(addr), back())})
	}
	rules = append(rules,
		// Without an entry there is nothing to remember the connection by.
		nft.Rule{Name: "untracked", Exprs: join(ctBits(expr.CtKeySTATE, expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), back())},
		// What is put back must have the addresses that the entry has.
		nft.Rule{Name: "translated", Exprs: join(ctBits(expr.CtKeySTATUS, statusTranslated), back())})
	if dscp == mark.Local {
		if r.bound.IsValid() {
			rules = append(rules, nft.Rule{Name: "bound", Exprs: join(r.viaBound(), back())})
		}
		if r.wants.fib {
			rules = append(rules, nft.Rule{Name: "transparent", Exprs: join(sourceNotLocal(), back())})
		}
	}
	if dscp == mark.Nested {
		// Others must not lose the guest's translation of their source.
		for _, p := range r.behind {
			rules = append(rules, nft.Rule{Name: "sign " + p.String(), Exprs: join(r.sourceIn(p), r.setDSCP(dscp))})
		}
		return rules
	}
	return append(rules, nft.Rule{Name: "sign", Exprs: r.setDSCP(dscp)})
}

// statusTranslated is IPS_SRC_NAT | IPS_DST_NAT (nf_conntrack_common.h).
const statusTranslated = 1<<4 | 1<<5

// loopbackIndex is the index of lo in every network namespace.
const loopbackIndex = 1

// register is the register of nf_tables that values go through; register2 is
// for the second where two are needed.
const (
	register  = unix.NFT_REG_1
	register2 = unix.NFT_REG_2
)

func join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// native returns a number as the kernel has it.
func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func back() []expr.Any   { return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}} }
func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// device compares the device that a packet comes from or goes to with ours.
func (r *ruleset) device(key expr.MetaKey, op expr.CmpOp) []expr.Any {
	return onDevice(key, op, r.link)
}

func onDevice(key expr.MetaKey, op expr.CmpOp, link uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Cmp{Op: op, Register: register, Data: native(link)},
	}
}

// isTCP matches TCP.
func isTCP() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
	}
}

// bare matches SYNs without ACK.
func bare() []expr.Any { return join(isTCP(), flags(expr.CmpOpEq, bareSYN)) }

// flags compares the flags of a segment, those in bareMask.
func flags(op expr.CmpOp, want byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: flagsOffset, Len: 1},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{bareMask}, Xor: []byte{0}},
		&expr.Cmp{Op: op, Register: register, Data: []byte{want}},
	}
}

// diverted matches packets of diverted connections from the initiator. A bare
// SYN opens another connection of the same ports, which is to be asked for.
func diverted() []expr.Any {
	const original = 0 // IP_CT_DIR_ORIGINAL
	return join([]expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: native(mark.Mask), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: native(mark.Flow)},
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{original}},
	}, isTCP(), flags(expr.CmpOpNeq, bareSYN))
}

// ofListener matches packets of the listener and of what it has accepted.
func ofListener() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: native(mark.Mask), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: native(mark.Answer)},
	}
}

// inside marks a packet to be delivered inside.
func inside() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: native(^uint32(mark.Mask)), Xor: native(mark.Packet)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register},
	}
}

// flow marks a connection as diverted. Only when the listener has answered: a SYN
// that was put back may yet be dropped by a filter of the guest's, and its
// connection goes another way then.
func flow() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: native(^uint32(mark.Mask)), Xor: native(mark.Flow)},
		&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: register},
	}
}

// ctBits matches if any of the bits of a connection's state or status is set.
func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: native(bits), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: native(0)},
	}
}

// sourceNotLocal matches what a socket sends from an address that it was allowed
// to bind to and that is nobody's here.
func sourceNotLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: register, FlagSADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: native(unix.RTN_LOCAL)},
	}
}

// toListener gives a segment to the listener.
func (r *ruleset) toListener() []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: register, Data: r.to.Addr().AsSlice()},
		&expr.Immediate{Register: register2, Data: binary.BigEndian.AppendUint16(nil, r.to.Port())},
		&expr.TProxy{Family: r.family, TableFamily: r.family, RegAddr: register, RegPort: register2},
	}
}
