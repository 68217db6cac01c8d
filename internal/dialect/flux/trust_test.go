package flux

import (
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// TestTrustInStatus tells what was not proven by the reason that clients of Flux know.
func TestTrustInStatus(t *testing.T) {
	cases := []struct {
		name, reason string
		report       delivery.Report
		ready        string // the reason of Ready
		unproven     string // the message of Unproven; "": it is not there
	}{
		{
			"refused", "a refusal of trust is no build that failed",
			delivery.Report{Err: fault.New(fault.Refused, "not signed"), Untrusted: true},
			"VerificationError", "",
		},
		{
			"unreachable", "a registry that is down is told as what it stops",
			delivery.Report{Err: fault.New(fault.Unreachable, "no answer"), Untrusted: true},
			"VerificationError", "",
		},
		{
			"rules", "other refusals keep their reason",
			delivery.Report{Err: fault.New(fault.Refused, "not permitted")},
			"BuildFailed", "",
		},
		{
			"audited", "what a policy that audits misses is told, and delivered",
			delivery.Report{Unproven: []string{"a", "b"}},
			"ReconciliationSucceeded", "a; b",
		},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			status := next(kustomizev1.KustomizationStatus{}, outcome{report: &tc.report, revision: "main@sha1:1"})
			if c := apimeta.FindStatusCondition(status.Conditions, "Ready"); c == nil || c.Reason != tc.ready {
				t.Errorf("%s: Ready is %+v", tc.reason, c)
			}
			message := ""
			if c := apimeta.FindStatusCondition(status.Conditions, conditionUnproven); c != nil {
				message = c.Message
			}
			if message != tc.unproven {
				t.Errorf("%s: Unproven says %q", tc.reason, message)
			}
		})
	}
}
