package userns

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	subUIDFile = "/etc/subuid"
	subGIDFile = "/etc/subgid"

	// maxRanges is how many subordinate ranges are used. A map holds 340 lines
	// since Linux 4.15 (user_namespaces(7)), and 5 before; nobody has so many.
	maxRanges = 4
)

// An idRange is a range of subordinate ids: start, and how many.
type idRange struct{ start, count uint32 }

// singleMap maps one id of the host to one in the guest.
func singleMap(guest, host int) []syscall.SysProcIDMap {
	return []syscall.SysProcIDMap{{ContainerID: guest, HostID: host, Size: 1}}
}

// identityMaps returns the maps that an unprivileged caller may write by
// itself; for IdentityAuto there are none, a set-uid program writes them.
func identityMaps(id Identity, uid, gid int) (uids, gids []syscall.SysProcIDMap) {
	switch id {
	case IdentityRoot:
		return singleMap(0, uid), singleMap(0, gid)
	case IdentityKeep:
		return singleMap(uid, uid), singleMap(gid, gid)
	}
	return nil, nil
}

// pingRange returns the widest value for net.ipv4.ping_group_range that holds
// the guest's groups. The kernel refuses ids that are not mapped, and compares
// by the host's ids, so a range may only span the map if the map is in order.
func pingRange(id Identity, gid int, subordinate []idRange) string {
	switch id {
	case IdentityKeep:
		return fmt.Sprintf("%d %d", gid, gid)
	case IdentityAuto:
		last, previous := 0, uint64(gid)
		for _, r := range subordinate {
			if uint64(r.start) <= previous {
				return "0 0"
			}
			previous = uint64(r.start) + uint64(r.count) - 1
			last += int(r.count)
		}
		return fmt.Sprintf("0 %d", last)
	}
	return "0 0"
}

// subordinates are the caller's subordinate ids.
type subordinates struct {
	uids, gids []idRange
}

// findSubordinates reads them from subuid(5) and subgid(5).
func findSubordinates(uid int) (subordinates, error) {
	name := strconv.Itoa(uid)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	var s subordinates
	for _, file := range []struct {
		path   string
		option string
		own    int
		ranges *[]idRange
	}{{subUIDFile, "uids", uid, &s.uids}, {subGIDFile, "gids", os.Getgid(), &s.gids}} {
		b, err := os.ReadFile(file.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return s, err
		}
		*file.ranges = parseSubordinate(b, name, strconv.Itoa(uid), uint32(file.own))
		if len(*file.ranges) == 0 {
			return s, &hinted{
				fmt.Errorf("%s: no entry for %s", file.path, name),
				fmt.Sprintf("as root: usermod --add-sub%s 100000-165535 %s", file.option, name),
			}
		}
	}
	return s, nil
}

// parseSubordinate returns the ranges of a user, who is written by name or by
// number, in a file of lines "user:start:count". Lines that make no sense are
// skipped, as newuidmap skips them, and so are those with an id that the map has
// already: the kernel refuses such a map as a whole (user_namespaces(7)), and a user
// who is written by name and by number often has the same ids twice. own is the
// caller's, which every map has.
func parseSubordinate(b []byte, name, number string, own uint32) []idRange {
	taken := []idRange{{own, 1}}
	var ranges []idRange
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() && len(ranges) < maxRanges {
		f := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(f) != 3 || f[0] != name && f[0] != number {
			continue
		}
		start, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 != nil || err2 != nil || count == 0 || start+count-1 >= 1<<32-1 {
			continue
		}
		r := idRange{uint32(start), uint32(count)}
		if !slices.ContainsFunc(taken, r.overlaps) {
			ranges, taken = append(ranges, r), append(taken, r)
		}
	}
	return ranges
}

// overlaps tells whether two ranges have an id in common.
func (r idRange) overlaps(other idRange) bool {
	return r.start-other.start < other.count || other.start-r.start < r.count
}

// mapSubordinates writes the maps of a process that waits in a new user
// namespace: the caller is root in it, the subordinate ids follow from 1.
func mapSubordinates(ctx context.Context, pid int, s subordinates) error {
	if err := runMapper(ctx, uidMapper, pid, os.Getuid(), s.uids); err != nil {
		return err
	}
	return runMapper(ctx, gidMapper, pid, os.Getgid(), s.gids)
}

// The programs that may write maps of subordinate ids (shadow-utils).
const (
	uidMapper = "newuidmap"
	gidMapper = "newgidmap"
)

// SubordinateIDs returns nil if IdentityAuto has what it needs for the caller,
// else an error with a remedy.
func SubordinateIDs() error {
	if _, err := findSubordinates(os.Getuid()); err != nil {
		return err
	}
	for _, program := range []string{uidMapper, gidMapper} {
		if _, err := findMapper(program); err != nil {
			return err
		}
	}
	return nil
}

// findMapper returns the path of one of the mappers.
func findMapper(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", &hinted{err, "as root: apt-get install uidmap"}
	}
	return path, nil
}

// runMapper runs newuidmap(1) or newgidmap(1).
func runMapper(ctx context.Context, program string, pid, id int, ranges []idRange) error {
	path, err := findMapper(program)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, path, mapperArgs(pid, id, ranges)...).CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err = fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(out))
	if st, e := os.Stat(path); e == nil && st.Mode()&fs.ModeSetuid == 0 {
		return &hinted{err, "as root: chmod u+s " + path}
	}
	return err
}

// mapperArgs returns the arguments: process, then guest, host and count of each
// line of the map.
func mapperArgs(pid, id int, ranges []idRange) []string {
	args := []string{strconv.Itoa(pid), "0", strconv.Itoa(id), "1"}
	next := uint64(1)
	for _, r := range ranges {
		args = append(args, strconv.FormatUint(next, 10),
			strconv.FormatUint(uint64(r.start), 10), strconv.FormatUint(uint64(r.count), 10))
		next += uint64(r.count)
	}
	return args
}
