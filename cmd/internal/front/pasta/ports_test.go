package pasta

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// describe writes a specification in a form that shows what was understood.
func describe(s portSpec) string {
	var words []string
	add := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if s.none {
		add("none")
	}
	if s.listen.IsValid() {
		add("at %v", s.listen)
	}
	if s.device != "" {
		add("on %s", s.device)
	}
	for _, m := range s.maps {
		add("%s", describeMap(m))
	}
	if s.all {
		add("all")
	}
	if s.target.IsValid() {
		add("to %v", s.target)
	}
	if s.auto {
		add("auto")
	}
	for _, r := range s.exclude {
		add("not %d-%d", r.first, r.last)
	}
	return strings.Join(words, " ")
}

func describeMap(m portMap) string {
	s := fmt.Sprintf("%d-%d", m.first, m.last)
	switch {
	case m.to.IsValid():
		s += fmt.Sprint(":", netip.AddrPortFrom(m.to, m.toFirst))
	case m.toFirst != m.first:
		s += fmt.Sprint(":", m.toFirst)
	}
	return s
}

func TestParsePorts(t *testing.T) {
	for text, want := range map[string]string{
		"none":                      "none",
		"all":                       "all",
		"auto":                      "auto",
		"22":                        "22-22",
		"22-80":                     "22-80",
		"1":                         "1-1",
		"65535":                     "65535-65535",
		"22,25":                     "22-22 25-25",
		"22:23":                     "22-22:23",
		"80-90:8080-8090":           "80-90:8080",
		"80-80:80-80":               "80-80",
		"22-80:32-90,443:8443":      "22-80:32 443-443:8443",
		"80:10.0.2.7":               "80-80:10.0.2.7:80",
		"80-81:10.0.2.7":            "80-81:10.0.2.7:80",
		"80:10.0.2.7/90":            "80-80:10.0.2.7:90",
		"80-81:10.0.2.7/90-91":      "80-81:10.0.2.7:90",
		"80:fd00::7":                "80-80:[fd00::7]:80",
		"80:[fd00::7]":              "80-80:[fd00::7]:80",
		"80:[fd00::7]/90":           "80-80:[fd00::7]:90",
		"22,80:10.0.2.7/90":         "22-22 80-80:10.0.2.7:90",
		"all:10.0.2.7":              "all to 10.0.2.7",
		"all:fd00::7,~22":           "all to fd00::7 not 22-22",
		"~25":                       "all not 25-25",
		"~10-20,~30":                "all not 10-20 not 30-30",
		"5-25,~10-20":               "5-25 not 10-20",
		"all,~10-20":                "all not 10-20",
		"80:8080,all":               "80-80:8080 all",
		"8000-8010,auto":            "8000-8010 auto",
		"auto,~22":                  "auto not 22-22",
		"192.0.2.1/5":               "at 192.0.2.1 5-5",
		"192.0.2.1/":                "at 192.0.2.1 all",
		"192.0.2.1/80:10.0.2.7/90":  "at 192.0.2.1 80-80:10.0.2.7:90",
		"0.0.0.0/80":                "at 0.0.0.0 80-80",
		"::/80":                     "at :: 80-80",
		"::1/auto":                  "at ::1 auto",
		"[::1]/80-80:81-81":         "at ::1 80-80:81",
		"::ffff:192.0.2.1/80":       "at 192.0.2.1 80-80",
		"127.0.0.1/8080-8080:80-80": "at 127.0.0.1 8080-8080:80",
		"192.0.2.1%eth0/22":         "at 192.0.2.1 on eth0 22-22",
		"fe80::1%eth0/22":           "at fe80::1 on eth0 22-22",
		"[fe80::1]%eth0/22":         "at fe80::1 on eth0 22-22",
		"%eth0/22":                  "on eth0 22-22",
		"%eth0/":                    "on eth0 all",
		"%eth0/auto":                "on eth0 auto",
		"80:fd00::7/90":             "at 80:fd00::7 90-90", // an address as a whole: brackets decide
	} {
		s, err := parsePorts("-t", text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := describe(s); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

func TestParsePortsRefuses(t *testing.T) {
	for text, want := range map[string]error{
		"":                             errNothing,
		"x":                            errNoPort,
		"0":                            errNoPort,
		"65536":                        errNoPort,
		"-1":                           errNoPort,
		"+1":                           errNoPort,
		"1-":                           errNoPort,
		"1--2":                         errNoPort,
		" 80":                          errNoPort,
		"80,":                          errNoPort,
		",":                            errNoPort,
		"~":                            errNoPort,
		"~x":                           errNoPort,
		"~auto":                        errNoPort,
		"80-70":                        errBackwards,
		"80:":                          errNoPort,
		"80:x":                         errNoPort,
		"80:1.2.3":                     errNoAddress,
		"80-90:1-2":                    errLengths,
		"80:10.0.2.7/90-91":            errLengths,
		"80:10.0.2.7/":                 errNoPort,
		"80:/90":                       errNoAddress,
		"80,80":                        errOverlap,
		"80-90,85:5":                   errOverlap,
		"none,80":                      errNoPort,
		"192.0.2.1/none":               errNoPort,
		"all,auto":                     errAllAuto,
		"all:":                         errNoAddress,
		"all:80":                       errNoAddress,
		"auto:80":                      errNoPort,
		"auto,80:81":                   errAutoMapped,
		"80:10.0.2.7,auto":             errAutoMapped,
		"1.2.3/80":                     errNoAddress,
		"localhost/80":                 errNoAddress,
		"/80":                          errNoAddress,
		"[::1/80":                      errNoPort,
		"[1.2.3.4]/80":                 errNoAddress,
		"224.0.0.1/80":                 errNoAddress,
		"80:0.0.0.0":                   errNoAddress,
		"80:[::]/80":                   errNoAddress,
		"x%eth0/80":                    errNoAddress,
		"%/80":                         errNoDevice,
		"192.0.2.1%0123456789abcdef/1": errNoDevice,
		"192.0.2.1/80:[fd00::7]/80":    errFamilies,
		"::1/all:10.0.2.7":             errFamilies,
	} {
		_, err := parsePorts("-t", text)
		if spec := (*specError)(nil); !errors.As(err, &spec) || spec.cause != want {
			t.Errorf("%q: got %v, want %v", text, err, want)
			continue
		}
		if !strings.HasPrefix(err.Error(), "Invalid port specifier "+text) {
			t.Errorf("%q: got %q, want the original's words", text, err)
		}
	}
}

func FuzzParsePorts(f *testing.F) {
	for _, seed := range []string{"none", "all", "auto", "192.0.2.1%eth0/80-90:8080-8090,~85", "80:[fd00::7]/90", "~1-5"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parsePorts("-t", text)
		if err != nil {
			return
		}
		for _, m := range s.maps {
			if m.first == 0 || m.last < m.first || int(m.toFirst)+int(m.last-m.first) > 65535 {
				t.Errorf("%q: %s", text, describeMap(m))
			}
		}
		if !s.none && !s.auto && !s.all && len(s.maps) == 0 {
			t.Errorf("%q: says nothing", text)
		}
	})
}
