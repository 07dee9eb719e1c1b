package engine

import (
	"fmt"
	"slices"
)

// A Shortcut says whether TCP may take the shortcut, which needs rules in the
// guest's namespace.
type Shortcut int

// The ways to use the shortcut.
const (
	// ShortcutAuto uses it where the guest's namespaces are ours and the kernel
	// has what it needs.
	ShortcutAuto Shortcut = iota

	// ShortcutOn uses it in other users' namespaces too, and does not start
	// without it.
	ShortcutOn

	// ShortcutOff changes nothing in the guest's namespace.
	ShortcutOff
)

var shortcutNames = [...]string{"auto", "on", "off"}

// ParseShortcut reads "auto", "on" or "off".
func ParseShortcut(s string) (Shortcut, error) {
	i := slices.Index(shortcutNames[:], s)
	if i < 0 {
		return 0, fmt.Errorf("shortcut %q: want auto, on or off", s)
	}
	return Shortcut(i), nil
}

// String returns the name that ParseShortcut reads.
func (s Shortcut) String() string {
	if s < 0 || int(s) >= len(shortcutNames) {
		return "unknown"
	}
	return shortcutNames[s]
}

// ShortcutVariable is the environment variable that stands for the option where
// a command line has none: programs that start slirp4netns or pasta choose its
// options themselves.
const ShortcutVariable = "TAPROOT_SHORTCUT"

// readShortcut takes the choice from ShortcutVariable's value where there is no
// other.
func (cfg *Config) readShortcut(value string) {
	if value == "" || cfg.Shortcut != ShortcutAuto {
		return
	}
	way, err := ParseShortcut(value)
	if err != nil {
		cfg.warn(fmt.Sprintf("environment variable %s: %v", ShortcutVariable, err), "")
		return
	}
	cfg.Shortcut = way
}
