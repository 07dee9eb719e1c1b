package main

import (
	"os"
	"slices"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"taproot/cmd/internal/front/pasta"
	"taproot/internal/engine"
	"taproot/internal/probe"
	"taproot/userns"
)

func TestMain(m *testing.M) {
	roles := []string{userns.StageName, engine.EngineName, probe.ChildName, pasta.SupervisorName}
	if len(os.Args) > 0 && slices.Contains(roles, os.Args[0]) {
		os.Exit(run(os.Args))
	}
	testscript.Main(m, map[string]func(){
		"taproot":     main,
		"slirp4netns": main,
		"pasta":       main,
		"pasta.avx2":  main,
		"pesto":       main,
	})
}

// TestScripts runs testdata/*.txt, which hold what a user sees: arguments,
// messages, help and exit statuses.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status,
		},
	})
}

// status runs a program and checks its exit status: status 2 taproot rnu.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N PROGRAM [ARG]...")
	}
	err := ts.Exec(args[1], args[2:]...)
	if got := exitStatus(err); got != args[0] {
		ts.Fatalf("%v: exit status %s, want %s", args[1:], got, args[0])
	}
}
