package api

import (
	"sync/atomic"

	"taproot/internal/engine"
)

// turnedAway counts who was.
type turnedAway struct {
	strangers atomic.Uint64 // connections of users that are not trusted
	requests  atomic.Uint64 // that were not carried out
	streams   atomic.Uint64 // that were too many
}

// limits returns how near the socket is to its limits. They are the supervisor's,
// and count from its start.
func (s *Server) limits() []engine.Limit {
	return []engine.Limit{
		{Name: "api_connections", Help: "Connections to the API, where more wait; other users are turned away.",
			Use: engine.Use{Now: uint64(len(s.slots)), Max: maxConns, Refused: s.away.strangers.Load()}},
		{Name: "api_events", Help: "Those of them that follow events.",
			Use: engine.Use{Now: uint64(len(s.streams)), Max: maxStreams, Refused: s.away.streams.Load()}},
		{Name: "api_requests", Help: "Bytes of a request to the API, which has 15 seconds, its header 5 and 8 KiB; all requests that failed are counted, and the number now is not.",
			Use: engine.Use{Max: maxBody, Refused: s.away.requests.Load()}},
	}
}
