package probe

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const tunPath = "/dev/net/tun"

// userNSRemedy says how to be allowed to make namespaces after that error.
func (h host) userNSRemedy(err error) string {
	const enough = "15000" // namespaces of each kind; a run needs one, a busy build host some hundreds
	for _, kind := range []string{"user", "net", "mnt"} {
		name := "user.max_" + kind + "_namespaces"
		if h.sysctl(name) == "0" {
			return asRoot("sysctl -w " + name + "=" + enough)
		}
	}
	switch {
	case errors.Is(err, unix.ENOSPC): // a limit above this user namespace, or used up
		return asRoot("sysctl -w user.max_user_namespaces=" + enough + " user.max_net_namespaces=" + enough)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return "a kernel with CONFIG_USER_NS and CONFIG_NET_NS"
	case h.sysctl("kernel.unprivileged_userns_clone") == "0": // Debian's patch
		return asRoot("sysctl -w kernel.unprivileged_userns_clone=1")
	case h.sysctl("kernel.apparmor_restrict_unprivileged_userns") == "1": // Ubuntu 23.10 and later
		return asRoot("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
	case errors.Is(err, unix.EPERM):
		return "in a container, start that with: --security-opt seccomp=unconfined"
	}
	return ""
}

// tunAlone is what can be said of the device without a namespace to make it in.
func (h host) tunAlone() rows {
	r := Result{Name: nameTUN, Status: OK, Required: true, Detail: tunPath + " can be opened"}
	f, err := os.OpenFile(h.root+tunPath, os.O_RDWR, 0)
	if err == nil {
		f.Close()
		return rows{r}
	}
	r.Status, r.Detail, r.Remedy = Missing, err.Error(), asRoot("modprobe tun")
	if errors.Is(err, fs.ErrPermission) {
		r.Remedy = asRoot("chmod 0666 " + tunPath)
	}
	return rows{r}
}

// sysctl returns the value of a sysctl, "" if there is none of that name.
func (h host) sysctl(name string) string {
	return h.line("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
}

// line returns what the file at path holds, "" if it cannot be read.
func (h host) line(path string) string {
	text, err := os.ReadFile(h.root + path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// asRoot is the wording of a remedy that needs root. It is not "sudo", which
// not every machine has.
func asRoot(command string) string { return "as root: " + command }
