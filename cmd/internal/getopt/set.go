package getopt

import (
	"strings"

	"github.com/spf13/pflag"
)

// An Order says where options end.
type Order int

const (
	// Permute takes options wherever they stand before a "--".
	Permute Order = iota

	// StopAtOperand takes options up to the first argument that is none.
	StopAtOperand
)

// A Set holds the options of a program. Make it with New, add options, then
// call Parse. It is not safe for concurrent use.
type Set struct {
	flags *pflag.FlagSet
}

// New returns an empty set.
func New() *Set {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.SortFlags = false // the candidates of an abbreviation come as added
	return &Set{flags}
}

// Flag adds an option without an argument. short is one ASCII letter or digit,
// or "" for none. An error of apply ends the parsing. Adding a name twice is
// an error of the program's and panics, as in pflag.
func (s *Set) Flag(name, short string, apply func() error) {
	s.flags.BoolFuncP(name, short, "", func(string) error { return apply() })
}

// Value adds an option with an argument, which apply gets as it was given.
func (s *Set) Value(name, short string, apply func(argument string) error) {
	s.flags.FuncP(name, short, "", apply)
}

// Names returns the long names of all options as they were added.
func (s *Set) Names() []string {
	var names []string
	s.flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}

// Parse applies the options in args, which do not include the program's name,
// and returns the operands. err is a *UsageError, or what the function of an
// option returned.
func (s *Set) Parse(args []string, order Order) (operands []string, err error) {
	s.flags.SetNormalizeFunc(s.normalizer())
	for len(args) > 0 {
		arg := args[0]
		switch {
		case arg == "--":
			return append(operands, args[1:]...), nil
		case len(arg) < 2 || arg[0] != '-':
			if order == StopAtOperand {
				return args, nil
			}
			operands, args = append(operands, arg), args[1:]
			continue
		case arg[1] == '-':
			args, err = s.long(args)
		default:
			args, err = s.cluster(args)
		}
		if err != nil {
			return nil, err
		}
	}
	return operands, nil
}

// normalizer returns the function that makes the full name of an abbreviated
// one. A name with several meanings or none stays as it is, and is then not
// found.
func (s *Set) normalizer() func(*pflag.FlagSet, string) pflag.NormalizedName {
	names := s.Names()
	return func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if full := matches(names, name); len(full) == 1 {
			return pflag.NormalizedName(full[0])
		}
		return pflag.NormalizedName(name)
	}
}

// matches returns the names that prefix may mean: itself, or all that begin
// with it.
func matches(names []string, prefix string) []string {
	var found []string
	for _, name := range names {
		if name == prefix {
			return []string{name}
		}
		if strings.HasPrefix(name, prefix) {
			found = append(found, name)
		}
	}
	return found
}

// long applies the long option args[0], and returns what follows it.
func (s *Set) long(args []string) (rest []string, err error) {
	given, rest := args[0], args[1:]
	name, argument, attached := strings.Cut(given[len("--"):], "=")
	flag := s.flags.Lookup(name)
	switch {
	case flag == nil:
		return nil, unknown(given, matches(s.Names(), name))
	case !wantsArgument(flag):
		if attached {
			return nil, usagef("option '--%s' doesn't allow an argument", flag.Name)
		}
		return rest, flag.Value.Set(flag.NoOptDefVal)
	case attached:
		return rest, flag.Value.Set(argument)
	case len(rest) == 0:
		return nil, usagef("option '--%s' requires an argument", flag.Name)
	}
	return rest[1:], flag.Value.Set(rest[0])
}

// cluster applies the short options in args[0], of which the last may have an
// argument there or in args[1], and returns what follows.
func (s *Set) cluster(args []string) (rest []string, err error) {
	letters, rest := args[0][1:], args[1:]
	for len(letters) > 0 {
		letter := letters[:1]
		letters = letters[1:]
		flag := s.flags.ShorthandLookup(letter)
		switch {
		case flag == nil:
			return nil, usagef("invalid option -- '%s'", letter)
		case !wantsArgument(flag):
			if err := flag.Value.Set(flag.NoOptDefVal); err != nil {
				return nil, err
			}
			continue
		case len(letters) > 0:
			return rest, flag.Value.Set(letters)
		case len(rest) == 0:
			return nil, usagef("option requires an argument -- '%s'", letter)
		}
		return rest[1:], flag.Value.Set(rest[0])
	}
	return rest, nil
}

// wantsArgument tells whether an option has an argument.
func wantsArgument(flag *pflag.Flag) bool { return flag.NoOptDefVal == "" }
