// Package flow holds the table of live flows, whichever way their bytes take.
//
// A flow is one TCP connection, one UDP address pair or one echo identifier.
// Its two ends are the initiator, which sent the first packet, and the target
// it wanted to reach, both as the guest sees them. A flow is opened before its
// host socket exists, so that a guest that opens flows faster than hosts
// answer meets the limit and not our memory:
//
//	Open ──► counted ──► Close
//	  └── ErrFull, counted as refused
//
// Flows of TCP by frames cost much more memory than those of the shortcut, so they
// have a limit of their own besides that of both.
//
// Only the owner of a flow closes it; the table counts and lists. Others may ask
// the owner to, by Flow.Kill. Where the table is full, Table.MakeRoom asks the owner
// of a flow that was never answered, or that says itself that it gives way (Yielder).
package flow
