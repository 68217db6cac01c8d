package e2e

import (
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/test/gitserver"
)

// TestNoRoomForARepository has one tenant bring more than the disk holds. Its objects
// say so, in both dialects; its neighbour is delivered on, and so is it, once it asks
// for less.
func TestNoRoomForARepository(t *testing.T) {
	w := theWorld(t)
	w.main.kill() // one controller at a time serves a cluster
	t.Cleanup(func() { w.restart(t) })
	c, err := w.startController(filepath.Join(t.TempDir(), "data"), "--data-limit", "64Mi")
	must(t, err)
	t.Cleanup(c.kill)
	neighbour, ns := w.tenant(t), w.tenant(t)
	small, large := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")}), w.git.Repo("no-room-large")
	_, err = w.git.Create("no-room-large")
	must(t, err)
	w.flux(t, neighbour, small.URL(), "./app")
	first, err := small.Head()
	must(t, err)
	w.cluster.Await(t, kustomizations, neighbour, "app", "to be delivered", appliedAt(first))

	commit(t, large, gitserver.Put("app/config.yaml", configMap("settings", "one")), gitserver.Put("other/config.yaml", configMap("others", "one")),
		gitserver.Put("noise", noise(70<<20)))
	w.project(t, ns, large.URL())
	w.flux(t, ns, large.URL(), "./app")
	w.apply(t, application(ns, ns, large.URL(), "other", ns, automated))
	w.cluster.Await(t, gitRepositories, ns, "app", "to say what does not fit, and what to do", says("Ready", "False", "there is no room for the repository", "--data-limit"))
	w.cluster.Await(t, applications, argocd, ns, "to say it too", func(o *unstr) bool {
		conditions := field(o, "status.conditions")
		return strings.Contains(conditions, "ComparisonError") && strings.Contains(conditions, "there is no room for the repository")
	})

	second := commit(t, small, gitserver.Put("app/config.yaml", configMap("settings", "two")))
	c.push(t, small)
	w.cluster.Await(t, kustomizations, neighbour, "app", "to be delivered beside it", appliedAt(second))

	less := commit(t, large, gitserver.Delete("noise"))
	c.push(t, large)
	w.cluster.Await(t, kustomizations, ns, "app", "to be delivered once it fits", appliedAt(less))
	w.cluster.Await(t, applications, argocd, ns, "to be delivered as well", syncedAt(less))
	if !c.alive() {
		t.Error("the controller ended")
	}
}

// noise is text that does not become smaller.
func noise(size int) string {
	b := make([]byte, size)
	source := rand.NewChaCha8([32]byte{})
	_, _ = source.Read(b) // it never fails
	return string(b)
}
