package probe

// A Status says how much of a feature there is.
type Status string

// The statuses. A feature is degraded if it is there but less than it could be.
const (
	OK       Status = "ok"
	Degraded Status = "degraded"
	Missing  Status = "missing"
)

// A Result is what one probe found. Its JSON form is API (`taproot check
// --json`).
type Result struct {
	// Name is the feature's, the same on every machine.
	Name string `json:"name"`

	// Status says how much of it there is.
	Status Status `json:"status"`

	// Required means that `run` does not work without it.
	Required bool `json:"required"`

	// Detail says what was found.
	Detail string `json:"detail"`

	// Remedy is a command that gets the rest, to be pasted; "" if all is there
	// or no command helps.
	Remedy string `json:"remedy,omitempty"`
}
