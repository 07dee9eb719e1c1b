package api

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Variable is the environment variable that says which socket an instance has
// where the command line cannot: under the names of slirp4netns and pasta. It is
// "off" for none, "auto" for the one in Directory, or a path, which has a slash.
const Variable = "TAPROOT_API"

// ListenAsked is Listen with the socket that the environment asks for. If it says
// nothing, there is one in $XDG_RUNTIME_DIR where that can be: the callers of these
// programs have not asked for it, so they never hear of it when it goes wrong, and
// /tmp is left alone. Without a socket the Server is nil.
func ListenAsked(cfg Config) (*Server, error) {
	switch word := os.Getenv(Variable); {
	case word == "":
		return listenUnasked(cfg), nil
	case word == "off":
		return nil, nil
	case word == "auto":
		return Listen(cfg)
	case strings.Contains(word, "/"):
		cfg.Path = word
		return Listen(cfg)
	default:
		return nil, fmt.Errorf("environment variable %s: %q, want auto, off or a path", Variable, word)
	}
}

// errNoRuntimeDir says why there is no socket that nobody has asked for.
var errNoRuntimeDir = errors.New("XDG_RUNTIME_DIR names no directory of ours")

// overflowUID is how a user namespace shows everybody whom it does not know
// (user_namespaces(7)). Who is called so there cannot tell what is his.
const overflowUID = 65534

// listenUnasked is Listen for a socket that nobody has asked for. It returns nil
// where there can be none.
func listenUnasked(cfg Config) *Server {
	var s *Server
	err := errNoRuntimeDir
	if _, ok := runtimeDir(); ok && os.Geteuid() != overflowUID {
		s, err = listen(cfg, true)
	}
	if err != nil {
		if cfg.Log != nil {
			cfg.Log.Debug("no API socket", "error", err)
		}
		return nil
	}
	return s
}
