package fault

import (
	"errors"
	"fmt"
	"testing"
)

func TestErrorNamesThePlace(t *testing.T) {
	base := New(Invalid, "the object has no kind")
	for want, err := range map[string]error{
		"the object has no kind":                                base,
		"a.yaml: the object has no kind":                        base.At("a.yaml", 0),
		"a.yaml:3: the object has no kind":                      base.At("a.yaml", 3),
		"a.yaml:3: ConfigMap/x: the object has no kind (do it)": base.At("a.yaml", 3).On("ConfigMap/x").WithHint("do %s", "it"),
		// A repository names its files and objects as it likes; what it writes stays in its place.
		"\ufffd[31mred\ufffdSynced.yaml:3: ConfigMap/a\ufffdb: the\nobject\ufffd (\ufffddo it)": New(Invalid, "the\nobject\x1b").
			At("\x1b[31mred\nSynced.yaml", 3).On("ConfigMap/a\rb").WithHint("\u202edo it"),
	} {
		if err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
	}
	if base.File != "" {
		t.Error("At must not change the error it was called on")
	}
}

func TestKindOf(t *testing.T) {
	cause := errors.New("boom")
	wrapped := fmt.Errorf("while rendering: %w", New(Limit, "too big").Because(cause))
	if KindOf(wrapped) != Limit || !errors.Is(wrapped, cause) {
		t.Errorf("a wrapped fault keeps kind and cause: %v", wrapped)
	}
	if KindOf(cause) != Internal {
		t.Error("an error that nobody classified is Internal")
	}
}

func TestEveryKindHasAName(t *testing.T) {
	seen := map[string]bool{}
	for k := Internal; k <= Waiting; k++ {
		if seen[k.String()] {
			t.Errorf("kind %d has no name of its own: %s", k, k)
		}
		seen[k.String()] = true
	}
}
