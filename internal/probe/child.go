package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taproot/tap"
	"taproot/userns"
)

// ChildName is argv[0] of the process that tries things inside namespaces of
// its own. A program that calls All or Required has to call ChildMain when it
// runs under this name.
const ChildName = "taproot-probe"

// childTime is many times what the child needs on a busy machine.
const childTime = 10 * time.Second

// rows are what the child found.
type rows []Result

// row returns the row of that name, or one that says that it was not tried.
func (rs rows) row(name string) Result {
	for _, r := range rs {
		if r.Name == name {
			return r
		}
	}
	return Result{
		Name:     name,
		Status:   Missing,
		Required: name == nameTUN,
		Detail:   "not tried without user namespaces",
	}
}

// tryChild starts the child and returns the row of user namespaces, which is
// the attempt itself, and the rows of the child.
func (h host) tryChild(ctx context.Context) (Result, rows) {
	found, err := startChild(ctx)
	user := Result{Name: nameUserNS, Status: OK, Required: true, Detail: "user, network and mount namespaces"}
	if err != nil {
		user.Status, user.Detail, user.Remedy = Missing, err.Error(), userns.NamespaceHint(err)
		return user, h.tunAlone()
	}
	if r := found.row(nameUserNS); r.Status == Missing {
		user.Status, user.Detail, user.Remedy = Missing, r.Detail, userns.NamespaceHint(unix.EPERM)
	}
	return user, found
}

// startChild runs the child to its end.
func startChild(ctx context.Context) (rows, error) {
	ctx, cancel := context.WithTimeout(ctx, childTime)
	defer cancel()
	// The death signal is sent when the thread that forked ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child := exec.CommandContext(ctx, "/proc/self/exe")
	child.Args = []string{ChildName}
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   unix.SIGKILL,
	}
	var stderr bytes.Buffer
	child.Stderr = &stderr
	text, err := child.Output()
	if err != nil {
		return nil, childError(err, stderr.String())
	}
	var found rows
	if err := json.Unmarshal(text, &found); err != nil {
		return nil, fmt.Errorf("read what %s found: %w", ChildName, err)
	}
	return found, nil
}

// childError makes one line of why the child did not do its work.
func childError(err error, stderr string) error {
	var path *os.PathError
	if errors.As(err, &path) { // "fork/exec /proc/self/exe: ..." names the wrong thing
		return fmt.Errorf("make namespaces: %w", path.Err)
	}
	if line, _, _ := strings.Cut(stderr, "\n"); line != "" {
		return fmt.Errorf("%s: %w: %s", ChildName, err, line)
	}
	return fmt.Errorf("%s: %w", ChildName, err)
}

// ChildMain tries what can be tried only inside, prints the rows as JSON and
// returns the exit status.
func ChildMain() int {
	if len(os.Args) > 1 {
		return 0 // cell's: that it starts is all
	}
	device, offloads := tunRows()
	err := json.NewEncoder(os.Stdout).Encode(rows{insideRow(), device, offloads, tproxy()})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// insideRow says whether being root in here is worth anything: AppArmor lets
// everybody make user namespaces and may then refuse every capability in them.
func insideRow() Result {
	r := Result{Name: nameUserNS, Status: OK, Required: true}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		r.Status, r.Detail = Missing, fmt.Sprintf("mount / private in the namespace: %v", err)
	}
	return r
}

// tunRows makes a TAP device and says what it can do.
func tunRows() (device, offloads Result) {
	device = Result{Name: nameTUN, Status: OK, Required: true, Detail: tunPath}
	offloads = Result{Name: nameOffloads, Status: OK, Detail: "checksums, TCP and UDP segmentation"}
	f, has, err := tap.Open("probe0", tap.OffloadAuto)
	if err != nil {
		device.Status, device.Detail, device.Remedy = Missing, err.Error(), hint(err)
		offloads.Status, offloads.Detail = Missing, "not tried without tun"
		return device, offloads
	}
	defer f.Close()
	if !has.Header || !has.Checksum || !has.TSO || !has.USO {
		offloads.Status, offloads.Detail = Degraded, has.Why
	}
	return device, offloads
}
