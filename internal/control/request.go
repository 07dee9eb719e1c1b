package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/netip"

	"taproot/stack/flow"
)

// A Forward is a published port: what arrives at Host goes to Guest.
type Forward struct {
	ID          int // counts from 1, never used again; 0 in a Forward to be added
	Proto       flow.Proto
	Host, Guest netip.AddrPort
}

// A badRequest is an error that the client made. Its text stands behind "bad
// request: ".
type badRequest string

// Error returns the words of slirp4netns.
func (e badRequest) Error() string { return string(e) }

// What can be wrong with a request before it is known what it wants.
const (
	errSyntax    badRequest = "cannot parse JSON"
	errNoObject  badRequest = "json_object() failed"
	errNoExecute badRequest = "no execute found"
	errExecute   badRequest = "unknown execute"
	errTooLarge  badRequest = "too large message"
)

// errIncomplete says that there is more to come.
var errIncomplete = errors.New("incomplete")

// A request is what a client wants. Keys are compared as they are, where
// encoding/json would take "Execute" for "execute".
type request struct {
	execute   string
	arguments arguments
}

// parse returns the request at the start of b; what follows it does not matter.
// The error is a badRequest, or errIncomplete if b is only the beginning of a
// request.
func parse(b []byte) (request, error) {
	var whole json.RawMessage
	switch err := json.NewDecoder(bytes.NewReader(b)).Decode(&whole); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return request{}, errIncomplete
	case err != nil:
		return request{}, errSyntax
	}
	object := members(whole)
	if object == nil {
		return request{}, errNoObject
	}
	execute, ok := text(object["execute"])
	if !ok {
		return request{}, errNoExecute
	}
	return request{execute, members(object["arguments"])}, nil
}

// arguments are the members of a request's "arguments"; nil if it has none.
type arguments map[string]json.RawMessage

// members returns the members of a JSON object, nil of anything else.
func members(b json.RawMessage) arguments {
	var object arguments
	if json.Unmarshal(b, &object) != nil {
		return nil
	}
	return object
}

// text returns a JSON string.
func text(b json.RawMessage) (s string, ok bool) {
	var p *string
	if json.Unmarshal(b, &p) != nil || p == nil {
		return "", false
	}
	return *p, true
}

// forward returns what add_hostfwd asks for. guest is whom it means without a
// guest_addr.
func (a arguments) forward(guest netip.Addr) (Forward, error) {
	const command = "add_hostfwd: bad arguments."
	var f Forward
	switch proto, _ := text(a["proto"]); proto {
	case "tcp":
		f.Proto = flow.TCP
	case "udp":
		f.Proto = flow.UDP
	default:
		return f, badRequest(command + "proto")
	}
	host, ok := a.addr("host_addr", netip.IPv4Unspecified())
	if !ok {
		return f, badRequest(command + "host_addr")
	}
	hostPort, ok := a.port("host_port")
	if !ok {
		return f, badRequest(command + "host_port")
	}
	to, ok := a.addr("guest_addr", guest)
	if !ok || to.Zone() != "" {
		return f, badRequest(command + "guest_addr")
	}
	if to.IsUnspecified() {
		to = guest
	}
	guestPort, ok := a.port("guest_port")
	if !ok {
		return f, badRequest(command + "guest_port")
	}
	f.Host, f.Guest = netip.AddrPortFrom(host, hostPort), netip.AddrPortFrom(to, guestPort)
	return f, nil
}

// addr returns the address in a member; preset if there is none.
func (a arguments) addr(name string, preset netip.Addr) (addr netip.Addr, ok bool) {
	raw := a[name]
	if raw == nil || string(raw) == "null" {
		return preset, true
	}
	s, ok := text(raw)
	if ok && s == "" {
		return preset, true
	}
	addr, err := netip.ParseAddr(s)
	return addr.Unmap(), err == nil
}

// port returns the port in a member.
func (a arguments) port(name string) (port uint16, ok bool) {
	n, ok := a.number(name)
	return uint16(n), ok && n >= 1 && n <= math.MaxUint16
}

// number returns the number in a member without its fraction.
func (a arguments) number(name string) (n int, ok bool) {
	var f *float64
	if json.Unmarshal(a[name], &f) != nil || f == nil {
		return 0, false
	}
	if whole := math.Trunc(*f); math.Abs(whole) <= math.MaxInt32 {
		return int(whole), true
	}
	return 0, false
}
