package object

import "testing"

func TestAliased(t *testing.T) {
	tests := []struct {
		reason, text string
		want         bool
	}{
		{"an alias", "a: &x [1]\nb: *x\n", true},
		{"in flow style", "a: {b: &x 1, c: [*x, *x]}", true},
		{"of a later document", "a: 1\n---\na: &x 1\nb: *x\n", true},
		{"merged", "a: &x {b: 1}\nc: {<<: *x}\n", true},
		{"what cannot be read may hold one", "a: &x [1\nb: *x\n", true},
		{"an anchor alone stands for nothing else", "a: &x 1\n", false},
		{"the signs within text", "run: |\n  a && b *.txt\n", false},
		{"quoted", "a: '&x'\nb: '*x'\n", false},
		{"nothing", "", false},
	}
	for _, tc := range tests {
		if got := Aliased([]byte(tc.text)); got != tc.want {
			t.Errorf("%q: %v, want %v: %s", tc.text, got, tc.want, tc.reason)
		}
	}
}
