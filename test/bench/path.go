package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// A second way between host and outside is slow and loses frames: the kernel
// may lack netem, so a goroutine for each direction forwards frames between two
// TAP devices.
const (
	pathName    = "path0"
	pathHost    = "198.18.2.1/24"
	pathOutside = "198.18.2.2/24"
	pathDelay   = 10 * time.Millisecond // one way
	pathLoss    = 0.001                 // one way
	pathQueue   = 4096                  // frames on their way; one more is lost
	pathFlows   = 4
)

// lossyKey names the row of a direction.
func lossyKey(down bool) string { return rowKey("lossy", inGuest.direction(down)) }

// lossyRows returns the rows of the path.
func lossyRows() []Row {
	var rows []Row
	for _, down := range []bool{false, true} {
		title := fmt.Sprintf("TCP, %v and %.1f %% loss each way, %s, %s", pathDelay, 100*pathLoss, inGuest.direction(down), plural(pathFlows, "flow"))
		rows = append(rows, Row{Key: lossyKey(down), Title: title, Unit: "Mbit/s"})
	}
	return rows
}

// lossy measures a transfer over the path.
func lossy(down bool) measurement {
	return measurement{keys: []string{lossyKey(down)}, make: func(ctx context.Context, t *turn) error {
		if t.far.Sink == "" {
			return nil // a note says why
		}
		got, err := t.stream(ctx, t.far, stream{mtu: t.mtu, down: down, flows: pathFlows}, t.pace.path)
		if err == nil {
			t.record(lossyKey(down), 1000*got.gigabits())
		}
		return err
	}}
}

// addPath lays the path, with servers at its end.
func (w *world) addPath(ctx context.Context) (err error) {
	if w.path, err = newPath(w.lab); err != nil {
		return err
	}
	return w.serve(ctx, pathOutside, &w.far)
}

// A path forwards frames between two devices. It owns four goroutines.
type path struct {
	ends  [2]*os.File
	group sync.WaitGroup
}

// newPath adds the devices and starts to forward.
func newPath(l *lab.Lab) (*path, error) {
	p := new(path)
	addresses := [2]string{pathHost, pathOutside}
	for i, namespace := range []*lab.Namespace{l.Host, l.Outside} {
		err := namespace.Do(func() (err error) {
			if p.ends[i], err = openTAP(pathName); err != nil {
				return err
			}
			return configure(pathName, addresses[i], mtuEthernet)
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s in %s: %w", pathName, namespace.Name, err), p.Close())
		}
	}
	for i := range p.ends {
		p.forward(p.ends[i], p.ends[1-i], rand.New(rand.NewPCG(0, uint64(i))))
	}
	return p, nil
}

// Close removes the devices and waits for the goroutines.
func (p *path) Close() error {
	var errs []error
	for _, end := range p.ends {
		if end != nil {
			errs = append(errs, end.Close())
		}
	}
	p.group.Wait()
	return errors.Join(errs...)
}

// A delayed is a frame on its way.
type delayed struct {
	frame []byte
	due   time.Time
}

// forward starts to pass frames on. Which are lost is the same in every run.
func (p *path) forward(from, to *os.File, chance *rand.Rand) {
	queue := make(chan delayed, pathQueue)
	p.group.Go(func() {
		defer close(queue)
		for {
			frame := make([]byte, 2048) // more than the MTU and a header
			n, err := from.Read(frame)
			if err != nil {
				return
			}
			if chance.Float64() < pathLoss {
				continue
			}
			select {
			case queue <- delayed{frame[:n], time.Now().Add(pathDelay)}:
			default:
			}
		}
	})
	p.group.Go(func() {
		for d := range queue {
			time.Sleep(time.Until(d.due))
			_, _ = to.Write(d.frame) // lost, if the other end is not up
		}
	})
}

// openTAP makes a TAP device in the calling thread's network namespace. It is
// gone when the file is closed.
func openTAP(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open /dev/net/tun", err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, errors.Join(os.NewSyscallError("ioctl TUNSETIFF", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}
