package engine

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxWords is how much of what an engine says is shown, in bytes: its longest
// sentence has 300.
const maxWords = 1 << 10

// plain returns what an engine says as it may be shown at a terminal, which a guest
// that has taken the engine over would otherwise be able to write to: one line of
// text, of maxWords at most.
func plain(words string) string {
	if len(words) > maxWords {
		cut := maxWords
		for !utf8.RuneStart(words[cut]) {
			cut--
		}
		words = words[:cut] + "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, words)
}
