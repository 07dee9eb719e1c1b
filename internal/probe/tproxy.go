package probe

import (
	"strings"

	"taproot/userns"
)

// tproxy makes the rules of the shortcut, which die with the namespace if not
// before.
func tproxy() Result {
	r := Result{Name: nameTProxy, Status: OK, Detail: "nf_tables with ct, fib, tproxy and nat, as the shortcut needs"}
	less, err := userns.TryDivert()
	switch {
	case err != nil:
		r.Status, r.Detail, r.Remedy = Missing, oneLine(err), hint(err)
	case less != nil:
		r.Status, r.Detail, r.Remedy = Degraded, oneLine(less), hint(less)
	}
	return r
}

// oneLine is the text of an error that may be several.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
