package engine

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"unicode"

	"taproot/internal/plan"
	"taproot/portfwd"
	"taproot/stack/flow"
	"taproot/test/settle"
)

// engineSeeds are what an engine says, and what none of ours does.
func engineSeeds(f *testing.F) (packets [][]byte) {
	icmp, beyond := flow.ICMP, flow.Proto(200)
	for _, m := range []message{
		{Ready: true}, {Ready: true, Sandbox: []SandboxStep{{Name: StepSeccomp, Detail: "none\x1b[2J"}}}, {Failed: "why\x1b[2J"}, {Gone: "deleted"},
		{Need: &socketRequest{Family: 2, Type: 1}}, {Need: &socketRequest{Family: 10, Type: 1, Clients: maxRights}}, {Need: &socketRequest{Clients: -1}},
		{Closed: 1}, {Refused: &portfwd.SocketID{Rule: 1, Index: -1}}, {Missed: true}, {Undiverted: true}, {Connect: &connectRequest{ID: 1, Rule: -1}},
		{Limited: &icmp}, {Limited: &beyond}, {Answer: &answer{ID: 1, Killed: 3}}, {Answer: &answer{ID: 1, More: true, Flows: make([]flow.Info, 2)}},
		{Handed: &handed{Flows: []handedFlow{handedOf(7)}}}, {Handed: &handed{Flows: []handedFlow{handedOf(7), handedOf(8)}, Last: 9}}, {Handed: &handed{}}, {Start: &spec{}}, {Ready: true, Failed: strings.Repeat("x", 5000)},
	} {
		b, err := m.encode()
		if err != nil {
			f.Fatal(err)
		}
		packets = append(packets, b)
	}
	return append(packets, []byte("}{"), []byte("[]"), []byte("null"), nil)
}

// deafSupervisor hears an engine, and does nothing about it.
func deafSupervisor(t *testing.T) (*supervisor, *process) {
	rules := portfwd.NewTable(portfwd.TableConfig{})
	t.Cleanup(rules.Close)
	s := &supervisor{
		log: slog.New(slog.DiscardHandler), spec: testSpec(t, plan.Offsets{}, Config{}), rules: rules,
		needed: make(chan socketRequest, socketKinds), connects: make(chan connectRequest, maxConnects),
		missed:  make(chan struct{}, 1),
		refuser: portfwd.NewRefuser(rules, nil),
	}
	s.diversion.doubted = make(chan struct{}, 1)
	p := &process{exited: make(chan struct{}), err: errors.New("over"), process: &os.Process{}}
	p.yields.Store(true)
	close(p.exited)
	return s, p
}

// FuzzSupervisor has an engine that somebody has taken over say anything, with
// descriptors that nobody wants: the supervisor takes no harm, keeps none of these,
// and does only what an engine may ask for.
func FuzzSupervisor(f *testing.F) {
	var all []byte
	for i, b := range engineSeeds(f) {
		one := append(binary.BigEndian.AppendUint16([]byte{byte(i % 3)}, uint16(len(b))), b...)
		f.Add(one)
		all = append(all, one...)
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, b []byte) {
		before := settle.Descriptors()
		s, p := deafSupervisor(t)
		ours, theirs := newWirePair(t)
		p.wire = ours
		id, answers := s.queries.add()
		defer s.queries.remove(id)
		heir, end := wait(t, s)
		go speak(theirs, b)
		err := p.ready()
		gone := ""
		if err == nil {
			gone = p.watch(func(m message, fds passed) { s.hear(p, m, fds) })
		}
		theirs.close()
		checkWords(t, "", gone, err)
		for _, step := range p.steps {
			checkWords(t, step.Detail, step.Name, nil)
		}
		checkAsked(t, s)
		for len(answers) > 0 {
			if a := <-answers; a.check() == nil {
				checkAnswer(t, a)
			}
		}
		ours.close()
		end()
		checkHeir(t, heir)
		settle.Until(t, "the engine's descriptors are closed", func() bool { return settle.Descriptors() <= before })
	})
}

// speak sends what an input holds: for each packet a byte that says with how many
// descriptors, two of length, and as many bytes. Then it hangs up.
func speak(w *wire, b []byte) {
	defer w.close()
	for len(b) >= 3 {
		files := make([]*os.File, b[0]%4)
		for i := range files {
			files[i] = w.file
		}
		n := min(int(binary.BigEndian.Uint16(b[1:])), len(b)-3)
		if w.sendBytes(b[3:3+n], files) != nil {
			return
		}
		b = b[3+n:]
	}
}

// An heir is an engine that waits to take over, and what it is given.
type heir struct {
	last  uint64 // id
	wrong error
}

// wait has an engine wait to take over, until the function that it returns is called.
func wait(t *testing.T, s *supervisor) (*heir, func()) {
	ours, theirs := newWirePair(t)
	s.mu.Lock()
	s.next = newReplacement(&process{wire: ours}, nil)
	s.mu.Unlock()
	h, ended := &heir{}, make(chan struct{})
	go func() {
		defer close(ended)
		for {
			m, fds, err := theirs.receiveRaw()
			if err != nil {
				return
			}
			if m.Handed == nil {
				h.wrong = errors.New("no connections")
			} else if err := m.Handed.check(fds, h.last); err != nil {
				h.wrong = err
			} else if n := len(m.Handed.Flows); n > 0 {
				h.last = m.Handed.Flows[n-1].ID
			}
			fds.close()
		}
	}()
	return h, func() {
		ours.close()
		<-ended
		theirs.close()
	}
}

// checkHeir wants the engine that waits to have got nothing but what is right.
func checkHeir(t *testing.T, h *heir) {
	t.Helper()
	if h.wrong != nil {
		t.Errorf("connections for the next engine: %v", h.wrong)
	}
}

// checkWords wants what is shown to be one line of text.
func checkWords(t *testing.T, warning, gone string, err error) {
	t.Helper()
	words := []string{warning, gone}
	if refused := refusal(""); errors.As(err, &refused) {
		words = append(words, refused.Error())
	}
	for _, w := range words {
		if len(w) > maxWords+len("...") || strings.ContainsFunc(w, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("words of the engine: got %q", w)
		}
	}
}

// checkAsked wants the supervisor to do only what an engine may ask for.
func checkAsked(t *testing.T, s *supervisor) {
	t.Helper()
	for len(s.needed) > 0 {
		if r := <-s.needed; !r.valid() {
			t.Errorf("sockets inside the guest: got %+v", r)
		}
	}
	for len(s.connects) > 0 {
		if _, err := s.rules.ConnectUnix((<-s.connects).Rule); err == nil {
			t.Error("connected to a Unix socket, and there is no rule")
		}
	}
}

// checkAnswer wants an answer that is believed to be one that can be shown.
func checkAnswer(t *testing.T, a *answer) {
	t.Helper()
	for _, f := range a.Flows {
		_ = f.Proto.String() + f.Way.String() + f.Initiator.String() + f.Target.String()
	}
	if _, err := json.Marshal(a); err != nil {
		t.Errorf("answer %+v: %v", a, err)
	}
}

// TestPlain wants one short line of text, whatever an engine says.
func TestPlain(t *testing.T) {
	for words, want := range map[string]string{
		"":                             "",
		"open x: no such file":         "open x: no such file",
		"a\nb\x1b[2J\x00\xff\u202e":    "a?b?[2J?\ufffd?",
		strings.Repeat("ä", 1000):      strings.Repeat("ä", maxWords/2) + "...",
		"x" + strings.Repeat("ä", 600): "x" + strings.Repeat("ä", maxWords/2-1) + "...",
	} {
		if got := plain(words); got != want {
			t.Errorf("%.40q: got %q, want %q", words, got, want)
		}
	}
}
