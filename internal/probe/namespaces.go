package probe

import (
	"errors"
	"io/fs"
	"os"
	"strings"
)

const tunPath = "/dev/net/tun"

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
