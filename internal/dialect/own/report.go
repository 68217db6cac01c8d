package own

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/workqueue"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/policy"
)

// ReportKind is the kind of the reports, of the Policy Working Group
// (https://github.com/kubernetes-sigs/wg-policy-prototypes).
var ReportKind = kschema.GroupVersionKind{Group: "wgpolicyk8s.io", Version: "v1alpha2", Kind: "PolicyReport"}

// The bounds of a report.
const (
	maxResults       = 500
	maxResultMessage = 1000
)

// managedBy is the label of the reports that Holdfast writes.
const managedBy = "app.kubernetes.io/managed-by"

// deliveryVersions are the API versions of what asks for deliveries.
var deliveryVersions = map[string]string{
	"Kustomization": "kustomize.toolkit.fluxcd.io/v1", kindApplication: "argoproj.io/v1alpha1",
}

// Reports writes a PolicyReport for each delivery that policies judge, beside the resource
// that asks for it, where the cluster serves the kind.
type Reports struct {
	client dynamic.NamespaceableResourceInterface
	served func() bool
	clock  func() time.Time
	log    *slog.Logger
	queue  workqueue.TypedRateLimitingInterface[delivery.ID]

	mu     sync.Mutex
	latest map[delivery.ID]delivery.Ruling
	there  map[string]bool // namespace/name of what was written; nil while nobody knows
}

// NewReports returns what writes reports. served says whether the cluster has their kind.
func NewReports(c dynamic.Interface, served func() bool, clock func() time.Time, log *slog.Logger) *Reports {
	return &Reports{
		client: c.Resource(ReportKind.GroupVersion().WithResource("policyreports")), served: served, clock: clock, log: log,
		queue:  workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[delivery.ID]()),
		latest: map[delivery.ID]delivery.Ruling{},
	}
}

// Ruled has the report of a delivery be written. It does not wait.
func (r *Reports) Ruled(id delivery.ID, ruling delivery.Ruling) {
	r.mu.Lock()
	r.latest[id] = ruling
	r.mu.Unlock()
	r.queue.Add(id)
}

// All has every report be written again: the cluster may serve their kind now.
func (r *Reports) All() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.latest {
		r.queue.Add(id)
	}
}

// Run writes reports until ctx ends.
func (r *Reports) Run(ctx context.Context) error {
	go func() {
		<-ctx.Done()
		r.queue.ShutDown()
	}()
	for {
		id, over := r.queue.Get()
		if over {
			return nil
		}
		const tries = 5
		if err := r.write(ctx, id); err != nil && ctx.Err() == nil && r.queue.NumRequeues(id) < tries {
			r.log.Warn("a PolicyReport cannot be written", "delivery", id.String(), "error", err.Error())
			r.queue.AddRateLimited(id)
		} else {
			r.queue.Forget(id)
		}
		r.queue.Done(id)
	}
}

// write makes the report of a delivery say what policies said last; a delivery that no
// policy judges has none.
func (r *Reports) write(ctx context.Context, id delivery.ID) error {
	if !r.served() {
		return nil
	}
	if err := r.list(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	ruling, known := r.latest[id]
	name := reportName(id)
	there := r.there[id.Namespace+"/"+name]
	if known && len(ruling.Sets) == 0 {
		delete(r.latest, id)
	}
	r.mu.Unlock()
	if !known || len(ruling.Sets) == 0 && !there {
		return nil
	}
	if len(ruling.Sets) == 0 {
		err := r.client.Namespace(id.Namespace).Delete(ctx, name, metav1.DeleteOptions{})
		if err == nil || apierrors.IsNotFound(err) {
			r.note(id, false)
			return nil
		}
		return err
	}
	_, err := r.client.Namespace(id.Namespace).Apply(ctx, name, ReportOf(id, ruling, r.clock()), metav1.ApplyOptions{FieldManager: dialect.StatusManager, Force: true})
	if err == nil {
		r.note(id, true)
	}
	return err
}

func (r *Reports) note(id delivery.ID, there bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if there {
		r.there[id.Namespace+"/"+reportName(id)] = true
	} else {
		delete(r.there, id.Namespace+"/"+reportName(id))
	}
}

// list finds, once, the reports that a process before this one wrote.
func (r *Reports) list(ctx context.Context) error {
	r.mu.Lock()
	known := r.there != nil
	r.mu.Unlock()
	if known {
		return nil
	}
	all, err := r.client.List(ctx, metav1.ListOptions{LabelSelector: managedBy + "=holdfast"})
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for i := range all.Items {
		there[all.Items[i].GetNamespace()+"/"+all.Items[i].GetName()] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.there = there
	return nil
}

// reportName is the name of the report of a delivery.
func reportName(id delivery.ID) string {
	const most = 253
	full := "holdfast-" + strings.ToLower(id.Kind) + "-" + id.Name
	if len(full) <= most {
		return full
	}
	sum := sha256.Sum256([]byte(full))
	return full[:most-17] + "-" + hex.EncodeToString(sum[:8])
}

// ReportOf returns the PolicyReport of a ruling: a result for each verdict, bounded.
func ReportOf(id delivery.ID, r delivery.Ruling, now time.Time) *unstructured.Unstructured {
	summary := map[string]any{"pass": int64(0), "fail": int64(0), "warn": int64(0), "error": int64(0), "skip": int64(0)}
	failing := slices.Concat(r.Verdicts, r.Excused)
	slices.SortStableFunc(failing, func(a, b policy.Verdict) int { return strings.Compare(resultOf(a), resultOf(b)) }) // error, fail, pass, skip, warn
	results := make([]any, 0, min(len(failing), maxResults))
	for _, v := range failing {
		outcome := resultOf(v)
		n, _ := summary[outcome].(int64)
		summary[outcome] = n + 1
		if len(results) < maxResults-1 || len(failing) <= maxResults {
			results = append(results, result(v, r, now))
		}
	}
	if more := len(failing) - len(results); more > 0 {
		results = append(results, map[string]any{
			"source": "holdfast", "policy": "holdfast", "result": "error", "message": fmt.Sprintf("and %d more, which this report has no room for", more),
		})
	}
	u := &unstructured.Unstructured{Object: map[string]any{"summary": summary, "results": results}}
	u.SetGroupVersionKind(ReportKind)
	u.SetNamespace(id.Namespace)
	u.SetName(reportName(id))
	u.SetLabels(map[string]string{managedBy: "holdfast"})
	if version := deliveryVersions[id.Kind]; version != "" {
		scope := map[string]any{"apiVersion": version, "kind": id.Kind, "namespace": id.Namespace, "name": id.Name}
		if r.UID != "" {
			scope["uid"] = r.UID
			u.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: version, Kind: id.Kind, Name: id.Name, UID: types.UID(r.UID)}})
		}
		u.Object["scope"] = scope
	}
	return u
}

// resultOf is the outcome of a verdict in the words of a report.
func resultOf(v policy.Verdict) string {
	switch {
	case v.Outcome == policy.Pass:
		return "pass"
	case v.Rule == policy.RuleSet:
		return "error"
	case v.Outcome == policy.Fail:
		return "fail"
	case v.Outcome == policy.Excused:
		return "skip"
	}
	return "warn"
}

func result(v policy.Verdict, r delivery.Ruling, now time.Time) map[string]any {
	out := map[string]any{
		"source": "holdfast", "policy": v.Policy, "result": resultOf(v), "scored": true,
		"timestamp": map[string]any{"seconds": now.Unix(), "nanos": int64(0)},
	}
	set := func(m map[string]any, field, value string) {
		if value != "" {
			m[field] = value
		}
	}
	set(out, "rule", v.Rule)
	set(out, "severity", v.Severity)
	set(out, "message", strings.ToValidUTF8(v.Message[:min(len(v.Message), maxResultMessage)], ""))
	if o, ok := resourceOf(v.Object); ok {
		out["resources"] = []any{o}
	}
	properties := map[string]any{}
	for field, value := range map[string]string{
		"policyRevision": v.Revision, "revision": r.Revision, "file": v.File, "path": v.Path, "reference": v.Reference, "policyFile": v.Source,
	} {
		set(properties, field, value)
	}
	if v.Line > 0 {
		properties["line"] = strconv.Itoa(v.Line)
	}
	if r.Standing && v.Outcome == policy.Fail {
		properties["live"] = "true"
	}
	if len(properties) > 0 {
		out["properties"] = properties
	}
	return out
}

// resourceOf reads an object's name as verdicts have it: Kind.group/namespace/name. Its
// version is not known, but for the core's kinds.
func resourceOf(text string) (map[string]any, bool) {
	parts := strings.Split(text, "/")
	if len(parts) < 2 || len(parts) > 3 {
		return nil, false
	}
	kind, group, _ := strings.Cut(parts[0], ".")
	out := map[string]any{"kind": kind, "name": parts[len(parts)-1]}
	if group == "" {
		out["apiVersion"] = "v1"
	}
	if len(parts) == 3 {
		out["namespace"] = parts[1]
	}
	return out, true
}
