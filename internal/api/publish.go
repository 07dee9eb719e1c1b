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
	wanted, f := p.published(s.cfg.Source)
	if f == nil && p.Adopt && (len(wanted.Rules) != 1 || len(wanted.Auto) > 0 || len(files) != 1) {
		f = badRequest("adopt: %d rules and %d descriptors, want one of each", len(wanted.Rules)+len(wanted.Auto), len(files))
	}
	if f == nil {
		f = s.allows(wanted)
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
	ids, err := s.publish(r.Context(), wanted, add)
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

// publish adds all rules or none. Automatic ones are the last: what is named is
// there before others publish it.
func (s *Server) publish(ctx context.Context, p portfwd.Published, add func(context.Context, portfwd.Rule) (int, error)) (ids []int, err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, id := range ids {
			_ = s.rules.Remove(id) // somebody else may have
		}
	}()
	var id int
	for _, r := range p.Rules {
		if id, err = add(ctx, r); err != nil {
			return ids, err
		}
		ids = append(ids, id)
	}
	for _, c := range p.Auto {
		if id, err = s.rules.AddAuto(ctx, c); err != nil {
			return ids, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// published returns what a request wants published. source holds for those that
// do not say it.
func (p *Publication) published(source portfwd.SourceMode) (all portfwd.Published, _ *Failure) {
	for _, text := range p.Publish {
		one, err := portfwd.ParsePublish(text, source)
		if err != nil {
			return all, failureOf(&wordsError{text, err})
		}
		all.Rules, all.Auto = append(all.Rules, one.Rules...), append(all.Auto, one.Auto...)
	}
	for _, text := range p.Reach {
		rules, err := portfwd.ParseReach(text)
		if err != nil {
			return all, failureOf(&wordsError{text, err})
		}
		all.Rules = append(all.Rules, rules...)
	}
	for i := range p.Rules {
		if err := p.Rules[i].addTo(&all); err != nil {
			return all, badRequest("rules: %d: %v", i, err)
		}
	}
	if n := len(all.Rules) + len(all.Auto); n == 0 || n > maxPublished {
		return all, badRequest("%d rules, want 1 to %d", n, maxPublished)
	}
	return all, nil
}

// addTo adds the rule that is meant.
func (s *RuleSpec) addTo(all *portfwd.Published) error {
	if s.Follows != "" {
		c, err := s.Auto()
		all.Auto = append(all.Auto, c)
		return err
	}
	r, err := s.Rule()
	all.Rules = append(all.Rules, r)
	return err
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
