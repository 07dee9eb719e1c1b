package policy

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestParsePorts(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		yes, no  []uint16
	}{
		{in: "none", want: "none", no: []uint16{0, 1, 80, 65535}},
		{in: "all", want: "all", yes: []uint16{1, 80, 65535}, no: []uint16{0}},
		{in: "22", want: "22", yes: []uint16{22}, no: []uint16{21, 23}},
		{in: "22,80-90", want: "22,80-90", yes: []uint16{22, 80, 85, 90}, no: []uint16{21, 23, 79, 91, 65535}},
		{in: "80-90,22", want: "22,80-90"},
		{in: "1-10,5-20,21", want: "1-21"},
		{in: "1-65535", want: "all"},
		{in: "65535,1-65534", want: "all"},
		{in: "65535", want: "65535", yes: []uint16{65535}, no: []uint16{65534, 0}},
		{in: "7-7,7", want: "7"},
	} {
		t.Run(tt.in, func(t *testing.T) {
			p, err := ParsePorts(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := p.String(); got != tt.want {
				t.Errorf("String: got %v, want %v", got, tt.want)
			}
			for _, port := range tt.yes {
				if !p.Contains(port) {
					t.Errorf("Contains(%d): got false, want true", port)
				}
			}
			for _, port := range tt.no {
				if p.Contains(port) {
					t.Errorf("Contains(%d): got true, want false", port)
				}
			}
		})
	}
}

func TestParsePortsRefuses(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", `parse ports "": port "": not a number from 1 to 65535`},
		{"0", `parse ports "0": port "0": not a number from 1 to 65535`},
		{"65536", `parse ports "65536": port "65536": not a number from 1 to 65535`},
		{"80,", `parse ports "80,": port "": not a number from 1 to 65535`},
		{"90-80", `parse ports "90-80": range 90-80: ends before it begins`},
		{"80-", `parse ports "80-": port "": not a number from 1 to 65535`},
		{"-80", `parse ports "-80": port "": not a number from 1 to 65535`},
		{"1-2-3", `parse ports "1-2-3": port "2-3": not a number from 1 to 65535`},
		{"http", `parse ports "http": port "http": not a number from 1 to 65535`},
		{" 80", `parse ports " 80": port " 80": not a number from 1 to 65535`},
		{"all,80", `parse ports "all,80": port "all": not a number from 1 to 65535`},
	} {
		if p, err := ParsePorts(tt.in); err == nil || err.Error() != tt.want {
			t.Errorf("ParsePorts(%q): got %v, %v, want error %v", tt.in, p, err, tt.want)
		}
	}
}

func TestPortsCompareAndCarry(t *testing.T) {
	a, _ := ParsePorts("80-82,22")
	b, _ := ParsePorts("22,80,81-82")
	if a != b {
		t.Errorf("%v == %v: got false, want true", a, b)
	}
	if !(Ports{}).None() || (Ports{}).All() {
		t.Error("zero Ports: want none, not all")
	}
	text, err := json.Marshal(struct{ P, Q Ports }{P: a})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(text), `{"P":"22,80-82","Q":"none"}`; got != want {
		t.Errorf("JSON: got %v, want %v", got, want)
	}
	var back struct{ P, Q Ports }
	if err := json.Unmarshal(text, &back); err != nil || back.P != a || back.Q != (Ports{}) {
		t.Errorf("back from JSON: got %v, %v, want %v and none", back, err, a)
	}
}

func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"all", "none", "22", "22,80-90", "1-65535", "0", "-", ",", "90-80"} {
		f.Add(s, uint16(80))
	}
	f.Fuzz(func(t *testing.T, s string, port uint16) {
		p, err := ParsePorts(s)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "parse ports ") {
				t.Errorf("error: got %v", err)
			}
			return
		}
		again, err := ParsePorts(p.String())
		if err != nil || again != p {
			t.Errorf("ParsePorts(%q): got %v, %v, want %v", p.String(), again, err, p)
		}
		if p.All() && port != 0 && !p.Contains(port) || p.None() && p.Contains(port) || p.Contains(0) {
			t.Errorf("%v.Contains(%d): got %v", p, port, p.Contains(port))
		}
	})
}

func TestPortsWithAndWithout(t *testing.T) {
	for _, tt := range []struct{ p, q, with, without string }{
		{"none", "none", "none", "none"},
		{"all", "none", "all", "all"},
		{"none", "all", "all", "none"},
		{"all", "80", "all", "1-79,81-65535"},
		{"80", "80", "80", "none"},
		{"80-90", "85", "80-90", "80-84,86-90"},
		{"80-90", "1-80,90-65535", "all", "81-89"},
		{"1-10,20-30", "5-25", "1-30", "1-4,26-30"},
		{"22,80", "443", "22,80,443", "22,80"},
		{"65535", "1", "1,65535", "65535"},
	} {
		p, q := mustPorts(t, tt.p), mustPorts(t, tt.q)
		if got := p.With(q).String(); got != tt.with {
			t.Errorf("%v with %v: got %v, want %v", p, q, got, tt.with)
		}
		if got := p.Without(q).String(); got != tt.without {
			t.Errorf("%v without %v: got %v, want %v", p, q, got, tt.without)
		}
	}
	for want, got := range map[string]Ports{"all": PortRange(0, 65535), "80": PortRange(80, 80), "none": PortRange(2, 1)} {
		if got.String() != want {
			t.Errorf("range: got %v, want %v", got, want)
		}
	}
}

func TestPortsRanges(t *testing.T) {
	set, err := ParsePorts("80-90,22,91,65535")
	if err != nil {
		t.Fatal(err)
	}
	var got [][2]uint16
	for first, last := range set.Ranges() {
		if got = append(got, [2]uint16{first, last}); len(got) == 2 {
			break
		}
	}
	if want := [][2]uint16{{22, 22}, {80, 91}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
