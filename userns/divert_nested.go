package userns

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
	"taproot/userns/nft"
)

// nests tells whether there are the rules for nested networks.
//
// +checklocks:d.mu
func (d *Diversion) nests() bool { return d.options.nested && d.crowded }

// look finds out whether the guest is crowded. One that was stays so: what it
// has removed may come again, and connections of then may go on. So does what
// somebody has left who was killed.
//
// +checklocks:d.mu
func (d *Diversion) look() (err error) {
	if d.crowded || !d.options.nested {
		return nil
	}
	if d.crowded = d.heir; d.crowded {
		return nil
	}
	if d.crowded, err = d.hasOtherLinks(); d.crowded || err != nil {
		return err
	}
	d.crowded, err = d.rules.HasOthers(mark.Table)
	return err
}

// hasOtherLinks tells whether there are devices, besides lo and ours, that are up.
//
// +checklocks:d.mu
func (d *Diversion) hasOtherLinks() (bool, error) {
	links, err := d.routes.execute(unix.RTM_GETLINK, netlink.Dump, unix.IfInfomsg{}, func(*netlink.AttributeEncoder) {})
	if err != nil {
		return false, fmt.Errorf("list devices: %w", err)
	}
	for _, m := range links {
		if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
			continue
		}
		if link, up := linkState(m); up && link != d.link && link != loopbackIndex {
			return true, nil
		}
	}
	return false, nil
}

// linkState returns what an RTM_NEWLINK of at least unix.SizeofIfInfomsg bytes
// says of a device.
func linkState(m netlink.Message) (link int32, up bool) {
	link = int32(binary.NativeEndian.Uint32(m.Data[4:]))
	return link, binary.NativeEndian.Uint32(m.Data[8:])&unix.IFF_UP != 0
}

// crowd makes the rules of a crowded guest, if it is found to be one and they are
// not there. The chains that stand are left where they are: made anew they would
// come before those that the guest has at the same place, and might change marks.
//
// +checklocks:d.mu
func (d *Diversion) crowd() error {
	if d.crowded || !d.options.nested {
		return nil
	}
	if err := d.look(); err != nil || !d.crowded {
		return err
	}
	if conf := d.conf[unix.AF_INET]; conf != nil && d.setEarlyDemux(conf) != nil {
		d.options.nested = false
		return nil
	}
	var remove, add []nft.Table
	for _, r := range d.rulesets() {
		table := nft.Table{Family: r.family, Name: mark.Table}
		table.Chains = r.alone()
		remove = append(remove, table)
		table.Chains = r.crowded()
		add = append(add, table)
	}
	return d.rules.Amend(remove, add)
}
