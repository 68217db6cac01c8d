package dialect_test

import (
	"testing"

	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
)

func TestStrict(t *testing.T) {
	tests := []struct {
		value  string
		want   bool
		bad    bool
		reason string
	}{
		{"true", true, false, "it is asked for"},
		{"false", false, false, "it is not"},
		{"", false, false, "nobody says anything"},
		{"yes", false, true, "what is not understood is not ignored"},
		{"True", false, true, "one way to write it is enough"},
	}
	for _, tt := range tests {
		got, err := dialect.Strict(map[string]string{dialect.AnnotationStrict: tt.value})
		if got != tt.want || (err != nil) != tt.bad || tt.bad && fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v, %v: %s", tt.value, got, err, tt.reason)
		}
	}
}
