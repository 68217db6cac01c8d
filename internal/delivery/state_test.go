package delivery

import (
	"errors"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
)

func TestFailureStands(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	spec := Spec{Revision: source.Revision{Tree: treetest.FromFiles(map[string][]byte{"a": []byte("1")})}}
	other := Spec{Revision: source.Revision{Tree: treetest.FromFiles(map[string][]byte{"a": []byte("2")})}}
	key, another := [32]byte{1}, [32]byte{2}
	tests := map[string]struct {
		reason string
		err    error
		key    [32]byte
		spec   Spec
		after  time.Duration
		want   bool
	}{
		"wrong source":   {"it stays wrong", &flaw{fault.New(fault.Invalid, "x")}, key, spec, time.Hour, true},
		"another tree":   {"a commit may have mended it", &flaw{fault.New(fault.Invalid, "x")}, key, other, 0, false},
		"another spec":   {"so may a change of the object", &flaw{fault.New(fault.Invalid, "x")}, another, spec, 0, false},
		"limit":          {"nothing has changed", &flaw{fault.New(fault.Limit, "x")}, key, spec, time.Minute, true},
		"limit, later":   {"the machine may have been busy", &flaw{fault.New(fault.Limit, "x")}, key, spec, retryLimit, false},
		"a service":      {"a key may be enabled again where it is kept", &flaw{fault.New(fault.Refused, "x").Because(secret.ErrService)}, key, spec, time.Minute, true},
		"it, later":      {"nobody tells when it is", &flaw{fault.New(fault.Refused, "x").Because(secret.ErrService)}, key, spec, retryLimit, false},
		"no worker":      {"that is not the source's fault", &flaw{fault.New(fault.Unreachable, "x")}, key, spec, 0, false},
		"the cluster's":  {"a kind may arrive", fault.New(fault.Invalid, "x"), key, spec, 0, false},
		"no fault":       {"nobody knows what it is", &flaw{errors.New("x")}, key, spec, 0, false},
		"no tree at all": {"then nothing tells whether it changed", &flaw{fault.New(fault.Invalid, "x")}, key, Spec{}, 0, false},
	}
	for name, tc := range tests {
		made := spec
		if name == "no tree at all" {
			made = Spec{}
		}
		f := failureOf(tc.err, key, made, now)
		if got := f.stands(tc.key, tc.spec, now.Add(tc.after)); got != tc.want {
			t.Errorf("%s: %s: stands: %v", name, tc.reason, got)
		}
	}
}
