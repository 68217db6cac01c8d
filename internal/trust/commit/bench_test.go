package commit

import (
	"testing"

	"github.com/holdfastcd/holdfast/internal/trust"
)

// BenchmarkSignature judges one commit anew each time, without what is remembered.
func BenchmarkSignature(b *testing.B) {
	f := newForge(b)
	for _, by := range []string{"gpg:alice", "gpg:bob", "ssh:alice"} {
		b.Run(by, func(b *testing.B) {
			r := f.fetch(f.commit(made{by: by}), "")
			v, d := newVerifier(), demand(trust.Commits{Authorities: teamOf(b)})
			for b.Loop() {
				clear(v.results)
				if _, err := v.Verify(b.Context(), r, d, ""); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
