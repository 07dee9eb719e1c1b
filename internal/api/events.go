package api

import (
	"encoding/json"
	"net/http"
	"time"

	"taproot/internal/engine"
	"taproot/portfwd"
)

// linesType is the media type of a stream of JSON objects.
const linesType = "application/x-ndjson"

// keepAlive is how often an empty line tells a quiet stream's reader that
// somebody is still there.
const keepAlive = 15 * time.Second

// getEvents tells of events until the client or the instance leaves, or the
// client does not read.
func (s *Server) getEvents(w http.ResponseWriter, r *http.Request) {
	if f := decodeQuery(r.URL.RawQuery, nil); f != nil {
		s.fail(w, f)
		return
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		s.away.streams.Add(1)
		s.fail(w, &Failure{Code: CodeExhausted, Message: "events: too many listen already", status: http.StatusServiceUnavailable})
		return
	}
	happened, stop := s.instance.Events()
	defer stop()
	list, changes, stopChanges := s.rules.Changes()
	defer stopChanges()
	w.Header().Set("Content-Type", linesType)
	st := stream{w: w, control: http.NewResponseController(w)}
	if st.send(&Event{Time: time.Now(), Event: "start", Rules: rulesOf(list, nil)}) != nil {
		return
	}
	quiet := time.NewTicker(keepAlive)
	defer quiet.Stop()
	for {
		var err error
		select {
		case e, ok := <-happened:
			if !ok {
				return // it was slower than what happens
			}
			err = st.send(eventOf(e))
		case c, ok := <-changes:
			if !ok {
				return
			}
			err = st.send(changeOf(c))
		case <-quiet.C:
			err = st.line(nil)
		case <-r.Context().Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func eventOf(e engine.Event) *Event { return &Event{Time: e.Time, Event: string(e.Kind), Why: e.Why} }

func changeOf(c portfwd.Change) *Event {
	r := ruleOf(&c.Entry, nil)
	return &Event{Time: time.Now(), Event: "rule-" + c.Kind.String(), Rule: &r}
}

// A stream writes lines that each have writeTimeout to be taken.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (s *stream) send(e *Event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return s.line(b)
}

func (s *stream) line(b []byte) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := s.w.Write(append(b, '\n')); err != nil {
		return err
	}
	return s.control.Flush()
}
