package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfastcd/holdfast/internal/secret/sealed"
	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

// telltales are policies in each language that put what they are given into their
// messages, and policies that fail over it.
var telltales = map[string]string{
	"rego": inline("all.rego", `package kubernetes.admission
deny[msg] { msg := sprintf("data %v", [input.request.object.data]) }
deny[msg] { msg := sprintf("env %v", [input.request.object.spec.template.spec.containers[_].env]) }
deny[msg] { msg := sprintf("all %v", [input]) }
`),
	"rego-fails": inline("fails.rego", `package kubernetes.admission
deny[msg] { object.get(input.request.object, "data", {})[k] ; x := to_number(input.request.object.data[k]); msg := sprintf("%v", [x]) }
deny[msg] { x := regex.match(input.request.object.data[_], "x"); msg := sprintf("%v", [x]) }
`),
	"cel":       inline("cel.yaml", admissionPolicy("cel", "false", "string(object.kind) + ' ' + (has(object.data) ? object.data.map(k, object.data[k]).join(' ') : '')")),
	"cel-fails": inline("cel.yaml", admissionPolicy("cel-fails", "object.data.all(k, int(object.data[k]) > 0)", "'a number'")),
	"kyverno": inline("kyverno.yaml", `apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: tells}
spec:
  validationFailureAction: Enforce
  background: false
  rules:
  - name: value
    match: {any: [{resources: {kinds: [ConfigMap, Secret]}}]}
    validate:
      message: "it is {{ request.object.data }}"
      deny: {conditions: {any: [{key: "{{ request.object.data.value || 'x' }}", operator: NotEquals, value: other}]}}
  - name: pattern
    match: {any: [{resources: {kinds: [ConfigMap, Secret]}}]}
    validate: {message: "{{ request.object.data.value }}", pattern: {data: {value: "?"}}}
`),
	"builtin": "  builtin: [{name: no-host-mounts}, {name: allowed-images, parameters: {repositories: [registry.example.com/*]}}, {name: pod-security-restricted}]\n",
}

func inline(name, content string) string {
	return "  inline:\n  - name: " + name + "\n    content: |\n      " + strings.ReplaceAll(strings.TrimSpace(content), "\n", "\n      ") + "\n"
}

func admissionPolicy(name, expression, message string) string {
	return `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: ` + name + `}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [configmaps, secrets]}]
  validations: [{expression: ` + quoted(expression) + `, messageExpression: ` + quoted(message) + `}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: ` + name + `}
spec: {policyName: ` + name + `, validationActions: [Deny]}
`
}

// policed puts what policies of the next test judge, sealed in each way.
func (a *aviary) policed() {
	a.sops("policed/secret.yaml", secretYAML("whole", a.value("judged Secret")))
	a.sops("policed/config.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config}\ndata: {value: "+quoted(a.value("judged ConfigMap"))+"}\n")
	mount := "      volumes: [{name: v, hostPath: {path: " + quoted("/"+a.value("judged path")) + "}}]\n      containers:"
	a.sops("policed/workload.yaml", strings.NewReplacer(
		"          image:", "          env: [{name: PASSWORD, value: "+quoted(a.value("judged environment"))+"}]\n          image:",
		"      containers:", mount).Replace(deployment("workload", 1)))
	a.sealedSecret("policed/strict.yaml", "strict", a.value("judged SealedSecret"), sealed.Strict, nil)
	a.put("policed/kustomization.yaml", kustomizationOf+"resources: [secret.yaml, config.yaml, workload.yaml, strict.yaml]\n")
}

// TestCanariesBeforePolicies has policies of every kind judge what was opened, and tell all
// they are given: in conditions, events, reports, sets, the log, and to whoever writes past Git.
func TestCanariesBeforePolicies(t *testing.T) {
	w := theWorld(t)
	w.reports(t)
	ns := w.tenant(t)
	w.main.terminate(t)
	t.Cleanup(func() { w.restart(t) })
	w.says(t, 0, "ClusterRole/holdfast-admission applied", "install", "--admission")
	t.Cleanup(func() {
		_ = w.kube.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(context.Background(), "holdfast", metav1.DeleteOptions{})
	})
	a := newAviary(t, w, ns)
	a.policed()
	repo := w.repository(t, a.files)
	w.gitRepository(t, ns, repo.URL())
	for name, spec := range telltales {
		w.policySet(t, ns+"-"+name, "  select: {labels: {matchLabels: {judged: "+ns+"-"+name+"}}}\n"+spec)
	}
	w.policySet(t, ns+"-warned", "  mode: warn\n  select: {labels: {matchLabels: {judged: "+ns+"-warned}}}\n"+telltales["rego"])
	// Of what others write there, and of nothing else: it is marked.
	w.policySet(t, ns, "  select: {namespaces: ["+ns+"]}\n"+inline("hand.rego", `package kubernetes.admission
deny[msg] { input.request.object.metadata.labels.hand; msg := sprintf("%v, it was %v", [input.request.object, input.request.oldObject]) }
`))
	w.patch(t, harness.Namespaces, "", ns, `{"metadata":{"labels":{"holdfast.dev/admission":"policies"}}}`)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := listener.Addr().String()
	must(t, listener.Close())
	flags := []string{"--log-level", "debug", "--admission-address=" + address, "--admission-url=https://" + address}
	if program, err := filepath.Abs("../../bin/holdfast-kyverno"); err == nil {
		if _, err := os.Stat(program); err == nil {
			flags = append(flags, "--kyverno", program)
		} else {
			t.Log("holdfast-kyverno is not built ('make kyverno'): its policies refuse without judging")
		}
	}
	data := filepath.Join(t.TempDir(), "data")
	c, err := w.startController(data, flags...)
	must(t, err)

	for name := range telltales {
		w.judged(t, ns, name)
		w.cluster.Await(t, kustomizations, ns, name, "to be refused by a policy", says("Ready", "False PolicyViolation"))
		w.cluster.Await(t, policyReports, ns, "holdfast-kustomization-"+name, "to be reported", func(o *unstr) bool { return o != nil && len(field(o, "results")) > 0 })
		w.cluster.Await(t, policySets, "", ns+"-"+name, "to tell what it refuses", func(o *unstr) bool { return strings.Contains(field(o, "status.failing"), name) })
	}
	head, err := repo.Head()
	must(t, err)
	w.judged(t, ns, "warned")
	w.cluster.Await(t, kustomizations, ns, "warned", "to be delivered", appliedAt(head))
	w.cluster.Await(t, kustomizations, ns, "warned", "to be told of", says("PolicyWarning", "True"))
	w.cluster.Await(t, policyReports, ns, "holdfast-kustomization-warned", "to be reported", func(o *unstr) bool { return o != nil && len(field(o, "results")) > 0 })

	s := scan{t, a.all}
	a.byHand(w, s)
	a.look(w, c, ns, nil)
	c.terminate(t)
	s.in("the controller's log", []byte(c.log.String()))
	s.files(data)
	s.log(t, data)
}

// judged makes a Kustomization over what is judged, selected by the set of its name.
func (w *world) judged(t *testing.T, ns, name string) {
	t.Helper()
	w.apply(t, `apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: `+name+`, namespace: `+ns+`, labels: {judged: `+ns+"-"+name+`}}
spec:
  interval: 10m
  path: ./policed
  prune: true
  targetNamespace: `+ns+`
  serviceAccountName: deployer
  sourceRef: {kind: GitRepository, name: app}
  decryption: {provider: sops, secretRef: {name: sops-age}}
`)
}

// byHand writes past Git what a policy refuses, and looks at the answers.
func (a *aviary) byHand(w *world, s scan) {
	t := a.t
	t.Helper()
	cfg := w.cluster.Config()
	cfg.Impersonate.UserName, cfg.Impersonate.Groups = "eve", []string{"system:authenticated"}
	eve, err := kubernetes.NewForConfig(cfg)
	must(t, err)
	w.apply(t, "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: eve, namespace: "+a.namespace+"}\n"+
		"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}\nsubjects: [{kind: User, name: eve, apiGroup: rbac.authorization.k8s.io}]\n")
	for _, name := range []string{"whole", "strict"} {
		var answer error
		until(t, "the change of a Secret to be refused", func() bool {
			_, answer = eve.CoreV1().Secrets(a.namespace).Patch(t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"labels":{"hand":"yes"}}}`), metav1.PatchOptions{})
			return forbidden(answer, "it was")
		})
		s.in("what is answered to whoever writes by hand", []byte(answer.Error()))
	}
}

// leaked puts what check finds, or stumbles over: values that stand in Secrets in the
// open, in every way. Values elsewhere are none that anybody could know to be secret.
func (a *aviary) leaked() {
	a.put("plain/secret.yaml", secretYAML("plain", a.value("plain Secret")))
	a.put("plain/fields.yaml", secretYAML("fields", a.value("Secret with an unknown field"))+"unknown: true\n")
	a.put("plain/kustomization.yaml", kustomizationOf+"resources: [secret.yaml, fields.yaml]\n"+
		"generatorOptions: {disableNameSuffixHash: true}\nsecretGenerator:\n- name: generated\n  literals: ["+quoted("value="+strings.ReplaceAll(a.value("literal"), "\n", ""))+"]\n"+
		"  files: [key.txt]\n  envs: [some.env]\n")
	a.put("plain/key.txt", a.value("file of a generator"))
	a.put("plain/some.env", "TOKEN="+strings.ReplaceAll(a.value("line of a generator"), "\n", "")+"\n")
	a.put("type/secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: type}\nstringData: {value: ["+quoted(a.value("Secret of the wrong type"))+"]}\n")
	a.put("base64/secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: base64}\ndata: {value: "+quoted("!"+a.value("Secret that is no base64"))+"}\n")
	a.put("syntax/secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: syntax}\nstringData: {value: "+quoted(a.value("Secret of wrong syntax"))+"\n")
	a.put("chart/Chart.yaml", "apiVersion: v2\nname: it\nversion: 1.0.0\n")
	a.put("chart/values.yaml", "password: "+quoted(a.value("values of a chart"))+"\n")
	a.put("chart/templates/it.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: chart}\nstringData: {value: {{ .Values.password | quote }}}\n")
}

// TestCanariesInCheck has every way and form of `holdfast check` find secrets in the open,
// and fail over them.
func TestCanariesInCheck(t *testing.T) {
	w := theWorld(t)
	a := &aviary{t: t, files: map[string]string{}}
	a.put("README.md", "nothing yet")
	repo := w.repository(t, a.files)
	a.leaked()
	for name, spec := range telltales {
		a.put("policies/"+name+".yaml", "apiVersion: holdfast.dev/v1alpha1\nkind: PolicySet\nmetadata: {name: "+name+"}\nspec:\n"+spec)
	}
	commit(t, repo, gitserver.Files(a.files)...)
	old := a.all
	a.leaked() // every value anew, for what differs
	commit(t, repo, gitserver.Files(a.files)...)
	dir, cache := filepath.Join(t.TempDir(), "clone"), t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	if out, err := exec.CommandContext(t.Context(), "git", "clone", "-q", repo.URL(), dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := scan{t, a.all}
	t.Logf("%d canaries, %d of them gone", len(a.all), len(old))
	for _, way := range [][]string{{}, {"--diff-base", "HEAD~1"}, {"--staged"}, {"--history"}, {"--secrets-only"}} {
		if len(way) == 1 && way[0] == "--staged" {
			must(t, exec.CommandContext(t.Context(), "git", "-C", dir, "reset", "-q", "--soft", "HEAD~2").Run())
		}
		for _, format := range []string{"text", "json", "sarif", "junit", "markdown"} {
			args := append(append([]string{"check"}, way...), "-o", format, dir)
			stdout, stderr, code := w.holdfast(t, args...) // the first is judged, and the others told from the cache, where there is one
			if code == 0 || len(stdout) == 0 {
				t.Errorf("%v: exit code %d, and nothing is found\n%s", args, code, stderr)
			}
			s.in("holdfast "+strings.Join(args[:len(args)-1], " "), []byte(stdout+stderr))
		}
		if len(way) == 1 && way[0] == "--staged" {
			must(t, exec.CommandContext(t.Context(), "git", "-C", dir, "reset", "-q", "--hard", "HEAD@{1}").Run())
		}
	}
	s.below(cache, 1)
}
