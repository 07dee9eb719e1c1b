// Package getopt parses a command line by the rules of GNU getopt_long(3), for
// the front ends whose callers were written for programs that use it. The
// options stand in one pflag set; the rules that pflag lacks are here:
//
//   - a long option may be abbreviated as long as no other begins like it;
//     that is the set's normalise function
//   - "-ofoo", "-o foo", "--output=foo" and "--output foo" mean the same, and
//     "-o=foo" gives "=foo"
//   - whatever follows an option that wants an argument is its argument, "--"
//     and "-x" too
//   - options may follow operands, or end at the first (Order)
//   - what is wrong is said in glibc's words, which callers look for
//
// Options are applied in their order while they are found, so that an option
// that is wrong is reported before a later one that is wrong too.
//
// Optional arguments are left out: none of the front ends has one. So is the
// environment variable POSIXLY_CORRECT: the order of arguments is the caller's
// business and not that of whoever started it.
package getopt
