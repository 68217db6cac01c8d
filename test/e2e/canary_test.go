package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/secret/sealed"
	"github.com/holdfastcd/holdfast/internal/secret/sops"
	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

// canary is a secret value that must not be found where it does not belong.
type canary struct {
	name, value string
}

// newCanary makes a value: every third one has characters that JSON, YAML and shells
// write in other ways, every seventh has lines.
func newCanary(i int, name string) canary {
	var raw [12]byte
	_, _ = rand.Read(raw[:])
	value := fmt.Sprintf("canary%02d-%s", i, hex.EncodeToString(raw[:]))
	if i%3 == 0 {
		value += `"<&>\'` + hex.EncodeToString(raw[:4])
	}
	if i%7 == 0 {
		value += "\nsecond-line-" + hex.EncodeToString(raw[4:])
	}
	return canary{name, value}
}

// needles are the forms in which a value would give itself away: each of its lines
// raw and as JSON, and in base64 at each of the three places where it may begin.
func (c canary) needles() [][]byte {
	var all [][]byte
	for line := range strings.Lines(c.value) {
		line = strings.TrimSpace(line)
		// The random part suffices, whatever becomes of the characters behind it.
		bare := line
		if i := strings.IndexAny(bare, `"<&>\'`); i > 0 {
			bare = bare[:i]
		}
		all = append(all, []byte(bare))
		for shift := range 3 {
			encoded := base64.StdEncoding.EncodeToString(append(bytes.Repeat([]byte{'x'}, shift), bare...))
			// What depends on neighbours is cut off at both ends.
			all = append(all, []byte(encoded[4*((shift+2)/3):len(encoded)-4]))
		}
	}
	return all
}

// scan is where canaries are looked for.
type scan struct {
	t        *testing.T
	canaries []canary
}

// in fails the test for every canary that is in what was found at a place.
func (s scan) in(place string, content []byte) {
	s.t.Helper()
	for _, c := range s.canaries {
		for _, needle := range c.needles() {
			if i := bytes.Index(content, needle); i >= 0 {
				s.t.Errorf("%s: canary %q shows:\n…%s…", place, c.name, content[max(0, i-120):min(len(content), i+80)])
				break
			}
		}
	}
}

// aviary makes the files of a repository in which every secret is sealed.
type aviary struct {
	t         *testing.T
	namespace string
	identity  *age.X25519Identity
	other     *age.X25519Identity // a recipient whose key nobody has
	seal      *sealed.Key
	all       []canary
	files     map[string]string
}

// value makes the next canary.
func (a *aviary) value(name string) string {
	c := newCanary(len(a.all), name)
	a.all = append(a.all, c)
	return c.value
}

func (a *aviary) put(path, content string) { a.files[path] = content }

// sops puts a file sealed for the tenant's key.
func (a *aviary) sops(path, content string) { a.sopsFor(a.identity, "", path, content) }

func (a *aviary) sopsFor(identity *age.X25519Identity, only, path, content string) {
	a.t.Helper()
	rules := "creation_rules:\n  - age: " + identity.Recipient().String() + "\n"
	if only != "" {
		rules += "    encrypted_regex: " + only + "\n"
	}
	sealed, err := sops.Encrypt(path, []byte(content), []byte(rules))
	must(a.t, err)
	a.put(path, string(sealed))
}

// sealedSecret puts a SealedSecret.
func (a *aviary) sealedSecret(path, name, value string, scope sealed.Scope, change func(*unstr)) {
	a.t.Helper()
	cert := a.seal.Certificate
	plain := &unstr{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": name, "namespace": a.namespace},
		"stringData": map[string]any{"value": value},
	}}
	o, err := sealed.Seal(cert, plain, scope)
	must(a.t, err)
	if change != nil {
		change(o)
	}
	text, err := yaml.Marshal(o.Object)
	must(a.t, err)
	a.put(path, string(text))
}

// quoted writes a value in YAML and JSON.
func quoted(value string) string {
	text, _ := json.Marshal(value)
	return string(text)
}

func secretYAML(name, value string) string {
	return "apiVersion: v1\nkind: Secret\nmetadata:\n  name: " + name + "\nstringData:\n  value: " + quoted(value) + "\n"
}

const kustomizationOf = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"

// good fills directories that can be delivered. It returns the values of Secrets by name.
func (a *aviary) good() (flux map[string]string) {
	flux = map[string]string{}
	of := func(name string) string {
		flux[name] = a.value(name)
		return flux[name]
	}
	a.sops("good/secret.yaml", secretYAML("whole", of("whole")))
	a.sopsFor(a.identity, "^(data|stringData)$", "good/part.yaml", secretYAML("part", of("part")))
	encoded := base64.StdEncoding.EncodeToString([]byte(of("encoded")))
	a.sops("good/encoded.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: encoded}\ndata: {value: "+encoded+"}\n")
	a.sops("good/config.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config}\ndata: {value: "+quoted(a.value("config map"))+"}\n")
	a.sops("good/workload.yaml", strings.Replace(deployment("workload", 1), "          image:", "          env: [{name: PASSWORD, value: "+quoted(a.value("environment"))+"}]\n          image:", 1))
	a.sops("good/patch.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: patched}\nstringData: {value: "+quoted(of("patched"))+"}\n")
	a.put("good/patched.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: patched}\n")
	a.sops("good/value.bin", of("generated"))
	a.sops("good/value.env", "value="+strings.ReplaceAll(a.value("environment file"), "\n", `\n`)+"\n")
	a.sops("good/value.json", `{"value": `+quoted(a.value("json file"))+`}`)
	a.sops("good/value.ini", "[section]\nvalue = "+strings.NewReplacer("\n", "", `"`, "", `\`, "", "'", "").Replace(a.value("ini file"))+"\n")
	inner, err := sops.Encrypt("value.bin", []byte(of("inner")), []byte("creation_rules:\n  - age: "+a.identity.Recipient().String()+"\n"))
	must(a.t, err)
	a.put("good/inner.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: inner}\ndata: {value: "+base64.StdEncoding.EncodeToString(inner)+"}\n")
	a.sealedSecret("good/strict.yaml", "strict", of("strict"), sealed.Strict, nil)
	a.sealedSecret("good/namespaced.yaml", "namespaced", of("namespaced"), sealed.NamespaceWide, nil)
	a.sealedSecret("good/clusterwide.yaml", "clusterwide", of("clusterwide"), sealed.ClusterWide, nil)
	a.sealedSecret("good/template.yaml", "template", a.value("template"), sealed.Strict, func(o *unstr) {
		must(a.t, unstructured.SetNestedField(o.Object, "postgres://user:{{ .value }}@db", "spec", "template", "data", "url"))
	})
	a.put("good/kustomization.yaml", kustomizationOf+`resources: [secret.yaml, part.yaml, encoded.yaml, config.yaml, workload.yaml, patched.yaml, inner.yaml, strict.yaml, namespaced.yaml, clusterwide.yaml, template.yaml]
patches: [{path: patch.yaml}]
generatorOptions: {disableNameSuffixHash: true}
secretGenerator:
  - {name: generated, files: [value=value.bin, value.json, value.ini], envs: []}
  - {name: environment, envs: [value.env]}
`)
	return flux
}

// bad fills directories of which each one fails in a way of its own, with a secret at
// hand. It returns the word that each is refused with.
func (a *aviary) bad() map[string]string {
	configMap := func(lines string) string { return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: it\n" + lines }
	a.sops("mac/secret.yaml", secretYAML("it", a.value("of a changed file")))
	a.files["mac/secret.yaml"] = strings.Replace(a.files["mac/secret.yaml"], "sops:\n", "added: by hand\nsops:\n", 1)
	a.sopsFor(a.other, "", "key/secret.yaml", secretYAML("it", a.value("for another key")))
	a.sops("syntax/it.yaml.bin", "apiVersion: v1\nkind: Secret\nmetadata: {name: it}\nstringData: {value: ["+a.value("in wrong syntax")+"\n")
	a.put("syntax/kustomization.yaml", kustomizationOf+"resources: [it.yaml.bin]\n")
	a.sops("type/it.yaml", configMap("data: {value: {nested: "+quoted(a.value("of the wrong type"))+"}}\n"))
	// Names and namespaces of objects are no secrets: the cluster shows them to many.
	a.sops("immutable/it.yaml", configMap("immutable: "+quoted(a.value("for a flag"))+"\n"))
	a.sops("kind/it.yaml", "apiVersion: v1\nkind: "+quoted(a.value("in a kind"))+"\nmetadata: {name: it}\n")
	a.sops("label/it.yaml", configMap("  labels: {l: "+quoted(a.value("in a label")+"!")+"}\n"))
	a.sops("finalizer/it.yaml", configMap("  finalizers: ["+quoted(a.value("in a finalizer")+"!")+"]\n"))
	a.sops("port/it.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: it}\nspec: {ports: [{port: "+quoted(a.value("in a port"))+"}]}\n")
	twice := a.value("twice")
	a.sops("twice/a.yaml", secretYAML("it", twice))
	a.sops("twice/b.yaml", secretYAML("it", twice))
	a.sops("patch/it.yaml", configMap("data: {}\n"))
	a.sops("patch/patch.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: "+quoted(a.value("in a patch"))+"}\n")
	a.put("patch/kustomization.yaml", kustomizationOf+"resources: [it.yaml]\npatches: [{path: patch.yaml}]\n")
	a.sealedSecret("damaged/it.yaml", "it", a.value("damaged"), sealed.Strict, func(o *unstr) {
		encrypted, _, _ := unstructured.NestedString(o.Object, "spec", "encryptedData", "value")
		flipped := []byte(encrypted)
		flipped[len(flipped)/2] ^= 1
		must(a.t, unstructured.SetNestedField(o.Object, string(flipped), "spec", "encryptedData", "value"))
	})
	a.sealedSecret("moved/it.yaml", "it", a.value("moved"), sealed.Strict, func(o *unstr) { o.SetName("other") })
	a.sealedSecret("fail/it.yaml", "it", a.value("in a failing template"), sealed.Strict, func(o *unstr) {
		must(a.t, unstructured.SetNestedField(o.Object, "{{ fail .value }}", "spec", "template", "data", "url"))
	})
	return map[string]string{
		"mac": "sealed", "key": "key", "syntax": "it.yaml.bin", "type": "it", "immutable": "it", "kind": "", "label": "it", "finalizer": "it",
		"port": "it", "twice": "it", "patch": "patch", "damaged": "it", "moved": "other", "fail": "it",
	}
}

// chart is what an Argo CD Application delivers with sealed values.
func (a *aviary) chart(dir, template, values string) {
	a.put(dir+"/Chart.yaml", "apiVersion: v2\nname: it\nversion: 1.0.0\n")
	a.put(dir+"/templates/it.yaml", template)
	a.sops(dir+"/secrets.yaml", values)
}

// argo fills directories for Applications: those that are delivered, and those that fail.
func (a *aviary) argo() (good, bad []string) {
	values := func(name string) string { return "password: " + quoted(a.value(name)) + "\n" }
	a.chart("chart", "apiVersion: v1\nkind: Secret\nmetadata: {name: chart}\nstringData: {value: {{ .Values.password | quote }}}\n", values("chart"))
	a.chart("chart-config", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: chart-config}\ndata: {value: {{ .Values.password | quote }}}\n", values("chart to ConfigMap"))
	a.sops("jsonnet/lib/value.json", `{"password": `+quoted(a.value("jsonnet"))+`}`)
	a.put("jsonnet/it.jsonnet", `{apiVersion: "v1", kind: "Secret", metadata: {name: "jsonnet"}, stringData: {value: (import "lib/value.json").password}}`)
	a.sops("plain/it.yaml", secretYAML("plain", a.value("plain")))
	a.chart("chart-fail", `{{ fail .Values.password }}`, values("chart that fails"))
	a.chart("chart-type", `{{ .Values.password.nested.deeper }}`, values("chart of a wrong type"))
	a.chart("chart-syntax", "apiVersion: v1\nkind: Secret\nmetadata: {name: it}\nstringData: {value: [{{ .Values.password }}\n", values("chart of wrong syntax"))
	a.chart("chart-int", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: it}\ndata: {value: {{ .Values.password | quote | int64 }}, x: [{{ .Values.password | quote }}]}\n", values("chart of a wrong object"))
	a.sops("jsonnet-fail/lib/value.json", `{"password": `+quoted(a.value("jsonnet that fails"))+`}`)
	a.put("jsonnet-fail/it.jsonnet", `error (import "lib/value.json").password`)
	return []string{"chart", "chart-config", "jsonnet", "plain"}, []string{"chart-fail", "chart-type", "chart-syntax", "chart-int", "jsonnet-fail"}
}

func helmApplication(name, project, url, namespace string) string {
	app := application(name, project, url, name, namespace, automated)
	if strings.HasPrefix(name, "chart") {
		app = strings.Replace(app, "targetRevision: main}", "targetRevision: main, helm: {valueFiles: [secrets.yaml]}}", 1)
	}
	return strings.Replace(app, "name: "+name+"\n", "name: "+namespace+"-"+name+"\n", 1)
}

// TestCanaries sends forty secrets through every path, with an error forced at each
// stage, and looks for them in all that comes out: nothing but the objects that they
// were sealed for has them.
func TestCanaries(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	w.main.kill() // one controller at a time serves a cluster
	t.Cleanup(func() { w.restart(t) })
	a := newAviary(t, w, ns)
	wanted := a.good()
	refused := a.bad()
	delivered, failing := a.argo()
	repo := w.repository(t, a.files)

	data := filepath.Join(t.TempDir(), "data")
	c, err := w.startController(data, "--log-level", "debug")
	must(t, err)
	decryption := "  decryption: {provider: sops, secretRef: {name: sops-age}}"
	w.gitRepository(t, ns, repo.URL())
	substituted := a.value("substituted")
	w.apply(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: variables, namespace: "+ns+"}\nstringData: {password: "+quoted(substituted)+"}\n")
	w.kustomization(t, ns, "good", "./good", decryption, "  targetNamespace: "+ns, "  postBuild: {substituteFrom: [{kind: Secret, name: variables}]}")
	for name := range refused {
		w.kustomization(t, ns, name, "./"+name, decryption, "  targetNamespace: "+ns)
	}
	w.project(t, ns, repo.URL())
	for _, name := range slices.Concat(delivered, failing) {
		w.apply(t, helmApplication(name, ns, repo.URL(), ns))
	}
	head, err := repo.Head()
	must(t, err)
	w.cluster.Await(t, kustomizations, ns, "good", "to be delivered", appliedAt(head))
	for name, value := range wanted {
		w.cluster.Await(t, secrets, ns, name, "to hold what was sealed", holds(value))
	}
	for name, word := range refused {
		w.cluster.Await(t, kustomizations, ns, name, "to be refused", says("Ready", "False", word))
	}
	for _, name := range delivered {
		w.cluster.Await(t, applications, argocd, ns+"-"+name, "to be synced", syncedAt(head))
	}
	for _, name := range failing {
		w.cluster.Await(t, applications, argocd, ns+"-"+name, "to fail", failed)
	}
	a.edit(w, c, repo)
	t.Logf("%d canaries", len(a.all))
	if len(a.all) < 40 {
		t.Errorf("there are %d canaries", len(a.all))
	}
	a.look(w, c, ns, a.commands(c, ns))
	c.terminate(t)
	s := scan{t, a.all}
	s.in("the controller's log", []byte(c.log.String()))
	s.files(data)
	s.log(t, data)
}

var secrets = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}

// holds is the condition that a Secret holds a value.
func holds(value string) harness.Condition {
	return func(o *unstr) bool {
		if o == nil {
			return false
		}
		data, _, _ := unstructured.NestedStringMap(o.Object, "data")
		got, _ := base64.StdEncoding.DecodeString(data["value"])
		return string(got) == value
	}
}

// failed is the condition that an Application could not be delivered.
func failed(o *unstr) bool {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	phase := field(o, "status.operationState.phase")
	return len(conditions) > 0 || phase == "Failed" || phase == "Error"
}

func newAviary(t *testing.T, w *world, ns string) *aviary {
	t.Helper()
	a := &aviary{t: t, namespace: ns, files: map[string]string{}}
	var err error
	a.identity, err = age.GenerateX25519Identity()
	must(t, err)
	a.other, err = age.GenerateX25519Identity()
	must(t, err)
	key, err := sealed.Create(t.Context(), w.kube, sealed.StockNamespace, time.Now(), rand.Reader)
	must(t, err)
	a.seal = key
	w.apply(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: sops-age, namespace: "+ns+"}\nstringData: {holdfast.agekey: "+a.identity.String()+"}\n")
	w.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: argocd}\n")
	w.apply(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: "+ns+", namespace: argocd, labels: {holdfast.dev/secret-type: decryption}}\nstringData: {project: "+ns+", holdfast.agekey: "+a.identity.String()+"}\n")
	return a
}

// edit has objects with secrets be changed by hand and by a commit.
func (a *aviary) edit(w *world, c *controller, repo *gitserver.Repo) {
	t := a.t
	t.Helper()
	byHand := a.value("written by hand")
	w.patch(t, harness.ConfigMaps, a.namespace, "config", `{"data":{"value":`+quoted(byHand)+`}}`)
	w.cluster.Await(t, harness.ConfigMaps, a.namespace, "config", "to be reverted", func(o *unstr) bool { return field(o, "data.value") != byHand })
	w.patch(t, kustomizations, a.namespace, "good", `{"spec":{"suspend":true}}`)
	next := a.value("of the next commit")
	before := a.files["good/secret.yaml"]
	a.sops("good/secret.yaml", secretYAML("whole", next))
	a.sops("good/config.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config}\ndata: {value: "+quoted(a.value("of the next ConfigMap"))+"}\n")
	if before == a.files["good/secret.yaml"] {
		t.Fatal("nothing changed")
	}
	commit(t, repo, gitserver.Put("good/secret.yaml", a.files["good/secret.yaml"]), gitserver.Put("good/config.yaml", a.files["good/config.yaml"]))
	c.push(t, repo)
}

// command is one of the command line, and how it ends.
type command struct {
	args []string
	code int
}

// commands are those that tell of what TestCanaries delivers.
func (a *aviary) commands(c *controller, ns string) []command {
	dir := filepath.Join(c.data, "audit")
	return []command{
		{[]string{"diff", "ks/good", "-n", ns}, 1}, // the commit that was made while it was suspended
		{[]string{"diff", "ks/good", "-n", ns, "-o", "json"}, 1},
		{[]string{"diff", "--all", "-n", ns}, 2}, // those that cannot be delivered
		{[]string{"diff", "--all", "-n", argocd, "-o", "json"}, 2},
		{[]string{"why", "secret/whole", "-n", ns, "--dir", dir}, 0},
		{[]string{"why", "secret/strict", "-n", ns, "--dir", dir, "-o", "json"}, 0},
		{[]string{"why", "configmap/config", "-n", ns, "--dir", dir, "-o", "json"}, 0},
		{[]string{"why", "deploy/workload", "-n", ns, "--dir", dir, "-o", "json"}, 0},
	}
}

// look looks for canaries in whatever the command line, the port and the API server show.
func (a *aviary) look(w *world, c *controller, ns string, more []command) {
	t := a.t
	t.Helper()
	s := scan{t, a.all}
	dir := filepath.Join(c.data, "audit")
	for _, tc := range append(more,
		command{[]string{"get", "-o", "json"}, 0},
		command{[]string{"get", "-o", "wide"}, 0},
		command{[]string{"audit", "log", "--dir", dir}, 0},
		command{[]string{"audit", "export", "--dir", dir}, 0},
	) {
		stdout, stderr, code := w.holdfast(t, tc.args...)
		command := "holdfast " + strings.Join(tc.args, " ")
		if code != tc.code {
			t.Errorf("%s: exit code %d, want %d\n%s%s", command, code, tc.code, stdout, stderr)
		}
		s.in(command, []byte(stdout+stderr))
	}
	for _, path := range []string{"/metrics", "/observe", "/readyz", "/v1/cert.pem"} {
		s.in(path, c.read(t, path))
	}
	s.cluster(w, ns)
}

// read gets a page of the controller's.
func (c *controller) read(t *testing.T, path string) []byte {
	t.Helper()
	resp, err := http.Get("http://" + c.address + path)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return body
}

// belongs reports whether an object is one that a canary was meant for.
func belongs(o *unstr) bool {
	switch o.GetKind() {
	case "Secret":
		return true
	case "ConfigMap":
		return o.GetName() == "config" || o.GetName() == "chart-config"
	case "Deployment", "ReplicaSet", "Pod":
		return strings.HasPrefix(o.GetName(), "workload")
	}
	return false
}

// cluster looks through all objects of all kinds, but those that the secrets are for.
func (s scan) cluster(w *world, ns string) {
	s.t.Helper()
	lists, err := w.kube.Discovery().ServerPreferredResources()
	must(s.t, err)
	seen := 0
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		must(s.t, err)
		for _, r := range list.APIResources {
			if !slices.Contains(r.Verbs, "list") {
				continue
			}
			items, err := w.cluster.Dynamic().Resource(gv.WithResource(r.Name)).List(s.t.Context(), metav1.ListOptions{})
			if err != nil {
				continue // an aggregated API of another test
			}
			for i := range items.Items {
				o := &items.Items[i]
				seen++
				body, err := o.MarshalJSON()
				must(s.t, err)
				if belongs(o) && (o.GetNamespace() == ns || o.GetNamespace() == argocd) {
					body, err = json.Marshal(o.Object["metadata"])
					must(s.t, err)
				}
				s.in(o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName(), body)
			}
		}
	}
	if seen < 100 {
		s.t.Errorf("only %d objects were looked at", seen)
	}
}

// files looks through every file of a controller's directory.
func (s scan) files(dir string) {
	s.t.Helper()
	s.below(dir, 10)
}

// below looks through every file below a directory, of which there are some at least.
func (s scan) below(dir string, least int) {
	s.t.Helper()
	seen := 0
	must(s.t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		seen++
		content, err := os.ReadFile(path)
		s.in(path, content)
		return err
	}))
	if seen < least {
		s.t.Errorf("only %d files were looked at", seen)
	}
}

// log looks through the audit log, and the records of its entries, which are deflated.
func (s scan) log(t *testing.T, data string) {
	t.Helper()
	dir := audit.Dir(filepath.Join(data, "audit"))
	seen := 0
	for e, err := range entriesOf(t, data) {
		must(t, err)
		text, err := json.Marshal(e)
		must(t, err)
		s.in("entry of the audit log", text)
		if e.Record == "" {
			continue
		}
		seen++
		record, err := audit.ReadRecord(context.Background(), dir, e.Record)
		must(t, err)
		text, err = json.Marshal(record)
		must(t, err)
		s.in("record of the audit log", text)
	}
	if seen == 0 {
		t.Error("the log has no records")
	}
}
