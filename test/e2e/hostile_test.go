package e2e

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

// tells is the condition that an object's status holds all of these texts.
func tells(parts ...string) harness.Condition {
	return func(o *unstr) bool {
		if o == nil {
			return false
		}
		text := fmt.Sprint(o.Object["status"])
		for _, p := range parts {
			if !strings.Contains(text, p) {
				return false
			}
		}
		return true
	}
}

// samePID fails the test unless the controller is the process that it was.
func (w *world) samePID(t *testing.T) {
	t.Helper()
	before := w.main.cmd.Process.Pid
	t.Cleanup(func() {
		if !w.main.alive() || w.main.cmd.Process.Pid != before {
			t.Errorf("the controller ended:\n%s", w.main.log)
		}
	})
}

// deep is an object that is nested three hundred levels deep.
func deep() string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: deep\ndata:\n  x: " + strings.Repeat("{a: ", 300) + "1" + strings.Repeat("}", 300) + "\n"
}

// dense is an object that is small as text and large in memory.
func dense(name string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\ndata:\n  x: [" + strings.Repeat("{},", 300_000) + "]\n"
}

// unfolding is a text in which a few bytes stand for gigabytes.
func unfolding() string {
	return "{a: &a " + strings.Repeat("x", 100_000) + ", b: [" + strings.Repeat("*a,", 30_000) + "]}"
}

// TestBadSourceOfApplications: what is wrong with a source is said on the
// Application, and what it delivered stays.
func TestBadSourceOfApplications(t *testing.T) {
	w := theWorld(t)
	w.samePID(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	head, err := repo.Head()
	must(t, err)
	untrusted := otherServer(t, gitserver.Options{TLS: true})
	locked := otherServer(t, gitserver.Options{Username: "robot", Password: "swordfish"})
	tests := map[string]struct {
		reason, source string // laid over the source
		want           []string
	}{
		"no such ref":       {"the branch does not exist", `{"targetRevision":"nowhere"}`, []string{"nowhere"}},
		"unreachable":       {"nobody listens", `{"repoURL":"http://127.0.0.1:1/x.git"}`, []string{"127.0.0.1:1"}},
		"untrusted":         {"nobody knows the CA", fmt.Sprintf(`{"repoURL":%q}`, untrusted), []string{"not trusted"}},
		"wrong credentials": {"the password is told to be wrong, and not shown", fmt.Sprintf(`{"repoURL":%q}`, locked), []string{"refused the credentials"}},
		"not found":         {"no such repository", fmt.Sprintf(`{"repoURL":%q}`, w.git.URL("nothing")), []string{"no such repository"}},
		"metacharacter":     {"a URL is never a command", `{"repoURL":"http://git.example/$(id).git;rm"}`, []string{"URL", "characters"}},
		"file":              {"the controller's disk is nobody's repository", `{"repoURL":"file:///etc"}`, []string{"file URLs"}},
		"metadata":          {"neither is the cloud's", `{"repoURL":"http://169.254.169.254/latest"}`, []string{"link-local"}},
		"out of the team":   {"a path must not lead to what the project does not permit", `{"repoURL":"http://git.example/team/../other"}`, []string{". or .."}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			ns := w.tenant(t)
			w.project(t, ns, "*")
			w.apply(t, `
apiVersion: v1
kind: Secret
metadata: {name: wrong, namespace: argocd, labels: {argocd.argoproj.io/secret-type: repository}}
stringData: {type: git, url: "`+locked+`", username: robot, password: wrong-horse}
`)
			w.apply(t, application(ns, ns, repo.URL(), "app", ns, automated))
			w.cluster.Await(t, applications, argocd, ns, "to be synced", syncedAt(head))
			w.patch(t, applications, argocd, ns, `{"spec":{"source":`+tc.source+`}}`)
			o := w.cluster.Await(t, applications, argocd, ns, "to say: "+tc.reason, tells(tc.want...))
			w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be left alone", has("data.value", "one"))
			if strings.Contains(fmt.Sprint(o.Object["status"])+w.main.log.String(), "wrong-horse") {
				t.Error("the password is shown")
			}
		})
	}
}

// otherServer returns the URL of a repository on a server of its own.
func otherServer(t *testing.T, o gitserver.Options) string {
	t.Helper()
	s, err := gitserver.Start(t.TempDir(), o)
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	repo, err := s.Create("x")
	must(t, err)
	commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "two")))
	return repo.URL()
}

// TestHostileKustomizations sends what makes the controller itself compute, hold or
// reach something, by way of Flux's resources.
func TestHostileKustomizations(t *testing.T) {
	w := theWorld(t)
	w.samePID(t)
	tests := map[string]struct {
		reason string
		files  []gitserver.Change
		spec   string // laid over the Kustomization's
		want   []string
	}{
		"substituted aliases": {
			"a variable becomes YAML, which may unfold",
			[]gitserver.Change{gitserver.Put("app/x.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\ndata:\n  x: ${v}\n")},
			fmt.Sprintf(`{"postBuild":{"substitute":{"v":%q}}}`, unfolding()),
			[]string{"app/x.yaml", "aliases"},
		},
		"substituted parts": {
			"or be large in memory",
			[]gitserver.Change{gitserver.Put("app/x.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\ndata:\n  x: ${v}\n")},
			fmt.Sprintf(`{"postBuild":{"substitute":{"v":%q}}}`, "["+strings.Repeat("{},", 150_000)+"]"),
			[]string{"app/x.yaml", "parts"},
		},
		"helm repeat": {
			"a chart of a kustomization is a program like any other",
			[]gitserver.Change{
				gitserver.Put("app/kustomization.yaml", "resources: [config.yaml]\nhelmGlobals: {chartHome: charts}\nhelmCharts: [{name: big, releaseName: big}]\n"),
				gitserver.Put("app/charts/big/Chart.yaml", "apiVersion: v2\nname: big\nversion: 1.0.0\n"),
				gitserver.Put("app/charts/big/templates/x.yaml", "x: {{ repeat 2000000000 \"x\" }}\n"),
			},
			"",
			[]string{"app/charts/big"},
		},
		"components": {
			"a component is a path in the repository",
			[]gitserver.Change{gitserver.Put("README.md", "x")},
			`{"components":["../../../etc"]}`,
			[]string{"etc"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w.refusedAlone(t, tc.reason, tc.files, tc.spec, tc.want)
		})
	}
}

// TestHostileSources is the part of [TestBadSource] that concerns what a URL and a
// Secret may reach and cost.
func TestHostileSources(t *testing.T) {
	w := theWorld(t)
	w.samePID(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	key, _, err := gitserver.NewSSHKey("")
	must(t, err)
	tests := map[string]struct {
		reason, spec string
		want         []string
	}{
		"metadata": {"the cloud's own addresses are nobody's repository", "{url: 'http://169.254.169.254/latest', interval: 10m, ref: {branch: main}}", []string{"link-local"}},
		"stars":    {"patterns of host keys that take for ever to match", "{url: 'ssh://git@" + strings.Repeat("a", 60) + ".example/x', interval: 10m, ref: {branch: main}, secretRef: {name: ssh}}", []string{"known_hosts", "stars"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			ns := w.tenant(t)
			w.apply(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: ssh, namespace: "+ns+"}\nstringData:\n  identity: "+fmt.Sprintf("%q", key)+
				"\n  known_hosts: \""+strings.Repeat("*a", 30)+"b ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBSW3wqOKmEbn2Pf9wIWZbhPOqpxNRUfYMzpr1OTzvCu\"\n")
			w.flux(t, ns, repo.URL(), "./app")
			w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be delivered", has("data.value", "one"))
			must(t, w.cluster.Dynamic().Resource(gitRepositories).Namespace(ns).Delete(t.Context(), "app", metav1.DeleteOptions{}))
			w.cluster.Await(t, gitRepositories, ns, "app", "to be gone", harness.Gone)
			w.apply(t, "apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: app, namespace: "+ns+"}\nspec: "+tc.spec)
			w.cluster.Await(t, gitRepositories, ns, "app", "to say: "+tc.reason, says("Ready", append(tc.want, "False ")...))
			w.cluster.Await(t, kustomizations, ns, "app", "to say that its source has nothing", says("Ready", "False"))
			w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be left alone", has("data.value", "one"))
		})
	}
}
