package userns

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// guest is the main of the guest programs.
func guest(name string, args []string) int {
	switch name {
	case "report":
		return guestReport()
	case "exit":
		n, _ := strconv.Atoi(args[0])
		return n
	case "die":
		n, _ := strconv.Atoi(args[0])
		syscall.Kill(os.Getpid(), syscall.Signal(n))
		return forever()
	case "signals":
		return guestSignals()
	case "stop":
		return guestStop()
	case "family":
		return guestFamily(args)
	case "sleep":
		fmt.Println("ready")
		return forever()
	case "nested":
		return guestNested(args)
	case "orphan":
		return guestOrphan()
	case "answer":
		return guestAnswer()
	case "trace":
		return guestTrace()
	case "contain":
		return guestContain()
	case "hidden":
		unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
		return guestAnswer()
	}
	return 1
}

// facts are what a guest program sees.
type facts struct {
	UID, GID, PID          int
	UIDMap, GIDMap         string
	Setgroups              string
	CapEff, CapInh, CapAmb string
	Descriptors            map[int]string
	FileLimit              uint64
	SigIgn, SigBlk         string
	ResolvConf, Hosts      string
	PingRange              string
	IfInet6                string
	Links                  map[string]link
	Routes                 []string
	Addresses              []string
	SysNet                 []string
	Dir, Hostname          string
	Env                    []string
	BindV6                 string
	ProcSelf               string
	Threads                string
	Mounts                 string
}

type link struct {
	MTU int
	MAC string
	Up  bool
}

func guestReport() int {
	f := facts{
		UID: os.Getuid(), GID: os.Getgid(), PID: os.Getpid(),
		UIDMap: oneLine("/proc/self/uid_map"), GIDMap: oneLine("/proc/self/gid_map"),
		Setgroups: oneLine("/proc/self/setgroups"),
		CapEff:    status("CapEff"), CapInh: status("CapInh"), CapAmb: status("CapAmb"),
		SigIgn: status("SigIgn"), SigBlk: status("SigBlk"),
		ResolvConf: content("/etc/resolv.conf"), Hosts: content("/etc/hosts"),
		PingRange: oneLine("/proc/sys/net/ipv4/ping_group_range"),
		IfInet6:   content("/proc/net/if_inet6"),
		Links:     map[string]link{},
		Env:       os.Environ(),
		Mounts:    content("/proc/self/mountinfo"),
	}
	f.Descriptors = descriptors()
	// This program is Go too: what it was given is what it would give.
	out, err := exec.Command("/bin/sh", "-c", "ulimit -n").Output()
	if err == nil {
		f.FileLimit, _ = strconv.ParseUint(strings.TrimSpace(string(out)), 10, 64)
	}
	f.Dir, _ = os.Getwd()
	f.Hostname, _ = os.Hostname()
	f.ProcSelf, _ = os.Readlink("/proc/self")
	l, err := net.Listen("tcp", "[fd00::64]:0")
	if err != nil {
		f.BindV6 = err.Error()
	} else {
		l.Close()
	}
	links, _ := netlink.LinkList()
	for _, l := range links {
		a := l.Attrs()
		f.Links[a.Name] = link{a.MTU, a.HardwareAddr.String(), a.Flags&net.FlagUp != 0}
	}
	routes, _ := netlink.RouteList(nil, netlink.FAMILY_ALL)
	for _, r := range routes {
		if r.Gw != nil {
			f.Routes = append(f.Routes, fmt.Sprintf("%v via %v", r.Dst, r.Gw))
		}
	}
	addresses, _ := netlink.AddrList(nil, netlink.FAMILY_ALL)
	for _, a := range addresses {
		f.Addresses = append(f.Addresses, a.IPNet.String())
	}
	dirs, _ := os.ReadDir("/sys/class/net")
	for _, d := range dirs {
		f.SysNet = append(f.SysNet, d.Name())
	}
	json.NewEncoder(os.Stdout).Encode(f)
	return 0
}

// guestAnswer reports whenever it gets a line, and ends with its input. It says
// "ready" first.
func guestAnswer() int {
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		guestReport()
	}
	return 0
}

// guestContain starts a program in a network namespace below its user namespace
// for each line, and says its process id. It says "ready" first.
func guestContain() int {
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		cmd := exec.Command(selfExe, guestArg, "sleep")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return complain(err)
		}
		fmt.Println(cmd.Process.Pid)
	}
	return 0
}

// guestTrace tries to trace each process whose id it reads, and says what comes
// of it. It says "ready" first.
func guestTrace() int {
	runtime.LockOSThread() // the tracer is a thread
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		pid, _ := strconv.Atoi(lines.Text())
		fmt.Println(unix.PtraceSeize(pid))
	}
	return 0
}

// descriptors returns what this process was started with: Go's runtime opens
// its own close-on-exec, and exec has closed what was so before.
func descriptors() map[int]string {
	m := map[int]string{}
	dir, _ := os.ReadDir("/proc/self/fd")
	for _, e := range dir {
		fd, _ := strconv.Atoi(e.Name())
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		m[fd], _ = os.Readlink("/proc/self/fd/" + e.Name())
	}
	return m
}

func content(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// oneLine returns a file's lines joined, with single spaces.
func oneLine(path string) string {
	var lines []string
	for _, l := range strings.Split(strings.TrimSpace(content(path)), "\n") {
		lines = append(lines, strings.Join(strings.Fields(l), " "))
	}
	return strings.Join(lines, ", ")
}

// status returns a field of /proc/self/status.
func status(field string) string {
	for _, l := range strings.Split(content("/proc/self/status"), "\n") {
		if value, ok := strings.CutPrefix(l, field+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// guestSignals prints every signal that it gets, and ends at SIGUSR2.
func guestSignals() int {
	// One channel each, so that none is lost, and all signals but those that
	// Go's runtime itself sends.
	c := make(chan os.Signal, 256)
	signal.Notify(c, witnessed().list()...)
	fmt.Println("ready")
	for s := range c {
		fmt.Printf("got %d\n", s.(syscall.Signal))
		if s == syscall.SIGUSR2 {
			return 0
		}
	}
	return 1
}

// guestStop leaves all signals alone but those to know when it was continued,
// and ends at SIGUSR2.
func guestStop() int {
	c := make(chan os.Signal, 256)
	signal.Notify(c, syscall.SIGCONT, syscall.SIGUSR1, syscall.SIGUSR2)
	fmt.Println("ready")
	for s := range c {
		fmt.Printf("got %d\n", s.(syscall.Signal))
		if s == syscall.SIGUSR2 {
			return 7
		}
	}
	return 1
}

// guestFamily starts children in sessions and user namespaces of their own,
// which no signal to a parent or group reaches.
func guestFamily(args []string) int {
	for _, attr := range []*syscall.SysProcAttr{
		{},
		{Setsid: true},
		{Setsid: true, Cloneflags: syscall.CLONE_NEWUSER},
	} {
		cmd := exec.Command(selfExe, guestArg, "sleep")
		cmd.SysProcAttr = attr
		cmd.Stdout = os.Stdout
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	if len(args) > 0 { // leave them behind
		return 0
	}
	return forever()
}

// guestOrphan leaves an orphan that ends, and says when nothing but itself is
// left in its PID namespace.
func guestOrphan() int {
	if err := exec.Command("/bin/sh", "-c", "(exec true) & (sh -c true &) ; exit 0").Run(); err != nil {
		return 1
	}
	for {
		names, _ := os.ReadDir("/proc")
		var pids []string
		for _, n := range names {
			if _, err := strconv.Atoi(n.Name()); err == nil {
				pids = append(pids, n.Name())
			}
		}
		if len(pids) == 2 { // process 1 and this one
			fmt.Println("alone", os.Getpid() != 1)
			return 0
		}
	}
}

// guestNested is a supervisor itself, in a user namespace with a limit on those
// below it, if one is given.
func guestNested(limit []string) int {
	if len(limit) > 0 {
		if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte(limit[0]), 0); err != nil {
			return complain(err)
		}
	}
	b, err := json.Marshal(defaultScript("exit", "5"))
	if err != nil {
		return complain(err)
	}
	cmd := &exec.Cmd{
		Path: selfExe, Args: []string{supervisorName},
		Env:    append(os.Environ(), "TAPROOT_TEST_SCRIPT="+string(b)),
		Stdout: os.Stdout, Stderr: os.Stderr,
	}
	cmd.Run()
	return cmd.ProcessState.ExitCode()
}

// forever blocks without the runtime taking it for a deadlock.
func forever() int {
	for {
		unix.Pause()
	}
}
