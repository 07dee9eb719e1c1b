// Package stack is the gateway's TCP/IP stack as plain Go: what the guest
// sends comes out as requests, datagrams and echoes, and what the host answers
// goes in. gVisor's types end here.
//
// The stack stands where a router would. It owns three addresses of each
// family (gateway, resolver, and a link-local one) and answers ARP, neighbour
// solicitations and echo for those. Everything sent elsewhere is handed to
// whoever called HandleTCP, HandleUDP and HandleEcho; without a handler it is
// answered as a host without that service would. The other way, Dial, SendUDP
// and SendPacket reach the guest from any address.
//
// In a network that is a copy of the host's, the guest believes the host's
// neighbours to be its own; Config.Neighbours makes the gateway answer for
// them. The guest's hardware address is learned from its frames, and asked for
// before the first connection to it.
//
// Source and Destination are always as the packet has them: of what the guest
// sends, the source is the guest. gVisor calls the destination "local".
//
// Handlers of datagrams and echoes run on the link's reader and must not block;
// a handler of TCP requests runs on a goroutine of its own, of which at most
// Config.MaxPending exist. Requests beyond that are dropped, as a full listen queue
// would, and counted by the stack; the guest sends its SYN again.
package stack
