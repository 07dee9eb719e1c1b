package userns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A nullDevice is a Device that makes nothing.
type nullDevice struct{}

func (nullDevice) Path() string                  { return os.DevNull }
func (nullDevice) Attach(*os.File, string) error { return nil }
func (nullDevice) Refused(err error) error       { return err }

// A missingDevice has no driver.
type missingDevice struct{ nullDevice }

func (missingDevice) Path() string { return "/no/such/tun" }
func (missingDevice) Refused(err error) error {
	return &hinted{fmt.Errorf("open /dev/net/tun: %w", err), "as root: modprobe tun"}
}

// A slowDevice is not made before ctx has ended.
type slowDevice struct {
	nullDevice
	ctx context.Context
}

func (d slowDevice) Attach(*os.File, string) error {
	<-d.ctx.Done()
	return nil
}

// A vethDevice is a virtual cable instead of a TAP, which needs /dev/net/tun.
type vethDevice struct {
	nullDevice
	pid int // a process in the network namespace; 0 is the stage
}

func (d vethDevice) Attach(_ *os.File, name string) error {
	pid := d.pid
	if pid == 0 {
		pid = stageOf()
	}
	n, err := OpenTarget(Target{PID: pid})
	if err != nil {
		return err
	}
	defer n.Close()
	w, err := n.network(context.Background(), "")
	if err != nil {
		return err
	}
	defer w.close()
	const peer = "peer0"
	if err := makeVeth(w.routes, name, peer, 0); err != nil {
		return err
	}
	link, err := w.routes.link(peer)
	if err != nil {
		return err
	}
	return w.routes.up(link) // carrier for the other end
}

// makeVeth makes a virtual cable, whose other end is in the network namespace of
// a process if that is not 0.
func makeVeth(r *rtnl, name, peer string, pid int) error {
	header, err := marshal(unix.IfInfomsg{})
	if err != nil {
		return err
	}
	other := netlink.NewAttributeEncoder()
	other.String(unix.IFLA_IFNAME, peer)
	if pid != 0 {
		other.Uint32(unix.IFLA_NET_NS_PID, uint32(pid))
	}
	tail, err := other.Encode()
	if err != nil {
		return err
	}
	const infoPeer = 1 // VETH_INFO_PEER
	return r.set(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, unix.IfInfomsg{}, func(a *netlink.AttributeEncoder) {
		a.String(unix.IFLA_IFNAME, name)
		a.Nested(unix.IFLA_LINKINFO, func(a *netlink.AttributeEncoder) error {
			a.String(unix.IFLA_INFO_KIND, "veth")
			a.Nested(unix.IFLA_INFO_DATA, func(a *netlink.AttributeEncoder) error {
				a.Bytes(infoPeer, append(header, tail...))
				return nil
			})
			return nil
		})
	})
}

// stageOf returns the child of this process that is a stage.
func stageOf() int {
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, task := range tasks {
		for _, child := range strings.Fields(content("/proc/self/task/" + task.Name() + "/children")) {
			if strings.HasPrefix(content("/proc/"+child+"/cmdline"), StageName) {
				pid, _ := strconv.Atoi(child)
				return pid
			}
		}
	}
	return -1
}

// scripted returns the device of a script, by its name.
func scripted(ctx context.Context, name string) (Device, error) {
	switch name {
	case "":
		return vethDevice{}, nil
	case "missing":
		return missingDevice{}, nil
	case "slow":
		return slowDevice{ctx: ctx}, nil
	}
	return nil, errors.Join(syscall.EINVAL, errors.New(name))
}
