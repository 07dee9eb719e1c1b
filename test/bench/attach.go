package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Attach makes namespaces, with a guest in them, and then starts a helper on
// them as callers do. They stay until Disperse.
func (l *Launcher) Attach(args AttachArgs, reply *Attached) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := &attached{guest: &launched{messages: new(tail)}}
	err := a.begin(args)
	if err == nil {
		err = a.measure(args, reply)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%w: %s", err, a.guest.messages), a.end())
	}
	l.crowd = append(l.crowd, a)
	return nil
}

// Disperse ends all that Attach started.
func (l *Launcher) Disperse(_ Nothing, _ *Nothing) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, a := range l.crowd {
		errs = append(errs, a.end())
	}
	l.crowd = nil
	return errors.Join(errs...)
}

// An attached is a guest that was there before its helper.
type attached struct {
	guest  *launched
	tell   *os.File // the guest's standard input
	told   *os.File // its standard output
	daemon int      // process id of a helper in the background, if not 0
}

// begin starts the guest, which waits.
func (a *attached) begin(args AttachArgs) error {
	input, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer input.Close()
	a.tell = tell
	told, output, err := os.Pipe()
	if err != nil {
		return err
	}
	defer output.Close()
	a.told = told
	attr := args.Helper.namespaces(os.Getuid(), os.Getgid())
	a.guest.command, err = a.guest.start(args.Command, files{attr: attr, stdin: input, stdout: output})
	return err
}

// measure starts the helper, waits until it is ready, tells the guest and
// waits for its connection.
func (a *attached) measure(args AttachArgs, reply *Attached) error {
	start := time.Now()
	var err error
	if args.Helper.Kind == Pasta {
		reply.PID, err = a.background(args)
	} else {
		reply.PID, err = a.beside(args)
	}
	if err != nil {
		return err
	}
	reply.Ready = time.Since(start)
	if _, err := a.tell.Write([]byte{'.'}); err != nil {
		return err
	}
	err = a.told.SetReadDeadline(time.Now().Add(startPatience))
	if err == nil {
		_, err = io.ReadFull(a.told, make([]byte, 1))
	}
	reply.First = time.Since(start)
	if err != nil {
		return fmt.Errorf("no connect after %v: %w", reply.First, err)
	}
	return nil
}

// beside starts a helper that says on a descriptor that it is ready.
func (a *attached) beside(args AttachArgs) (pid int, err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer read.Close()
	line := args.Helper.fronted(args.MTU, a.guest.command.cmd.Process.Pid, "")
	a.guest.helper, err = a.guest.start(line, files{attr: dies(), extra: write})
	write.Close()
	if err != nil {
		return 0, err
	}
	if err := read.SetReadDeadline(time.Now().Add(startPatience)); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(read, make([]byte, 1)); err != nil {
		return 0, fmt.Errorf("not ready: %w", err)
	}
	return a.guest.helper.cmd.Process.Pid, nil
}

// background starts a helper that goes to the background when it is ready.
// What it leaves open of its output keeps its caller waiting, here as anywhere.
func (a *attached) background(args AttachArgs) (pid int, err error) {
	path := filepath.Join(args.Dir, "pid")
	// The death signal would be the child's too, if that is no exec.
	helper, err := a.guest.start(args.Helper.fronted(args.MTU, a.guest.command.cmd.Process.Pid, path), files{})
	if err != nil {
		return 0, err
	}
	if !helper.endsWithin(startPatience) {
		return 0, errors.Join(errors.New("not ready"), helper.end(0))
	}
	if state := helper.cmd.ProcessState; !state.Success() {
		return 0, fmt.Errorf("not ready: %v", state)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	if err := os.Remove(path); err != nil {
		return 0, err
	}
	a.daemon, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return a.daemon, err
}

// end hangs up on the guest and ends the helper.
func (a *attached) end() error {
	var errs []error
	for _, f := range []*os.File{a.tell, a.told} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	if a.daemon != 0 {
		errs = append(errs, endDaemon(a.daemon))
	}
	if a.guest.command != nil {
		errs = append(errs, a.guest.stop())
	}
	return errors.Join(errs...)
}

// endDaemon terminates a process that is nobody's child here, and waits until
// it is gone.
func endDaemon(pid int) error {
	_ = syscall.Kill(pid, syscall.SIGTERM) // it may have ended just now
	for end := time.Now().Add(endPatience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if syscall.Kill(pid, 0) == syscall.ESRCH {
			return nil
		}
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	return fmt.Errorf("process %d did not end", pid)
}
