package front

import (
	"cmp"
	"errors"
	"log/slog"
	"strings"

	"github.com/spf13/pflag"

	"taproot/internal/api"
	"taproot/portfwd"
)

// apiOptions are the options of an instance's name and socket.
type apiOptions struct {
	name string // "" to be made up
	api  string // "auto", "off" or a path
}

// register adds the options to fs with their defaults.
func (o *apiOptions) register(fs *pflag.FlagSet) {
	o.api = "auto"
	fs.Var(&value[string]{result: &o.name, preset: "made up", kind: "NAME",
		parse: last(parseName)}, "name", "name of the instance")
	fs.Var(&value[string]{result: &o.api, preset: o.api, kind: "PATH|auto|off",
		parse: last(parseAPI)}, "api", "socket of 'taproot ctl'")
}

func parseName(s string) (string, error) { return s, api.CheckName(s, ctlVerbs()) }

func parseAPI(s string) (string, error) {
	if s != "auto" && s != "off" && !strings.Contains(s, "/") {
		return "", &misuse{errors.New("not auto, off or a path"), "a file in this directory is ./" + s}
	}
	return s, nil
}

// check finds what is wrong although each option by itself is right.
func (o *apiOptions) check() error {
	if o.api == "off" && o.name != "" {
		return exclusive("--api=off", "--name")
	}
	return nil
}

// serve makes the socket that the options ask for; it may be nil. word is what an
// instance without a name is called by. One that nobody has asked for is done
// without where it cannot be.
func (p *program) serve(o *apiOptions, word string, source portfwd.SourceMode, log *slog.Logger) (*api.Server, error) {
	if o.api == "off" || p.listen == nil {
		return nil, nil
	}
	cfg := api.Config{Name: o.name, Version: p.version, Source: source, Log: log}
	if o.name == "" {
		cfg.Name = api.NewName(word)
	}
	if o.api != "auto" {
		cfg.Path = o.api
	}
	const remedy = "--api=off leaves it out, --api=PATH puts it elsewhere"
	s, err := p.listen(cfg)
	if err != nil && (o.name != "" || o.api != "auto") {
		if errors.Is(err, api.ErrLive) {
			err = &explained{err, "taproot ls shows it; choose another name"}
		}
		if hint(err) == "" {
			err = &explained{err, remedy}
		}
		return nil, err
	}
	if err != nil {
		p.warn(err.Error(), cmp.Or(hint(err), remedy))
	}
	return s, nil
}

// closeSocket removes an instance's socket and waits for clients to be gone.
func closeSocket(s *api.Server, log *slog.Logger) {
	if err := s.Close(); err != nil {
		log.Warn("API socket", "error", err)
	}
}
