package engine

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"taproot/portfwd"
	"taproot/stack/flow"
	"taproot/userns"
)

// newTable returns the table of published ports, which is empty.
func (s *supervisor) newTable() *portfwd.Table {
	return portfwd.NewTable(portfwd.TableConfig{
		Carrier: carrier{s}, Sockets: s.listenInGuest, Root: s.guestRoot, Diag: s.diag,
		Passed: s.cfg.Listeners, Log: s.log,
	})
}

// addRules publishes the rules of the configuration. When it returns, the engine has
// them: the guest may reach its own ports at once.
func (s *supervisor) addRules(ctx context.Context) error {
	for _, r := range s.cfg.Rules {
		if _, err := s.rules.Add(ctx, r); err != nil {
			return err
		}
	}
	if len(s.cfg.Rules) == 0 {
		return nil
	}
	send := func(w *wire, m message) error { return w.send(m) } // behind all the sockets, which may fill the wire
	if err := s.askBy(ctx, send, query{}, func(*answer) {}); err != nil {
		s.log.Debug("not known whether ports are published", "error", err) // the next engine gets them too
	}
	return nil
}

// listenInGuest opens sockets inside the guest's namespace.
func (s *supervisor) listenInGuest(ctx context.Context, specs []portfwd.Socket) ([]*os.File, error) {
	list := make([]userns.Socket, len(specs))
	for i, spec := range specs {
		list[i] = userns.Socket{
			Family: spec.Family, Type: spec.Type, Protocol: spec.Protocol,
			Bind: spec.Bind, Listen: spec.Listen, V6Only: spec.V6Only,
		}
	}
	return s.socketsInGuest(ctx, list)
}

// socketsInGuest has a child make sockets inside the guest's namespace. As long as
// it lives it holds copies of our own.
func (s *supervisor) socketsInGuest(ctx context.Context, list []userns.Socket) ([]*os.File, error) {
	ns, err := s.world.namespace()
	if err != nil {
		return nil, err
	}
	s.children.RLock()
	defer s.children.RUnlock()
	return ns.Sockets(ctx, list)
}

// outlive waits for the children that were there when it was called: what we have
// closed is closed then.
func (s *supervisor) outlive() {
	s.children.Lock()
	s.children.Unlock() //lint:ignore SA2001 nothing is guarded
}

// A carrier brings sockets to the engine. What does not arrive because the
// engine is dead, the next one gets from portfwd.Table.Republish.
type carrier struct{ s *supervisor }

func (c carrier) Publish(listeners []portfwd.Listener, files []*os.File) error {
	for len(files) > 0 {
		n := min(len(files), maxRights)
		if err := c.tell(message{Publish: listeners[:n]}, files[:n]...); err != nil {
			return err
		}
		listeners, files = listeners[n:], files[n:]
	}
	return nil
}

func (c carrier) Pause(id portfwd.SocketID) error { return c.tell(message{Pause: &id}) }

func (c carrier) Resume(id portfwd.SocketID) error { return c.tell(message{Resume: &id}) }

func (c carrier) tell(m message, files ...*os.File) error {
	return sent(c.s.current().wire.send(m, files...))
}

// sent returns the error of a word to the engine, unless it is that there is none.
func sent(err error) error {
	if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return nil
	}
	return err
}

// socketBatch is how many sockets inside the guest the engine gets at once: a
// few milliseconds' work, whatever their number.
const socketBatch = 32

// serveSockets makes the sockets inside the guest that the engine needs, until
// ctx ends.
func (s *supervisor) serveSockets(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-s.needed:
			s.sendSockets(ctx, r)
		}
	}
}

// republishPause is how long an engine without room for sockets is left alone.
const republishPause = time.Second

// republish brings an engine that missed sockets all of them again, until ctx
// ends. What it has it keeps.
func (s *supervisor) republish(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.missed:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(republishPause):
		}
		if err := s.rules.Republish(); err != nil {
			s.log.Warn("ports not published again", "error", err)
		}
	}
}

// hear notes what the engine says. There are few kinds of sockets, and a
// request that is waiting already covers a second one. It owns fds.
func (s *supervisor) hear(from *process, m message, fds passed) {
	if m.Handed != nil {
		s.handed(from, m.Handed, fds)
		return
	}
	fds.close()
	if m.Need != nil && m.Need.valid() {
		select {
		case s.needed <- *m.Need:
		default:
		}
	}
	if m.Connect != nil {
		select {
		case s.connects <- *m.Connect:
		default: // more than an engine of ours has under way
		}
	}
	if m.Undiverted {
		select {
		case s.diversion.doubted <- struct{}{}:
		default: // it is known
		}
	}
	if m.Answer != nil {
		s.queries.deliver(m.Answer)
	}
	if m.Limited != nil && *m.Limited <= flow.ICMP {
		s.events.tell(EventFlowLimit, m.Limited.String())
	}
	if m.Refused != nil && s.refuser != nil {
		s.refuser.Note(*m.Refused)
	}
	if m.Missed {
		select {
		case s.missed <- struct{}{}:
		default: // it is known
		}
	}
	if m.Closed != 0 {
		s.closings.done(m.Closed)
	}
}

// sendSockets brings the engine a batch of sockets inside the guest, or says why
// there is none.
func (s *supervisor) sendSockets(ctx context.Context, r socketRequest) {
	engine, send := s.current(), s.sendOthers
	if r.Clients > 0 {
		send = s.sendClients
	}
	err := send(ctx, engine, r)
	if err != nil { // ETOOMANYREFS, for instance
		err = engine.wire.send(message{Sockets: &socketReply{r, err.Error()}})
	}
	if err != nil {
		s.log.Debug("sockets not sent", "error", err) // the next engine asks again
	}
}

// sendClients has a child make sockets for clients and send them. There is one for
// each connection: they do not come by here.
func (s *supervisor) sendClients(ctx context.Context, engine *process, r socketRequest) error {
	packet, err := message{Sockets: &socketReply{Request: r}}.encode()
	if err != nil {
		return err
	}
	ns, err := s.world.namespace()
	if err != nil {
		return err
	}
	s.children.RLock()
	defer s.children.RUnlock()
	return ns.SendSockets(ctx, slices.Repeat([]userns.Socket{userns.ClientSocket(r.Family)}, r.Clients), engine.wire.file, packet)
}

// sendOthers makes unconnected sockets and sends them.
func (s *supervisor) sendOthers(ctx context.Context, engine *process, r socketRequest) error {
	files, err := s.socketsInGuest(ctx, slices.Repeat([]userns.Socket{{Family: r.Family, Type: r.Type}}, min(socketBatch, thisMachine().batch())))
	if err != nil {
		return err
	}
	defer closeAll(files)
	return engine.wire.send(message{Sockets: &socketReply{Request: r}}, files...)
}
