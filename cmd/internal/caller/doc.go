// Package caller is what a program that stays owes to whoever started it:
// descriptors that it was passed by number are used as agreed, and kept from
// its own children; a signal ends it as it ends any other program, only after
// it has cleaned up; and who knows a remedy for what went wrong says it.
package caller
