package engine

import (
	"net"
	"net/netip"
	"strconv"
)

// numberZones returns servers with the index of a network device of ours in place of
// its name, where an address has a zone: `nameserver fe80::1%wlan0` is what routers'
// advertisements leave in resolv.conf. The engine cannot look for the name, for it
// has no netlink socket in its sandbox; package net takes a number as it is. A server
// behind a device that is not there is left out, and told to lost.
func numberZones(servers []netip.AddrPort, lost func(netip.AddrPort, error)) []netip.AddrPort {
	var list []netip.AddrPort
	for _, server := range servers {
		zone, err := numberZone(server.Addr().Zone())
		if err != nil {
			lost(server, err)
			continue
		}
		list = append(list, netip.AddrPortFrom(server.Addr().WithZone(zone), server.Port()))
	}
	return list
}

// numberZone returns the index of a network device as text. A zone that is none's
// name may be an index already (RFC 4007 §11.2).
func numberZone(zone string) (string, error) {
	if zone == "" {
		return "", nil
	}
	device, err := net.InterfaceByName(zone)
	if err == nil {
		return strconv.Itoa(device.Index), nil
	}
	if _, notNumber := strconv.ParseUint(zone, 10, 31); notNumber == nil {
		return zone, nil
	}
	return "", err
}
