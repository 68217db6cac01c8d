package e2e

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

// TestProgramsThatTurnEndless: a commit that makes a program endless, greedy or
// circular leaves what it delivered before, names its file, and holds nobody up.
func TestProgramsThatTurnEndless(t *testing.T) {
	w := theWorld(t)
	w.samePID(t)
	ns := w.tenant(t)
	const chart = "apiVersion: v2\nname: app\nversion: 1.0.0\n"
	tests := map[string]struct {
		reason    string
		good, bad map[string]string
		want      string // of the condition
	}{
		"recursion": {
			"tail calls need no stack, so nothing but time ends them",
			map[string]string{"main.jsonnet": jsonnetConfig("recursion", "'one'")},
			map[string]string{"main.jsonnet": "local f(n)=if n<0 then 0 else f(n+1) tailstrict; f(0)\n"},
			"recursion/main.jsonnet",
		},
		"circle": {
			"two files that import each other",
			map[string]string{"main.jsonnet": jsonnetConfig("circle", "'one'")},
			map[string]string{"main.jsonnet": "import 'a.libsonnet'\n", "a.libsonnet": "import 'b.libsonnet'\n", "b.libsonnet": "(import 'a.libsonnet') + {}\n"},
			"circle/",
		},
		"range": {
			"loops in loops",
			map[string]string{"Chart.yaml": chart, "templates/a.yaml": configMap("range", "one")},
			map[string]string{"templates/a.yaml": "{{ range until 100000 }}{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}{{ end }}\n"},
			"range/",
		},
		"repeat": {
			"two billion letters",
			map[string]string{"Chart.yaml": chart, "templates/a.yaml": configMap("repeat", "one")},
			map[string]string{"templates/a.yaml": "x: {{ repeat 2000000000 \"x\" }}\n"},
			"repeat/",
		},
	}
	files := map[string]string{"next/config.yaml": configMap("next", "one")}
	var bad []gitserver.Change
	for dir, tc := range tests {
		for name, text := range tc.good {
			files[dir+"/"+name] = text
		}
		for name, text := range tc.bad {
			bad = append(bad, gitserver.Put(dir+"/"+name, text))
		}
	}
	repo := w.repository(t, files)
	head, err := repo.Head()
	must(t, err)
	w.project(t, ns, repo.URL())
	apps := []string{"next"}
	for dir := range tests {
		apps = append(apps, dir)
	}
	for _, dir := range apps {
		w.apply(t, application(ns+"-"+dir, ns, repo.URL(), dir, ns, automated))
	}
	before := map[string]types.UID{}
	for _, dir := range apps {
		w.cluster.Await(t, applications, argocd, ns+"-"+dir, "to be synced", syncedAt(head))
		before[dir] = w.cluster.Await(t, harness.ConfigMaps, ns, dir, "to be delivered", has("data.value", "one")).GetUID()
	}

	second := commit(t, repo, append(bad, gitserver.Put("next/config.yaml", configMap("next", "two")))...)
	w.main.push(t, repo)
	w.cluster.Await(t, applications, argocd, ns+"-next", "to go on beside them", syncedAt(second))
	for dir, tc := range tests {
		app := w.cluster.Await(t, applications, argocd, ns+"-"+dir, "to say why it cannot be rendered: "+tc.reason, func(o *unstr) bool {
			return strings.Contains(field(o, "status.conditions"), "ComparisonError")
		})
		if text := field(app, "status.conditions"); !strings.Contains(text, tc.want) {
			t.Errorf("%s: %s does not name %s", dir, text, tc.want)
		}
		cm := w.cluster.Await(t, harness.ConfigMaps, ns, dir, "to be there", harness.Exists)
		if got := field(cm, "data.value"); got != "one" || cm.GetUID() != before[dir] {
			t.Errorf("%s is not in its last good state: %q", dir, got)
		}
	}
	third := commit(t, repo, gitserver.Put("next/config.yaml", configMap("next", "three")))
	w.main.push(t, repo)
	w.cluster.Await(t, applications, argocd, ns+"-next", "to go on again", syncedAt(third))
}

func jsonnetConfig(name, value string) string {
	return fmt.Sprintf("{apiVersion: 'v1', kind: 'ConfigMap', metadata: {name: '%s'}, data: {value: %s}}\n", name, value)
}

// TestSourcesThatTurnBad: a GitRepository that cannot be fetched any more says why,
// what was delivered from it is still held, and the one beside it goes on.
func TestSourcesThatTurnBad(t *testing.T) {
	w := theWorld(t)
	w.samePID(t)
	untrusted := otherServer(t, gitserver.Options{TLS: true})
	locked := otherServer(t, gitserver.Options{Username: "robot", Password: "swordfish"})
	tests := map[string]struct {
		reason, spec string
		want         []string
	}{
		"no such ref":       {"the branch does not exist", `{"ref":{"branch":"nowhere"}}`, []string{"GitOperationFailed", "nowhere"}},
		"unreachable":       {"nobody listens", `{"url":"http://127.0.0.1:1/x.git"}`, []string{"GitOperationFailed", "127.0.0.1:1"}},
		"untrusted":         {"nobody knows the CA", fmt.Sprintf(`{"url":%q}`, untrusted), []string{"GitOperationFailed", "not trusted"}},
		"wrong credentials": {"the password is told to be wrong, and not shown", fmt.Sprintf(`{"url":%q,"secretRef":{"name":"wrong"}}`, locked), []string{"AuthenticationFailed", "refused the credentials"}},
		"not found":         {"no such repository", fmt.Sprintf(`{"url":%q}`, w.git.URL("nothing")), []string{"no such repository"}},
		"metacharacter":     {"a URL is never a command", `{"url":"http://git.example/$(id).git;rm"}`, []string{"URL", "characters"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			ns := w.tenant(t)
			repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one"), "next/config.yaml": configMap("neighbour", "one")})
			head, err := repo.Head()
			must(t, err)
			w.apply(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: wrong, namespace: "+ns+"}\nstringData: {username: robot, password: wrong-horse}\n")
			w.flux(t, ns, repo.URL(), "./app")
			w.apply(t, fmt.Sprintf("apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: next, namespace: %s}\nspec: {url: %q, interval: 10m, ref: {branch: main}}\n", ns, repo.URL()))
			w.apply(t, strings.Replace(neighbour(ns), "name: app", "name: next", 1))
			w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(head))
			w.cluster.Await(t, kustomizations, ns, "next", "to be applied", appliedAt(head))

			w.patch(t, gitRepositories, ns, "app", `{"spec":`+tc.spec+`}`)
			o := w.cluster.Await(t, gitRepositories, ns, "app", "to say: "+tc.reason, says("Ready", append(tc.want, "False ")...))
			if strings.Contains(fmt.Sprint(o.Object["status"])+w.main.log.String(), "wrong-horse") {
				t.Error("the password is shown")
			}
			w.patch(t, harness.ConfigMaps, ns, "settings", `{"data":{"value":"by hand"}}`)
			w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be held to its last good state", has("data.value", "one"))
			second := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "two")), gitserver.Put("next/config.yaml", configMap("neighbour", "two")))
			w.main.push(t, repo)
			w.cluster.Await(t, kustomizations, ns, "next", "to go on", appliedAt(second))
			w.cluster.Await(t, harness.ConfigMaps, ns, "neighbour", "to go on", has("data.value", "two"))
			cm := w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to exist", harness.Exists)
			if got := field(cm, "data.value"); got != "one" {
				t.Errorf("it holds %q, which its source has not", got)
			}
		})
	}
}
