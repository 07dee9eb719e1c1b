package nft

import (
	"fmt"
	"maps"
	"testing"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// TestExpressions wants each expression to say what google/nftables says; the
// order of attributes is free.
func TestExpressions(t *testing.T) {
	const register = unix.NFT_REG_1
	addr, port := []byte{192, 0, 0, 8}, []byte{1, 2}
	for name, tt := range map[string]struct {
		got  Expr
		want []expr.Any
	}{
		"load meta":    {LoadMeta(unix.NFT_META_OIF), []expr.Any{&expr.Meta{Key: expr.MetaKeyOIF, Register: register}}},
		"store meta":   {StoreMeta(unix.NFT_META_MARK), []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register}}},
		"load ct":      {LoadCt(unix.NFT_CT_DIRECTION), []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register}}},
		"store ct":     {StoreCt(unix.NFT_CT_MARK), []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: register}}},
		"rt":           {LoadRt(unix.NFT_RT_NEXTHOP6), []expr.Any{&expr.Rt{Key: expr.RtNexthop6, Register: register}}},
		"fib":          {LoadSourceType(), []expr.Any{&expr.Fib{Register: register, FlagSADDR: true, ResultADDRTYPE: true}}},
		"load":         {Load(unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4), []expr.Any{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}}},
		"store":        {Store(unix.NFT_PAYLOAD_NETWORK_HEADER, 0, 2, 0), []expr.Any{&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: register, Base: expr.PayloadBaseNetworkHeader, Len: 2}}},
		"store summed": {Store(unix.NFT_PAYLOAD_NETWORK_HEADER, 0, 2, 10), []expr.Any{&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: register, Base: expr.PayloadBaseNetworkHeader, Len: 2, CsumType: expr.CsumTypeInet, CsumOffset: 10}}},
		"is":           {Is([]byte{6}), []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{6}}}},
		"is not":       {IsNot(addr), []expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: addr}}},
		"mask":         {Mask(addr, addr), []expr.Any{&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: addr, Xor: addr}}},
		"immediate":    {Immediate(addr), []expr.Any{&expr.Immediate{Register: register, Data: addr}}},
		"accept":       {Accept(), []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}},
		"drop":         {Drop(), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}},
		"no track":     {NoTrack(), []expr.Any{&expr.Notrack{}}},
		"return":       {Return(), []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}},
		"jump":         {Jump("chain"), []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "chain"}}},
		"tproxy": {TProxy(unix.NFPROTO_IPV4, addr, 0x0102), []expr.Any{
			&expr.Immediate{Register: register, Data: addr},
			&expr.Immediate{Register: unix.NFT_REG_2, Data: port},
			&expr.TProxy{Family: unix.NFPROTO_IPV4, RegAddr: register, RegPort: unix.NFT_REG_2},
		}},
		"snat": {SNAT(unix.NFPROTO_IPV6), []expr.Any{&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV6, RegAddrMin: register}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := split(t, tt.got)
			if len(got) != len(tt.want) {
				t.Fatalf("got %d expressions, want %d", len(got), len(tt.want))
			}
			for i, e := range tt.want {
				data, err := expr.Marshal(unix.NFPROTO_IPV4, e)
				if err != nil {
					t.Fatal(err)
				}
				if got, want := leaves(got[i].Data), leaves(data); !maps.Equal(got, want) {
					t.Errorf("expression %d: got\n%q\nwant\n%q", i, got, want)
				}
			}
		})
	}
}

// split returns the attributes of a list.
func split(t *testing.T, b []byte) []netlink.Attribute {
	t.Helper()
	list, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// leaves returns the values of nested attributes by the numbers on the way to
// them.
func leaves(b []byte) map[string]string {
	all := map[string]string{}
	collect(all, "", b)
	return all
}

func collect(all map[string]string, path string, b []byte) {
	list, _ := netlink.UnmarshalAttributes(b)
	for _, a := range list {
		path := path + fmt.Sprint("/", a.Type&^netlink.Nested)
		if a.Type&netlink.Nested != 0 {
			collect(all, path, a.Data)
			continue
		}
		all[path] = string(a.Data)
	}
}
