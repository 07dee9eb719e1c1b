package pasta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"taproot/internal/api"
	"taproot/internal/engine"
)

// serve gives an existing namespace its network until it is gone or a signal
// says so, which are no errors.
func (p *program) serve(ctx context.Context, o *options) error {
	ctx, abandon := context.WithCancelCause(ctx)
	defer abandon(nil)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()

	var waiting *launcher
	if p.name == SupervisorName {
		var err error
		if waiting, err = findLauncher(abandon); err != nil {
			return err
		}
	}
	to, err := o.attachment()
	if err != nil {
		return err
	}
	s, err := p.prepare(o)
	if err != nil {
		return err
	}
	defer s.close()
	s.config.Ready = func(i *engine.Instance) error {
		if err := publish(ctx, i.Rules, s.published); err != nil {
			return err
		}
		s.control.Start(ctx, i, completed{i.Rules, o})
		if err := s.writePID(); err != nil || waiting == nil {
			return err
		}
		p.err.redirect(s.after)
		return waiting.leave()
	}
	err = p.attach(ctx, to, s.config)
	if errors.Is(context.Cause(ctx), errAbandoned) {
		return errAbandoned
	}
	return err
}

// command runs a command in namespaces of its own and returns its status.
func (p *program) command(ctx context.Context, o *options) (status int, err error) {
	s, err := p.prepare(o)
	if err != nil {
		return statusFailure, err
	}
	defer s.close()
	s.config.Ready = func(i *engine.Instance) error {
		if err := publish(ctx, i.Rules, s.published); err != nil {
			return err
		}
		s.control.Start(ctx, i, completed{i.Rules, o})
		return s.writePID()
	}
	status, err = p.run(ctx, o.guest(), s.config)
	if err != nil {
		status = statusFailure // also for a command that is not found
	}
	return status, err
}

// A service is a configuration with its files.
type service struct {
	config    engine.Config
	published []publication
	pid       *os.File  // nil without --pid
	after     io.Writer // where messages go in the background
	files     []*os.File
	control   *api.Server // nil if there is none
}

// prepare opens the files that the options name, so that one that cannot be
// opened is known before anything else happens.
func (p *program) prepare(o *options) (*service, error) {
	ephemeral := parseEphemeral(readText("/proc/sys/net/ipv4/ip_local_port_range"))
	s := &service{config: o.config(ephemeral), published: o.publications(ephemeral), after: &systemLog{}}
	err := s.open(o, p.err)
	if err == nil {
		s.control, err = o.listen(p.version, s.config.Log)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	s.config.Warn = func(message, hint string) {
		if !o.quiet {
			tell(s.config.Stderr, "warning: "+message, hint)
		}
	}
	return s, nil
}

// open opens the files of the options. Messages go to standard, unless there is
// a log file.
func (s *service) open(o *options, standard io.Writer) (err error) {
	log := standard
	if o.logFile != "" {
		file, err := openLogFile(o.logFile, o.logSize)
		if err != nil {
			return err
		}
		s.files = append(s.files, file.file)
		log = newSink(file)
		s.after = log
	}
	s.config.Log = o.newLog(log)
	s.config.Stderr = log
	if s.pid, err = s.create(o.pidFile); err != nil {
		return err
	}
	s.config.Capture, err = s.create(o.capture)
	return err
}

// create makes a file for the user's eyes only, or empties the one that is
// there; it does nothing without a path.
func (s *service) create(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		s.files = append(s.files, f)
	}
	return f, err
}

func (s *service) close() {
	if err := s.control.Close(); err != nil {
		s.config.Log.Warn("control socket", "error", err)
	}
	for _, f := range s.files {
		f.Close()
	}
}

// writePID writes our process id into the file that --pid names. Nobody
// removes it, which callers know.
func (s *service) writePID() error {
	if s.pid == nil {
		return nil
	}
	if _, err := s.pid.WriteString(strconv.Itoa(os.Getpid()) + "\n"); err != nil {
		return fmt.Errorf("pid file: %w", err)
	}
	return s.pid.Close()
}

// readText returns the text of a file, "" if it cannot be read.
func readText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}
