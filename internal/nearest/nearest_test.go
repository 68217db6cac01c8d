package nearest

import (
	"strings"
	"testing"
)

func TestDistance(t *testing.T) {
	const far = 9
	for _, tc := range []struct {
		reason, a, b string
		enough, want int
	}{
		{"the same", "image", "image", far, 0},
		{"nothing", "", "", far, 0},
		{"one more", "image", "images", far, 1},
		{"one less", "images", "image", far, 1},
		{"another one", "colour", "colors", far, 2},
		{"the usual example", "kitten", "sitting", far, 3},
		{"nothing in common", "abc", "xyz", far, 3},
		{"far enough", "kitten", "sitting", 2, 2},
		{"one is much longer", "a", "abcdef", 3, 3},
		{"too long to tell", strings.Repeat("a", Longest+1), strings.Repeat("a", Longest+1), far, far},
	} {
		if got := Distance(tc.a, tc.b, tc.enough); got != tc.want {
			t.Errorf("%s: from %q to %q it is %d, want %d", tc.reason, tc.a, tc.b, got, tc.want)
		}
	}
}
