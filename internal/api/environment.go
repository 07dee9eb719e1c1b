package api

import (
	"fmt"
	"os"
)

// Variable is the environment variable that asks for a socket where the command
// line cannot: under the names of slirp4netns and pasta. It is "auto" or "off",
// which is what it is without.
//
// It is not on there by itself. The callers of these programs know nothing of a
// socket by which whatever has the user's files, their guest perhaps, may open
// ports that they have closed (slirp4netns --disable-host-loopback).
const Variable = "TAPROOT_API"

// ListenAsked is Listen if the environment asks for a socket. Otherwise the Server
// is nil.
func ListenAsked(cfg Config) (*Server, error) {
	switch word := os.Getenv(Variable); word {
	case "", "off":
		return nil, nil
	case "auto":
		return Listen(cfg)
	default:
		return nil, fmt.Errorf("environment variable %s: %q, want auto or off", Variable, word)
	}
}
