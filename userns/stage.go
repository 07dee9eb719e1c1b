package userns

// Stage is the entry point of a process whose argv[0] is StageName. It returns
// the process's exit status, if it returns at all.
func Stage(open Opener) int { return 125 }
