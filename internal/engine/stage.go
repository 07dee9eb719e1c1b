package engine

import (
	"encoding/json"
	"fmt"
	"os"

	"taproot/tap"
	"taproot/userns"
)

// A deviceSpec is how the stage opens the device, and what came of it.
type deviceSpec struct {
	Offload  tap.Offload
	Features tap.Features
}

// StageMain is the whole of the stage's process: it opens the TAP device inside
// the guest, passes it out and becomes the command. It returns the process's
// exit status if it did not.
func StageMain() int { return userns.Stage(openDevice) }

// openDevice implements userns.Opener.
func openDevice(name string, request json.RawMessage) (*os.File, json.RawMessage, error) {
	var d deviceSpec
	if err := json.Unmarshal(request, &d); err != nil {
		return nil, nil, fmt.Errorf("device %s: %w", name, err)
	}
	f, features, err := tap.Open(name, d.Offload)
	if err != nil {
		return nil, nil, err
	}
	d.Features = features
	report, err := json.Marshal(d)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, report, nil
}
