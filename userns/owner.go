package userns

import "os"

// initialUserNS is the inode number of the machine's first user namespace
// (PROC_USER_INIT_INO of include/linux/proc_ns.h, since Linux 3.8).
const initialUserNS = 0xEFFFFFFD

// Owned tells whether the network namespace is ours to change: it belongs to a
// user namespace that we have made, or somebody of our user id, and not to the
// machine's.
func (n *Namespace) Owned() bool {
	if n.owner == nil {
		return false
	}
	id, err := inodeOf(int(n.owner.Fd()))
	uid, ok := ownerUID(n.owner)
	return err == nil && id.number != initialUserNS && ok && uid == os.Geteuid()
}
