// Package nft replaces, removes and counts tables of nf_tables over a netlink
// socket that somebody else has made, in another network namespace perhaps.
//
// A Table is a value with all its chains and rules. Conn.Replace puts it in the
// place of one of the same name in a single transaction of the kernel: packets
// meet the old rules or the new ones, never half of them, and what fails leaves
// all as it was.
//
// The expressions of rules are those of google/nftables, whose own connection
// wants to open its socket itself; what it does around them is little (nfnetlink:
// a batch is a message that begins it, one for each object, and one that ends
// it).
package nft
