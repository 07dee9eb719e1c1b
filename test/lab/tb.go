package lab

// TB is what laboratories need of a test, a benchmark or, in test/bench, a
// program that is neither: the methods of [testing.TB] with these names.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Error(args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Skip(args ...any)
	Failed() bool
	Cleanup(func())
}

// A Runner is what [Main] runs inside the user namespace: a [testing.M], or
// what a program does instead. Run returns an exit status.
type Runner interface{ Run() int }
