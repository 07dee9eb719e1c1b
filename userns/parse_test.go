package userns

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestParseSubordinate(t *testing.T) {
	const file = "alice:100000:65536\n" +
		"bob:200000:65536\n" +
		" alice:300000:10 \n" +
		"1000:400000:5\n" +
		"1000:100000:65536\n" + // the same again
		"alice:165535:10\n" + // begins in another
		"alice:99990:11\n" + // ends in another
		"alice:0:4294967295\n" + // has another, and the caller's own
		"alice:990:20\n" + // has the caller's own
		"alice:500000:0\n" + // empty
		"alice:4294967000:1000\n" + // beyond the last id
		"alice:-1:5\nalice:1:x\nalice:1\nalice:1:2:3\n\n# alice:1:2"
	for _, tt := range []struct {
		name, number string
		want         []idRange
	}{
		{"alice", "1000", []idRange{{100000, 65536}, {300000, 10}, {400000, 5}}},
		{"bob", "1001", []idRange{{200000, 65536}}},
		{"carol", "1002", nil},
		{"", "", nil},
	} {
		got := parseSubordinate([]byte(file), tt.name, tt.number, 1000)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func FuzzParseSubordinate(f *testing.F) {
	f.Add([]byte("alice:100000:65536\n1000:1:2\n"))
	f.Add([]byte("alice:4294967295:4294967295"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ranges := parseSubordinate(b, "alice", "1000", 1000)
		if len(ranges) > maxRanges {
			t.Fatalf("got %d ranges, want at most %d", len(ranges), maxRanges)
		}
		for _, r := range ranges {
			if last := uint64(r.start) + uint64(r.count) - 1; r.count == 0 || last >= 1<<32-1 {
				t.Fatalf("got range %v", r)
			}
		}
		// What is passed on is arithmetic on the ranges: it must not panic.
		mapperArgs(1, 1000, ranges)
		pingRange(IdentityAuto, 1000, ranges)
	})
}

func TestMapperArgs(t *testing.T) {
	got := strings.Join(mapperArgs(42, 1000, []idRange{{100000, 65536}, {300000, 10}}), " ")
	if want := "42 0 1000 1 1 100000 65536 65537 300000 10"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPingRange(t *testing.T) {
	for _, tt := range []struct {
		identity Identity
		gid      int
		ranges   []idRange
		want     string
	}{
		{IdentityRoot, 1000, nil, "0 0"},
		{IdentityKeep, 1000, nil, "1000 1000"},
		{IdentityAuto, 1000, []idRange{{100000, 65536}}, "0 65536"},
		{IdentityAuto, 1000, []idRange{{100000, 10}, {200000, 10}}, "0 20"},
		// The kernel compares the host's ids: only the caller's group then.
		{IdentityAuto, 500000, []idRange{{100000, 65536}}, "0 0"},
		{IdentityAuto, 1000, []idRange{{200000, 10}, {100000, 10}}, "0 0"},
	} {
		if got := pingRange(tt.identity, tt.gid, tt.ranges); got != tt.want {
			t.Errorf("%v %d %v: got %q, want %q", tt.identity, tt.gid, tt.ranges, got, tt.want)
		}
	}
}

func TestNamespaceHint(t *testing.T) {
	for _, tt := range []struct {
		name   string
		err    error
		sysctl map[string]string
		want   string
	}{
		{"debian", syscall.EPERM, map[string]string{"kernel.unprivileged_userns_clone": "0"},
			"as root: sysctl kernel.unprivileged_userns_clone=1"},
		{"none allowed", syscall.ENOSPC, map[string]string{"user.max_user_namespaces": "0"},
			"as root: sysctl user.max_user_namespaces=15000"},
		{"no network allowed", syscall.ENOSPC, map[string]string{"user.max_net_namespaces": "0"},
			"as root: sysctl user.max_net_namespaces=15000"},
		{"too many", syscall.ENOSPC, nil, "user.max_user_namespaces=60000"},
		{"ubuntu", syscall.EPERM, map[string]string{"kernel.apparmor_restrict_unprivileged_userns": "1"},
			"as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
		{"container", syscall.EPERM, nil, "seccomp=unconfined"},
		{"kernel", syscall.EINVAL, nil, "CONFIG_USER_NS=y"},
		{"other", syscall.ENOMEM, nil, ""},
	} {
		got := namespaceHint(tt.err, func(name string) string { return tt.sysctl[name] })
		if !strings.Contains(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// An error of the stage is the same in the supervisor, as far as callers see.
func TestFailure(t *testing.T) {
	command := newFailure(&CommandError{"x", syscall.EACCES}).err()
	var c *CommandError
	if !errors.As(command, &c) || c.Status() != 126 || command.Error() != "x: permission denied" {
		t.Errorf("got %v, want a CommandError of status 126", command)
	}
	err := newFailure(&hinted{&fs.PathError{Op: "open", Path: "/dev/net/tun", Err: syscall.ENOENT}, "modprobe tun"}).err()
	var hint interface{ Hint() string }
	if !errors.As(err, &hint) || hint.Hint() != "modprobe tun" || !errors.Is(err, fs.ErrNotExist) ||
		err.Error() != "open /dev/net/tun: no such file or directory" {
		t.Errorf("got %v, want the error, its cause and its hint", err)
	}
	if err := newFailure(errors.New("text")).err(); err.Error() != "text" || errors.As(err, &hint) && hint.Hint() != "" {
		t.Errorf("got %v, want text", err)
	}
}

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"a/run": 0o755, "b/run": 0o644, "b/only": 0o644, "a/plain/x": 0o755} {
		path := dir + "/" + name
		os.MkdirAll(path[:strings.LastIndex(path, "/")], 0o755)
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, path string
		want       string
		status     int
	}{
		{"run", dir + "/a:" + dir + "/b", dir + "/a/run", 0},
		{"run", dir + "/b:" + dir + "/a/", dir + "/a/run", 0},
		{"only", dir + "/a:" + dir + "/b", "", 126},
		{"plain", dir + "/a", "", 127}, // a directory does not count
		{"run", "/no/such/dir", "", 127},
		{"run", "", "", 127},
		{dir + "/a/run", "", dir + "/a/run", 0},
	} {
		got, err := lookPath(tt.name, []string{"X=1", "PATH=" + tt.path})
		var c *CommandError
		status := 0
		if errors.As(err, &c) {
			status = c.Status()
		}
		if got != tt.want || status != tt.status {
			t.Errorf("%s in %s: got %q, %d, want %q, %d", tt.name, tt.path, got, status, tt.want, tt.status)
		}
	}
}

func TestWire(t *testing.T) {
	ours, fd, err := newWirePair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.close()
	theirs, err := newWire(fd)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, chunkSize, 10 * chunkSize} {
		want := strings.Repeat("x", size)
		sent := make(chan error)
		go func() {
			sent <- ours.send(message{Order: &order{Dir: want, Hosts: []byte{}}})
		}()
		m, err := theirs.recv()
		if err != nil || m.Order == nil || m.Order.Dir != want {
			t.Fatalf("size %d: got %v", size, err)
		}
		if m.Order.Hosts == nil || m.Order.ResolvConf != nil {
			t.Error("empty and nil contents: got the one for the other")
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	}
	if !ours.open() {
		t.Error("open: got false, want true")
	}
	theirs.close()
	if ours.open() {
		t.Error("open: got true, want false")
	}
	if _, err := ours.recv(); err == nil {
		t.Error("recv: got no error, want the end")
	}
}
