package engine

import (
	"net/netip"
	"slices"
	"time"

	"taproot/internal/plan"
)

// An EngineState says whether packets move.
type EngineState string

// The states of the engine.
const (
	EngineStarting EngineState = "starting" // for the first time, or again
	EngineRunning  EngineState = "running"
	EngineGone     EngineState = "gone" // for good: the guest has no network any more
)

// A Status is what an instance is and how it does. Its slices are the caller's.
type Status struct {
	Engine     EngineState
	Since      time.Time // of Engine
	Restarts   int       // of the engine
	Binary     string    // what engines are made of; "" for the supervisor's own program
	RolledBack string    // the program before Binary that did not last, and why; "" if none
	Why        string    // what the engine before died of, or the network; "" if none did

	// Process is the process id that the guest was entered by, 0 if that was not
	// a process. Path is that of its network namespace, "" if only a device is
	// known, and NetNS the namespace's inode number, by which lsns(8) calls it.
	Process int
	Path    string
	NetNS   uint64

	Interface string
	MTU       int            // bytes of IP packet; 0 is the kernel's
	Addresses []netip.Prefix // the guest's
	Gateways  []netip.Addr
	Resolvers []netip.Addr

	Offload  bool   // the device has offloads
	Shortcut bool   // TCP may take the shortcut
	Without  string // why it may not

	// Sandbox is what the engine had to give up, SandboxSteps what it has.
	Sandbox      SandboxMode
	SandboxSteps []SandboxStep
}

// status returns the instance's status.
func (s *supervisor) status() Status {
	s.mu.Lock()
	network := s.network
	st := Status{Engine: s.state, Since: s.since, Restarts: s.restarts, Binary: s.binary.String(), RolledBack: s.rolledBack, Why: s.why, SandboxSteps: slices.Clone(s.sandbox)}
	if s.forgone.Name != "" {
		st.SandboxSteps = append(st.SandboxSteps, s.forgone)
	}
	s.mu.Unlock()
	if st.Engine == "" {
		st.Engine = EngineStarting
	}
	st.describe(&network)
	st.Process, st.Path = s.world.place()
	if ns, err := s.world.namespace(); err == nil {
		st.NetNS = ns.Number()
	}
	st.Offload, st.Sandbox = s.spec.Features.Header, s.cfg.Sandbox.Mode
	st.Shortcut, st.Without = s.diversion.status()
	return st
}

// describe adds what a plan says.
func (st *Status) describe(p *plan.Plan) {
	st.Interface, st.MTU = p.Interface, p.MTU
	for _, f := range p.Families() {
		st.Addresses = append(st.Addresses, f.Guest...)
		if f.Gateway.IsValid() && f.On() {
			st.Gateways = append(st.Gateways, f.Gateway)
		}
		if f.Resolver.IsValid() {
			st.Resolvers = append(st.Resolvers, f.Resolver)
		}
	}
}

// engineState notes how the engine does.
func (s *supervisor) engineState(state EngineState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == EngineGone || s.state == state {
		return
	}
	if s.state == EngineStarting && state == EngineRunning && s.restarts > 0 {
		defer s.events.tell(EventEngineStarted, "")
	}
	s.state, s.since = state, time.Now()
}
