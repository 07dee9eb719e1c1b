package api

import (
	"net/http"
	"path/filepath"
)

// postRestart replaces the engine.
func (s *Server) postRestart(w http.ResponseWriter, r *http.Request) {
	var wanted Restart
	f := decodeQuery(r.URL.RawQuery, nil)
	if f == nil {
		f = decodeBody(w, r, &wanted)
	}
	if f == nil && wanted.Binary != "" && !filepath.IsAbs(wanted.Binary) {
		f = badRequest("binary: %q is no absolute path", wanted.Binary)
	}
	if f != nil {
		s.fail(w, f)
		return
	}
	if err := s.instance.Restart(r.Context(), wanted.Binary); err != nil {
		s.fail(w, failureOf(err))
		return
	}
	s.reply(w, http.StatusOK, s.info())
}
