package nft

import (
	"encoding/binary"
	"errors"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Table is one of nf_tables, with all that is in it.
type Table struct {
	Family uint8 // unix.NFPROTO_*
	Name   string
	Chains []Chain // those that others jump to come before these
}

// A Chain is one of a table. Without Type it is one to jump to.
type Chain struct {
	Name     string
	Type     string // "filter", "route", "nat"
	Hook     uint32 // unix.NF_INET_*
	Priority int32
	Rules    []Rule
}

// A Rule is one of a chain.
type Rule struct {
	Name  string // for errors
	Exprs Expr
}

// Count returns how many rules the table has.
func (t *Table) Count() int {
	n := 0
	for i := range t.Chains {
		n += len(t.Chains[i].Rules)
	}
	return n
}

// add adds the making of the table and all in it to a batch.
func (b *batch) add(t *Table) error {
	if err := b.table(unix.NFT_MSG_NEWTABLE, t); err != nil {
		return err
	}
	return b.addChains(t)
}

// addChains adds the making of a table's chains.
func (b *batch) addChains(t *Table) error {
	for i := range t.Chains {
		if err := b.chain(t, &t.Chains[i]); err != nil {
			return err
		}
	}
	// Rules may jump to any chain.
	for i := range t.Chains {
		for j := range t.Chains[i].Rules {
			if err := b.rule(t, &t.Chains[i], &t.Chains[i].Rules[j]); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeChains adds the removal of a table's chains. One with rules cannot be
// removed.
func (b *batch) removeChains(t *Table) error {
	for i := range t.Chains {
		c := &t.Chains[i]
		rules, chain := newAttributes(), newAttributes()
		rules.String(unix.NFTA_RULE_TABLE, t.Name)
		rules.String(unix.NFTA_RULE_CHAIN, c.Name)
		chain.String(unix.NFTA_CHAIN_TABLE, t.Name)
		chain.String(unix.NFTA_CHAIN_NAME, c.Name)
		err := errors.Join(b.message(unix.NFT_MSG_DELRULE, t.Family, "rules of "+c.Name, rules),
			b.message(unix.NFT_MSG_DELCHAIN, t.Family, "chain "+c.Name, chain))
		if err != nil {
			return err
		}
	}
	return nil
}

// table adds a message that makes or removes a table.
func (b *batch) table(kind uint16, t *Table) error {
	a := newAttributes()
	a.String(unix.NFTA_TABLE_NAME, t.Name)
	return b.message(kind, t.Family, "table "+t.Name, a)
}

// chain adds a message that makes a chain.
func (b *batch) chain(t *Table, c *Chain) error {
	a := newAttributes()
	a.String(unix.NFTA_CHAIN_TABLE, t.Name)
	a.String(unix.NFTA_CHAIN_NAME, c.Name)
	if c.Type != "" {
		a.String(unix.NFTA_CHAIN_TYPE, c.Type)
		a.Nested(unix.NFTA_CHAIN_HOOK, func(a *netlink.AttributeEncoder) error {
			a.Uint32(unix.NFTA_HOOK_HOOKNUM, c.Hook)
			a.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(c.Priority))
			return nil
		})
	}
	return b.message(unix.NFT_MSG_NEWCHAIN, t.Family, "chain "+c.Name, a)
}

// rule adds a message that makes a rule.
func (b *batch) rule(t *Table, c *Chain, r *Rule) error {
	a := newAttributes()
	a.String(unix.NFTA_RULE_TABLE, t.Name)
	a.String(unix.NFTA_RULE_CHAIN, c.Name)
	a.Bytes(netlink.Nested|unix.NFTA_RULE_EXPRESSIONS, r.Exprs)
	return b.message(unix.NFT_MSG_NEWRULE, t.Family, "rule "+c.Name+" "+r.Name, a)
}

// newAttributes returns an encoder of attributes as nf_tables has them: all
// numbers in network byte order.
func newAttributes() *netlink.AttributeEncoder {
	a := netlink.NewAttributeEncoder()
	a.ByteOrder = binary.BigEndian
	return a
}
