package nft

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Numbers of netfilter.h and nf_tables.h that package unix does not have.
const (
	nfDrop        = 0
	nfAccept      = 1
	tproxyFamily  = 1 // NFTA_TPROXY_FAMILY
	tproxyRegAddr = 2
	tproxyRegPort = 3
)

// An Expr is one expression of a rule, or several after each other, as the kernel
// has them. Those that load a value load it into register 1, where those that
// compare, change or store one find it.
type Expr []byte

// Join returns expressions after each other.
func Join(parts ...Expr) Expr {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	all := make(Expr, 0, n)
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// LoadMeta loads what is known of a packet beside its bytes; key is one of
// unix.NFT_META_*.
func LoadMeta(key uint32) Expr {
	return element("meta", list().u32(unix.NFTA_META_KEY, key).u32(unix.NFTA_META_DREG, unix.NFT_REG_1))
}

// StoreMeta stores it.
func StoreMeta(key uint32) Expr {
	return element("meta", list().u32(unix.NFTA_META_KEY, key).u32(unix.NFTA_META_SREG, unix.NFT_REG_1))
}

// LoadCt loads what connection tracking knows; key is one of unix.NFT_CT_*. A
// packet that it does not know does not match the rule, unless key is the state.
func LoadCt(key uint32) Expr {
	return element("ct", list().u32(unix.NFTA_CT_KEY, key).u32(unix.NFTA_CT_DREG, unix.NFT_REG_1))
}

// StoreCt stores it.
func StoreCt(key uint32) Expr {
	return element("ct", list().u32(unix.NFTA_CT_KEY, key).u32(unix.NFTA_CT_SREG, unix.NFT_REG_1))
}

// LoadRt loads what is known of a packet's route; key is one of unix.NFT_RT_*.
func LoadRt(key uint32) Expr {
	return element("rt", list().u32(unix.NFTA_RT_KEY, key).u32(unix.NFTA_RT_DREG, unix.NFT_REG_1))
}

// LoadSourceType loads the type of the route to a packet's source, unix.RTN_*.
func LoadSourceType() Expr {
	return element("fib", list().u32(unix.NFTA_FIB_DREG, unix.NFT_REG_1).
		u32(unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_SADDR).u32(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE))
}

// Load loads length bytes of a header; base is one of unix.NFT_PAYLOAD_*.
func Load(base, offset, length uint32) Expr {
	return element("payload", list().u32(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1).
		u32(unix.NFTA_PAYLOAD_BASE, base).u32(unix.NFTA_PAYLOAD_OFFSET, offset).u32(unix.NFTA_PAYLOAD_LEN, length))
}

// Store stores them. If checksum is not 0, the checksum of IPv4 at that offset
// follows the change, for which the bytes must start at an even offset.
func Store(base, offset, length, checksum uint32) Expr {
	a := list().u32(unix.NFTA_PAYLOAD_SREG, unix.NFT_REG_1).
		u32(unix.NFTA_PAYLOAD_BASE, base).u32(unix.NFTA_PAYLOAD_OFFSET, offset).u32(unix.NFTA_PAYLOAD_LEN, length)
	if checksum != 0 {
		a = a.u32(unix.NFTA_PAYLOAD_CSUM_TYPE, unix.NFT_PAYLOAD_CSUM_INET).u32(unix.NFTA_PAYLOAD_CSUM_OFFSET, checksum)
	}
	return element("payload", a)
}

// Is matches if the value is equal to want.
func Is(want []byte) Expr { return compare(unix.NFT_CMP_EQ, want) }

// IsNot matches if it is not.
func IsNot(want []byte) Expr { return compare(unix.NFT_CMP_NEQ, want) }

func compare(op uint32, want []byte) Expr {
	return element("cmp", list().u32(unix.NFTA_CMP_SREG, unix.NFT_REG_1).u32(unix.NFTA_CMP_OP, op).
		nested(unix.NFTA_CMP_DATA, list().bytes(unix.NFTA_DATA_VALUE, want)))
}

// Mask keeps the bits of mask and flips those of flip, which has the same length.
func Mask(mask, flip []byte) Expr {
	return element("bitwise", list().u32(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1).u32(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1).
		u32(unix.NFTA_BITWISE_LEN, uint32(len(mask))).
		nested(unix.NFTA_BITWISE_MASK, list().bytes(unix.NFTA_DATA_VALUE, mask)).
		nested(unix.NFTA_BITWISE_XOR, list().bytes(unix.NFTA_DATA_VALUE, flip)))
}

// Accept ends the chain that is at the hook; those of others go on.
func Accept() Expr { return verdict(nfAccept, "") }

// Drop drops the packet.
func Drop() Expr { return verdict(nfDrop, "") }

// NoTrack keeps connection tracking from seeing a packet, before it does.
func NoTrack() Expr { return element("notrack", nil) }

// Return goes back to the chain that jumped here.
func Return() Expr { return verdict(unix.NFT_RETURN, "") }

// Jump goes on with another chain of the table, and comes back.
func Jump(chain string) Expr { return verdict(unix.NFT_JUMP, chain) }

func verdict(code int32, chain string) Expr {
	a := list().u32(unix.NFTA_VERDICT_CODE, uint32(code))
	if chain != "" {
		a = a.str(unix.NFTA_VERDICT_CHAIN, chain)
	}
	return element("immediate", list().u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT).
		nested(unix.NFTA_IMMEDIATE_DATA, list().nested(unix.NFTA_DATA_VERDICT, a)))
}

// Immediate loads a value.
func Immediate(value []byte) Expr { return immediate(unix.NFT_REG_1, value) }

// immediate loads a value into a register.
func immediate(register uint32, value []byte) Expr {
	return element("immediate", list().u32(unix.NFTA_IMMEDIATE_DREG, register).
		nested(unix.NFTA_IMMEDIATE_DATA, list().bytes(unix.NFTA_DATA_VALUE, value)))
}

// TProxy gives a segment to the socket that has its connection or, if none has, to
// the one that listens at an address and port and is transparent. If there is no
// such either, the rule does not match.
func TProxy(family uint8, addr []byte, port uint16) Expr {
	return Join(
		immediate(unix.NFT_REG_1, addr),
		immediate(unix.NFT_REG_2, binary.BigEndian.AppendUint16(nil, port)),
		element("tproxy", list().u32(tproxyFamily, uint32(family)).
			u32(tproxyRegAddr, unix.NFT_REG_1).u32(tproxyRegPort, unix.NFT_REG_2)),
	)
}

// SNAT translates a connection's source to the address that was loaded.
func SNAT(family uint8) Expr {
	return element("nat", list().u32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_SNAT).
		u32(unix.NFTA_NAT_FAMILY, uint32(family)).u32(unix.NFTA_NAT_REG_ADDR_MIN, unix.NFT_REG_1))
}

// element makes an element of a list of expressions.
func element(name string, data attrs) Expr {
	return Expr(list().nested(unix.NFTA_LIST_ELEM,
		list().str(unix.NFTA_EXPR_NAME, name).nested(unix.NFTA_EXPR_DATA, data)))
}

// attrs are netlink attributes, numbers in network byte order.
type attrs []byte

// list returns an empty list with room for most expressions.
func list() attrs { return make(attrs, 0, 64) }

func (a attrs) bytes(kind uint16, data []byte) attrs {
	a = binary.NativeEndian.AppendUint16(a, uint16(unix.NLA_HDRLEN+len(data)))
	a = binary.NativeEndian.AppendUint16(a, kind)
	a = append(a, data...)
	return append(a, make([]byte, -len(data)&(unix.NLA_ALIGNTO-1))...)
}

func (a attrs) u32(kind uint16, n uint32) attrs {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return a.bytes(kind, b[:])
}

func (a attrs) str(kind uint16, s string) attrs { return a.bytes(kind, append([]byte(s), 0)) }

func (a attrs) nested(kind uint16, inner attrs) attrs { return a.bytes(unix.NLA_F_NESTED|kind, inner) }
