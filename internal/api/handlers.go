package api

import (
	"encoding/json"
	"net/http"
	"os"
	"strconv"

	"taproot/internal/engine"
	"taproot/portfwd"
)

// jsonType is the media type of what comes and goes.
const jsonType = "application/json"

// reply writes an answer.
func (s *Server) reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		s.cfg.Log.Debug("API client", "error", err)
	}
}

// fail writes why a request was not carried out.
func (s *Server) fail(w http.ResponseWriter, f *Failure) {
	if f.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1") // second: an engine is started in a fraction of it
	}
	s.away.requests.Add(1)
	s.reply(w, f.status, failed{f})
}

// unknown answers what is none of the routes.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	f := &Failure{Code: CodeNotFound, Message: r.Method + " " + r.URL.Path + ": no such request", status: http.StatusNotFound}
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := s.mux.Handler(other); pattern != "/" {
			w.Header().Add("Allow", method)
			f.status = http.StatusMethodNotAllowed
		}
	}
	s.fail(w, f)
}

func (s *Server) getInfo(w http.ResponseWriter, r *http.Request) {
	if f := decodeQuery(r.URL.RawQuery, nil); f != nil {
		s.fail(w, f)
		return
	}
	s.reply(w, http.StatusOK, s.info())
}

func (s *Server) info() Info {
	st := s.instance.Status()
	info := infoOf(&st)
	info.Name, info.PID, info.Version = s.cfg.Name, os.Getpid(), s.cfg.Version
	info.Started, info.Socket = s.started, s.cfg.Path
	return info
}

func (s *Server) getFlows(w http.ResponseWriter, r *http.Request) {
	which, f := decodeSelection(r.URL.RawQuery)
	if f != nil {
		s.fail(w, f)
		return
	}
	list, err := s.instance.Flows(r.Context(), which.Filter)
	if err != nil {
		s.fail(w, failureOf(err))
		return
	}
	flows := Flows{Flows: make([]Flow, len(list))}
	for i := range list {
		flows.Flows[i] = flowOf(&list[i])
	}
	s.reply(w, http.StatusOK, flows)
}

// deleteFlows ends flows. That all are meant must be said: a filter that was
// forgotten shall not end everything.
func (s *Server) deleteFlows(w http.ResponseWriter, r *http.Request) {
	which, f := decodeSelection(r.URL.RawQuery)
	if f == nil && !which.says() {
		f = badRequest("query: which flows?")
		f.Remedy = "all=1 means all"
	}
	if f != nil {
		s.fail(w, f)
		return
	}
	n, err := s.instance.Kill(r.Context(), which.Filter)
	if err != nil {
		s.fail(w, failureOf(err))
		return
	}
	s.reply(w, http.StatusOK, Killed{n})
}

func (s *Server) getStats(w http.ResponseWriter, r *http.Request) {
	if f := decodeQuery(r.URL.RawQuery, nil); f != nil {
		s.fail(w, f)
		return
	}
	st, err := s.instance.Statistics(r.Context())
	if err != nil {
		s.fail(w, failureOf(err))
		return
	}
	st.Limits = append(st.Limits, s.limits()...)
	s.reply(w, http.StatusOK, statsOf(&st))
}

// getRules lists rules also while there is no engine, without counters.
func (s *Server) getRules(w http.ResponseWriter, r *http.Request) {
	if f := decodeQuery(r.URL.RawQuery, nil); f != nil {
		s.fail(w, f)
		return
	}
	list, state := s.withCounters(r, s.rules.List())
	s.reply(w, http.StatusOK, Rules{Engine: state, Rules: list})
}

// withCounters returns how rules are shown now, and the engine's state.
func (s *Server) withCounters(r *http.Request, entries []portfwd.Entry) (list []Rule, state string) {
	st, err := s.instance.Statistics(r.Context())
	if err != nil {
		state := s.instance.Status().Engine
		if state == engine.EngineRunning {
			state = engine.EngineStarting // it was not, or does not answer
		}
		return rulesOf(entries, nil), string(state)
	}
	return rulesOf(entries, st.Flows.Rules), string(engine.EngineRunning)
}

func (s *Server) getRule(w http.ResponseWriter, r *http.Request) {
	id, f := ruleID(r)
	if f == nil {
		f = decodeQuery(r.URL.RawQuery, nil)
	}
	if f != nil {
		s.fail(w, f)
		return
	}
	for _, e := range s.rules.List() {
		if e.ID == id {
			list, _ := s.withCounters(r, []portfwd.Entry{e})
			s.reply(w, http.StatusOK, list[0])
			return
		}
	}
	s.fail(w, failureOf(portfwd.ErrNoRule))
}

func (s *Server) deleteRule(w http.ResponseWriter, r *http.Request) {
	var kill bool
	id, f := ruleID(r)
	if f == nil {
		f = decodeQuery(r.URL.RawQuery, map[string]parameter{"kill": flag(&kill)})
	}
	if f != nil {
		s.fail(w, f)
		return
	}
	remove := s.rules.Remove
	if kill {
		remove = s.rules.RemoveKill
	}
	if err := remove(id); err != nil {
		s.fail(w, failureOf(err))
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// ruleID returns the rule that a request's path names.
func ruleID(r *http.Request) (int, *Failure) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 31)
	if err != nil || id == 0 {
		return 0, badRequest("rule %q: not an id", r.PathValue("id"))
	}
	return int(id), nil
}
