package controller

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
)

func TestObservations(t *testing.T) {
	o := &observations{clock: func() time.Time { return time.Unix(0, 0) }}
	a, b := delivery.ID{Kind: "Application", Namespace: "argocd", Name: "a"}, delivery.ID{Kind: "Kustomization", Namespace: "n", Name: "b"}
	o.note(b, delivery.Report{Observed: true, Err: fault.New(fault.Invalid, "bad.yaml")})
	o.note(a, delivery.Report{Observed: true, HeldDigest: "4f", Objects: []delivery.Object{
		{ID: object.ID{Kind: "ConfigMap", Namespace: "n", Name: "same"}, Desired: true, Outcome: delivery.Unchanged, Op: plan.Keep},
		{
			ID: object.ID{Kind: "ConfigMap", Namespace: "n", Name: "other"}, Origin: object.Origin{File: "a.yaml", Line: 3}, Desired: true,
			Outcome: delivery.Configured, Would: true, Op: plan.Update, Fields: []string{"data.value"}, By: "kubectl-edit",
		},
	}})
	w := httptest.NewRecorder()
	o.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/observe", nil))
	var got []observation
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(0, 0).UTC()
	want := []observation{
		{Kind: "Application", Namespace: "argocd", Name: "a", At: at, Confirm: "4f", Changes: 1, Objects: []observedOne{
			{Object: "ConfigMap/n/other", Operation: string(plan.Update), File: "a.yaml", Line: 3, By: "kubectl-edit", Fields: []string{"data.value"}},
		}},
		{Kind: "Kustomization", Namespace: "n", Name: "b", At: at, Error: "bad.yaml", Objects: []observedOne{}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("served (-want +got):\n%s", diff)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(o)
	w = httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, line := range []string{
		`holdfast_observed_changes{kind="Application",name="a",namespace="argocd"} 1`,
		`holdfast_observed_changes{kind="Kustomization",name="b",namespace="n"} -1`,
	} {
		if !strings.Contains(w.Body.String(), line+"\n") {
			t.Errorf("the metrics lack %s:\n%s", line, w.Body)
		}
	}
	o.note(a, delivery.Report{}) // taken over
	o.note(b, delivery.Report{})
	if left := o.list(); len(left) > 0 {
		t.Errorf("what is not observed any more is still told: %v", left)
	}
}
