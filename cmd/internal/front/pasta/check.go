package pasta

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A mode is what the guest is.
type mode int

const (
	modeCommand mode = iota // a command in namespaces that we make
	modeProcess             // the namespaces of a process
	modePath                // a namespace with a path
)

// mode tells what the operands ask for.
func (o *options) mode() mode {
	switch {
	case o.netns != "":
		return modePath
	case len(o.operands) == 1 && isPID(o.operands[0]):
		return modeProcess
	}
	return modeCommand
}

// isPID tells a process from a command: it is all digits.
func isPID(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// pid returns the process in modeProcess. What does not fit is no process.
func (o *options) pid() (int, error) {
	pid, err := strconv.ParseInt(o.operands[0], 10, 32)
	if err != nil || pid == 0 {
		return 0, invalid("PID", o.operands[0])
	}
	return int(pid), nil
}

// background tells whether the caller is to be left when everything works.
func (o *options) background() bool { return o.mode() != modeCommand && !o.foreground }

// runDir is where network namespaces have names (ip-netns(8)).
const runDir = "/run/netns"

// namespacePath returns the path of --netns, which is a name without a slash.
// It is absolute, because we leave the working directory.
func (o *options) namespacePath() (string, error) {
	if !strings.Contains(o.netns, "/") {
		return filepath.Join(runDir, o.netns), nil
	}
	return filepath.Abs(o.netns)
}

// check finds what is wrong although each option by itself is right.
func (o *options) check() error {
	for _, check := range []func() error{o.checkMode, o.checkFamilies, o.checkPorts, o.checkSplice} {
		if err := check(); err != nil {
			return err
		}
	}
	return o.refused
}

// A conflict is what options say that cannot be together, mostly in the words of
// the original.
type conflict string

// Error implements error.
func (c conflict) Error() string { return string(c) }

const (
	errTwoTargets  conflict = "Both --netns and PID or command given"
	errTwoUserNS   conflict = "Both --userns and --netns-only given"
	errTwoLevels   conflict = "Either --debug or --quiet"
	errNoTarget    conflict = "--userns and --netns-only need a PID or --netns"
	errNoFamily    conflict = "Options ipv4-only and ipv6-only are mutually exclusive"
	errTwoLengths  conflict = "Both --netmask and --address with a prefix length given"
	errStats       conflict = "--stats needs --foreground or a command"
	errSpliceModes conflict = "--splice-only and --no-splice exclude each other"
)

func (o *options) checkMode() error {
	switch {
	case o.debug && o.quiet:
		return errTwoLevels
	case o.stats != 0 && o.background():
		return errStats
	case o.netns != "" && len(o.operands) > 0:
		return errTwoTargets
	case o.userns != "" && o.netnsOnly:
		return errTwoUserNS
	case o.mode() == modeCommand && (o.userns != "" || o.netnsOnly):
		return errNoTarget
	case o.netns == "." || o.netns == "..":
		return invalid("name of a network namespace", o.netns)
	case o.mode() == modeProcess:
		_, err := o.pid()
		return err
	}
	return nil
}

func (o *options) checkFamilies() error {
	switch {
	case o.only4 && o.only6:
		return errNoFamily
	case o.netmask != 0 && o.bits[ipv4] != 0:
		return errTwoLengths
	case o.only6 && o.mtu != 0 && o.mtu < minMTU6:
		return invalid("MTU", fmt.Sprintf("%d: IPv6 needs %d (RFC 8200 section 5)", o.mtu, minMTU6))
	}
	// Other addresses of a family that is off are only unused: podman gives
	// --dns-forward and --map-guest-addr whatever the user says.
	off := [2]bool{ipv4: o.only6, ipv6: o.only4}
	for i, only := range [2]string{ipv4: "--ipv6-only", ipv6: "--ipv4-only"} {
		for _, given := range []perFamily{o.addresses, o.gateways} {
			if off[i] && given[i].IsValid() {
				return conflict(fmt.Sprintf("%v and %s exclude each other", given[i], only))
			}
		}
	}
	return nil
}

// A noneError is about "none" together with other specifications.
type noneError struct{ option, text string }

// Error implements error.
func (e *noneError) Error() string {
	return fmt.Sprintf("'%s %s' conflicts with previous options", e.option, e.text)
}

// Causes of a specError that depend on the option.
var (
	errListensInside = errors.New("a listening address or interface makes no sense inside the namespace")
	errNotLoopback   = errors.New("only the host's loopback can be reached by this option")
)

func (o *options) checkPorts() error {
	for i, specs := range o.ports {
		none := slices.ContainsFunc(specs, func(s portSpec) bool { return s.none })
		for j, s := range specs {
			if none && j > 0 && s.none != specs[0].none {
				return &noneError{s.option, s.text}
			}
			if err := checkOutward(s); err != nil && (i == tcpOut || i == udpOut) {
				return &specError{s.text, err}
			}
		}
	}
	return nil
}

// checkOutward returns what is wrong with a specification of -T or -U.
func checkOutward(s portSpec) error {
	if s.listen.IsValid() || s.device != "" {
		return errListensInside
	}
	if s.target.IsValid() && !s.target.IsLoopback() {
		return errNotLoopback
	}
	for _, m := range s.maps {
		if m.to.IsValid() && !m.to.IsLoopback() {
			return errNotLoopback
		}
	}
	return nil
}

func (o *options) checkSplice() error {
	if !o.spliceOnly {
		return nil
	}
	if o.noSplice {
		return errSpliceModes
	}
	return nil
}
