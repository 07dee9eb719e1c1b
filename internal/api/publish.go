package api

import (
	"context"
	"net/http"
	"os"
	"slices"

	"taproot/portfwd"
)

// maxPublished is how many rules one request may add.
const maxPublished = 4096

// postRules publishes what a request asks for, or nothing of it.
func (s *Server) postRules(w http.ResponseWriter, r *http.Request) {
	var p Publication
	f := decodeQuery(r.URL.RawQuery, nil)
	if f == nil {
		f = decodeBody(w, r, &p)
	}
	files := passed(r)
	defer closeAll(files)
	if f != nil {
		s.fail(w, f)
		return
	}
	rules, f := p.rules(s.cfg.Source)
	if f == nil && p.Adopt && (len(rules) != 1 || len(files) != 1) {
		f = badRequest("adopt: %d rules and %d descriptors, want one of each", len(rules), len(files))
	}
	if f != nil {
		s.fail(w, f)
		return
	}
	add := s.rules.Add
	if p.Adopt {
		add = func(ctx context.Context, r portfwd.Rule) (int, error) {
			r.Local = false // the socket says where it listens
			return s.rules.Adopt(ctx, r, files[0])
		}
	}
	ids, err := s.publish(r.Context(), rules, add)
	if err != nil {
		s.fail(w, failureOf(err))
		return
	}
	entries := slices.DeleteFunc(s.rules.List(), func(e portfwd.Entry) bool { return !slices.Contains(ids, e.ID) })
	list, state := s.withCounters(r, entries)
	s.reply(w, http.StatusCreated, Rules{Engine: state, Rules: list})
}

// passed returns the descriptors that came with a request.
func passed(r *http.Request) []*os.File {
	if c, ok := r.Context().Value(connKey{}).(*conn); ok {
		return c.take()
	}
	return nil
}

// publish adds all rules or none.
func (s *Server) publish(ctx context.Context, rules []portfwd.Rule, add func(context.Context, portfwd.Rule) (int, error)) ([]int, error) {
	var ids []int
	for _, r := range rules {
		id, err := add(ctx, r)
		if err != nil {
			for _, id := range ids {
				_ = s.rules.Remove(id) // somebody else may have
			}
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// rules returns what a request wants published. source holds for those that do
// not say it.
func (p *Publication) rules(source portfwd.SourceMode) ([]portfwd.Rule, *Failure) {
	var list []portfwd.Rule
	for _, text := range p.Publish {
		published, err := portfwd.ParsePublish(text, source)
		if err != nil {
			return nil, failureOf(&wordsError{text, err})
		}
		if len(published.Auto) > 0 {
			f := badRequest("publish %s: what is automatic is chosen at the start", text)
			f.Remedy = "start the instance with: --publish=" + text
			return nil, f
		}
		list = append(list, published.Rules...)
	}
	for _, text := range p.Reach {
		rules, err := portfwd.ParseReach(text)
		if err != nil {
			return nil, failureOf(&wordsError{text, err})
		}
		list = append(list, rules...)
	}
	for i := range p.Rules {
		r, err := p.Rules[i].Rule()
		if err != nil {
			return nil, badRequest("rules: %d: %v", i, err)
		}
		list = append(list, r)
	}
	if n := len(list); n == 0 || n > maxPublished {
		return nil, badRequest("%d rules, want 1 to %d", n, maxPublished)
	}
	return list, nil
}

// A wordsError is what is wrong with the text of a rule.
type wordsError struct {
	text string
	err  error
}

// Error names the text.
func (e *wordsError) Error() string { return e.text + ": " + e.err.Error() }

// Unwrap gives the cause.
func (e *wordsError) Unwrap() error { return e.err }
