package control

import (
	"context"
	"encoding/json"
	"errors"
)

// A Forwarder publishes ports. Its methods may be called concurrently, and
// return soon.
type Forwarder interface {
	// Add publishes a port, which is open when it returns.
	Add(context.Context, Forward) (id int, err error)

	// List returns what is published, in the order of ids.
	List() []Forward

	// Remove closes a port. Connections through it stay. The error wraps
	// ErrNoForward if there is none with that id.
	Remove(id int) error
}

// ErrNoForward says that nothing is published under an id.
var ErrNoForward = errors.New("no such id")

// An entry is a Forward as clients read it.
type entry struct {
	ID        int    `json:"id"`
	Proto     string `json:"proto"`
	HostAddr  string `json:"host_addr"`
	HostPort  uint16 `json:"host_port"`
	GuestAddr string `json:"guest_addr"`
	GuestPort uint16 `json:"guest_port"`
}

// A fault is why a request was not carried out.
type fault struct {
	Desc  string `json:"desc"`
	Cause string `json:"cause,omitempty"`
}

// refuse returns the reply to a request that is not carried out. cause is what
// the client cannot see, nil if there is nothing.
func refuse(what badRequest, cause error) any {
	f := &fault{Desc: "bad request: " + string(what)}
	if cause != nil {
		f.Cause = cause.Error()
	}
	return struct {
		Error *fault `json:"error"`
	}{f}
}

// done returns the reply to a request that was carried out.
func done(result any) any {
	return struct {
		Return any `json:"return"`
	}{result}
}

// answer carries a request out and returns the reply as it is sent.
func (s *Server) answer(ctx context.Context, r request, err error) []byte {
	var result any
	var bad badRequest
	switch {
	case errors.As(err, &bad):
		result = refuse(bad, nil)
	case err != nil: // the rest never came
		result = refuse(errSyntax, nil)
	default:
		result = s.execute(ctx, r)
	}
	b, err := json.Marshal(result)
	if err != nil { // there is nothing in a reply that could not be encoded
		return nil
	}
	return b
}

// execute carries a request out.
func (s *Server) execute(ctx context.Context, r request) any {
	switch r.execute {
	case "add_hostfwd":
		return s.add(ctx, r.arguments)
	case "list_hostfwd":
		return s.list()
	case "remove_hostfwd":
		return s.remove(r.arguments)
	}
	return refuse(errExecute, nil)
}

func (s *Server) add(ctx context.Context, a arguments) any {
	f, err := a.forward(s.cfg.Guest)
	if bad := badRequest(""); errors.As(err, &bad) {
		return refuse(bad, nil)
	}
	id, err := s.forwarder.Add(ctx, f)
	if err != nil {
		s.cfg.Log.Debug("add_hostfwd", "host", f.Host, "guest", f.Guest, "error", err)
		return refuse("add_hostfwd: slirp_add_hostfwd failed", err)
	}
	return done(struct {
		ID int `json:"id"`
	}{id})
}

func (s *Server) list() any {
	entries := []entry{} // not null
	for _, f := range s.forwarder.List() {
		entries = append(entries, newEntry(f))
	}
	type list struct {
		Entries []entry `json:"entries"`
	}
	return struct {
		Return list `json:"return"`
		list
	}{list{entries}, list{entries}}
}

func newEntry(f Forward) entry {
	return entry{
		ID: f.ID, Proto: f.Proto.String(),
		HostAddr: f.Host.Addr().String(), HostPort: f.Host.Port(),
		GuestAddr: f.Guest.Addr().String(), GuestPort: f.Guest.Port(),
	}
}

func (s *Server) remove(a arguments) any {
	const bad = badRequest("remove_hostfwd: bad arguments.id")
	id, ok := a.number("id")
	if !ok {
		return refuse(bad, nil)
	}
	switch err := s.forwarder.Remove(id); {
	case errors.Is(err, ErrNoForward):
		return refuse(bad, nil)
	case err != nil:
		return refuse("remove_hostfwd: slirp_remove_hostfwd failed", err)
	}
	return done(struct{}{})
}
