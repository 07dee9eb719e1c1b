// Command taproot gives a command its own rootless network.
//
// It finds out which of its roles this process has and runs it; the command
// line is the work of package front.
package main
