package userns

import (
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"taproot/userns/nft"
)

// Sizes of a will, in bytes. Two families take 170 of rules and 700 of routes; the
// longest name of a sysctl is that of a device of 15 letters with /accept_local.
const (
	maxWillRules   = 256
	maxWillRoutes  = 1024
	maxWillSysctls = 4
	maxSysctlName  = 32
	maxSysctlValue = 12 // an int's digits, and its sign
)

// A will is all that removes a diversion, as the system calls want it: whoever
// executes it cannot do more than to make them. It has no pointers, so that it can be
// sent as it stands in memory.
type will struct {
	link int32 // index of the device that it is about; 0 for nothing

	rulesLen, routesLen, sysctlsLen uint32

	rules   [maxWillRules]byte  // a packet for the socket of nf_tables
	routes  [maxWillRoutes]byte // one for that of routing
	sysctls [maxWillSysctls]willedSysctl
}

// A willedSysctl is one that is to have its value of before, if it still is after.
type willedSysctl struct {
	name                [maxSysctlName]byte // with a zero behind it
	before, after       [maxSysctlValue]byte
	beforeLen, afterLen uint32
}

// bequeath has an executor remove the diversion as it stands now if this process is
// killed, as it is said in Divert.Outlives. It comes before what it is to undo: what
// was never done is undone without effect.
//
// +checklocks:d.mu
func (d *Diversion) bequeath() error {
	if !d.want.Outlives {
		return nil
	}
	if err := d.rewrite(); err != nil {
		return err
	}
	if d.executor != nil {
		if d.executor.tell(&d.will) == nil {
			return nil
		}
		d.executor.end() // somebody has killed it, or stopped it
		d.executor = nil
	}
	var err error
	d.executor, err = startExecutor(executorReach{
		rules: d.ruleSocket, routes: d.routeSocket, sysctls: d.conf[unix.AF_INET], device: d.want.Device,
	})
	if err != nil {
		return fmt.Errorf("executor: %w", err)
	}
	return d.executor.tell(&d.will)
}

// rewrite makes the will one of the diversion as it stands.
//
// +checklocks:d.mu
func (d *Diversion) rewrite() error {
	if d.will.link != d.link {
		if err := d.willRemoval(); err != nil {
			return err
		}
	}
	if len(d.sysctls) > maxWillSysctls {
		return fmt.Errorf("will: %d sysctls: %w", len(d.sysctls), syscall.EMSGSIZE)
	}
	d.will.sysctlsLen = uint32(len(d.sysctls))
	for i, s := range d.sysctls {
		if len(s.name) >= maxSysctlName || len(s.before) > maxSysctlValue || len(s.after) > maxSysctlValue {
			return fmt.Errorf("will: sysctl %s: %w", s.name, syscall.EMSGSIZE)
		}
		w := willedSysctl{beforeLen: uint32(len(s.before)), afterLen: uint32(len(s.after))}
		copy(w.name[:], s.name)
		copy(w.before[:], s.before)
		copy(w.after[:], s.after)
		d.will.sysctls[i] = w
	}
	return nil
}

// willRemoval wills all but sysctls, which depends on nothing but the device.
//
// +checklocks:d.mu
func (d *Diversion) willRemoval() error {
	var rules, routes recorder
	if err := d.unmake(newRecordingRTNL(&routes), nft.NewConn(&rules)); err != nil {
		return err
	}
	if len(rules.packet) > maxWillRules || len(routes.packet) > maxWillRoutes {
		return fmt.Errorf("will: %d and %d bytes: %w", len(rules.packet), len(routes.packet), syscall.EMSGSIZE)
	}
	d.will.link = d.link
	d.will.rulesLen = uint32(copy(d.will.rules[:], rules.packet))
	d.will.routesLen = uint32(copy(d.will.routes[:], routes.packet))
	return nil
}

// A recorder is a netlink socket that notes what is sent, and says that it was done.
type recorder struct {
	packet  []byte
	answers []netlink.Message
}

// newRecordingRTNL returns an rtnl whose messages a recorder gets.
func newRecordingRTNL(r *recorder) *rtnl { return &rtnl{netlink.NewConn(r, 0)} }

// Close implements netlink.Socket.
func (r *recorder) Close() error { return nil }

// Send implements netlink.Socket.
func (r *recorder) Send(m netlink.Message) error { return r.SendMessages([]netlink.Message{m}) }

// SendMessages implements netlink.Socket.
func (r *recorder) SendMessages(messages []netlink.Message) error {
	for _, m := range messages {
		b, err := m.MarshalBinary()
		if err != nil {
			return err
		}
		r.packet = append(r.packet, b...)
		if m.Header.Flags&netlink.Acknowledge != 0 {
			ack := netlink.Message{Header: netlink.Header{Type: netlink.Error, Sequence: m.Header.Sequence, PID: m.Header.PID}}
			ack.Data = make([]byte, 4) // no error
			r.answers = append(r.answers, ack)
		}
	}
	return nil
}

// Receive implements netlink.Socket.
func (r *recorder) Receive() ([]netlink.Message, error) {
	if len(r.answers) == 0 {
		return nil, syscall.EAGAIN
	}
	answers := r.answers
	r.answers = nil
	return answers, nil
}
