package userns

import (
	"os"
	"testing"
)

func TestOwned(t *testing.T) {
	if !asUser(t) {
		return
	}
	if n := openTarget(t, Target{PID: newTarget(t, "answer", rootTarget()).pid}); !n.Owned() {
		t.Error("of our own: got false")
	}
}

// TestOwnedInside is a container's network as podman has a helper started for it.
func TestOwnedInside(t *testing.T) {
	if !asNamespaceRoot(t) {
		return
	}
	if n := openTarget(t, Target{PID: newTarget(t, "answer", netTarget()).pid}); !n.Owned() {
		t.Error("of the user namespace that we are in: got false")
	}
}

// TestOwnedByOthers looks at root's namespaces with an ordinary user's, and the
// other way round.
func TestOwnedByOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root")
	}
	if n := openTarget(t, Target{PID: newTarget(t, "answer", netTarget()).pid}); n.Owned() {
		t.Error("the machine's: got true")
	}
	user := ordinary(t)
	attr := rootTarget()
	attr.UidMappings, attr.GidMappings = singleMap(0, user.uid), singleMap(0, user.gid)
	if n := openTarget(t, Target{PID: newTarget(t, "answer", attr).pid}); !n.Owned() {
		t.Error("made by root for another: got false")
	}
}
