package userns

import (
	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
	"taproot/userns/nft"
)

// enteringRule is the rule that wants options.entering, as errors name it.
const enteringRule = "rule untracked syn"

// entering returns the chains for the connections of sockets that stand for clients.
//
// Their SYNs do not go to the guest's server by lo, where they would seem to come
// from the guest itself: they are copied (see Diversion.Clients), and come by the
// device. Only there connection tracking sees them, so that the guest's rules for
// what comes from outside are those that count, translations among them. Of what
// follows, answers are led back to lo, and the rest goes there by itself.
func (r *ruleset) entering() []nft.Chain {
	onLo := func(key uint32) nft.Expr { return onDevice(key, loopbackIndex) }
	client := nft.Join(nft.LoadMeta(unix.NFT_META_MARK), nft.Mask(native(mark.Mask), native(0)), nft.Is(native(mark.Client)))
	return []nft.Chain{
		{Name: "untracked", Type: "filter", Hook: unix.NF_INET_LOCAL_OUT, Priority: beforeTracking, Rules: []nft.Rule{
			{Name: "syn", Exprs: nft.Join(client, onLo(unix.NFT_META_OIF), isTCP(), bare(), nft.NoTrack(), r.setDSCP(mark.Entering))},
		}},
		// By the code point, as the guest may change marks on the way.
		{Name: "copied", Type: "filter", Hook: unix.NF_INET_PRE_ROUTING, Priority: beforeTracking, Rules: []nft.Rule{
			{Name: "syn", Exprs: nft.Join(onLo(unix.NFT_META_IIF), ctBits(unix.NFT_CT_STATE, stateUntracked),
				isTCP(), bare(), r.hasDSCP(mark.Entering, 0x3f), nft.Drop())},
		}},
	}
}

// entered labels a connection that begins as one of a socket that stands for a
// client. One that exists has the same addresses and goes another way.
func entered() nft.Expr { return nft.Join(ctBits(unix.NFT_CT_STATE, stateNew), label(mark.Entered)) }

// toClient matches packets to sockets that stand for clients.
func toClient() nft.Expr { return nft.Join(labelled(mark.Entered), direction(reply)) }
