package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A Kind is how a helper and its guest come together.
type Kind string

// The kinds of helpers.
const (
	Taproot     Kind = "taproot"     // makes the namespaces and runs the command
	Pasta       Kind = "pasta"       // does the same
	Slirp4netns Kind = "slirp4netns" // joins namespaces that somebody made
	Rootlesskit Kind = "rootlesskit" // makes the namespaces, with a slirp4netns for what ports are not for
	Veth        Kind = "veth"        // the kernel: routing and masquerading
	Loopback    Kind = "loopback"    // nobody: the guest runs on the outside
)

// A Helper is what a launcher must know of a contestant.
type Helper struct {
	Kind Kind
	Path string   // of the program; empty for Veth
	Args []string // additional options
}

// hasProcesses reports whether the helper is a program.
func (h Helper) hasProcesses() bool { return h.Kind != Veth && h.Kind != Loopback }

// wrapped returns the command line of a helper that runs the command itself.
// It is false for the others.
func (a LaunchArgs) wrapped() ([]string, bool) {
	h, mtu := a.Helper, strconv.Itoa(a.MTU)
	var line []string
	switch h.Kind {
	case Taproot:
		line = []string{h.Path, "run", "--mtu=" + mtu}
	case Pasta:
		// No ports of the host in the guest: they are not measured.
		// Without -f it would not tell when it ends.
		line = []string{h.Path, "--config-net", "-f", "-q", "--mtu", mtu,
			"--dns-forward", guestResolver, "-T", "none", "-U", "none"}
	case Rootlesskit:
		line = []string{h.Path, "--net=slirp4netns", "--port-driver=builtin", "--mtu=" + mtu, "--disable-host-loopback",
			"--copy-up=/etc", "--state-dir=" + filepath.Join(a.Dir, "rootlesskit")}
	default:
		return nil, false
	}
	line = append(line, a.Ports.options(h.Kind)...)
	line = append(line, h.Args...)
	line = append(line, "--")
	return append(line, a.Command...), true
}

// attached returns the command line of a helper that joins the namespaces of
// a process.
func (a LaunchArgs) attached(pid int) []string {
	line := []string{a.Helper.Path, "-c", "--mtu=" + strconv.Itoa(a.MTU)}
	if a.Ports.Count > 0 {
		line = append(line, "--api-socket", a.socket())
	}
	line = append(line, a.Helper.Args...)
	return append(line, strconv.Itoa(pid), guestInterface)
}

// socket is where an attached helper is asked to publish ports.
func (a LaunchArgs) socket() string { return filepath.Join(a.Dir, "ports") }

// namespaces is what the guest of an attached helper or of the kernel limit is
// started in. An ordinary user needs a user namespace for it; the
// administrator of the host does not, and keeps its rights over the new one.
func (h Helper) namespaces(uid, gid int) *syscall.SysProcAttr {
	if h.Kind == Loopback {
		return dies()
	}
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNET}
	if h.Kind != Veth {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	}
	return attr
}

// installed returns the contestants that are there, in the order of the table:
// ours, the peers, the limit. What is asked for and missing goes to the notes.
func installed(options options, taproot string, results *Results) map[string]Helper {
	helpers := make(map[string]Helper)
	add := func(c Contestant, h Helper) {
		if options.wants(c.Name) {
			if h.Kind == Taproot && !hasOption(h.Path, "--publish") {
				c.only = without(c.only, publishedKeys())
			}
			results.Contestants = append(results.Contestants, c)
			helpers[c.Name] = h
		}
	}
	args := strings.Fields(options.taprootArgs)
	name := "taproot"
	if options.old != "" {
		name = newName
		add(Contestant{Name: oldName, Version: version(options.old, ""), Standing: Variant},
			Helper{Kind: Taproot, Path: options.old, Args: args})
	}
	add(Contestant{Name: name, Version: version(taproot, ""), Standing: Ours},
		Helper{Kind: Taproot, Path: taproot, Args: args})
	if hasOption(taproot, "--shortcut") {
		add(Contestant{Name: offName, Version: name + " run " + offOption, Standing: Variant, only: offRows()},
			Helper{Kind: Taproot, Path: taproot, Args: append(slices.Clone(args), offOption)})
	}
	for _, peer := range []struct {
		kind            Kind
		program, debian string
		note            string // beside the version
		only            []string
	}{
		{kind: Slirp4netns, program: "slirp4netns", debian: "slirp4netns"},
		{kind: Pasta, program: "pasta", debian: "passt"},
		{kind: Rootlesskit, program: "rootlesskit", note: ", builtin port driver: the guest sees 127.0.0.1 instead of its clients",
			only: publishedKeys()},
	} {
		path, err := exec.LookPath(peer.program)
		if err != nil {
			results.note("%s is not installed", peer.program)
			continue
		}
		add(Contestant{Name: peer.program, Version: version(path, peer.debian) + peer.note, Standing: Peer, only: peer.only},
			Helper{Kind: peer.kind, Path: path})
	}
	add(Contestant{Name: "kernel", Version: "veth pair, forwarding and nf_tables masquerade by root of the host namespace", Standing: Limit, only: outboundKeys()},
		Helper{Kind: Veth})
	add(Contestant{Name: "loopback", Version: "no guest: straight to the servers", Standing: Ceiling, only: loopbackRows()},
		Helper{Kind: Loopback})
	return helpers
}

// version returns what a program says about itself, or what Debian says about
// its package: pasta of Debian 12 calls itself "unknown version".
func version(path, debian string) string {
	if debian != "" {
		out, err := exec.Command("dpkg-query", "-W", "-f", "${Package} ${Version}", debian).Output()
		if err == nil {
			return string(out)
		}
	}
	out, err := exec.Command(path, "--version").CombinedOutput()
	if err != nil {
		return fmt.Sprintf("version unknown: %v", err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
