// Package nft replaces, amends, removes and counts tables of nf_tables over a netlink
// socket that somebody else has made, in another network namespace perhaps.
//
// A Table is a value with all its chains and rules. Conn.Replace puts it in the
// place of one of the same name in a single transaction of the kernel: packets
// meet the old rules or the new ones, never half of them, and what fails leaves
// all as it was.
//
// Expressions are encoded here too, those that we use: google/nftables has them
// all, but wants to open its socket itself, and its encoders take ten times as
// long, of the milliseconds that a guest takes to start. The tests compare.
package nft
