package main

import (
	"os"
	"path/filepath"
	"strings"

	"taproot/cmd/internal/front"
	"taproot/cmd/internal/front/pasta"
	"taproot/cmd/internal/front/slirp"
	"taproot/internal/engine"
	"taproot/internal/probe"
	"taproot/userns"
)

// version is what `taproot version` prints. It is a variable only because the
// linker sets it (-X main.version=..., see the Makefile); nothing writes it.
var version = "devel"

func main() {
	os.Exit(run(os.Args))
}

// run finds out which of the program's processes this one is: taproot starts
// itself under another name for each role, and a name cannot be mistaken for
// an option. Callers of other programs start it under theirs. The result is the
// exit status.
func run(args []string) int {
	if len(args) == 0 {
		args = []string{"taproot"}
	}
	name := args[0]
	switch name {
	case userns.StageName:
		return engine.StageMain()
	case engine.EngineName:
		return engine.EngineMain(version)
	case probe.ChildName:
		return probe.ChildMain()
	}
	switch base := filepath.Base(name); {
	case base == slirp.Name:
		return slirp.Main(name, args[1:], version)
	case base == pasta.PestoName:
		return pasta.PestoMain(name, args[1:], version)
	case strings.Contains(base, pasta.Name): // distributions have several builds of it
		return pasta.Main(name, args[1:], version)
	}
	return front.Main(args, version)
}
