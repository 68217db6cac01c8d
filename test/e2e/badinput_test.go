package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

// badInputs are commits that must not stop anybody: each ends in a clear condition,
// the last good state stays, the neighbour goes on, the controller lives. The two
// dialects render, compare and report on different roads.
var badInputs = map[string]struct {
	reason string
	files  []gitserver.Change
	flux   []string // parts of the Ready condition of the Kustomization; nil: not by this road
	argo   []string // parts of the Application's status; nil: not by this road
}{
	"unparseable": {
		"a tab is not YAML",
		[]gitserver.Change{gitserver.Put("app/config.yaml", goodInput+"\tx: y\n")},
		[]string{"BuildFailed", "app/config.yaml:7"},
		[]string{"app/config.yaml:7"},
	},
	"duplicate": {
		"the same object twice",
		[]gitserver.Change{gitserver.Put("app/other.yaml", goodInput)},
		[]string{"app/", "settings"},
		[]string{"app/other.yaml", "settings"},
	},
	"unknown kind": {
		"a kind that nobody serves",
		[]gitserver.Change{gitserver.Put("app/x.yaml", "apiVersion: nobody.example.org/v1\nkind: Nothing\nmetadata:\n  name: x\n")},
		[]string{"nobody.example.org/v1", "Nothing", "app/x.yaml"},
		[]string{"nobody.example.org/v1", "Nothing", "app/x.yaml"},
	},
	"no kind": {
		"not an object",
		[]gitserver.Change{gitserver.Put("app/x.yaml", "hello: world\n")},
		[]string{"app/x.yaml"},
		nil,
	},
	"missing path": {
		"the directory is gone",
		[]gitserver.Change{gitserver.Delete("app/config.yaml"), gitserver.Put("README.md", "x")},
		[]string{"path not found", "app"},
		[]string{"ComparisonError", "app"},
	},
	"huge manifest": {
		"ten mebibytes and more in one file",
		[]gitserver.Change{gitserver.Put("app/huge.yaml", configMap("huge", strings.Repeat("x", 10<<20)))},
		[]string{"app/huge.yaml"},
		[]string{"app/huge.yaml"},
	},
	"symlink out": {
		"a link must not leave the tree",
		[]gitserver.Change{gitserver.Link("app/passwd.yaml", "/etc/passwd")},
		[]string{"app/passwd.yaml"},
		[]string{"app/passwd.yaml"},
	},
	"remote base": {
		"Kustomize must not reach out",
		[]gitserver.Change{gitserver.Put("app/kustomization.yaml", "resources:\n  - config.yaml\n  - https://git.example/base?ref=v1\n")},
		[]string{"app/kustomization.yaml", "git.example"},
		nil,
	},
	"alias bomb": {
		"a few lines that unfold to billions",
		[]gitserver.Change{gitserver.Put("app/bomb.yaml", bomb())},
		[]string{"app/bomb.yaml"},
		[]string{"app/bomb.yaml"},
	},
	"invalid field": {
		"the API server's answer is passed on",
		[]gitserver.Change{gitserver.Put("app/svc.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: svc\nspec:\n  ports:\n    - port: 99999\n")},
		[]string{"svc", "99999"},
		nil,
	},
	"symlink up": {
		"neither by steps",
		[]gitserver.Change{gitserver.Link("app/up.yaml", "../../../../etc/passwd")},
		nil,
		[]string{"app/up.yaml"},
	},
	"deep": {
		"three hundred levels",
		[]gitserver.Change{gitserver.Put("app/deep.yaml", deep())},
		nil,
		[]string{"app/deep.yaml"},
	},
	"override": {
		"this file is read by the controller itself",
		[]gitserver.Change{gitserver.Put("app/.argocd-source.yaml", "helm: "+unfolding()+"\n")},
		nil,
		[]string{"app/.argocd-source.yaml", "aliases"},
	},
	"dense": {
		"what is rendered is held by the controller itself",
		[]gitserver.Change{gitserver.Put("app/a.yaml", dense("a")), gitserver.Put("app/b.yaml", dense("b")), gitserver.Put("app/c.yaml", dense("c")), gitserver.Put("app/d.yaml", dense("d"))},
		nil,
		[]string{"more than 1000000 values", "app/"},
	},
	"value files": {
		"a chart must not read what is beside the repository",
		[]gitserver.Change{
			gitserver.Put("app/Chart.yaml", "apiVersion: v2\nname: app\nversion: 1.0.0\n"),
			gitserver.Put("app/.argocd-source.yaml", "helm: {valueFiles: [../../../../etc/passwd]}\n"),
		},
		nil,
		[]string{"etc/passwd"},
	},
	"imports": {
		"nor may a program",
		[]gitserver.Change{gitserver.Put("app/x.jsonnet", "{x: importstr '../../../../../etc/passwd'}\n")},
		nil,
		[]string{"app/x.jsonnet"},
	},
	"dependencies": {
		"nor a chart's dependency",
		[]gitserver.Change{
			gitserver.Put("app/Chart.yaml", "apiVersion: v2\nname: app\nversion: 1.0.0\ndependencies: [{name: x, version: 1.0.0, repository: 'file://../../../../etc'}]\n"),
		},
		nil,
		[]string{"app/Chart.yaml"},
	},
}

// goodInput is the object that stands before and after.
var goodInput = configMap("settings", "good")

// TestBadInput sends them by way of Flux's resources.
func TestBadInput(t *testing.T) {
	w := theWorld(t)
	w.samePID(t)
	for name, tc := range badInputs {
		if len(tc.flux) == 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			w.refusedAlone(t, tc.reason, tc.files, "", tc.flux)
		})
	}
}

// refusedAlone delivers what is good, then commits files and, if spec is not empty, changes
// the Kustomization: it must say all of want and keep its last good state, and the
// Kustomization beside it must go on.
func (w *world) refusedAlone(t *testing.T, reason string, files []gitserver.Change, spec string, want []string) {
	t.Helper()
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": goodInput, "next/config.yaml": configMap("neighbour", "one")})
	head, err := repo.Head()
	must(t, err)
	w.flux(t, ns, repo.URL(), "./app")
	w.apply(t, neighbour(ns))
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(head))
	bad := commit(t, repo, append(slices.Clone(files), gitserver.Put("next/config.yaml", configMap("neighbour", "two")))...)
	if spec != "" {
		w.patch(t, kustomizations, ns, "app", `{"spec":`+spec+`}`)
	}
	w.main.push(t, repo)
	w.cluster.Await(t, kustomizations, ns, "app", "to say why it refuses: "+reason, says("Ready", append(slices.Clone(want), "False ")...))
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be in its last good state", has("data.value", "good"))
	w.cluster.Await(t, kustomizations, ns, "next", "to go on", appliedAt(bad))
	w.cluster.Await(t, harness.ConfigMaps, ns, "neighbour", "to go on", has("data.value", "two"))
}

// TestBadInputOfApplications sends them by way of Argo CD's resources.
func TestBadInputOfApplications(t *testing.T) {
	w := theWorld(t)
	w.samePID(t)
	for name, tc := range badInputs {
		if len(tc.argo) == 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			ns := w.tenant(t)
			repo := w.repository(t, map[string]string{"app/config.yaml": goodInput, "next/config.yaml": configMap("neighbour", "one")})
			head, err := repo.Head()
			must(t, err)
			w.project(t, ns, repo.URL())
			w.apply(t, application(ns, ns, repo.URL(), "app", ns, automated))
			w.apply(t, application(ns+"-next", ns, repo.URL(), "next", ns, automated))
			w.cluster.Await(t, applications, argocd, ns, "to be synced", syncedAt(head))
			bad := commit(t, repo, append(tc.files, gitserver.Put("next/config.yaml", configMap("neighbour", "two")))...)
			w.main.push(t, repo)
			w.cluster.Await(t, applications, argocd, ns, "to say why it refuses: "+tc.reason, tells(tc.argo...))
			w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be in its last good state", has("data.value", "good"))
			w.cluster.Await(t, applications, argocd, ns+"-next", "to go on", syncedAt(bad))
			w.cluster.Await(t, harness.ConfigMaps, ns, "neighbour", "to go on", has("data.value", "two"))
		})
	}
}
