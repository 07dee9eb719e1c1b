package userns

import "os"

// initialUser is the inode number of the machine's first user namespace,
// PROC_USER_INIT_INO of the kernel's include/linux/proc_ns.h.
const initialUser = 0xEFFFFFFD

// Owned tells whether the network namespace belongs to a user namespace that our
// user has made: then nobody but us has a say in it whom we did not give one. We
// may be in it, as somebody whom podman starts for a container is. The machine's
// own is nobody's.
func (n *Namespace) Owned() bool {
	uid, ok := ownerUID(n.owner)
	if !ok || uid != os.Geteuid() {
		return false
	}
	id, err := inodeOf(int(n.owner.Fd()))
	return err == nil && id.number != initialUser
}
