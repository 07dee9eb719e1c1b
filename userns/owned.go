package userns

import "os"

// Owned tells whether the network namespace belongs to a user namespace that our
// user has made, and that we are not in ourselves: then nobody but us has a say in
// it whom we did not give one.
func (n *Namespace) Owned() bool {
	uid, ok := ownerUID(n.owner)
	if !ok || uid != os.Geteuid() {
		return false
	}
	same, err := isOurs(n.owner, "user")
	return err == nil && !same
}
