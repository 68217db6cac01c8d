package flux

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// pinned answers every request and keeps the last one.
type pinned struct {
	asked source.Request
	err   error
}

func (p *pinned) Fetch(_ context.Context, req source.Request) (source.Revision, error) {
	p.asked = req
	return source.Revision{Commit: req.Ref.Commit, Branch: req.Ref.Branch, Tree: files("x")}, p.err
}

// Suspended means that nothing new comes, not that what was there goes: after a
// start, the revision that the status names is fetched again, and only that one.
func TestSuspendedKeepsItsRevision(t *testing.T) {
	commit := strings.Repeat("a", 40)
	for _, tc := range []struct {
		reason   string
		artifact *meta.Artifact
		err      error
		asked    source.Ref
		has      bool
		text     string
	}{
		{"the last revision comes back", &meta.Artifact{Revision: "main@sha1:" + commit}, nil, source.Ref{Branch: "main", Commit: commit}, true, ""},
		{"there was none", nil, nil, source.Ref{}, false, "suspended"},
		{
			"the server is down", &meta.Artifact{Revision: "main@sha1:" + commit}, fault.New(fault.Unreachable, "down"),
			source.Ref{Branch: "main", Commit: commit},
			false, "down",
		},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			repo := gitRepository("fleet", "https://x/fleet", func(r *sourcev1.GitRepository) {
				r.Spec.Suspend, r.Spec.Interval = true, metav1.Duration{Duration: time.Minute}
				r.Status.Artifact = tc.artifact
			})
			p := newHookPlace(t, repo)
			fetcher := &pinned{err: tc.err}
			p.env.Hub = source.NewHub(fetcher, func() time.Time { return noon })
			offers := 0
			c := &repositories{
				env: p.env, desk: p.repositories, catalog: newCatalog(), artifacts: newArtifacts(),
				offer:    func(context.Context, types.NamespacedName, edition) error { offers++; return nil },
				failures: map[types.NamespacedName]int{}, heard: map[types.NamespacedName]string{},
			}
			if _, err := c.reconcile(t.Context(), fleet); err != nil {
				t.Fatal(err)
			}
			e, looked := c.catalog.get(fleet)
			if !looked || e.has() != tc.has || offers != 1 || fetcher.asked.Ref != tc.asked {
				t.Errorf("looked %t, has %t, %d offers, asked %+v", looked, e.has(), offers, fetcher.asked.Ref)
			}
			if tc.text != "" && (e.err == nil || !strings.Contains(e.err.Error(), tc.text)) {
				t.Errorf("it says %v, want %q", e.err, tc.text)
			}
			if _, err := c.reconcile(t.Context(), fleet); err != nil || tc.has && offers != 1 {
				t.Errorf("the second look: %v, %d offers", err, offers)
			}
		})
	}
}
