package own

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/trust"
)

func TestPlaintext(t *testing.T) {
	got := Compile(written(t, `{secrets: {plaintext: Refuse, honorRepositoryAllowList: true, allow: [{path: "a/**", rule: "*", reason: a test, expires: "2026-12-31"}]}}`), nil).Policy
	want := &trust.Plaintext{Repository: true, Allow: []trust.Allowance{{
		Path: "a/**", Rule: "*", Reason: "a test", Expires: time.Date(2026, 12, 31, 0, 0, 0, 0, time.UTC),
	}}}
	if diff := cmp.Diff(want, got.Plaintext); got.Broken != "" || diff != "" {
		t.Errorf("%s (-want +got):\n%s", got.Broken, diff)
	}
	if !got.Rewind {
		t.Error("who speaks of secrets alone says nothing of branches")
	}
}
