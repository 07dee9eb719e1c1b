package probe

import "fmt"

// Unsupported says that this kernel or this user lacks a feature.
type Unsupported struct {
	Feature string // as in Result.Name
	Since   string // first kernel that has it, as "Linux 5.13"; "" if that is not the question
	Remedy  string // what to do, as in Result.Remedy
	Err     error  // what was found
}

// Error names the feature and what was found.
func (u *Unsupported) Error() string {
	if u.Since != "" {
		return fmt.Sprintf("%s (%s): %v", u.Feature, u.Since, u.Err)
	}
	return fmt.Sprintf("%s: %v", u.Feature, u.Err)
}

// Unwrap gives the cause.
func (u *Unsupported) Unwrap() error { return u.Err }

// Hint returns the remedy.
func (u *Unsupported) Hint() string { return u.Remedy }
