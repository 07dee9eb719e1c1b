package probe

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tproxy loads a rule as the shortcut needs it: divert TCP to a local socket
// and remember the flow by a conntrack mark. The table dies with the namespace.
func tproxy() Result {
	r := Result{Name: nameTProxy, Status: OK, Detail: "nf_tables with tproxy and conntrack marks"}
	if err := loadTProxy(); err != nil {
		r.Status, r.Detail = Missing, fmt.Sprintf("load nf_tables rule: %v", err)
		r.Remedy = asRoot("modprobe -a nf_tables nft_tproxy nft_ct")
	}
	return r
}

func loadTProxy() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: ChildName, Family: nftables.TableFamilyINet})
	chain := c.AddChain(&nftables.Chain{
		Name:     "prerouting",
		Table:    table,
		Type:     nftables.ChainTypeFilter,
		Hooknum:  nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityMangle,
	})
	const port, mark = 1, 1 // any: nothing ever comes this way
	const register = 1
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Immediate{Register: register, Data: binaryutil.NativeEndian.PutUint32(mark)},
		&expr.Ct{Key: expr.CtKeyMARK, Register: register, SourceRegister: true},
		&expr.Immediate{Register: register, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.TProxy{Family: unix.NFPROTO_IPV4, TableFamily: unix.NFPROTO_INET, RegPort: register},
	}})
	return c.Flush()
}
