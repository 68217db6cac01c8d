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

	"github.com/holdfastcd/holdfast/internal/delivery"
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
	return source.Revision{Commit: req.Ref.Commit, Branch: req.Ref.Branch, Tag: req.Ref.Tag, Tree: files("x")}, p.err
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
				r.Spec.Reference = &sourcev1.GitRepositoryRef{Branch: "main"}
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

// What is frozen is asked for as it was found: on its branch, or by its id.
func TestFrozenRef(t *testing.T) {
	commit := strings.Repeat("a", 40)
	for _, tc := range []struct {
		reason, revision string
		ref              *sourcev1.GitRepositoryRef
		want             source.Ref
	}{
		{"a branch", "main@sha1:" + commit, &sourcev1.GitRepositoryRef{Branch: "main"}, source.Ref{Branch: "main", Commit: commit}},
		{"the usual branch", "master@sha1:" + commit, nil, source.Ref{Branch: "master", Commit: commit}},
		{"a tag is no branch", "v1@sha1:" + commit, &sourcev1.GitRepositoryRef{Tag: "v1"}, source.Ref{Commit: commit}},
		{"another branch since", "old@sha1:" + commit, &sourcev1.GitRepositoryRef{Branch: "main"}, source.Ref{Commit: commit}},
		{"a commit", "sha1:" + commit, &sourcev1.GitRepositoryRef{Commit: commit}, source.Ref{Commit: commit}},
	} {
		repo := gitRepository("fleet", "https://x/fleet", func(r *sourcev1.GitRepository) {
			r.Spec.Reference, r.Status.Artifact = tc.ref, &meta.Artifact{Revision: tc.revision}
		})
		if got := frozenRef(repo); got != tc.want {
			t.Errorf("%s: got %+v", tc.reason, got)
		}
		r := source.Revision{Commit: tc.want.Commit, Branch: tc.want.Branch}
		if byID := frozen(repo, r).Ref() == ""; byID != (RefOf(repo).Commit != "") {
			t.Errorf("%s: who writes a status has asked for no older commit: found by the id alone: %t", tc.reason, byID)
		}
	}
}

// What is only observed is fetched, and offered to those who are observed too;
// nothing is written on it, whether the fetch succeeds or not.
func TestObservedRepository(t *testing.T) {
	for _, tc := range []struct {
		reason string
		err    error
		has    bool
	}{
		{"it is there", nil, true},
		{"the server is down", fault.New(fault.Unreachable, "down"), false},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			p := newHookPlace(t, gitRepository("fleet", "https://x/fleet", nil))
			p.env.Observe = true
			p.env.Hub = source.NewHub(&pinned{err: tc.err}, func() time.Time { return noon })
			offers := 0
			c := &repositories{
				env: p.env, desk: p.repositories, catalog: newCatalog(), artifacts: newArtifacts(),
				offer:    func(context.Context, types.NamespacedName, edition) error { offers++; return nil },
				failures: map[types.NamespacedName]int{}, heard: map[types.NamespacedName]string{},
			}
			if after, err := c.reconcile(t.Context(), fleet); err != nil || after == 0 {
				t.Fatal(after, err)
			}
			if e, looked := c.catalog.get(fleet); !looked || e.has() != tc.has || offers != 1 {
				t.Errorf("looked %t, has %t, %d offers", looked, e.has(), offers)
			}
			var r sourcev1.GitRepository
			if err := p.client.Get(t.Context(), fleet, &r); err != nil {
				t.Fatal(err)
			}
			if len(r.Status.Conditions) != 0 || r.Status.Artifact != nil || len(r.Finalizers) != 0 {
				t.Errorf("it was written to: %+v", r)
			}
		})
	}
}

// A Kustomization that is only observed and cannot be delivered is told to those
// who watch, once, and not written to.
func TestObservedKustomization(t *testing.T) {
	c := among(t, kustomization(nil))
	var told []delivery.Report
	c.env.Observe, c.env.Observed = true, func(_ delivery.ID, r delivery.Report) { told = append(told, r) }
	c.catalog.fail(fleet, fault.New(fault.Unreachable, "down"))
	for range 2 {
		if after, err := c.reconcile(t.Context(), types.NamespacedName{Namespace: "apps", Name: "web"}); err != nil || after == 0 {
			t.Fatal(after, err)
		}
	}
	if len(told) != 2 || told[0].Err == nil || !told[0].Observed || !strings.Contains(told[0].Err.Error(), "Source artifact not found") {
		t.Errorf("told %+v", told)
	}
	u, err := c.desk.get(t.Context(), types.NamespacedName{Namespace: "apps", Name: "web"})
	if err != nil || len(u.GetFinalizers()) != 0 {
		t.Errorf("it was written to: %v, %v", u, err)
	}
}
