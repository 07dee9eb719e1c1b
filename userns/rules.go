package userns

import (
	"errors"
	"net"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
)

// A routingRule is one of ip-rule(8) that leads to a table.
type routingRule struct {
	family     uint8
	preference uint32
	table      uint32
	marked     bool   // with mark.Packet; else
	oif        string // TCP of sockets bound to the device
}

// execute adds or deletes the rule.
func (r *rtnl) routingRule(kind netlink.HeaderType, flags netlink.HeaderFlags, rule routingRule) error {
	const toTable = 1                                        // FR_ACT_TO_TBL
	header := unix.RtMsg{Family: rule.family, Type: toTable} // struct fib_rule_hdr has the same layout
	return r.set(kind, flags, header, func(a *netlink.AttributeEncoder) {
		a.Uint32(unix.FRA_PRIORITY, rule.preference)
		a.Uint32(unix.FRA_TABLE, rule.table)
		if rule.marked {
			a.Uint32(unix.FRA_FWMARK, mark.Packet)
			a.Uint32(unix.FRA_FWMASK, mark.Mask)
			return
		}
		a.String(unix.FRA_OIFNAME, rule.oif)
		a.Uint8(unix.FRA_IP_PROTO, unix.IPPROTO_TCP) // since Linux 4.17
	})
}

// A tableRoute is the default route of a table of ours.
type tableRoute struct {
	family  uint8
	table   uint32
	link    int32
	gateway netip.Addr // invalid: every address is local
	metric  uint32     // 0: the kernel's default
}

// tableRoute adds or deletes the route.
func (r *rtnl) tableRoute(kind netlink.HeaderType, flags netlink.HeaderFlags, t tableRoute) error {
	header := unix.RtMsg{Family: t.family, Protocol: unix.RTPROT_BOOT, Type: unix.RTN_UNICAST, Flags: unix.RTNH_F_ONLINK}
	if !t.gateway.IsValid() {
		header.Type, header.Scope, header.Flags = unix.RTN_LOCAL, unix.RT_SCOPE_HOST, 0
	}
	return r.set(kind, flags, header, func(a *netlink.AttributeEncoder) {
		a.Uint32(unix.RTA_TABLE, t.table)
		a.Uint32(unix.RTA_OIF, uint32(t.link))
		if t.gateway.IsValid() {
			a.Bytes(unix.RTA_GATEWAY, t.gateway.AsSlice())
		}
		if t.metric != 0 {
			a.Uint32(unix.RTA_PRIORITY, t.metric)
		}
	})
}

// neighbour adds or deletes a permanent neighbour of a device.
func (r *rtnl) neighbour(kind netlink.HeaderType, flags netlink.HeaderFlags, link int32, addr netip.Addr, mac net.HardwareAddr) error {
	header := unix.NdMsg{Family: uint8(family(addr)), Ifindex: link, State: unix.NUD_PERMANENT}
	return r.set(kind, flags, header, func(a *netlink.AttributeEncoder) {
		a.Bytes(unix.NDA_DST, addr.AsSlice())
		if kind == unix.RTM_NEWNEIGH {
			a.Bytes(unix.NDA_LLADDR, mac)
		}
	})
}

// unless returns err unless it is one of those that are none here.
func unless(err error, none ...error) error {
	for _, e := range none {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}
