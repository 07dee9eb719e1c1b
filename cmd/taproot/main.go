package main

import (
	"os"

	"taproot/cmd/internal/front"
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
// an option. The result is the exit status.
func run(args []string) int {
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	switch name {
	case userns.StageName:
		return engine.StageMain()
	case engine.EngineName:
		return engine.EngineMain()
	case probe.ChildName:
		return probe.ChildMain()
	}
	return front.Main(args, version)
}
