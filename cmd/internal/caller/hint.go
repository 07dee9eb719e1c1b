package caller

import "errors"

// Hint returns what the first error of err's tree that knows a remedy says,
// which may be "". It returns false if there is none.
func Hint(err error) (string, bool) {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint(), true
	}
	return "", false
}
