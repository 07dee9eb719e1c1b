package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"taproot/internal/engine"
)

// A document is docs/openapi.json, as much of it as the tests need.
type document struct {
	Paths      map[string]map[string]json.RawMessage `json:"paths"`
	Components struct {
		Schemas map[string]schema `json:"schemas"`
	} `json:"components"`
}

// An operation is one method of a path.
type operation struct {
	Responses map[string]struct {
		Content map[string]struct {
			Schema schema `json:"schema"`
		} `json:"content"`
	} `json:"responses"`
}

// A schema is what the document uses of JSON Schema; a test wants no more in it.
type schema struct {
	Ref        string            `json:"$ref"`
	Type       string            `json:"type"`
	Text       string            `json:"description"`
	Format     string            `json:"format"`
	Enum       []string          `json:"enum"`
	Minimum    *float64          `json:"minimum"`
	Maximum    *float64          `json:"maximum"`
	Items      *schema           `json:"items"`
	Properties map[string]schema `json:"properties"`
	Required   []string          `json:"required"`
	Additional json.RawMessage   `json:"additionalProperties"`
}

func readDocument(t *testing.T) *document {
	t.Helper()
	b, err := os.ReadFile("../../docs/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	var strict struct {
		Components struct {
			Schemas json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(b, &strict); err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(strict.Components.Schemas))
	dec.DisallowUnknownFields()
	if err := dec.Decode(new(map[string]schema)); err != nil {
		t.Fatalf("schemas: %v, which the test does not know", err)
	}
	return &d
}

// check returns what is wrong with a value.
func (d *document) check(s schema, v any, at string) error {
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		var found bool
		if s, found = d.Components.Schemas[name]; !found {
			return fmt.Errorf("%s: no schema %s", at, name)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		return d.checkObject(s, v, at)
	case []any:
		if s.Type != "array" {
			break
		}
		for i, e := range v {
			if err := d.check(*s.Items, e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		return nil
	case string:
		if s.Type != "string" || s.Enum != nil && !slices.Contains(s.Enum, v) {
			break
		}
		if _, err := time.Parse(time.RFC3339Nano, v); s.Format == "date-time" && err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		return nil
	case bool:
		if s.Type == "boolean" {
			return nil
		}
	case float64:
		if s.Type == "integer" && v == math.Trunc(v) && (s.Minimum == nil || v >= *s.Minimum) && (s.Maximum == nil || v <= *s.Maximum) {
			return nil
		}
	}
	return fmt.Errorf("%s: %v is no %s %v", at, v, s.Type, s.Enum)
}

func (d *document) checkObject(s schema, v map[string]any, at string) error {
	if s.Type != "object" {
		return fmt.Errorf("%s: got an object, want %s", at, s.Type)
	}
	for _, name := range s.Required {
		if _, ok := v[name]; !ok {
			return fmt.Errorf("%s: %s is missing", at, name)
		}
	}
	var other *schema
	if len(s.Additional) > 0 && s.Additional[0] == '{' {
		if err := json.Unmarshal(s.Additional, &other); err != nil {
			return err
		}
	}
	for name, e := range v {
		p, ok := s.Properties[name]
		switch {
		case ok:
		case other != nil:
			p = *other
		default:
			return fmt.Errorf("%s: %s is not described", at, name)
		}
		if err := d.check(p, e, at+"."+name); err != nil {
			return err
		}
	}
	return nil
}

// operations returns all that the document describes, as "GET /v1/info".
func (d *document) operations(t *testing.T) map[string]operation {
	t.Helper()
	all := make(map[string]operation)
	for path, methods := range d.Paths {
		for method, raw := range methods {
			if method == "parameters" {
				continue
			}
			var o operation
			if err := json.Unmarshal(raw, &o); err != nil {
				t.Fatal(err)
			}
			all[strings.ToUpper(method)+" "+path] = o
		}
	}
	return all
}

// TestDocumentHasRoutes wants the same requests in the document and in the
// server.
func TestDocumentHasRoutes(t *testing.T) {
	described := readDocument(t).operations(t)
	routes := (&Server{}).routes()
	for route := range routes {
		if _, ok := described[route]; !ok {
			t.Errorf("%s is not described", route)
		}
	}
	for route := range described {
		if _, ok := routes[route]; !ok {
			t.Errorf("%s is described, and does not exist", route)
		}
	}
}

// TestDocumentHasAnswers makes each request, in vain too, and wants the answers
// as they are described.
func TestDocumentHasAnswers(t *testing.T) {
	d := readDocument(t)
	operations := d.operations(t)
	b := newBench(t)
	asked := make(map[string]bool)
	ask := func(route, path, body string, status int) {
		t.Helper()
		asked[route] = true
		method, _, _ := strings.Cut(route, " ")
		r, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := b.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if answer.StatusCode != status {
			t.Errorf("%s %s: got %s, want %d", method, path, answer.Status, status)
		}
		if err := d.checkAnswer(operations[route], answer); err != nil {
			t.Errorf("%s %s: %v", method, path, err)
		}
	}
	all := `{"publish":["127.0.0.1::80","127.0.0.1::80/udp,source=gateway","auto:80/tcp"],"rules":[{"proto":"tcp","listen":{"address":"127.0.0.1"},"target":{"port":1},"weak":true}]}`
	ask("POST /v1/rules", "/v1/rules", all, 201)
	ask("POST /v1/rules", "/v1/rules", `{"publish":["x"]}`, 400)
	ask("POST /v1/restart", "/v1/restart", `{"binary":"/usr/bin/taproot"}`, 200)
	ask("POST /v1/restart", "/v1/restart", `{"binary":"taproot"}`, 400)
	for range 2 { // with an engine, and without
		ask("GET /v1/info", "/v1/info", "", 200)
		ask("GET /v1/rules", "/v1/rules", "", 200)
		ask("GET /v1/rules/{id}", "/v1/rules/1", "", 200)
		ask("GET /metrics", "/metrics", "", 200)
		ask("GET /v1/events", "/v1/events", "", 200)
		b.instance.fail(engine.ErrNoEngine, engine.EngineStarting)
	}
	for _, route := range []string{"GET /v1/flows", "GET /v1/stats"} {
		ask(route, route[4:], "", 503)
	}
	ask("DELETE /v1/flows", "/v1/flows?id=1", "", 503)
	ask("POST /v1/restart", "/v1/restart", "{}", 503)
	b.instance.fail(engine.ErrBusy, engine.EngineRunning)
	ask("POST /v1/restart", "/v1/restart", "{}", 409)
	b.instance.fail(nil, engine.EngineRunning)
	ask("GET /v1/flows", "/v1/flows", "", 200)
	ask("GET /v1/stats", "/v1/stats", "", 200)
	ask("DELETE /v1/flows", "/v1/flows?id=1", "", 200)
	ask("DELETE /v1/rules/{id}", "/v1/rules/1?kill=1", "", 204)
	ask("DELETE /v1/rules/{id}", "/v1/rules/1", "", 404)
	for route := range operations {
		if !asked[route] {
			t.Errorf("%s is not tested", route)
		}
	}
}

// checkAnswer returns what is wrong with an answer; of a stream it looks at the
// first line.
func (d *document) checkAnswer(o operation, answer *http.Response) error {
	described, ok := o.Responses[fmt.Sprint(answer.StatusCode)]
	if !ok {
		described = o.Responses["default"]
	}
	media := answer.Header.Get("Content-Type")
	if described.Content == nil && media == "" {
		return nil
	}
	content, ok := described.Content[media]
	switch {
	case !ok:
		return fmt.Errorf("content type %q is not described", media)
	case media == metricsType:
		return nil // TestMetrics looks
	}
	var v any
	if err := json.NewDecoder(answer.Body).Decode(&v); err != nil {
		return err
	}
	return d.check(content.Schema, v, "answer")
}

// TestMetrics parses what Prometheus would.
func TestMetrics(t *testing.T) {
	b := newBench(t)
	if _, err := b.Publish(t.Context(), Publication{Publish: []string{"127.0.0.1::80"}}); err != nil {
		t.Fatal(err)
	}
	samples := b.metrics(t)
	for name, want := range map[string]string{
		`taproot_info{name="web",version="v1"}`:             "1",
		`taproot_engine_up`:                                 "1",
		`taproot_flows{proto="tcp"}`:                        "1",
		`taproot_rule_bytes_total{rule="1",to="initiator"}`: "7",
		`taproot_frames_sent_total`:                         "7",
		`taproot_flow_bytes_total{proto="udp",to="target"}`: "0",
		`taproot_limit{of="flows_tcp"}`:                     "2",
		`taproot_limit{of="api_connections"}`:               "1024",
		`taproot_limit_refused_total{of="flows_tcp"}`:       "3",
	} {
		if got := samples[name]; got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	b.instance.fail(engine.ErrNoEngine, engine.EngineStarting)
	samples = b.metrics(t)
	if _, ok := samples[`taproot_flows{proto="tcp"}`]; ok || samples["taproot_engine_up"] != "0" {
		t.Errorf("without an engine: got %v, want nothing of it", samples)
	}
	if got, want := labels("a", "x\"\\\n"), `{a="x\"\\\n"}`; got != want {
		t.Errorf("labels: got %s, want %s", got, want)
	}
}

// metrics returns the samples, which each must come after what says what they
// are, and with the others of their name.
func (b *bench) metrics(t *testing.T) map[string]string {
	t.Helper()
	answer, err := b.http.Get("http://x/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	samples := make(map[string]string)
	var family string
	seen := make(map[string]bool)
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	for i, line := range lines {
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			family, _, _ = strings.Cut(rest, " ")
			if seen[family] || i+1 == len(lines) || !strings.HasPrefix(lines[i+1], "# TYPE "+family+" ") {
				t.Errorf("family %s: twice, or without a type", family)
			}
			seen[family] = true
			continue
		}
		if strings.HasPrefix(line, "# TYPE ") {
			continue
		}
		name, value, ok := strings.Cut(line, "} ")
		if ok {
			name += "}"
		} else {
			name, value, ok = strings.Cut(line, " ")
		}
		if bare, _, _ := strings.Cut(name, "{"); !ok || bare != family {
			t.Errorf("line %q: not of family %s", line, family)
		}
		if _, twice := samples[name]; twice {
			t.Errorf("%s comes twice", name)
		}
		samples[name] = value
	}
	return samples
}
