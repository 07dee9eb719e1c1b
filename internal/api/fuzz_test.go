package api

import (
	"bytes"
	"testing"

	"taproot/portfwd"
)

// FuzzPublication reads what a client may send: what is taken can be shown, and
// means the same when it is sent again.
func FuzzPublication(f *testing.F) {
	f.Add([]byte(`{"publish":["8080:80","[::1]:8000-8009:80-89/udp,source=gateway"],"reach":["5432"]}`))
	f.Add([]byte(`{"rules":[{"direction":"outbound","proto":"udp","listen":{"address":"::1","port":1},"ports":2,"target":{"port":3}}]}`))
	f.Add([]byte(`{"rules":[{"listen":{"unix":"/x"},"target":{"port":3},"proxy":2,"source":"gateway","wait":true,"weak":true}],"adopt":true}`))
	f.Add([]byte(`{"publish":["auto:80/udp"]}`))
	f.Add([]byte(`{}{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Publication
		if decode(bytes.NewReader(b), &p) != nil {
			return
		}
		published, failure := p.published(portfwd.SourcePreserve)
		if failure != nil {
			if failure.Message == "" || failure.status < 400 {
				t.Errorf("failure %+v says nothing", failure)
			}
			return
		}
		for _, r := range published.Rules {
			if r.Ports < 0 {
				continue // the table refuses it
			}
			r.Ports = r.Count()
			spec := SpecOf(&r)
			again, err := spec.Rule()
			if err != nil || again != r {
				t.Errorf("rule %+v: after it was shown %+v and error %v", r, again, err)
			}
		}
	})
}

// FuzzSelection reads any query.
func FuzzSelection(f *testing.F) {
	f.Add("proto=tcp&proto=udp&way=frames&direction=inbound&address=10.0.0.0/8&port=80&rule=1&id=7&all=1")
	f.Add("address=::ffff:1.2.3.4&x=y&%zz")
	f.Fuzz(func(t *testing.T, raw string) {
		s, failure := decodeSelection(raw)
		if failure == nil && s.Inbound && s.Outbound {
			t.Error("both directions")
		}
	})
}
