package delivery_test

import (
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/server"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/internal/writes"
	"github.com/holdfastcd/holdfast/test/harness"
)

const web = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 1, selector: {matchLabels: {a: web}},
	template: {metadata: {labels: {a: web}}, spec: {containers: [{name: web, image: "example.org/web:1"}]}}}}`

// patch writes as somebody else, and waits until the watch shows it.
func (w *world) patch(gvr kschema.GroupVersionResource, name, manager, body string) {
	w.t.Helper()
	o, err := w.harness.Dynamic().Resource(gvr).Namespace(w.ns).
		Patch(w.t.Context(), name, types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{FieldManager: manager})
	if err != nil {
		w.t.Fatal(err)
	}
	kind, _ := w.cluster.Kinds().Lookup(o.GroupVersionKind())
	version, err := strconv.Atoi(o.GetResourceVersion())
	if err != nil {
		w.t.Fatal(err)
	}
	id := object.ID{Group: kind.GVK.Group, Kind: kind.GVK.Kind, Namespace: w.ns, Name: name}
	tick := time.NewTicker(5 * time.Millisecond) // not every change is an event
	defer tick.Stop()
	for range 2000 {
		record, _ := w.cluster.Look(kind, id)
		if seen, _ := strconv.Atoi(record.ResourceVersion); seen >= version {
			return
		}
		<-tick.C
	}
	w.t.Fatalf("the watch does not show %s as of %d", name, version)
}

// drifts are the alerts of a report that tell of drift.
func drifts(r delivery.Report) []string {
	var all []string
	for _, a := range r.Alerts {
		if a.Reason == delivery.AlertDrift {
			all = append(all, a.Message)
		}
	}
	return all
}

// untilDrift does passes until one tells of drift.
func (w *world) untilDrift(what string) delivery.Report {
	w.t.Helper()
	return w.until(what, func(r delivery.Report) bool { return len(drifts(r)) > 0 })
}

// quiet does passes and fails if one of them tells of drift.
func (w *world) quiet(reason string) {
	w.t.Helper()
	for range 3 {
		if told := drifts(w.pass()); len(told) > 0 {
			w.t.Errorf("%s: %v", reason, told)
		}
	}
}

// entriesOf returns what the log has of one action, with records.
func (l *ledger) entriesOf(action audit.Action) (entries []audit.Entry, records []*audit.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, e := range l.entries {
		if e.Action == action {
			entries, records = append(entries, e), append(records, l.records[i])
		}
	}
	return entries, records
}

func TestDriftIsTold(t *testing.T) {
	w := newTrusted(t)
	w.push(first, config("a", "git"), web)
	w.until("the delivery", applied)
	w.quiet("controllers fill in status, and annotations of their own")

	mark := w.harness.Mark(t)
	w.patch(configmaps, "a", "meddler", `{"data":{"key":"theirs","extra":"x"}}`)
	r := w.untilDrift("the edit")
	name := "ConfigMap/" + w.ns + "/a"
	same(t, "who, and which fields, never their values", []string{name + ": meddler changed data.key; added data.extra"}, drifts(r))
	entries, records := w.log.entriesOf(audit.Drift)
	if len(entries) != 1 || len(records[0].Objects) != 1 {
		t.Fatalf("the log has %v", entries)
	}
	change := records[0].Objects[0]
	if change.By != "meddler" || !slices.Equal(change.Fields, []string{"data.key"}) || !slices.Equal(change.Added, []string{"data.extra"}) {
		t.Errorf("the record has %+v", change)
	}
	same(t, "a field manager is a claim", []audit.Person{{Role: "editor", Name: "meddler"}}, entries[0].Who)
	told := w.log.told()
	if drift, revert := slices.Index(told, "drift"), slices.Index(told, "revert"); drift < 0 || revert < drift {
		t.Errorf("it is told before it is reverted: %v", told)
	}
	w.quiet("one change is told once")
	reads := w.harness.RequestsSince(t, mark, harness.InNamespace(w.ns), harness.ByVerb("get"), ofConfigMaps)
	if len(reads) != 2 { // the second: what is left of the edit after the revert
		t.Errorf("an edit of which something stays costs two reads, not %d", len(reads))
	}
	w.await("a", "to be reverted", value("git"))
}

// ofConfigMaps keeps requests about ConfigMaps.
func ofConfigMaps(r harness.Request) bool { return r.Resource == "configmaps" }

// The log of the process has a line for each pass that sent something, and none for the
// others.
func TestWhatIsSentIsLogged(t *testing.T) {
	w := newTrusted(t)
	quiet := func(reason string, passes int) {
		t.Helper()
		for range passes {
			w.pass()
		}
		same(t, reason, nil, w.lines.take())
	}
	name := "delivery=Thing/here/" + w.ns
	w.push(first, config("a", "one"), config("b", "one"))
	w.until("the delivery", applied)
	same(t, "a first delivery", []string{"INFO msg=delivered " + name + " revision=" + first + " created=2"}, w.lines.take())
	quiet("nothing to do", 3)

	w.edit("a", "theirs")
	w.until("the revert", func(r delivery.Report) bool { return w.says("a") == "one" })
	same(t, "drift", []string{`INFO msg="reverted drift" ` + name + " revision=" + first + " reverted=1"}, w.lines.take())

	w.push(second, config("a", "two"), config("b", "one"))
	w.until("the commit", applied)
	same(t, "a commit", []string{"INFO msg=delivered " + name + " revision=" + second + " configured=1"}, w.lines.take())
	w.push("3333333333333333333333333333333333333333", config("a", "two"), config("b", "one"))
	quiet("a commit that changes nothing", 2)
}

func TestAddedFields(t *testing.T) {
	w := newTrusted(t)
	w.push(first, web, config("a", "git"))
	w.until("the delivery", applied)
	name := "Deployment.apps/" + w.ns + "/web"
	const intruder = `{"spec":{"template":{"spec":{"hostPID":true,"containers":[{"name":"evil","image":"example.org/evil:1","securityContext":{"privileged":true}}]}}}}`
	w.patch(deployments, "web", "intruder", intruder)
	same(t, "a sidecar is told", []string{
		name + ": intruder added spec.template.spec.containers[name=evil]; spec.template.spec.hostPID",
	}, drifts(w.untilDrift("the sidecar")))
	w.quiet("one change is told once")
	w.patch(deployments, "web", "intruder", `{"metadata":{"annotations":{"deployment.kubernetes.io/note":"x"},"finalizers":["example.com/x"]}}`)
	w.quiet("controllers write such things")
	if n, _, _ := nested(w, "web", "containers"); n != 2 {
		t.Errorf("what others add stays, where nothing else is asked for: %d containers", n)
	}
	w.patch(deployments, "web", "intruder", `{"metadata":{"finalizers":null}}`)

	w.log.told()
	w.spec.Trust = trust.NewDemands(trust.Policy{Name: "strict", Strict: true})
	w.until("the removal", func(r delivery.Report) bool {
		n, hostPID, err := nested(w, "web", "containers")
		return err == nil && n == 1 && !hostPID && r.Err == nil
	})
	if told := w.log.told(); !slices.Contains(told, "revert") {
		t.Errorf("the removal is recorded before it is made: %v", told)
	}
	w.spec.Trust, w.spec.Strict = trust.Demands{}, true
	w.patch(configmaps, "a", "intruder", `{"data":{"extra":"x"},"metadata":{"labels":{"l":"x"},"annotations":{"a":"x"}}}`)
	w.until("the removal", func(delivery.Report) bool {
		o, err := w.harness.Dynamic().Resource(configmaps).Namespace(w.ns).Get(w.t.Context(), "a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		data, _ := o.Object["data"].(map[string]any)
		return len(data) == 1 && o.GetLabels()["l"] == "" && o.GetAnnotations()["a"] == ""
	})
	w.until("peace", applied)
	w.quiet("what is gone is not told again")
}

// nested counts a Deployment's containers, and says whether it has hostPID.
func nested(w *trusted, name, list string) (n int, hostPID bool, err error) {
	o, err := w.harness.Dynamic().Resource(deployments).Namespace(w.ns).Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return 0, false, err
	}
	pod, _ := object.Path{"f:spec", "f:template", "f:spec"}.Get(o.Object)
	fields, _ := pod.(map[string]any)
	items, _ := fields[list].([]any)
	hostPID, _ = fields["hostPID"].(bool)
	return len(items), hostPID, nil
}

func TestStrictDoesNotFight(t *testing.T) {
	w := newTrusted(t)
	w.spec.Strict = true
	w.push(first, config("a", "git"))
	w.until("the delivery", applied)
	for i := range 10 { // two edits may be reverted as one
		w.patch(configmaps, "a", "operator", fmt.Sprintf(`{"data":{"extra":"%d"}}`, i))
		r := w.until("the addition to be seen", func(r delivery.Report) bool {
			return r.Objects[0].Outcome == delivery.Reverted || r.Objects[0].Contested
		})
		if r.Objects[0].Contested {
			if o := r.Objects[0]; o.By != "operator" || !slices.Equal(o.Fields, []string{"data.extra"}) {
				t.Errorf("the fight is not named: %+v", o)
			}
			if r.RetryAfter == 0 || r.Err != nil && r.Err.Kind != fault.Waiting {
				t.Errorf("it is tried again: %+v", r)
			}
			return
		}
	}
	t.Error("nobody backed off")
}

func TestDeletionIsTold(t *testing.T) {
	w := newTrusted(t)
	w.push(first, config("a", "git"))
	w.until("the delivery", applied)
	if err := w.harness.Dynamic().Resource(configmaps).Namespace(w.ns).Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	same(t, "nobody is known to have done it", []string{"ConfigMap/" + w.ns + "/a: somebody deleted it"}, drifts(w.untilDrift("the deletion")))
	w.until("its return", applied)
	w.quiet("it is back")
	w.commit(config("b", "git"))
	w.spec.Revision.Commit = second
	w.until("the prune", func(r delivery.Report) bool { return len(r.Inventory) == 1 })
	w.quiet("we deleted it ourselves")
}

func TestDriftThatIsLeftIsToldOnce(t *testing.T) {
	w := newTrusted(t)
	w.spec.Revert = false
	w.push(first, config("a", "git"))
	w.until("the delivery", applied)
	w.patch(configmaps, "a", "meddler", `{"data":{"key":"theirs"}}`)
	same(t, "a delivery that does not revert tells too", []string{"ConfigMap/" + w.ns + "/a: meddler changed data.key"}, drifts(w.untilDrift("the edit")))
	w.quiet("it stays")
	w.patch(configmaps, "a", "other", `{"data":{"more":"x"}}`)
	same(t, "an addition to what has drifted", []string{"ConfigMap/" + w.ns + "/a: other added data.more"}, drifts(w.untilDrift("the addition")))
	w.spec.Observe = true // as an Application that nobody syncs is compared
	w.patch(configmaps, "a", "third", `{"data":{"third":"x"}}`)
	same(t, "a delivery that is only compared tells too", []string{"ConfigMap/" + w.ns + "/a: third added data.third"}, drifts(w.untilDrift("the addition")))
	w.quiet("it stays")
}

// clusterAdmin is who the tests are to the API server.
const clusterAdmin = "devcluster-admin"

// TestUserIsNamed has the API server tell who writes.
func TestUserIsNamed(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a cluster: run it without -short")
	}
	const token = "a token of the API server's own"
	memory := writes.New(time.Now)
	hooks := httptest.NewTLSServer(server.New(server.Options{APIAudit: &server.APIAudit{
		Token: func() (string, error) { return token, nil }, Note: memory.Note,
	}}).Handler())
	t.Cleanup(hooks.Close)
	kubeconfig := filepath.Join(t.TempDir(), "webhook")
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hooks.Certificate().Raw})
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		CurrentContext: "holdfast",
		Contexts:       map[string]*clientcmdapi.Context{"holdfast": {Cluster: "holdfast", AuthInfo: "apiserver"}},
		Clusters: map[string]*clientcmdapi.Cluster{"holdfast": { // a token is sent by TLS alone
			Server: hooks.URL + server.APIAuditPath, CertificateAuthorityData: authority,
		}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"apiserver": {Token: token}},
	}, kubeconfig); err != nil {
		t.Fatal(err)
	}
	h, err := harness.Start(t.Context(), harness.Options{AuditWebhook: kubeconfig, Messages: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Stop(); err != nil {
			t.Error(err)
		}
	})
	w := &trusted{world: newWorldOn(t, h), log: &ledger{}, gate: &gate{refused: map[string]error{}}, registry: &registry{}, editors: memory}
	w.start()
	memory.OnNote(w.engine.Named)
	w.push(first, config("a", "git"))
	w.until("the delivery", applied)
	w.patch(configmaps, "a", "kubectl-edit", `{"data":{"key":"theirs"}}`)
	named := func(r delivery.Report) bool {
		told := drifts(r)
		return len(told) > 0 && strings.Contains(told[len(told)-1], "(user ")
	}
	r := w.until("the user", named)
	told := drifts(r)
	same(t, "the user is named", "ConfigMap/"+w.ns+"/a: kubectl-edit (user "+clusterAdmin+") changed data.key", told[len(told)-1])
	entries, _ := w.log.entriesOf(audit.Drift)
	same(t, "the API server has proven who it was", []audit.Person{
		{Role: "editor", Name: clusterAdmin, Proven: true, By: "API server audit log"}, {Role: "editor", Name: "kubectl-edit"},
	}, entries[len(entries)-1].Who)
}

// everyday is what clusters deliver, of kinds to which controllers and the API server add.
const everyday = `{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: LoadBalancer, selector: {a: web}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: web}}
---
{apiVersion: v1, kind: Secret, metadata: {name: token, annotations: {kubernetes.io/service-account.name: web}}, type: kubernetes.io/service-account-token}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db}, spec: {serviceName: db, selector: {matchLabels: {a: db}}, template: {metadata: {labels: {a: db}}, spec: {containers: [{name: db, image: "example.org/db:1"}]}}}}
---
{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent}, spec: {selector: {matchLabels: {a: agent}}, template: {metadata: {labels: {a: agent}}, spec: {containers: [{name: agent, image: "example.org/agent:1"}]}}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: once}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: once, image: "example.org/once:1"}]}}}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: nightly}, spec: {schedule: "0 0 * * *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: once, image: "example.org/once:1"}]}}}}}}
---
{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: web}, spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}}
---
{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: web}, spec: {minAvailable: 1, selector: {matchLabels: {a: web}}}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web}, spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: single}, spec: {containers: [{name: web, image: "example.org/web:1"}]}}`

// TestControllersAreNoDrift has the controllers of Kubernetes fill in what they do.
func TestControllersAreNoDrift(t *testing.T) {
	w := newTrusted(t)
	w.spec.Strict = true // strict must not fight them either
	all := append(strings.Split(everyday, "\n---\n"), web)
	// The account goes ahead: a token of one that its controller has not seen yet is deleted.
	w.push(first, slices.DeleteFunc(slices.Clone(all), func(text string) bool { return !strings.Contains(text, "kind: ServiceAccount") })...)
	w.until("the account", applied)
	w.push(second, all...)
	w.until("the delivery", applied)
	ready := func(r delivery.Report) bool {
		for _, o := range r.Objects {
			done := o.Health == nil || o.Health.Status == health.Healthy || o.ID.Kind == "Service" || o.ID.Kind == "Ingress" || o.ID.Kind == "HorizontalPodAutoscaler"
			if told := drifts(r); len(told) > 0 || o.Outcome == delivery.Reverted {
				t.Fatalf("nobody meddled: %v\n%s", told, show(r))
			} else if !done {
				return false
			}
		}
		return r.Err == nil
	}
	w.until("all to be healthy", ready)
	// A claim is bound, and a token is made, after the kinds that have no health are done.
	bound := func(o *unstructured.Unstructured) bool {
		_, ok := object.Path{"f:spec", "f:volumeName"}.Get(o.Object)
		return ok
	}
	w.harness.Await(t, kschema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}, w.ns, "data", "to be bound", bound)
	filled := func(o *unstructured.Unstructured) bool {
		_, ok := object.Path{"f:data", "f:token"}.Get(o.Object)
		return ok
	}
	w.harness.Await(t, kschema.GroupVersionResource{Version: "v1", Resource: "secrets"}, w.ns, "token", "to be filled", filled)
	for range 20 {
		if r := w.pass(); !ready(r) {
			t.Logf("not all are healthy:\n%s", show(r))
		}
	}
	if entries, records := w.log.entriesOf(audit.Drift); len(entries) > 0 {
		t.Errorf("the log has drift: %+v", records[0])
	}
}
