package front

// nearest returns the word of words that name was probably meant to be: at
// most a third of its letters, and never more than two, are wrong.
func nearest(name string, words []string) (word string, ok bool) {
	least := min(2, max(1, len(name)/3)) + 1
	for _, w := range words {
		if d := distance(name, w); d < least {
			word, least = w, d
		}
	}
	return word, word != ""
}

// distance counts the bytes to insert, remove, replace or swap with their
// neighbour to get from a to b ("optimal string alignment").
func distance(a, b string) int {
	var before []int // the row before last
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
