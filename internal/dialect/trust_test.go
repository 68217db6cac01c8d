package dialect_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/trust"
)

func TestDemand(t *testing.T) {
	u := &unstructured.Unstructured{}
	u.SetLabels(map[string]string{"tier": "prod"})
	var asked trust.Subject
	env := &dialect.Env{Trust: func(s trust.Subject) (trust.Demands, error) {
		asked = s
		return trust.Demands{Version: "1"}, nil
	}}
	spec := delivery.Spec{ID: delivery.ID{Kind: "Application", Namespace: "argocd", Name: "shop"}}
	if err := env.Demand(&spec, u, "team", "https://git.example.com/shop"); err != nil || spec.Trust.Version != "1" {
		t.Errorf("the demands are the delivery's: got %+v, %v", spec.Trust, err)
	}
	want := trust.Subject{
		Kind: "Application", Namespace: "argocd", Name: "shop", Project: "team",
		Labels: map[string]string{"tier": "prod"}, Repository: "https://git.example.com/shop",
	}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Errorf("all that policies select by is told (-want +got):\n%s", diff)
	}
	env.Trust = func(trust.Subject) (trust.Demands, error) { return trust.Demands{}, errors.New("not known yet") }
	if err := env.Demand(&spec, u, "", ""); err == nil {
		t.Error("policies that are not known refuse")
	}
	env.Trust = nil
	if err := env.Demand(&spec, u, "", ""); err != nil {
		t.Errorf("where nobody demands anything: %v", err)
	}
}

func TestLastWriter(t *testing.T) {
	at := func(minutes int) *metav1.Time {
		m := metav1.NewTime(time.Date(2026, 1, 2, 3, minutes, 0, 0, time.UTC))
		return &m
	}
	u := &unstructured.Unstructured{}
	if who := dialect.LastWriter(u); who != nil {
		t.Errorf("managed fields that tell nothing: got %v", who)
	}
	u.SetManagedFields([]metav1.ManagedFieldsEntry{
		{Manager: "kubectl", Time: at(1)},
		{Manager: "helm", Time: at(2)},
		{Manager: dialect.StatusManager, Time: at(3)},
		{Manager: "someone", Subresource: "status", Time: at(4)},
	})
	want := []audit.Person{{Role: "editor", Name: "helm"}}
	if diff := cmp.Diff(want, dialect.LastWriter(u)); diff != "" {
		t.Errorf("who wrote the spec last, and it is a claim (-want +got):\n%s", diff)
	}
	want[0].Role = "requester"
	if diff := cmp.Diff(want, dialect.Asked(u)); diff != "" {
		t.Errorf("in another role (-want +got):\n%s", diff)
	}
	want[0].Role = "approver"
	if diff := cmp.Diff(want, dialect.Approver(u)); diff != "" {
		t.Errorf("in another role (-want +got):\n%s", diff)
	}
}
