package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"taproot/internal/probe"
)

// A Feature is something a test needs of the machine, in the words of
// TAPROOT_MUST.
type Feature string

// The features that a test may need.
const (
	NetNS  Feature = "netns"  // user and network namespaces for ordinary users
	IPv6   Feature = "ipv6"   // the kernel has IPv6
	TUN    Feature = "tun"    // /dev/net/tun can be opened by ordinary users
	SubIDs Feature = "subids" // more than one id in L: started by real root
)

// Need skips the test if the machine lacks one of the features, or fails it if
// TAPROOT_MUST names that feature.
func Need(t TB, features ...Feature) {
	t.Helper()
	for _, feature := range features {
		if err := feature.check(); err != nil {
			Lacks(t, &probe.Unsupported{Feature: string(feature), Err: err})
		}
	}
}

// NeedProgram skips the test if a program of another package is not
// installed, or fails it if TAPROOT_MUST has the word "programs".
func NeedProgram(t TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Lacks(t, &probe.Unsupported{Feature: "programs", Err: err})
		}
	}
}

// Lacks skips the test because the machine does not offer a feature, or fails
// it if TAPROOT_MUST names that feature.
func Lacks(t TB, u *probe.Unsupported) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("TAPROOT_MUST"), ","), u.Feature) {
		t.Fatal(u)
	}
	t.Skip(u)
}

func (f Feature) check() error {
	switch f {
	case NetNS:
		return checkNetNS()
	case IPv6:
		if !hasIPv6() {
			return errors.New("/proc/net/if_inet6 is missing")
		}
		return nil
	case TUN:
		device, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return device.Close()
	case SubIDs:
		s, err := currentStage()
		if err == nil && !s.Wide {
			return errors.New("not started by root")
		}
		return err
	default:
		return fmt.Errorf("unknown feature %q", string(f))
	}
}

func checkNetNS() error {
	s, err := currentStage()
	switch {
	case err != nil:
		return err
	case s.Name == "":
		return errors.New("TestMain does not call lab.Main")
	case s.Missing != "":
		return errors.New(s.Missing)
	}
	return nil
}

func hasIPv6() bool {
	_, err := os.Stat("/proc/net/if_inet6")
	return err == nil
}

// Available says whether the machine has the feature.
func (f Feature) Available() bool { return f.check() == nil }
