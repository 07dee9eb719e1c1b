// Package install tests what `make install` puts where, as people who package
// taproot rely on it, and that `make uninstall` takes it away. It needs make and
// the Go tool, and builds the program outside of the repository's bin.
package install
