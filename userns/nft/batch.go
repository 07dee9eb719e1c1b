package nft

import (
	"encoding/binary"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A batch is a transaction to be.
type batch struct {
	messages []netlink.Message
	objects  []string // what each message is about
}

// message adds a message about an object of a family.
func (b *batch) message(kind uint16, family uint8, object string, a *netlink.AttributeEncoder) error {
	flags := netlink.Request
	switch kind {
	case unix.NFT_MSG_NEWRULE:
		flags |= netlink.Create | netlink.Append
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_NEWCHAIN:
		flags |= netlink.Create
	}
	m, err := message(kind, family, flags, a)
	if err != nil {
		return err
	}
	b.messages = append(b.messages, m)
	b.objects = append(b.objects, object)
	return nil
}

// sealed returns the batch's messages between those that begin and end it. The
// last one in between is to be acknowledged: the kernel does not do so for the end
// of every batch before Linux 6.10.
func (b *batch) sealed() []netlink.Message {
	b.messages[len(b.messages)-1].Header.Flags |= netlink.Acknowledge
	all := make([]netlink.Message, 0, len(b.messages)+2)
	all = append(all, border(unix.NFNL_MSG_BATCH_BEGIN))
	all = append(all, b.messages...)
	return append(all, border(unix.NFNL_MSG_BATCH_END))
}

// object says what the i-th of the sealed messages is about.
func (b *batch) object(i uint32) string {
	if i == 0 || int(i) > len(b.objects) {
		return "nf_tables"
	}
	return b.objects[i-1]
}

// border is what begins or ends a batch.
func border(kind uint16) netlink.Message {
	return newMessage(netlink.HeaderType(kind), netlink.Request, header(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES))
}

// message makes a message of nf_tables.
func message(kind uint16, family uint8, flags netlink.HeaderFlags, a *netlink.AttributeEncoder) (netlink.Message, error) {
	attributes, err := a.Encode()
	if err != nil {
		return netlink.Message{}, err
	}
	return newMessage(nftType(kind), flags, append(header(family, 0), attributes...)), nil
}

func newMessage(kind netlink.HeaderType, flags netlink.HeaderFlags, data []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Length: uint32(unix.NLMSG_HDRLEN + len(data)), Type: kind, Flags: flags},
		Data:   data,
	}
}

// nftType is a message's type, in nfnetlink's numbering, of one of nf_tables.
func nftType(kind uint16) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind)
}

// headerSize is that of header, in bytes.
const headerSize = 4

// header is a struct nfgenmsg.
func header(family uint8, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
}
