package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"

	"taproot/stack/flow"
)

// badRequest returns the failure of a request that makes no sense.
func badRequest(format string, args ...any) *Failure {
	return &Failure{Code: CodeBadRequest, Message: fmt.Sprintf(format, args...), status: http.StatusBadRequest}
}

// decodeBody reads the one JSON value of a request. What is unknown in it is
// refused.
func decodeBody(w http.ResponseWriter, r *http.Request, to any) *Failure {
	if text := r.Header.Get("Content-Type"); text != "" {
		if media, _, err := mime.ParseMediaType(text); err != nil || media != jsonType {
			return &Failure{
				Code: CodeBadRequest, Message: "content type " + text, Remedy: "send " + jsonType,
				status: http.StatusUnsupportedMediaType,
			}
		}
	}
	return decode(http.MaxBytesReader(w, r.Body, maxBody), to)
}

// decode reads the one JSON value that there is.
func decode(from io.Reader, to any) *Failure {
	d := json.NewDecoder(from)
	d.DisallowUnknownFields()
	err := d.Decode(to)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = errors.New("more than one value")
		}
	}
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		return &Failure{
			Code: CodeBadRequest, Message: fmt.Sprintf("request: more than %d bytes", large.Limit),
			status: http.StatusRequestEntityTooLarge,
		}
	}
	if errors.Is(err, io.EOF) {
		return badRequest("request: a JSON object is missing")
	}
	return badRequest("request: %v", err)
}

// A parameter reads the values of a query's parameter into what it means.
type parameter func(values []string) error

// decodeQuery reads a query. What is unknown in it is refused.
func decodeQuery(raw string, known map[string]parameter) *Failure {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return badRequest("query: %v", err)
	}
	for name, list := range values {
		read := known[name]
		if read == nil {
			return badRequest("query: unknown parameter %q", name)
		}
		if err := read(list); err != nil {
			return badRequest("query: %s: %v", name, err)
		}
	}
	return nil
}

// one makes a parameter that comes once.
func one(read func(string) error) parameter {
	return func(values []string) error {
		if len(values) != 1 {
			return errors.New("more than once")
		}
		return read(values[0])
	}
}

// number makes a parameter that is a number from 1 to limit.
func number(limit uint64, set func(uint64)) parameter {
	return one(func(s string) error {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil || n == 0 || n > limit {
			return fmt.Errorf("%q is not a number from 1 to %d", s, limit)
		}
		set(n)
		return nil
	})
}

// flag makes a parameter that is 0 or 1.
func flag(set *bool) parameter {
	return one(func(s string) error {
		if s != "0" && s != "1" {
			return fmt.Errorf("%q is neither 0 nor 1", s)
		}
		*set = s == "1"
		return nil
	})
}

// maxID is the highest id of a rule that a client may name.
const maxID = 1<<31 - 1

// A selection is which flows a request means.
type selection struct {
	flow.Filter
	all bool // it says that it means all
}

// says tells whether a selection says which flows it means.
func (s *selection) says() bool {
	f := &s.Filter
	return s.all || f.ID != 0 || f.Port != 0 || f.Rule != 0 || f.Inbound || f.Outbound ||
		len(f.Protos) > 0 || len(f.Ways) > 0 || f.Address.IsValid()
}

// decodeSelection reads which flows a query means.
func decodeSelection(raw string) (selection, *Failure) {
	var s selection
	failure := decodeQuery(raw, map[string]parameter{
		"all":  flag(&s.all),
		"id":   number(1<<64-1, func(n uint64) { s.ID = n }),
		"port": number(1<<16-1, func(n uint64) { s.Port = uint16(n) }),
		"rule": number(maxID, func(n uint64) { s.Rule = int(n) }),
		"proto": func(values []string) error {
			return words(values, []flow.Proto{flow.TCP, flow.UDP, flow.ICMP}, &s.Protos)
		},
		"way": func(values []string) error {
			return words(values, []flow.Way{flow.ByFrames, flow.Shortcut}, &s.Ways)
		},
		"direction": one(func(v string) error {
			s.Inbound, s.Outbound = v == inbound, v == outbound
			if !s.Inbound && !s.Outbound {
				return fmt.Errorf("%q is neither %s nor %s", v, inbound, outbound)
			}
			return nil
		}),
		"address": one(func(v string) (err error) {
			s.Address, err = parseNetwork(v)
			return err
		}),
	})
	return s, failure
}

// words reads names of values that there are.
func words[T fmt.Stringer](names []string, known []T, to *[]T) error {
	for _, name := range names {
		i := slices.IndexFunc(known, func(v T) bool { return v.String() == name })
		if i < 0 {
			return fmt.Errorf("%q is none of %v", name, known)
		}
		*to = append(*to, known[i])
	}
	return nil
}

// parseNetwork reads an address, or a network.
func parseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network", s)
	}
	return p.Masked(), nil
}
