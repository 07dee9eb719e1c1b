package api

import (
	"net/netip"
	"time"
)

// An Info is what an instance is and how it does.
type Info struct {
	Name    string    `json:"name"`
	PID     int       `json:"pid"` // of the supervisor
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	Socket  string    `json:"socket"`

	Engine   Engine   `json:"engine"`
	Guest    Guest    `json:"guest"`
	Shortcut Shortcut `json:"shortcut"`
	Sandbox  Sandbox  `json:"sandbox"`
}

// An Engine is how the engine does.
type Engine struct {
	State      string    `json:"state"` // "starting", "running" or "gone"
	Since      time.Time `json:"since"` // of State
	Restarts   int       `json:"restarts"`
	Binary     string    `json:"binary,omitempty"`      // what engines are made of; left out for the instance's own program
	RolledBack string    `json:"rolled_back,omitempty"` // the program before Binary that did not last, and why
	Why        string    `json:"why,omitempty"`         // what the engine before died of, or the network
}

// A Guest is the guest's network.
type Guest struct {
	PID        int            `json:"pid,omitempty"`         // by which it was entered
	NetNS      string         `json:"netns,omitempty"`       // path
	NetNSInode uint64         `json:"netns_inode,omitempty"` // as lsns(8) shows it
	Interface  string         `json:"interface,omitempty"`
	MTU        int            `json:"mtu,omitempty"` // bytes of IP packet; 0 is the kernel's
	Offload    bool           `json:"offload"`
	Addresses  []netip.Prefix `json:"addresses"`
	Gateways   []netip.Addr   `json:"gateways"`
	Resolvers  []netip.Addr   `json:"resolvers"`
}

// A Shortcut says whether TCP may go from socket to socket.
type Shortcut struct {
	On  bool   `json:"on"`
	Why string `json:"why,omitempty"` // it is not
}

// A Sandbox is what the engine has given up besides its capabilities.
type Sandbox struct {
	Mode  string        `json:"mode"` // "auto", "require" or "off": what it had to
	Steps []SandboxStep `json:"steps"`
}

// A SandboxStep is a part of the sandbox.
type SandboxStep struct {
	Name   string `json:"name"` // one of engine.StepNamespaces to engine.StepSupervisor
	On     bool   `json:"on"`
	Detail string `json:"detail,omitempty"` // of what kind it is, or why it is not on
}

// An End is where a rule listens, or leads to.
type End struct {
	Address netip.Addr `json:"address,omitzero"`
	Port    uint16     `json:"port,omitempty"` // the first one
	Unix    string     `json:"unix,omitempty"` // path of a socket, instead
}

// A RuleSpec says what a rule is to do, field by field; portfwd.Rule says what
// the fields mean and which go together.
type RuleSpec struct {
	Direction string `json:"direction,omitempty"` // "inbound" or "outbound"; inbound if left out
	Proto     string `json:"proto,omitempty"`     // "tcp" or "udp"; tcp if left out
	Listen    End    `json:"listen"`
	Local     bool   `json:"local,omitempty"`
	Device    string `json:"device,omitempty"`
	Ports     int    `json:"ports,omitempty"` // 1 if left out
	Target    End    `json:"target"`
	Source    string `json:"source,omitempty"` // "preserve" or "gateway"; preserve if left out
	Proxy     uint8  `json:"proxy,omitempty"`
	Loopback  bool   `json:"loopback,omitempty"`
	Freebind  bool   `json:"freebind,omitempty"`
	Wait      bool   `json:"wait,omitempty"`
	Weak      bool   `json:"weak,omitempty"`

	// Follows makes the rule an automatic one: the ports that it may publish, as
	// "80,8000-8999", "all" or "none"; "" for others. It has no ports of its own:
	// each is a rule whose By is the automatic one's id, and which is there as long
	// as somebody listens.
	Follows string `json:"follows,omitempty"`
}

// A Rule is a published port.
type Rule struct {
	ID int `json:"id"`
	RuleSpec

	// Spec is the rule in the words of the command line, "" if these cannot
	// say it.
	Spec string `json:"spec,omitempty"`

	By int `json:"by,omitempty"` // id of the automatic rule that it is a port of

	State    string    `json:"state"` // "open", "waiting", "refusing" or "following"
	Error    string    `json:"error,omitempty"`
	Bound    int       `json:"bound"` // ports that are open
	Counters *Counters `json:"counters,omitempty"`
}

// Counters count flows since the engine's start.
type Counters struct {
	Live             int    `json:"live"`
	Opened           uint64 `json:"opened"`
	BytesToTarget    uint64 `json:"bytes_to_target"`    // payload
	BytesToInitiator uint64 `json:"bytes_to_initiator"` // payload
}

// Rules are published ports in the order of their ids.
type Rules struct {
	// Engine is its state. Without one that runs, rules have no counters.
	Engine string `json:"engine"`
	Rules  []Rule `json:"rules"`
}

// A Publication is what is to be published, all or nothing.
type Publication struct {
	// Publish and Reach are in the words of the command line's options.
	Publish []string `json:"publish,omitempty"`
	Reach   []string `json:"reach,omitempty"`

	Rules []RuleSpec `json:"rules,omitempty"`

	// Adopt says that the one rule's socket, bound and listening, came with the
	// request as a descriptor (SCM_RIGHTS, unix(7)).
	Adopt bool `json:"adopt,omitempty"`
}

// A Restart asks for another engine.
type Restart struct {
	// Binary is the absolute path of the program; without it, it is the same as now.
	Binary string `json:"binary,omitempty"`
}

// A Flow is one TCP connection, UDP address pair or echo identifier.
type Flow struct {
	ID        uint64         `json:"id"`
	Proto     string         `json:"proto"`     // "tcp", "udp" or "icmp"
	Direction string         `json:"direction"` // "outbound", or "inbound" from the host
	Way       string         `json:"way"`       // "frames" or "shortcut"
	Initiator netip.AddrPort `json:"initiator"`
	Target    netip.AddrPort `json:"target"`
	Rule      int            `json:"rule,omitempty"` // of a published port
	Opened    time.Time      `json:"opened"`

	BytesToTarget    uint64 `json:"bytes_to_target"`    // payload
	BytesToInitiator uint64 `json:"bytes_to_initiator"` // payload
}

// Flows are live flows in the order of their ids.
type Flows struct {
	Flows []Flow `json:"flows"`
}

// Killed is how many flows were ended.
type Killed struct {
	Killed int `json:"killed"`
}

// Stats are what the engine has counted since its start.
type Stats struct {
	Since     time.Time             `json:"since"`
	Protocols map[string]ProtoStats `json:"protocols"` // "tcp", "udp" and "icmp"
	Shortcut  int                   `json:"shortcut"`  // live flows that take it
	Counters  map[string]uint64     `json:"counters"`  // see docs/man/taproot-ctl.1
	Limits    map[string]Limit      `json:"limits"`    // the same
}

// A Limit is how much there is of something, and may be.
type Limit struct {
	Now     uint64 `json:"now"`
	Limit   uint64 `json:"limit"`   // 0: none
	Refused uint64 `json:"refused"` // how often somebody was turned away because of it
}

// ProtoStats count the flows of one protocol.
type ProtoStats struct {
	Counters
	Peak    int    `json:"peak"`
	Limit   int    `json:"limit"`
	Refused uint64 `json:"refused"` // flows that met the limit
}

// An Event is something that has happened.
type Event struct {
	Time time.Time `json:"time"`

	// Event is "start" for the first one, "rule-added", "rule-changed" or
	// "rule-removed", or an engine.EventKind.
	Event string `json:"event"`
	Why   string `json:"why,omitempty"`
	Rule  *Rule  `json:"rule,omitempty"`  // of rule events, without counters
	Rules []Rule `json:"rules,omitempty"` // those that there are at the start
}

// A Failure is why a request was not carried out. It is an error.
type Failure struct {
	Code    string `json:"code"` // see the constants
	Message string `json:"message"`
	Remedy  string `json:"hint,omitempty"`
	Port    uint16 `json:"port,omitempty"` // of the host, that could not be bound
	status  int    // of HTTP
}

// The codes of failures.
const (
	CodeBadRequest = "bad-request" // it makes no sense
	CodeNotFound   = "not-found"   // there is no such thing
	CodeConflict   = "conflict"    // somebody else has the port, or is doing the same
	CodeForbidden  = "forbidden"   // the user may not have the port
	CodeExhausted  = "exhausted"   // no descriptors or memory
	CodeNoEngine   = "no-engine"   // for the moment; try again
	CodeFailed     = "failed"      // anything else
)

// Error returns the message.
func (f *Failure) Error() string { return f.Message }

// Hint returns what to do about it, or "".
func (f *Failure) Hint() string { return f.Remedy }

// A failed is a Failure as it is sent.
type failed struct {
	Error *Failure `json:"error"`
}
