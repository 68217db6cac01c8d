package deploy_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/fault"
)

var update = flag.Bool("update", false, "generate the definitions anew")

// generated are the files to keep, by what they are generated from. Flux's modules
// hold further kinds, which are not served yet and so not installed. Flux's own words
// are left out of its definitions: the words are Flux's, the shape is the contract.
var generated = []struct {
	options string
	paths   []string
	files   []string
}{
	{
		options: "crd",
		paths:   []string{"./api/argo/..."},
		files:   []string{"argoproj.io_applications.yaml", "argoproj.io_appprojects.yaml"},
	},
	{
		options: "crd",
		paths:   []string{"./api/holdfast/..."},
		files:   []string{"holdfast.dev_policysets.yaml", "holdfast.dev_trustpolicies.yaml"},
	},
	{
		options: "crd:maxDescLen=0",
		paths: []string{
			"github.com/fluxcd/kustomize-controller/api/v1",
			"github.com/fluxcd/notification-controller/api/v1",
			"github.com/fluxcd/source-controller/api/v1",
		},
		files: []string{
			"kustomize.toolkit.fluxcd.io_kustomizations.yaml",
			"notification.toolkit.fluxcd.io_receivers.yaml",
			"source.toolkit.fluxcd.io_gitrepositories.yaml",
		},
	},
}

const inputsFile = "crds/inputs.sha256"

// TestGenerated is red while the definitions are older than the types they are made
// from. With -update it makes them. Running the generator to compare would cost a
// minute on a machine that has not built it yet, so a digest of its inputs stands in.
func TestGenerated(t *testing.T) {
	want := inputs(t)
	if *update {
		generate(t)
		if err := os.WriteFile(inputsFile, []byte(want+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(inputsFile)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(got)) != want {
		t.Error("the types have changed since the definitions were generated: run make generate")
	}
	var files []string
	for _, g := range generated {
		files = append(files, g.files...)
	}
	present, err := filepath.Glob("crds/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for i := range present {
		present[i] = filepath.Base(present[i])
	}
	slices.Sort(files)
	if diff := cmp.Diff(files, present); diff != "" {
		t.Errorf("definitions (-want +present):\n%s", diff)
	}
}

// inputs digests what the generator reads: our types, and the versions of Flux's
// modules and of the generator.
func inputs(t *testing.T) string {
	t.Helper()
	sum := sha256.New()
	sources, err := filepath.Glob("../api/*/v1alpha1/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range sources {
		if strings.HasSuffix(file, "_test.go") || strings.HasPrefix(filepath.Base(file), "zz_") {
			continue
		}
		fmt.Fprintf(sum, "%s\n%s\n", filepath.Base(file), readFile(t, file))
	}
	versions := regexp.MustCompile(`(?m)^\s*(?:require )?(\S+ v\S+)`)
	for _, pin := range []struct{ file, modules string }{
		{"../go.mod", "github.com/fluxcd/"},
		{"../tools/go.mod", "sigs.k8s.io/controller-tools "},
	} {
		var lines []string
		for _, m := range versions.FindAllSubmatch(readFile(t, pin.file), -1) {
			if strings.HasPrefix(string(m[1]), pin.modules) {
				lines = append(lines, string(m[1]))
			}
		}
		if len(lines) == 0 {
			t.Fatalf("%s requires nothing under %s", pin.file, pin.modules)
		}
		slices.Sort(lines)
		fmt.Fprintln(sum, lines)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func generate(t *testing.T) {
	t.Helper()
	for _, g := range generated {
		dir := t.TempDir()
		args := []string{"tool", "-modfile=tools/go.mod", "controller-gen", g.options, "output:crd:dir=" + dir}
		for _, p := range g.paths {
			args = append(args, "paths="+p)
		}
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = ".."
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("generate from %v: %v\n%s", g.paths, err, out)
		}
		for _, file := range g.files {
			if err := os.WriteFile("crds/"+file, readFile(t, filepath.Join(dir, file)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func readFile(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// definitions returns the CRDs as the API server reads them: strictly.
func definitions(t *testing.T) map[string]*apiextv1.CustomResourceDefinition {
	t.Helper()
	objs, err := deploy.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	crds := map[string]*apiextv1.CustomResourceDefinition{}
	for _, obj := range objs {
		crd := &apiextv1.CustomResourceDefinition{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(obj.Object, crd, true); err != nil {
			t.Fatalf("%s: %v", obj.GetName(), err)
		}
		crds[crd.Spec.Names.Kind] = crd
	}
	return crds
}

// TestErgonomics pins what users of kubectl see and type.
func TestErgonomics(t *testing.T) {
	type look struct {
		Name, Scope            string
		Short, Categories      []string
		Columns                []string // a trailing + marks those of -o wide
		StatusSubresource      bool
		StatusDefaultGenerated string
	}
	ready := []string{"Age", "Ready", "Status"}
	cases := map[string]struct {
		reason string
		want   look
	}{
		"Application": {"no status subresource: clients patch operation and status plainly", look{
			Name: "applications.argoproj.io/v1alpha1", Scope: "Namespaced", Short: []string{"app", "apps"},
			Columns: []string{"Sync Status", "Health Status", "Revision+", "Project+"},
		}},
		"AppProject": {"no status subresource", look{
			Name: "appprojects.argoproj.io/v1alpha1", Scope: "Namespaced", Short: []string{"appproj", "appprojs"},
		}},
		"GitRepository": {"as Flux publishes it", look{
			Name: "gitrepositories.source.toolkit.fluxcd.io/v1", Scope: "Namespaced", Short: []string{"gitrepo"},
			Categories: []string{"all", "fluxcd", "fluxcd-sources"}, Columns: append([]string{"URL"}, ready...),
			StatusSubresource: true, StatusDefaultGenerated: `{"observedGeneration":-1}`,
		}},
		"Kustomization": {"as Flux publishes it", look{
			Name: "kustomizations.kustomize.toolkit.fluxcd.io/v1", Scope: "Namespaced", Short: []string{"ks"},
			Categories: []string{"all", "fluxcd", "fluxcd-appliers"}, Columns: ready,
			StatusSubresource: true, StatusDefaultGenerated: `{"observedGeneration":-1}`,
		}},
		"SealedSecret": {"as its own project publishes it", look{
			Name: "sealedsecrets.bitnami.com/v1alpha1", Scope: "Namespaced", Columns: []string{"Status", "Synced", "Age"}, StatusSubresource: true,
		}},
		"TrustPolicy": {"what it is for, whether it can be judged, and how many deliveries it stops", look{
			Name: "trustpolicies.holdfast.dev/v1alpha1", Scope: "Cluster", Short: []string{"trust"}, Categories: []string{"holdfast"},
			Columns: []string{"Mode", "Ready", "Selected", "Refused", "Unproven", "Age", "Status+"}, StatusSubresource: true,
		}},
		"PolicySet": {"what it is for, whether it can be judged by, and how many deliveries it stops", look{
			Name: "policysets.holdfast.dev/v1alpha1", Scope: "Cluster", Short: []string{"pset"}, Categories: []string{"holdfast"},
			Columns: []string{"Mode", "Ready", "Selected", "Refused", "Warned", "Age", "Revision+", "Status+"}, StatusSubresource: true,
		}},
		"Receiver": {"as Flux publishes it", look{
			Name: "receivers.notification.toolkit.fluxcd.io/v1", Scope: "Namespaced",
			Categories: []string{"all", "fluxcd", "fluxcd-notifications"}, Columns: ready,
			StatusSubresource: true, StatusDefaultGenerated: `{"observedGeneration":-1}`,
		}},
	}
	crds := definitions(t)
	if len(crds) != len(cases) {
		t.Errorf("%d definitions are installed, %d are known here", len(crds), len(cases))
	}
	for kind, tc := range cases {
		crd, ok := crds[kind]
		if !ok {
			t.Errorf("%s is not installed", kind)
			continue
		}
		v := crd.Spec.Versions[0]
		got := look{
			Name: crd.Name + "/" + v.Name, Scope: string(crd.Spec.Scope),
			Short: crd.Spec.Names.ShortNames, Categories: crd.Spec.Names.Categories,
			StatusSubresource: v.Subresources != nil && v.Subresources.Status != nil,
		}
		for _, c := range v.AdditionalPrinterColumns {
			if c.Priority > 0 {
				c.Name += "+"
			}
			got.Columns = append(got.Columns, c.Name)
		}
		if d := v.Schema.OpenAPIV3Schema.Properties["status"].Default; d != nil {
			got.StatusDefaultGenerated = string(d.Raw)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", kind, tc.reason, diff)
		}
	}
}

// admit does to obj what the API server does to a custom resource: prune what the
// definition does not know, then validate.
func admit(t *testing.T, crd *apiextv1.CustomResourceDefinition, obj map[string]any) (pruned []string, errs []string) {
	t.Helper()
	internal := &apiext.CustomResourceDefinition{}
	if err := apiextv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(crd, internal, nil); err != nil {
		t.Fatal(err)
	}
	schema := internal.Spec.Validation
	if schema == nil {
		schema = internal.Spec.Versions[0].Schema
	}
	s, err := structural.NewStructural(schema.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	if errs := structural.ValidateStructural(nil, s); len(errs) > 0 {
		t.Fatalf("%s: the API server would refuse the definition: %v", crd.Name, errs)
	}
	pruned = pruning.PruneWithOptions(obj, s, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	v := validate.NewSchemaValidator(s.ToKubeOpenAPI(), nil, "", strfmt.Default)
	for _, e := range v.Validate(obj).Errors {
		errs = append(errs, e.Error())
	}
	return pruned, errs
}

// TestAdmission sends objects through the definitions.
func TestAdmission(t *testing.T) {
	const app = "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: a}\n"
	const sealedSecret = "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata: {name: s}\nspec:\n"
	const trustPolicy = "apiVersion: holdfast.dev/v1alpha1\nkind: TrustPolicy\nmetadata: {name: p}\n"
	cases := map[string]struct {
		reason string
		kind   string
		object string
		pruned []string
		errs   int
	}{
		"Everything": {
			reason: "no field that users write may be dropped by the API server",
			kind:   "Application", object: string(readFile(t, "../api/argo/v1alpha1/testdata/application.yaml")),
		},
		"EverythingOfAProject": {
			reason: "no field that users write may be dropped by the API server",
			kind:   "AppProject", object: string(readFile(t, "../api/argo/v1alpha1/testdata/appproject.yaml")),
		},
		"SyncRequest": {
			reason: "a merge patch with {operation: {sync: {}}} is how a sync is asked for without a client",
			kind:   "Application", object: app + "spec: {destination: {}, project: \"\"}\noperation: {sync: {}}\n",
		},
		"TerminateRequest": {
			reason: "a client stops an operation by writing its phase",
			kind:   "Application", object: app + "spec: {destination: {}}\n" +
				"status: {operationState: {operation: {sync: {}}, phase: Terminating, startedAt: \"2026-01-02T03:04:05Z\"}}\n",
		},
		"ProjectIsOptional": {
			reason: "an empty project means default, so leaving it out means the same",
			kind:   "Application", object: app + "spec: {destination: {}}\n",
		},
		"NoDestination": {
			reason: "an Application that goes nowhere is a mistake",
			kind:   "Application", object: app + "spec: {}\n", errs: 1,
		},
		"RootAsHydrated": {
			reason: "the root of a repository must never be overwritten by a hydrator",
			kind:   "Application", object: app + "spec:\n  destination: {}\n  sourceHydrator:\n" +
				"    drySource: {repoURL: r, targetRevision: t, path: p}\n    syncSource: {targetBranch: b, path: .}\n", errs: 1,
		},
		"UnknownField": {
			reason: "what the kind does not have is dropped, and kubectl is told so",
			kind:   "Application", object: app + "spec: {destination: {}, sauce: {}}\n", pruned: []string{"spec.sauce"},
		},
		"ValuesAreFree": {
			reason: "values belong to the chart's author",
			kind:   "Application", object: app + "spec: {destination: {}, source: {repoURL: r, helm: {valuesObject: {a: {b: [c, {d: 1}]}}}}}\n",
		},
		"ProjectOfNothing": {
			reason: "a project without rules is one that permits nothing",
			kind:   "AppProject", object: "apiVersion: argoproj.io/v1alpha1\nkind: AppProject\nmetadata: {name: p}\nspec: {}\n",
		},
		"EverythingOfATrustPolicy": {
			reason: "no field that users write may be dropped by the API server",
			kind:   "TrustPolicy", object: string(readFile(t, "../api/holdfast/v1alpha1/testdata/trustpolicy.yaml")),
		},
		"SlipInATrustPolicy": {
			reason: "a demand with a slip in its name is kept, to be refused by name; dropped, it would be no demand",
			kind:   "TrustPolicy", object: trustPolicy + "spec: {strict: true, comits: {}, select: {namespace: [a], labels: {matchlabels: {}}},\n" +
				"  commits: {authorMatch: true, authorities: [{name: a, ssh: {inline: k, in: l}, identity: [a]}]}}\n",
		},
		"TrustPolicyMode": {
			reason: "a mode that nobody knows must not be taken for another",
			kind:   "TrustPolicy", object: trustPolicy + "spec: {strict: true, mode: warn}\n", errs: 1,
		},
		"EverythingOfASealedSecret": {
			reason: "objects survive a change from the definition of its own project to ours",
			kind:   "SealedSecret", object: sealedSecret + "  encryptedData: {a: AgB=, b: \"\"}\n  data: AgB=\n" +
				"  template: {type: Opaque, immutable: true, data: {c: \"{{ .a }}\"}, metadata: {name: s, namespace: shop, creationTimestamp: null,\n" +
				"    labels: {a: b}, annotations: {a: b}, finalizers: [a/b], ownerReferences: [{kind: x}]}}\n" +
				"status: {observedGeneration: 1, conditions: [{type: Synced, status: \"True\", reason: r, message: \"\",\n" +
				"  lastUpdateTime: \"2026-01-02T03:04:05Z\", lastTransitionTime: \"2026-01-02T03:04:05Z\"}]}\n",
		},
		"EmptyTemplateOfASealedSecret": {
			reason: "clients write null for what is empty",
			kind:   "SealedSecret", object: sealedSecret + "  encryptedData: {}\n  template: {metadata: null, data: null}\n",
		},
		"SealedSecretOfNothing": {
			reason: "without encryptedData there is nothing to open",
			kind:   "SealedSecret", object: sealedSecret + "  template: {}\n", errs: 1,
		},
		"FluxInterval": {
			reason: "a duration that nobody can parse must not reach a controller",
			kind:   "Kustomization", object: "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: k}\n" +
				"spec: {interval: soon, prune: true, sourceRef: {kind: GitRepository, name: g}}\n", errs: 1,
		},
		"FluxFileURL": {
			reason: "a tenant must not make the controller read its own disk",
			kind:   "GitRepository", object: "apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: g}\n" +
				"spec: {interval: 1m, url: \"file:///etc\"}\n", errs: 1,
		},
	}
	crds := definitions(t)
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var obj map[string]any
			if err := yaml.Unmarshal([]byte(tc.object), &obj); err != nil {
				t.Fatal(err)
			}
			pruned, errs := admit(t, crds[tc.kind], obj)
			if diff := cmp.Diff(tc.pruned, pruned); diff != "" {
				t.Errorf("%s: pruned (-want +got):\n%s", tc.reason, diff)
			}
			if len(errs) != tc.errs {
				t.Errorf("%s: want %d errors, got %q", tc.reason, tc.errs, errs)
			}
		})
	}
}

func manifests(t *testing.T, o deploy.Options) []*unstructured.Unstructured {
	t.Helper()
	objs, err := deploy.Manifests(o)
	if err != nil {
		t.Fatal(err)
	}
	return objs
}

func titles(objs []*unstructured.Unstructured) []string {
	out := make([]string, 0, len(objs))
	for _, obj := range objs {
		out = append(out, strings.TrimPrefix(obj.GetNamespace()+"/", "/")+obj.GetKind()+" "+obj.GetName())
	}
	return out
}

func TestManifests(t *testing.T) {
	want := []string{
		"Namespace holdfast-system",
		"holdfast-system/ServiceAccount holdfast",
		"ClusterRole holdfast-watch", "ClusterRoleBinding holdfast-watch",
		"ClusterRole holdfast-serve", "ClusterRoleBinding holdfast-serve",
		"ClusterRole holdfast-tenant", "ClusterRoleBinding holdfast-tenant",
		"holdfast-system/Role holdfast-audit-key", "holdfast-system/RoleBinding holdfast-audit-key",
		"holdfast-system/Role holdfast-sealing-keys", "holdfast-system/RoleBinding holdfast-sealing-keys", "ClusterRole holdfast-sealedsecrets",
		"ClusterRole holdfast-review", "ClusterRoleBinding holdfast-review",
		"ClusterRole holdfast-audit-reader", "holdfast-system/ServiceAccount holdfast-audit-reader",
		"ClusterRoleBinding holdfast-audit-reader", "holdfast-system/Role holdfast-auditor",
		"holdfast-system/Service holdfast", "holdfast-system/NetworkPolicy holdfast", "holdfast-system/PersistentVolumeClaim holdfast-audit",
		"holdfast-system/Deployment holdfast",
	}
	objs := manifests(t, deploy.Options{})
	if diff := cmp.Diff(want, titles(objs)); diff != "" {
		t.Errorf("what is installed, in order (-want +got):\n%s", diff)
	}
	for _, obj := range objs {
		typed, err := scheme.Scheme.New(obj.GroupVersionKind())
		if err != nil {
			t.Fatal(err)
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(obj.Object, typed, true); err != nil {
			t.Errorf("%s %s: %v", obj.GetKind(), obj.GetName(), err)
		}
	}
}

func TestOptions(t *testing.T) {
	cases := map[string]struct {
		reason  string
		options deploy.Options
		has     []string
		hasNot  []string
		kind    fault.Kind
		fails   bool
	}{
		"Namespace": {
			reason: "an installation elsewhere must leave no reference to the default place", options: deploy.Options{Namespace: "gitops"},
			has: []string{"namespace: gitops", "name: gitops"}, hasNot: []string{"holdfast-system"},
		},
		"Image": {
			reason: "images are pinned by who installs", options: deploy.Options{Image: "registry.example.org/holdfast@sha256:abc"},
			has: []string{"image: registry.example.org/holdfast@sha256:abc"}, hasNot: []string{":latest"},
		},
		"Args": {
			reason: "flags of the controller pass through, after our own", options: deploy.Options{Args: []string{"--default-service-account=deployer"}},
			has: []string{"- --listen=:8080\n        - --default-service-account=deployer"},
		},
		"DataClaim": {
			reason: "a claim replaces the volume that dies with the Pod", options: deploy.Options{DataClaim: "fast"},
			has: []string{"claimName: fast"}, hasNot: []string{"emptyDir"},
		},
		"AuditClaim": {
			reason: "a claim that is there is used, and none is made", options: deploy.Options{AuditClaim: "slow"},
			has: []string{"claimName: slow", "- --audit-dir=/audit/log"}, hasNot: []string{"kind: PersistentVolumeClaim\n", "claimName: holdfast-audit"},
		},
		"Permissive": {
			reason:  "own identity without rights would fail every delivery; the flag and the right go together",
			options: deploy.Options{Permissive: true, Namespace: "gitops"},
			has:     []string{"- --permissive", "name: cluster-admin\nsubjects:\n- kind: ServiceAccount\n  name: holdfast\n  namespace: gitops"},
		},
		"Observe": {
			reason:  "who only looks gets no right to write, and the controller knows",
			options: deploy.Options{Observe: true}, has: []string{"- --observe", "impersonate"}, hasNot: []string{"- patch", "- update", "  - events\n"},
		},
		"Takeover": {
			reason:  "to deliver one resource takes the rights of an installation",
			options: deploy.Options{Takeover: true}, has: []string{"- --observe", "- patch"},
		},
		"ObserveAndTakeover": {
			reason: "one has no rights for the other", options: deploy.Options{Observe: true, Takeover: true}, fails: true, kind: fault.Invalid,
		},
		"Admission": {
			reason: "the API server finds it, and it may say where", options: deploy.Options{Admission: true, Namespace: "gitops"},
			has: []string{"- --admission-address=:9443", "name: admission\n          protocol: TCP", "name: holdfast-admission\n  namespace: gitops", "- validatingwebhookconfigurations"},
		},
		"ObserveAndAdmission": {
			reason: "who writes nothing configures no webhook", options: deploy.Options{Observe: true, Admission: true}, fails: true, kind: fault.Invalid,
		},
		"Strict": {
			reason: "nobody gets cluster-admin without asking", hasNot: []string{"cluster-admin", "--permissive", "admission-address", "validatingwebhookconfigurations"},
		},
		"Tenants": {
			reason: "with tenants named, nothing may act as an account elsewhere", options: deploy.Options{Tenants: []string{"b", "a", "b"}},
			has: []string{"name: holdfast-tenant\n  namespace: a\n", "name: holdfast-tenant\n  namespace: b\n"},
		},
		"SealingKeys": {
			reason: "the keys of the stock controller, where they are, before our own", options: deploy.Options{SealingKeys: []string{"kube-system"}, Namespace: "gitops"},
			has: []string{
				"- --sealing-key-namespace=kube-system,gitops\n", "name: holdfast-sealing-keys\n  namespace: kube-system\nrules:", "name: holdfast-sealing-keys\n  namespace: gitops\nrules:",
				"name: holdfast-sealing-keys\n  namespace: kube-system\nroleRef:",
			},
		},
		"ObserveMakesNoKeys": {
			reason: "a key is a write", options: deploy.Options{Observe: true, SealingKeys: []string{"kube-system"}},
			has: []string{"name: holdfast-sealing-keys\n  namespace: kube-system\nrules:\n- apiGroups:\n  - \"\"\n  resources:\n  - secrets\n  verbs:\n  - list\n  - watch\n---"},
		},
		"BadSealingKeys": {
			reason: "refuse before anything is written", options: deploy.Options{SealingKeys: []string{"a/b"}}, fails: true, kind: fault.Invalid,
		},
		"BadNamespace": {
			reason: "refuse before anything is written", options: deploy.Options{Namespace: "No Such"}, fails: true, kind: fault.Invalid,
		},
		"BadTenant": {
			reason: "a glob is not a namespace", options: deploy.Options{Tenants: []string{"team-*"}}, fails: true, kind: fault.Invalid,
		},
		"BadAuditClaim": {
			reason: "refuse before anything is written", options: deploy.Options{AuditClaim: "a/b"}, fails: true, kind: fault.Invalid,
		},
		"BadClaim": {
			reason: "refuse before anything is written", options: deploy.Options{DataClaim: "a/b"}, fails: true, kind: fault.Invalid,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			objs, err := deploy.Manifests(tc.options)
			if (err != nil) != tc.fails || tc.fails && fault.KindOf(err) != tc.kind {
				t.Fatalf("%s: got error %v", tc.reason, err)
			}
			out, err := deploy.YAML(objs)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range tc.has {
				if !bytes.Contains(out, []byte(s)) {
					t.Errorf("%s: %q is missing in\n%s", tc.reason, s, out)
				}
			}
			for _, s := range tc.hasNot {
				if bytes.Contains(out, []byte(s)) {
					t.Errorf("%s: %q is still there", tc.reason, s)
				}
			}
		})
	}
}

// TestTenantsNarrow follows the one right that makes a token worth stealing.
func TestTenantsNarrow(t *testing.T) {
	for _, obj := range manifests(t, deploy.Options{Tenants: []string{"team"}}) {
		role, _, _ := unstructured.NestedString(obj.Object, "roleRef", "name")
		if role == "holdfast-tenant" && obj.GetKind() != "RoleBinding" {
			t.Errorf("%s %s still reaches every namespace", obj.GetKind(), obj.GetName())
		}
	}
}

// TestLeastPrivilege states what the account must not be able to do, whatever else
// is added to its roles.
func TestLeastPrivilege(t *testing.T) {
	// Writing verbs, and the groups in which they are granted.
	writes := map[string][]string{
		"patch":  {"source.toolkit.fluxcd.io", "kustomize.toolkit.fluxcd.io", "notification.toolkit.fluxcd.io", "argoproj.io", "holdfast.dev", "bitnami.com", "", "events.k8s.io", "wgpolicyk8s.io"},
		"update": {"source.toolkit.fluxcd.io", "kustomize.toolkit.fluxcd.io", "notification.toolkit.fluxcd.io", "argoproj.io"},
		// Events; and reviews, which are questions to the API server.
		"create": {"", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "wgpolicyk8s.io"},
		// Reports of policies alone: those of deliveries that nothing judges any more.
		"delete": {"wgpolicyk8s.io"},
	}
	for _, obj := range manifests(t, deploy.Options{}) {
		if obj.GetKind() != "ClusterRole" && obj.GetKind() != "Role" {
			continue
		}
		var role rbacv1.Role
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, &role); err != nil {
			t.Fatal(err)
		}
		if role.Labels["rbac.authorization.k8s.io/aggregate-to-edit"] == "true" {
			continue // for tenants; Holdfast's own account is bound to it by nothing
		}
		for _, rule := range role.Rules {
			wild := slices.Contains(rule.Resources, "*") || slices.Contains(rule.APIGroups, "*")
			for _, verb := range rule.Verbs {
				allowed, isWrite := writes[verb]
				switch {
				case verb == "list" || verb == "watch":
				case wild:
					t.Errorf("%s: %s on a wildcard reaches subresources that run commands", role.Name, verb)
				case verb == "get":
				case verb == "impersonate":
					if diff := cmp.Diff([]string{"serviceaccounts"}, rule.Resources); diff != "" {
						t.Errorf("%s: only service accounts may be impersonated, never users or groups:\n%s", role.Name, diff)
					}
				case !isWrite:
					t.Errorf("%s: verb %q is not one that Holdfast's own account needs", role.Name, verb)
				}
				for _, g := range rule.APIGroups {
					if isWrite && !slices.Contains(allowed, g) {
						t.Errorf("%s: %s in group %q is for the tenant's account to do", role.Name, verb, g)
					}
				}
			}
		}
	}
}

// TestRestricted checks the Pod against the restricted Pod Security Standard that its
// own namespace enforces: a Pod that fails it would never start.
func TestRestricted(t *testing.T) {
	objs := manifests(t, deploy.Options{})
	d := objs[len(objs)-1]
	pod := []string{"spec", "template", "spec"}
	containers, _, err := unstructured.NestedSlice(d.Object, append(pod, "containers")...)
	if err != nil || len(containers) != 1 {
		t.Fatalf("containers: %v, %v", containers, err)
	}
	podContext, _, _ := unstructured.NestedMap(d.Object, append(pod, "securityContext")...)
	context, _, _ := unstructured.NestedMap(containers[0].(map[string]any), "securityContext")
	want := map[string]any{
		"pod": map[string]any{
			"runAsNonRoot": true, "runAsUser": int64(65532), "runAsGroup": int64(65532), "fsGroup": int64(65532),
			"seccompProfile": map[string]any{"type": "RuntimeDefault"},
		},
		"container": map[string]any{
			"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
			"capabilities": map[string]any{"drop": []any{"ALL"}},
		},
	}
	if diff := cmp.Diff(want, map[string]any{"pod": podContext, "container": context}); diff != "" {
		t.Errorf("security contexts (-want +got):\n%s", diff)
	}
}
