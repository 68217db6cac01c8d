package argo

import (
	"path"
	"strings"
	"testing"
)

func TestGlob(t *testing.T) {
	tests := []struct {
		reason, pattern, value string
		separator, want        bool
	}{
		{"a star", "team-*", "team-a", false, true},
		{"a star is not a prefix", "team-*", "a-team-a", false, false},
		{"a star spans slashes", "https://*", "https://a/b", false, true},
		{"unless they separate", "https://git/*", "https://git/a/b", true, false},
		{"two stars span them", "https://git/**", "https://git/a/b", true, true},
		{"a star alone is everything", "*", "https://git/a/b", true, true},
		{"one character", "a?c", "abc", false, true},
		{"a dot is a dot", "a.c", "abc", false, false},
		{"a set", "a[bx]c", "abc", false, true},
		{"a negated set", "a[!b]c", "abc", false, false},
		{"alternatives", "{dev,test}-*", "test-1", false, true},
		{"no alternative", "{dev,test}-*", "prod-1", false, false},
		{"an escape", `a\*`, "a*", false, true},
		{"a denial matches what it denies", "!kube-*", "kube-system", false, true},
		{"nothing matches nothing only", "", "a", false, false},
		{"a newline is a character", "a*", "a\nb", false, true},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			g, err := compileGlob(tc.pattern, tc.separator)
			if err != nil {
				t.Fatal(err)
			}
			if got := g.match(tc.value); got != tc.want {
				t.Errorf("%q on %q: got %v", tc.pattern, tc.value, got)
			}
		})
	}
	for _, bad := range []string{"!*", "!", "a[", "a{b", "[z-a]", "a[]", strings.Repeat("a", maxGlob+1)} {
		if _, err := compileGlob(bad, false); err == nil {
			t.Errorf("the pattern %.20q was accepted", bad)
		}
	}
}

// A pattern without our extensions means what the standard library says.
func FuzzGlob(f *testing.F) {
	f.Add("a*b?", "axxbc", true)
	f.Add("[a-c]{x,y}*", "bx", false)
	f.Add(`\[`, "[", true)
	f.Fuzz(func(t *testing.T, pattern, value string, separator bool) {
		g, err := compileGlob(pattern, separator)
		if err != nil {
			return
		}
		got := g.match(value)
		plain := !strings.ContainsAny(pattern, `[]{},\!`) && !strings.Contains(pattern, "**") && pattern != "*"
		ascii := func(s string) bool {
			return strings.IndexFunc(s, func(r rune) bool { return r > 126 || r < ' ' }) < 0
		}
		if !plain || !separator || !ascii(pattern+value) {
			return
		}
		if want, _ := path.Match(pattern, value); got != want {
			t.Errorf("%q on %q: got %v, want %v", pattern, value, got, want)
		}
	})
}
