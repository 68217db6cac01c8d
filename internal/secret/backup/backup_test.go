package backup_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret/backup"
	"github.com/holdfastcd/holdfast/internal/secret/sealed"
	"github.com/holdfastcd/holdfast/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func identity(t *testing.T) *age.X25519Identity {
	t.Helper()
	i, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func secretOf(namespace, name string, labels map[string]string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Type:       corev1.SecretTypeOpaque, Data: map[string][]byte{"identity.agekey": []byte("hunter2-" + name)},
	}
}

func TestABackupOpensForItsRecipientsOnly(t *testing.T) {
	mine, other, stranger := identity(t), identity(t), identity(t)
	to, err := backup.Recipients([]string{mine.Recipient().String(), other.Recipient().String()})
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	want := []corev1.Secret{*secretOf("a", "b", map[string]string{"x": "y"})}
	if err := backup.Write(&file, want, to); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(file.String(), "hunter2") {
		t.Error("the backup is plain")
	}
	for _, i := range []age.Identity{mine, other} {
		got, err := backup.Read(bytes.NewReader(file.Bytes()), []age.Identity{i})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if _, err := backup.Read(bytes.NewReader(file.Bytes()), []age.Identity{stranger}); fault.KindOf(err) != fault.Unauthorized {
		t.Errorf("a stranger: %v", err)
	}
	damaged := bytes.Replace(file.Bytes(), []byte("\n-----END"), []byte("AAAA\n-----END"), 1)
	for name, content := range map[string][]byte{"damaged": damaged, "cut": file.Bytes()[:file.Len()/2], "empty": nil, "something else": []byte("hunter2")} {
		if _, err := backup.Read(bytes.NewReader(content), []age.Identity{mine}); fault.KindOf(err) != fault.Refused || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRecipientsAndIdentities(t *testing.T) {
	const ssh = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2v9bqnVYBZtqhgYMFCRm0VPPqkVKFDCXfaiAh3gh1d me"
	for _, texts := range [][]string{nil, {"age1x"}, {"ssh-rsa x"}, {identity(t).String()}, {identity(t).Recipient().String() + "\n" + identity(t).Recipient().String()}} {
		if _, err := backup.Recipients(texts); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v", texts, err)
		}
	}
	if _, err := backup.Recipients([]string{identity(t).Recipient().String(), ssh}); err != nil {
		t.Error(err)
	}
	if _, err := backup.Identities([]byte("# a comment\n" + identity(t).String() + "\n")); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"", "hunter2", "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n"} {
		if _, err := backup.Identities([]byte(text)); fault.KindOf(err) != fault.Invalid || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestThereAndBack(t *testing.T) {
	c := harness.Shared(t)
	kube, err := kubernetes.NewForConfig(c.Config())
	if err != nil {
		t.Fatal(err)
	}
	clients := backup.Clients{Kube: kube, Dynamic: c.Dynamic()}
	ns := c.Namespace(t)
	made := map[string]*corev1.Secret{
		"sealing": secretOf(ns, "sealing", map[string]string{sealed.KeyLabel: sealed.KeyActive}),
		"old":     secretOf(ns, "old", map[string]string{sealed.KeyLabel: "retired"}),
		"sops":    secretOf(ns, "sops", map[string]string{backup.LabelDecryption: backup.ValueDecryption}),
		"named":   secretOf(ns, "named", nil),
		"flux":    secretOf(ns, "flux", nil),
		"other":   secretOf(ns, "other", map[string]string{backup.LabelDecryption: "repository"}),
	}
	for _, s := range made {
		if _, err := kube.CoreV1().Secrets(ns).Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := clients.Collect(t.Context()); err != nil {
		t.Fatalf("without Flux in the cluster: %v", err)
	}
	kustomization(t, c, ns)

	if _, err := clients.Collect(t.Context(), types.NamespacedName{Namespace: ns, Name: "none"}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a Secret that was named is not there: %v", err)
	}
	got, err := clients.Collect(t.Context(), types.NamespacedName{Namespace: ns, Name: "named"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range got {
		names = append(names, s.Name)
		if s.UID != "" || s.ManagedFields != nil || s.ResourceVersion != "" {
			t.Errorf("%s carries what only its cluster knows", s.Name)
		}
	}
	if diff := cmp.Diff([]string{"flux", "named", "old", "sealing", "sops"}, names); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}

	changes := func(force bool) map[string]backup.Change {
		steps, err := clients.Plan(t.Context(), got, force)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]backup.Change{}
		for _, s := range steps {
			out[s.Secret.Name] = s.Change
		}
		if err := clients.Restore(t.Context(), steps); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if all := slices.Collect(maps.Values(changes(false))); slices.ContainsFunc(all, func(c backup.Change) bool { return c != backup.Unchanged }) {
		t.Errorf("nothing has changed: %v", all)
	}
	secrets := kube.CoreV1().Secrets(ns)
	if err := secrets.Delete(t.Context(), "old", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	changed := made["sops"].DeepCopy()
	changed.Data = map[string][]byte{"identity.agekey": []byte("hunter3")}
	if _, err := secrets.Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = clients.Plan(t.Context(), got, false)
	if fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), ns+"/sops") || strings.Contains(err.Error(), "hunter") {
		t.Errorf("another key is there: %v", err)
	}
	if _, err := secrets.Get(t.Context(), "old", metav1.GetOptions{}); err == nil {
		t.Error("a refused restoring restored something")
	}
	want := map[string]backup.Change{"flux": backup.Unchanged, "named": backup.Unchanged, "old": backup.Create, "sealing": backup.Unchanged, "sops": backup.Replace}
	if diff := cmp.Diff(want, changes(true)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, name := range []string{"old", "sops"} {
		live, err := secrets.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(made[name].Data, live.Data); diff != "" || live.Labels == nil {
			t.Errorf("%s is not as it was: %s %v", name, diff, live.Labels)
		}
	}
}

// kustomization makes one that names the Secret flux, and one whose Secret is not there.
func kustomization(t *testing.T, c *harness.Cluster, ns string) {
	t.Helper()
	all, err := deploy.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	definitions := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	const name = "kustomizations.kustomize.toolkit.fluxcd.io"
	for _, d := range all {
		if d.GetName() != name {
			continue
		}
		if _, err := c.Dynamic().Resource(definitions).Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c.Await(t, definitions, "", name, "to be established", func(o *unstructured.Unstructured) bool {
		conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		return slices.ContainsFunc(conditions, func(v any) bool {
			m, _ := v.(map[string]any)
			return m["type"] == "Established" && m["status"] == "True"
		})
	})
	resource := schema.GroupVersionResource{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Resource: "kustomizations"}
	for _, key := range []string{"flux", "missing"} {
		k := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": map[string]any{"name": key},
			"spec": map[string]any{
				"interval": "1m", "prune": true, "sourceRef": map[string]any{"kind": "GitRepository", "name": "g"},
				"decryption": map[string]any{"provider": "sops", "secretRef": map[string]any{"name": key}},
			},
		}}
		if _, err := c.Dynamic().Resource(resource).Namespace(ns).Create(t.Context(), k, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}
