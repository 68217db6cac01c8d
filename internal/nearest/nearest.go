// Package nearest tells how far two names are from each other, for those who suggest
// what was meant.
package nearest

// Longest is how long a name may be, in bytes, of which somebody wants to know what
// was meant: the cost goes with the product of both lengths.
const Longest = 64

// Distance returns the number of bytes to insert, remove or replace to make b of a
// (https://en.wikipedia.org/wiki/Levenshtein_distance), or enough, if it is that far
// or a is longer than [Longest].
func Distance(a, b string, enough int) int {
	if len(a)-len(b) >= enough || len(b)-len(a) >= enough || len(a) > Longest {
		return enough
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return min(row[len(b)], enough)
}
