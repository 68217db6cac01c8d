package own

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/policy"
)

func TestReportOf(t *testing.T) {
	id := delivery.ID{Kind: "Kustomization", Namespace: "apps", Name: "web"}
	got := ReportOf(id, delivery.Ruling{
		ID: id.String(), UID: "u-1", Revision: "c1", Standing: true,
		Excused: []policy.Verdict{{Policy: "house", Rule: "tags/latest", Outcome: policy.Excused, Object: "Pod/apps/old", Message: "latest; excused until 2027-01-01 by ann: goes"}},
		Verdicts: []policy.Verdict{
			{Policy: "quiet", Outcome: policy.Pass, Revision: "r1"},
			{
				Policy: "house", Rule: "words/forbidden", Outcome: policy.Fail, Object: "Deployment.apps/apps/web", File: "web.yaml", Line: 3,
				Message: "no", Revision: "r2", Severity: "high",
			},
			{Policy: "house", Rule: policy.RuleSet, Outcome: policy.Audit, Message: "x.rego:1: it does not compile"},
		},
	}, noon)
	want := map[string]any{
		"apiVersion": "wgpolicyk8s.io/v1alpha2", "kind": "PolicyReport",
		"metadata": map[string]any{
			"name": "holdfast-kustomization-web", "namespace": "apps", "labels": map[string]any{managedBy: "holdfast"},
			"ownerReferences": []any{map[string]any{"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "name": "web", "uid": "u-1"}},
		},
		"scope":   map[string]any{"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "namespace": "apps", "name": "web", "uid": "u-1"},
		"summary": map[string]any{"pass": int64(1), "fail": int64(1), "warn": int64(0), "error": int64(1), "skip": int64(1)},
		"results": []any{
			map[string]any{
				"source": "holdfast", "policy": "house", "rule": policy.RuleSet, "result": "error", "message": "x.rego:1: it does not compile", "scored": true,
				"timestamp": map[string]any{"seconds": noon.Unix(), "nanos": int64(0)}, "properties": map[string]any{"revision": "c1"},
			},
			map[string]any{
				"source": "holdfast", "policy": "house", "rule": "words/forbidden", "result": "fail", "message": "no", "severity": "high", "scored": true,
				"timestamp":  map[string]any{"seconds": noon.Unix(), "nanos": int64(0)},
				"resources":  []any{map[string]any{"kind": "Deployment", "namespace": "apps", "name": "web"}},
				"properties": map[string]any{"revision": "c1", "policyRevision": "r2", "file": "web.yaml", "line": "3", "live": "true"},
			},
			map[string]any{
				"source": "holdfast", "policy": "quiet", "result": "pass", "scored": true,
				"timestamp": map[string]any{"seconds": noon.Unix(), "nanos": int64(0)}, "properties": map[string]any{"revision": "c1", "policyRevision": "r1"},
			},
			map[string]any{
				"source": "holdfast", "policy": "house", "rule": "tags/latest", "result": "skip", "message": "latest; excused until 2027-01-01 by ann: goes", "scored": true,
				"timestamp":  map[string]any{"seconds": noon.Unix(), "nanos": int64(0)},
				"resources":  []any{map[string]any{"apiVersion": "v1", "kind": "Pod", "namespace": "apps", "name": "old"}},
				"properties": map[string]any{"revision": "c1"},
			},
		},
	}
	if diff := cmp.Diff(want, got.Object); diff != "" {
		t.Errorf("a report (-want +got):\n%s", diff)
	}
}

func TestReportIsBounded(t *testing.T) {
	r := delivery.Ruling{Sets: []string{"house"}}
	for i := range 3 * maxResults {
		r.Verdicts = append(r.Verdicts, policy.Verdict{Policy: "house", Rule: "r", Outcome: policy.Fail, Object: fmt.Sprintf("Pod/a/%d", i)})
	}
	u := ReportOf(delivery.ID{Kind: "Application", Namespace: "argocd", Name: "x"}, r, noon)
	results, _ := u.Object["results"].([]any)
	last, _ := results[len(results)-1].(map[string]any)
	if len(results) != maxResults || last["message"] != "and 1001 more, which this report has no room for" {
		t.Errorf("%d results, the last: %v", len(results), last)
	}
	if summary, _ := u.Object["summary"].(map[string]any); summary["fail"] != int64(3*maxResults) {
		t.Errorf("the summary counts all: %v", summary)
	}
}
