package api

import (
	"bytes"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"taproot/internal/engine"
	"taproot/stack/flow"
)

// metricsType is the media type of the text format of Prometheus.
const metricsType = "text/plain; version=0.0.4; charset=utf-8"

// getMetrics writes all counters in the text format of Prometheus. Without an
// engine there are only those of the supervisor.
func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request) {
	var m metrics
	m.instance(s.info())
	if st, err := s.instance.Statistics(r.Context()); err == nil {
		m.gauge("engine_up", "Whether the engine runs and answers.", "", 1)
		m.flows(&st)
		m.rules(&st, s.specs())
		for _, c := range st.Counters {
			m.counter(c.Name+"_total", c.Help, "", c.Value)
		}
		m.limits(append(st.Limits, s.limits()...))
	} else {
		m.gauge("engine_up", "Whether the engine runs and answers.", "", 0)
	}
	w.Header().Set("Content-Type", metricsType)
	if _, err := w.Write(m.text.Bytes()); err != nil {
		s.cfg.Log.Debug("API client", "error", err)
	}
}

// specs returns the rules in words, by id.
func (s *Server) specs() map[int]string {
	words := make(map[int]string)
	for _, e := range s.rules.List() {
		words[e.ID] = e.Rule.String()
	}
	return words
}

// metrics are written one after the other: samples of one name together.
type metrics struct {
	text bytes.Buffer
	last string // name of the family that is being written
}

func (m *metrics) instance(i Info) {
	m.gauge("info", "The instance.", labels("name", i.Name, "version", i.Version), 1)
	m.gauge("start_time_seconds", "When the instance was started, since the epoch.", "", uint64(i.Started.Unix()))
	m.counter("engine_restarts_total", "How often the engine was started again.", "", uint64(i.Engine.Restarts))
	on := uint64(0)
	if i.Shortcut.On {
		on = 1
	}
	m.gauge("shortcut_on", "Whether TCP may go from socket to socket.", "", on)
}

func (m *metrics) flows(st *engine.Statistics) {
	each := func(write func(proto string, s *flow.Stats, p flow.Proto)) {
		for _, p := range []flow.Proto{flow.TCP, flow.UDP, flow.ICMP} {
			write(labels("proto", p.String()), &st.Flows.Proto[p], p)
		}
	}
	each(func(l string, s *flow.Stats, _ flow.Proto) { m.gauge("flows", "Live flows.", l, uint64(s.Live)) })
	each(func(l string, s *flow.Stats, _ flow.Proto) {
		m.gauge("flows_peak", "Most flows at any one time.", l, uint64(s.Peak))
	})
	each(func(l string, _ *flow.Stats, p flow.Proto) {
		m.gauge("flows_limit", "How many flows there may be.", l, uint64(st.Flows.Limit[p]))
	})
	each(func(l string, s *flow.Stats, _ flow.Proto) {
		m.counter("flows_opened_total", "Flows that were opened.", l, s.Opened)
	})
	each(func(l string, s *flow.Stats, _ flow.Proto) {
		m.counter("flows_refused_total", "Flows that met the limit.", l, s.Refused)
	})
	each(func(_ string, _ *flow.Stats, p flow.Proto) {
		b := st.Flows.Bytes[p]
		m.counter("flow_bytes_total", "Payload of flows.", labels("proto", p.String(), "to", "target"), b.ToTarget)
		m.counter("flow_bytes_total", "", labels("proto", p.String(), "to", "initiator"), b.ToInitiator)
	})
	m.gauge("flows_shortcut", "Live flows that take the shortcut.", "", uint64(st.Flows.Shortcut))
}

// limits writes how near all limits are.
func (m *metrics) limits(list []engine.Limit) {
	each := func(write func(name string, l *engine.Limit)) {
		for i := range list {
			write(labels("of", list[i].Name), &list[i])
		}
	}
	each(func(of string, l *engine.Limit) { m.gauge("limit", "How much there may be; 0 is no limit.", of, l.Max) })
	each(func(of string, l *engine.Limit) { m.gauge("limit_now", "How much there is.", of, l.Now) })
	each(func(of string, l *engine.Limit) {
		m.counter("limit_refused_total", "How often somebody was turned away because of a limit.", of, l.Refused)
	})
}

// rules writes the counters of rules that there are.
func (m *metrics) rules(st *engine.Statistics, specs map[int]string) {
	each := func(write func(id, text string, s flow.RuleStats)) {
		for _, id := range slices.Sorted(maps.Keys(specs)) {
			write(strconv.Itoa(id), specs[id], st.Flows.Rules[id])
		}
	}
	each(func(id, text string, s flow.RuleStats) {
		m.gauge("rule_flows", "Live flows of a published port.", labels("rule", id, "is", text), uint64(s.Live))
	})
	each(func(id, _ string, s flow.RuleStats) {
		m.counter("rule_flows_opened_total", "Flows of a published port.", labels("rule", id), s.Opened)
	})
	each(func(id, _ string, s flow.RuleStats) {
		m.counter("rule_bytes_total", "Payload of flows of a published port.", labels("rule", id, "to", "target"), s.Bytes.ToTarget)
		m.counter("rule_bytes_total", "", labels("rule", id, "to", "initiator"), s.Bytes.ToInitiator)
	})
}

func (m *metrics) gauge(name, help, labels string, v uint64) {
	m.sample(name, help, "gauge", labels, v)
}

func (m *metrics) counter(name, help, labels string, v uint64) {
	m.sample(name, help, "counter", labels, v)
}

// sample writes one line, after those that say what it is if it is the first of
// its name.
func (m *metrics) sample(name, help, kind, labels string, v uint64) {
	name = "taproot_" + name
	if name != m.last {
		m.last = name
		m.text.WriteString("# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n")
	}
	m.text.WriteString(name + labels + " " + strconv.FormatUint(v, 10) + "\n")
}

// labels returns pairs of names and values as they stand behind a name.
func labels(pairs ...string) string {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	var b strings.Builder
	for before := "{"; len(pairs) > 0; pairs, before = pairs[2:], "," {
		b.WriteString(before + pairs[0] + `="` + escape.Replace(pairs[1]) + `"`)
	}
	return b.String() + "}"
}
