package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"

	"taproot/test/lab"
)

// Names of the roles that this program runs itself in.
const (
	roleOutside = "outside"
	roleNear    = "near"
	roleHost    = "host"
	roleAdmin   = "admin"
	roleGuest   = "guest"
	roleFirst   = "first"

	// roleToldFirst is roleFirst, but only when told.
	roleToldFirst = "told-first"
)

// programs are the roles, for package lab. All but the last two serve the
// conductor; their arguments are its socket and a token.
func programs() lab.Programs {
	serve := func(role string, service any) func([]string) int {
		return func(args []string) int {
			if len(args) != 2 {
				return exit(fmt.Errorf("%s: %d arguments", role, len(args)))
			}
			return exit(runAgent(args[0], role, args[1], service))
		}
	}
	launch := func(role string) func([]string) int {
		return func(args []string) int {
			launcher := new(Launcher)
			status := serve(role, launcher)(args)
			var messages string
			left := errors.Join(launcher.Stop(Nothing{}, &messages), launcher.Disperse(Nothing{}, &Nothing{}))
			return max(status, exit(left))
		}
	}
	return lab.Programs{
		roleOutside: serve(roleOutside, newAgent()),
		roleNear:    serve(roleNear, newAgent()),
		roleGuest:   serve(roleGuest, newAgent()),
		roleHost:    launch(roleHost),
		roleAdmin:   launch(roleAdmin),
		roleFirst:   first,

		roleToldFirst: toldFirst,
	}
}

// first connects to the address that is its argument and then writes one
// byte to standard output.
func first(args []string) int {
	if len(args) != 1 {
		return exit(errors.New("first: one argument"))
	}
	if err := reach(args[0], startPatience); err != nil {
		return exit(err)
	}
	_, err := os.Stdout.Write([]byte{'.'})
	return exit(err)
}

// toldFirst waits for a byte on standard input before it does what first does,
// and then for the end of it.
func toldFirst(args []string) int {
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
		return exit(err)
	}
	status := first(args)
	_, err := io.Copy(io.Discard, os.Stdin)
	return max(status, exit(err))
}

// exit reports an error of a role and returns its exit status.
func exit(err error) int {
	if err == nil || errors.Is(err, io.EOF) {
		return 0
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	return 1
}

// A launcherAgent is a launcher and the process that it is.
type launcherAgent struct {
	*remote
	pid int
}

// A world is the laboratory with its agents.
type world struct {
	lab         *lab.Lab
	congestion  string // TCP congestion control of all ends, if not empty
	socket      *net.UnixListener
	outside     *remote
	near        *remote // in namespace host
	servers     Servers
	far         Servers // the same behind the path with delay and loss; empty if there is none
	path        *path
	quic        string // program, if there is one
	host, admin launcherAgent
	beside      launcherAgent // on the outside
	guests      int           // started so far; each has its number as token
}

// newWorld lays the cable and starts the agents. They end with l's test.
func newWorld(ctx context.Context, l *lab.Lab, congestion string) (*world, error) {
	if err := layCable(l); err != nil {
		return nil, err
	}
	w := &world{lab: l, congestion: congestion}
	for _, namespace := range []*lab.Namespace{l.Host, l.Outside} {
		if err := namespace.Do(func() error { return setCongestion(congestion) }); err != nil {
			return nil, err
		}
	}
	if err := nameResolver(l); err != nil {
		return nil, err
	}
	path := filepath.Join(l.Dir, "conductor")
	var err error
	if w.socket, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil { // for the ordinary user
		return nil, err
	}
	outside := l.Outside.Program(roleOutside, path, "-")
	if w.outside, err = w.startAgent(ctx, outside, roleOutside); err != nil {
		return nil, err
	}
	if w.near, err = w.startAgent(ctx, l.Host.Program(roleNear, path, "-"), roleNear); err != nil {
		return nil, err
	}
	words := l.ProgramArgs(roleHost, path, "-")
	host := l.User(words[0], words[1:]...)
	host.Env = append(host.Env, idTools(l)...)
	run, err := runtimeDir(l)
	if err != nil {
		return nil, err
	}
	host.Env = append(host.Env, "XDG_RUNTIME_DIR="+run)
	if w.host.remote, err = w.startAgent(ctx, host, roleHost); err != nil {
		return nil, err
	}
	w.host.pid = host.Process.Pid
	for _, place := range []struct {
		namespace *lab.Namespace
		agent     *launcherAgent
	}{{l.Host, &w.admin}, {l.Outside, &w.beside}} {
		admin := place.namespace.Program(roleAdmin, path, "-")
		if place.agent.remote, err = w.startAgent(ctx, admin, roleAdmin); err != nil {
			return nil, err
		}
		place.agent.pid = admin.Process.Pid
	}
	return w, w.serve(ctx, cableOutside, &w.servers)
}

// serve opens the servers of the outside at an address of it.
func (w *world) serve(ctx context.Context, prefix string, at *Servers) error {
	args := ServeArgs{Address: cableAddress(prefix), DNSPort: dnsPort}
	return w.outside.call(ctx, "Serve", args, at)
}

// cableAddress is the address in the prefix of an end of a cable.
func cableAddress(prefix string) string { return netip.MustParsePrefix(prefix).Addr().String() }

// idTools gives the ordinary user ids to give away, and the programs for it,
// where this can be had: rootlesskit needs them. It returns what the user needs
// in the environment.
func idTools(l *lab.Lab) []string {
	if !lab.SubIDs.Available() {
		return nil
	}
	tools := []string{"newuidmap", "newgidmap"}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return nil
		}
	}
	l.SubIDs("user:10000:50000\n")
	return []string{"PATH=" + l.SetUID(tools...) + ":" + os.Getenv("PATH"), "HOME=" + l.Dir}
}

// runtimeDir makes the ordinary user's directory for sockets, which goes with the
// laboratory.
func runtimeDir(l *lab.Lab) (string, error) {
	dir := filepath.Join(l.Dir, "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	return dir, l.Give(dir)
}

// nameResolver makes the outside the host's resolver, over the cable.
func nameResolver(l *lab.Lab) error {
	text := "nameserver " + cableAddress(cableOutside) + "\n"
	return l.Host.Do(func() error { return os.WriteFile("/etc/resolv.conf", []byte(text), 0o644) })
}

// close hangs up on the agents.
func (w *world) close() error {
	var path error
	if w.path != nil {
		path = w.path.Close()
	}
	return errors.Join(path, w.near.Close(), w.host.Close(), w.admin.Close(), w.beside.Close(), w.outside.Close(), w.socket.Close())
}

// generators are the paths that load generators run as.
func (w *world) generators() []string {
	return []string{w.lab.ProgramArgs("")[0], w.quic}
}

// startAgent starts a role and waits for it to call.
func (w *world) startAgent(ctx context.Context, cmd *lab.Cmd, role string) (*remote, error) {
	cmd.Stay() // the conductor ends it
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	return w.answer(ctx, role, "-")
}

// answer waits for the call of one agent. Others, which must be late ones of
// turns that failed, are hung up on.
func (w *world) answer(ctx context.Context, role, token string) (*remote, error) {
	deadline, _ := ctx.Deadline() // none is the zero time, which means none
	if err := w.socket.SetDeadline(deadline); err != nil {
		return nil, err
	}
	for {
		conn, err := w.socket.Accept()
		if err != nil {
			return nil, fmt.Errorf("wait for %s: %w", role, err)
		}
		hello := make([]byte, helloSize)
		if _, err := io.ReadFull(conn, hello); err == nil && strings.TrimSpace(string(hello)) == role+" "+token {
			return newRemote(conn), nil
		}
		conn.Close()
	}
}

// layCable joins host and outside directly: no router between them, an MTU
// that is never the bottleneck, and all offloads.
func layCable(l *lab.Lab) error {
	var outside *os.File
	err := l.Outside.Do(func() (err error) {
		outside, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return err
	}
	defer outside.Close()
	err = l.Host.Do(func() error {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = cableName
		veth := netlink.NewVeth(attributes)
		veth.PeerName = cableName
		veth.PeerNamespace = netlink.NsFd(int(outside.Fd()))
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add %s: %w", cableName, err)
		}
		return configure(cableName, cableHost, cableMTU)
	})
	if err != nil {
		return err
	}
	return l.Outside.Do(func() error { return configure(cableName, cableOutside, cableMTU) })
}

// setCongestion sets the TCP congestion control of the calling thread's
// namespace, unless name is empty. Every namespace may have reno; what else
// is allowed, and what the default is, differs between machines.
func setCongestion(name string) error {
	if name == "" {
		return nil
	}
	return os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte(name), 0)
}

// Congestion sets the TCP congestion control of the agent's namespace.
func (a *Agent) Congestion(name string, _ *Nothing) error {
	return setCongestion(name)
}
