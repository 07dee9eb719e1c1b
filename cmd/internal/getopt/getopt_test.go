package getopt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// An option of the tests. A short one has the long one's argument.
type option struct {
	name, short string
	argument    bool
}

// options have what is hard to tell apart: prefixes of each other, and letters
// that are the beginning of nothing.
func options() []option {
	return []option{
		{"configure", "c", false},
		{"cidr", "", true},
		{"exit-fd", "e", true},
		{"ready-fd", "r", true},
		{"mtu", "m", true},
		{"enable-ipv6", "6", false},
		{"enable-sandbox", "", false},
		{"enable-seccomp", "", false},
		{"outbound-addr", "", true},
		{"outbound-addr6", "", true},
		{"net", "", false},
		{"netns-type", "", true},
		{"help", "h", false},
	}
}

// parse returns what was found as getopt(1) prints it, with long names only.
func parse(args []string, order Order) (string, error) {
	var found []string
	s := New()
	for _, o := range options() {
		if o.argument {
			s.Value(o.name, o.short, func(v string) error {
				found = append(found, "--"+o.name, quote(v))
				return nil
			})
			continue
		}
		s.Flag(o.name, o.short, func() error {
			found = append(found, "--"+o.name)
			return nil
		})
	}
	operands, err := s.Parse(args, order)
	found = append(found, "--")
	for _, o := range operands {
		found = append(found, quote(o))
	}
	return strings.Join(found, " "), err
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func TestParse(t *testing.T) {
	tests := []struct {
		args  string
		order Order
		want  string
		err   string
	}{
		{"-c -m 1500 1 tap0", Permute, "--configure --mtu '1500' -- '1' 'tap0'", ""},
		{"1 tap0 -c --mtu=1500", Permute, "--configure --mtu '1500' -- '1' 'tap0'", ""},
		{"1 tap0 -c --mtu=1500", StopAtOperand, "-- '1' 'tap0' '-c' '--mtu=1500'", ""},
		{"-c -- -m", StopAtOperand, "--configure -- '-m'", ""},
		{"1 -c -- -m", Permute, "--configure -- '1' '-m'", ""},
		{"-c6m1500", Permute, "--configure --enable-ipv6 --mtu '1500' --", ""},
		{"-m=1500", Permute, "--mtu '=1500' --", ""},
		{"-m --", Permute, "--mtu '--' --", ""},
		{"--conf --mt 5", Permute, "--configure --mtu '5' --", ""},
		{"--net", Permute, "--net --", ""},
		{"--outbound-addr=a", Permute, "--outbound-addr 'a' --", ""},
		{"--cidr=", Permute, "--cidr '' --", ""},
		{"- -c", Permute, "--configure -- '-'", ""},

		{"--xyz=5", Permute, "", "unrecognized option '--xyz=5'"},
		{"---c", Permute, "", "unrecognized option '---c'"},
		{"-cx", Permute, "", "invalid option -- 'x'"},
		{"-c-", Permute, "", "invalid option -- '-'"},
		{"-test.v", Permute, "", "invalid option -- 't'"},
		{"--mtu", Permute, "", "option '--mtu' requires an argument"},
		{"-cm", Permute, "", "option requires an argument -- 'm'"},
		{"--conf=1", Permute, "", "option '--configure' doesn't allow an argument"},
		{"--enable-s=1", Permute, "", "option '--enable-s=1' is ambiguous; possibilities: '--enable-sandbox' '--enable-seccomp'"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			got, err := parse(strings.Fields(tt.args), tt.order)
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Errorf("got error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

// Options are applied as they come: one that is wrong is reported before what
// follows is looked at.
func TestParseStopsAtFirstError(t *testing.T) {
	bad := errors.New("bad")
	var seen []string
	s := New()
	s.Value("mtu", "m", func(v string) error {
		seen = append(seen, v)
		if v == "2" {
			return bad
		}
		return nil
	})
	if _, err := s.Parse([]string{"-m1", "-m2", "-m3", "--unknown"}, Permute); err != bad {
		t.Errorf("got %v, want %v", err, bad)
	}
	if want := []string{"1", "2"}; !slices.Equal(seen, want) {
		t.Errorf("applied: got %q, want %q", seen, want)
	}
}

// TestGlibc compares with glibc's getopt_long, which getopt(1) of util-linux
// calls, on a table of command lines and on generated ones.
func TestGlibc(t *testing.T) {
	program, err := exec.LookPath("getopt")
	if err != nil {
		t.Skip("getopt(1) is not installed")
	}
	if err := exec.Command(program, "--test").Run(); err == nil || !strings.HasSuffix(err.Error(), "status 4") {
		t.Skip("getopt(1) is not that of util-linux")
	}
	for _, line := range append(table(), generated(150)...) {
		for _, order := range []Order{Permute, StopAtOperand} {
			compare(t, program, line, order)
		}
	}
}

// table are command lines as callers of the front ends write them, and what
// goes wrong with them.
func table() [][]string {
	var lines [][]string
	for _, s := range []string{
		"", "--", "-", "-- --", "a", "a b", "-c", "-c a", "a -c", "a -- -c", "-c -- a -c", "--configure", "--conf", "--co", "--c",
		"-e 3 -r 4", "-e3 -r4", "-e=3", "-ce3", "-ec3", "-e -r", "-e --", "-e", "-ce", "-r", "-m", "-x", "-cx", "-xc", "-c-", "-6", "-c6h",
		"--exit-fd 3", "--exit-fd=3", "--exit-fd=", "--exit=3", "--e 3", "--ex", "--ex 3", "--exit-fd", "--exit-fd --", "--exit-fdx 3",
		"--mtu=65520", "--mtu 65520", "--m=1", "--mtu==1", "--mtu=a=b", "--mtux", "--help", "--he", "--h", "--help=1", "--h=", "--configure=",
		"--enable-ipv6", "--enable", "--enable-s", "--enable-s=1", "--enable-sa", "--enable-se", "--enable-i=x", "--en=x",
		"--outbound-addr 1", "--outbound-addr6 1", "--outbound-addr", "--outbound 1", "--outbound=1", "--outbound-addr6=", "--net", "--netns",
		"--netns=path", "--ne", "--net=1", "--n", "---c", "---", "--=", "--=1", "--xyz", "--xyz=5", "-\xff", "-ä", "--\xff", "--x'y",
		"--mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c -e 3 -r 4 --netns-type=path /run/netns/x tap0",
		"--mtu 65520 -r 3 -c 1234 tap0", "1234 tap0 -c -r 3", "1234 -c tap0 -r 3 --", "1234 -c -- tap0 -r 3", "- -c -", "-c -h -x --y",
		"--mtu 1 a --mtu", "a b c -c d -m", "-m 1500 -- -m", "--cidr=10.0.2.0/24", "--ci 10.0.2.0/24", "-h --xyz", "--xyz -h",
	} {
		lines = append(lines, strings.Fields(s))
	}
	return append(lines, []string{""}, []string{"", "-c"}, []string{"--mtu", ""}, []string{"-m", "", "x"}, []string{"a b", "--mtu=it's"})
}

// generated returns n command lines of pieces that fit and pieces that do not,
// the same ones each time.
func generated(n int) [][]string {
	random := rand.New(rand.NewPCG(3, 1987))
	pieces := []string{
		"-c", "-e", "3", "-r4", "-m", "--", "-", "a", "b", "-6", "-c6", "-cm", "-h", "--mtu", "--mtu=9", "--m", "--conf",
		"--exit", "--enable-s", "--net", "--netns", "--out", "--outbound-addr6", "--help=1", "-x", "--xyz", "=", "--cidr=",
	}
	lines := make([][]string, n)
	for i := range lines {
		for range 1 + random.IntN(6) {
			lines[i] = append(lines[i], pieces[random.IntN(len(pieces))])
		}
	}
	return lines
}

// compare parses one command line both ways.
func compare(t *testing.T, program string, line []string, order Order) {
	t.Helper()
	want, complaint := glibc(t, program, line, order)
	got, err := parse(line, order)
	switch {
	case err != nil && "prog: "+err.Error() != complaint:
		t.Errorf("%q order %d: got error %q, want %q", line, order, "prog: "+err.Error(), complaint)
	case err == nil && complaint != "":
		t.Errorf("%q order %d: got no error, want %q", line, order, complaint)
	case err == nil && got != want:
		t.Errorf("%q order %d: got %s, want %s", line, order, got, want)
	}
}

// glibc returns what getopt(1) makes of a command line, with long names only,
// and the first line of its complaints.
func glibc(t *testing.T, program string, line []string, order Order) (canonical, complaint string) {
	t.Helper()
	letters, names, full := "", "", map[string]string{}
	if order == StopAtOperand {
		letters = "+"
	}
	for _, o := range options() {
		colon := ""
		if o.argument {
			colon = ":"
		}
		names += "," + o.name + colon
		if o.short != "" {
			letters += o.short + colon
			full["-"+o.short] = "--" + o.name
		}
	}
	args := []string{"-n", "prog", "-o", letters, "-l", names[1:], "--"}
	cmd := exec.Command(program, append(args, line...)...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	cmd.Env = []string{"LC_ALL=C"}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	complaint, _, _ = strings.Cut(complaints.String(), "\n")
	return lengthen(strings.TrimSpace(out.String()), full), complaint
}

// lengthen replaces the short options in getopt's output, where every argument
// is quoted and no option is, by their long names.
func lengthen(canonical string, full map[string]string) string {
	quoted := strings.Split(canonical, "'")
	for i := 0; i < len(quoted); i += 2 { // outside of quotes
		words := strings.Split(quoted[i], " ")
		for j, w := range words {
			if long, ok := full[w]; ok {
				words[j] = long
			}
		}
		quoted[i] = strings.Join(words, " ")
	}
	return strings.Join(quoted, "'")
}

func FuzzParse(f *testing.F) {
	f.Add("-c --mtu=1500 1 tap0", false)
	f.Add("--enable-s -m", true)
	f.Fuzz(func(t *testing.T, line string, stop bool) {
		order := Permute
		if stop {
			order = StopAtOperand
		}
		_, err := parse(strings.Split(line, " "), order)
		if usage := (*UsageError)(nil); err != nil && !errors.As(err, &usage) {
			t.Errorf("%q: got %v, want a UsageError", line, err)
		}
	})
}

func Example() {
	var mtu string
	s := New()
	s.Value("mtu", "m", func(argument string) error {
		mtu = argument
		return nil
	})
	operands, err := s.Parse([]string{"1234", "--mt", "1500", "tap0"}, Permute)
	fmt.Println(mtu, operands, err)
	// Output: 1500 [1234 tap0] <nil>
}
