package sandbox

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"
)

// work does what an engine does and what Go's runtime does for it: new threads,
// a growing heap, collections, preemption, timers, sockets.
func work() error {
	if err := grow(); err != nil {
		return err
	}
	return errors.Join(talk("tcp"), talk("udp"), pipe())
}

// grow makes threads, each of which allocates, while the collector runs.
func grow() error {
	var group sync.WaitGroup
	release := make(chan struct{})
	for range 40 {
		group.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			kept := make([][]byte, 0, 32)
			for range cap(kept) {
				kept = append(kept, make([]byte, 64<<10))
			}
			<-release
			runtime.KeepAlive(kept)
		})
	}
	for range 5 {
		runtime.GC()
	}
	var timers sync.WaitGroup
	timers.Add(10)
	for i := range 10 {
		time.AfterFunc(time.Duration(i)*time.Millisecond, timers.Done)
	}
	timers.Wait()
	close(release)
	group.Wait()
	return nil
}

// talk sends a byte over the loopback.
func talk(network string) error {
	var from net.Conn
	var err error
	if network == "udp" {
		from, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	} else {
		from, err = dialSelf()
	}
	if err != nil {
		return err
	}
	defer from.Close()
	if socket, ok := from.(*net.UDPConn); ok {
		if _, err := socket.WriteTo([]byte{'.'}, socket.LocalAddr()); err != nil {
			return err
		}
	}
	_, err = io.ReadFull(from, make([]byte, 1))
	return err
}

// dialSelf returns a connection on which a byte will arrive.
func dialSelf() (net.Conn, error) {
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	conn, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		return nil, err
	}
	peer, err := listener.Accept()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	defer peer.Close()
	_, err = peer.Write([]byte{'.'})
	return conn, err
}

// pipe sends a byte through a pipe.
func pipe() error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	_, err = write.Write([]byte{'.'})
	if err := errors.Join(err, write.Close()); err != nil {
		return err
	}
	_, err = io.ReadAll(read)
	return err
}
