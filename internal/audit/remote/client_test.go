package remote_test

import (
	"testing"

	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// A token travels in the clear to nobody but this machine.
func TestDirect(t *testing.T) {
	for _, tt := range []struct {
		reason, base string
		ok           bool
	}{
		{"https", "https://holdfast.example.org", true},
		{"this machine", "http://localhost:8080", true},
		{"this machine by address", "http://127.0.0.2:8080", true},
		{"this machine by IPv6", "http://[::1]:8080", true},
		{"in the clear", "http://holdfast.example.org", false},
		{"a name that looks like this machine's address", "http://127.0.0.1.example.org", false},
		{"another scheme", "ftp://localhost", false},
		{"a password would be shown", "https://me:secret@holdfast.example.org", false},
		{"no host", "https:///audit", false},
	} {
		_, err := remote.Direct(tt.base, remote.Fixed("t"))
		if tt.ok && err != nil || !tt.ok && fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %s: %v", tt.reason, tt.base, err)
		}
	}
}
