package userns

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// An rtnl changes links, addresses and routes of the network namespace that its
// socket belongs to (rtnetlink(7)). Its errors wrap what the kernel answers.
type rtnl struct{ conn *netlink.Conn }

// newRTNL makes one of a NETLINK_ROUTE socket, which it takes over.
func newRTNL(f *os.File) (*rtnl, error) {
	conn, err := newConn(f)
	if err != nil {
		return nil, err
	}
	return &rtnl{conn}, nil
}

func (r *rtnl) close() { r.conn.Close() }

// execute sends a message, header first, with the attributes that set encodes,
// and returns the answers.
func (r *rtnl) execute(kind netlink.HeaderType, flags netlink.HeaderFlags, header any, set func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	attributes := netlink.NewAttributeEncoder()
	set(attributes)
	tail, err := attributes.Encode()
	if err != nil {
		return nil, err
	}
	data, err := marshal(header)
	if err != nil {
		return nil, err
	}
	answers, err := r.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | flags},
		Data:   append(data, tail...),
	})
	var op *netlink.OpError
	if errors.As(err, &op) { // only repeats that this is netlink
		err = op.Err
	}
	return answers, err
}

// set sends a message that changes something.
func (r *rtnl) set(kind netlink.HeaderType, flags netlink.HeaderFlags, header any, set func(*netlink.AttributeEncoder)) error {
	_, err := r.execute(kind, netlink.Acknowledge|flags, header, set)
	return err
}

// link returns the index of a device.
func (r *rtnl) link(name string) (index int32, err error) {
	answers, err := r.execute(unix.RTM_GETLINK, 0, unix.IfInfomsg{}, func(a *netlink.AttributeEncoder) {
		a.String(unix.IFLA_IFNAME, name)
	})
	if err != nil {
		return 0, err
	}
	for _, m := range answers {
		if m.Header.Type == unix.RTM_NEWLINK && len(m.Data) >= unix.SizeofIfInfomsg {
			return int32(binary.NativeEndian.Uint32(m.Data[4:])), nil
		}
	}
	return 0, syscall.EPROTO
}

// up brings a device up.
func (r *rtnl) up(link int32) error {
	header := unix.IfInfomsg{Index: link, Flags: unix.IFF_UP, Change: unix.IFF_UP}
	return r.set(unix.RTM_SETLINK, 0, header, func(*netlink.AttributeEncoder) {})
}

func (r *rtnl) setMTU(link int32, mtu int) error {
	return r.set(unix.RTM_SETLINK, 0, unix.IfInfomsg{Index: link}, func(a *netlink.AttributeEncoder) {
		a.Uint32(unix.IFLA_MTU, uint32(mtu))
	})
}

func (r *rtnl) setMAC(link int32, mac net.HardwareAddr) error {
	return r.set(unix.RTM_SETLINK, 0, unix.IfInfomsg{Index: link}, func(a *netlink.AttributeEncoder) {
		a.Bytes(unix.IFLA_ADDRESS, mac)
	})
}

// addAddress gives a device an address; for IPv6 without duplicate address
// detection, which would hold it back for a second or two.
func (r *rtnl) addAddress(link int32, p netip.Prefix) error {
	return r.address(unix.RTM_NEWADDR, netlink.Create|netlink.Excl, link, p)
}

func (r *rtnl) deleteAddress(link int32, p netip.Prefix) error {
	return r.address(unix.RTM_DELADDR, 0, link, p)
}

func (r *rtnl) address(kind netlink.HeaderType, flags netlink.HeaderFlags, link int32, p netip.Prefix) error {
	header := unix.IfAddrmsg{Family: uint8(family(p.Addr())), Prefixlen: uint8(p.Bits()), Index: uint32(link)}
	if p.Addr().Is6() {
		header.Flags = unix.IFA_F_NODAD
	}
	return r.set(kind, flags, header, func(a *netlink.AttributeEncoder) {
		a.Bytes(unix.IFA_LOCAL, p.Addr().AsSlice())
		a.Bytes(unix.IFA_ADDRESS, p.Addr().AsSlice())
		if p.Addr().Is4() && p.Bits() < 31 { // RFC 3021: there is one
			a.Bytes(unix.IFA_BROADCAST, broadcast(p).AsSlice())
		}
	})
}

// broadcast returns the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	host := uint32(1<<(32-p.Bits()) - 1)
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|host)
	return netip.AddrFrom4(b)
}

// family returns the address family of an address.
func family(addr netip.Addr) int {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
