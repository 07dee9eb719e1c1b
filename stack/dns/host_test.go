package dns

import (
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestHosts(t *testing.T) {
	f := forwarder(t, short)
	const a, aaaa = "10.0.2.2", "fd00::2"
	for _, tt := range []struct {
		name  string
		qtype dnsmessage.Type
		want  []string
	}{
		{"host.taproot.internal.", dnsmessage.TypeA, []string{a}},
		{"HOST.Taproot.internal.", dnsmessage.TypeA, []string{a}},
		{"host.taproot.internal.", dnsmessage.TypeAAAA, []string{aaaa}},
		{"host.taproot.internal.", dnsmessage.TypeALL, []string{a, aaaa}},
		{"host.taproot.internal.", dnsmessage.TypeMX, nil},
		{"host.taproot.internal.", 65, nil},
	} {
		t.Run(tt.name+tt.qtype.String(), func(t *testing.T) {
			m := parse(t, datagram(t, f, ask(t, tt.name, tt.qtype), 0))
			if !m.Response || !m.Authoritative || len(m.Questions) != 1 || m.Questions[0].Name.String() != tt.name {
				t.Errorf("header and question: got %v", m.GoString())
			}
			if len(m.Additionals) != 1 || m.Additionals[0].Header.Type != dnsmessage.TypeOPT {
				t.Errorf("EDNS: got %v, want one record", m.Additionals)
			}
			got := addresses(m)
			if len(got) != len(tt.want) {
				t.Fatalf("answers: got %v, want %v", got, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("answer: got %v, want %v", got[i], tt.want[i])
				}
			}
		})
	}
	if got, want := f.Stats().Local, uint64(6); got != want {
		t.Errorf("Local: got %v, want %v", got, want)
	}
}

func addresses(m dnsmessage.Message) (list []string) {
	for _, r := range m.Answers {
		switch body := r.Body.(type) {
		case *dnsmessage.AResource:
			list = append(list, netipFrom(body.A[:]))
		case *dnsmessage.AAAAResource:
			list = append(list, netipFrom(body.AAAA[:]))
		}
	}
	return list
}

func TestOtherNamesAreForwarded(t *testing.T) {
	f := forwarder(t, short) // without servers: SERVFAIL tells that it would have forwarded
	for _, name := range []string{"taproot.internal.", "x.host.taproot.internal.", "host.taproot.internal.com.", "."} {
		datagram(t, f, ask(t, name, dnsmessage.TypeA), rcodeServFail)
	}
	dotted := []byte("\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x0chost.taproot\x08internal\x00\x00\x01\x00\x01")
	datagram(t, f, dotted, rcodeServFail)
	if got := f.Stats().Local; got != 0 {
		t.Errorf("Local: got %v, want 0", got)
	}
}

func TestHostWithoutEDNS(t *testing.T) {
	query := []byte("\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04host\x07taproot\x08internal\x00\x00\x01\x00\x01")
	m := parse(t, datagram(t, forwarder(t, short), query, 0))
	if len(m.Additionals) != 0 || len(m.Answers) != 1 {
		t.Errorf("reply: got %v, want one answer and no EDNS", m.GoString())
	}
}
