package health

import (
	"encoding/json"
	"fmt"
	"slices"
)

// conditionsAnnotation is where version 1 of the autoscaler keeps its conditions.
const conditionsAnnotation = "autoscaling.alpha.kubernetes.io/conditions"

// judgeAutoscaler lets the first condition that says anything decide. AbleToScale
// comes first and is mostly True, so that a broken metric behind it goes unseen:
// a quirk of Argo CD's.
func judgeAutoscaler(v view) Verdict {
	conditions, ok := autoscalerConditions(v)
	if !ok {
		return Verdict{Status: Unknown, Message: "annotation " + conditionsAnnotation + " is not readable"}
	}
	broken := map[string][]string{
		"AbleToScale":   {"FailedGetScale", "FailedUpdateScale"},
		"ScalingActive": {"FailedGetResourceMetric", "InvalidSelector"},
	}
	for _, c := range conditions {
		if slices.Contains(broken[c.kind], c.reason) {
			return Verdict{Status: Degraded, Message: c.text()}
		}
		if c.holds() && (c.kind == "AbleToScale" || c.kind == "ScalingLimited") {
			return Verdict{Status: Healthy, Message: c.message}
		}
	}
	return Verdict{Status: Progressing, Message: "waiting to autoscale"}
}

func autoscalerConditions(v view) ([]condition, bool) {
	if v.str("apiVersion") != "autoscaling/v1" {
		return v.conditions(), true
	}
	text := v.annotation(conditionsAnnotation)
	if text == "" {
		return nil, true
	}
	var parsed []struct {
		Type    string `json:"type"`
		Status  string `json:"status"`
		Reason  string `json:"reason"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(text), &parsed); err != nil {
		return nil, false
	}
	all := make([]condition, 0, len(parsed))
	for _, c := range parsed {
		all = append(all, condition{kind: c.Type, status: c.Status, reason: c.Reason, message: c.Message})
	}
	return all, true
}

func judgeService(v view) Verdict {
	if v.str("spec.type") == "LoadBalancer" && len(v.list("status.loadBalancer.ingress")) == 0 {
		return Verdict{Status: Progressing, Message: "waiting for an address of the load balancer"}
	}
	return healthy
}

func judgeIngress(v view) Verdict {
	if len(v.list("status.loadBalancer.ingress")) == 0 {
		return Verdict{Status: Progressing, Message: "waiting for an address of the load balancer"}
	}
	return healthy
}

func judgeClaim(v view) Verdict {
	switch phase := v.str("status.phase"); phase {
	case "Lost":
		return Verdict{Status: Degraded, Message: "the volume is lost"}
	case phasePending:
		return Verdict{Status: Progressing, Message: "waiting for a volume"}
	case "Bound":
		return healthy
	default:
		return Verdict{Status: Unknown, Message: fmt.Sprintf("phase %.40q is not known", phase)}
	}
}

func judgeNamespace(v view) Verdict {
	switch phase := v.str("status.phase"); phase {
	case "Active":
		return healthy
	case "":
		return unobserved
	default:
		return progressing("the Namespace is %s", phase)
	}
}

func judgeAPIService(v view) Verdict {
	c := v.condition("Available")
	if c.holds() {
		return Verdict{Status: Healthy, Message: c.text()}
	}
	if text := c.text(); text != "" {
		return Verdict{Status: Progressing, Message: text}
	}
	return Verdict{Status: Progressing, Message: "waiting for the API to become available"}
}

// judgeDefinition waits for a definition to be served. One whose names clash will
// never be; one whose schema is not structural is served, but not safely.
func judgeDefinition(v view) Verdict {
	if c := v.condition("NamesAccepted"); c.status == "False" {
		return Verdict{Status: Degraded, Message: c.text()}
	}
	if c := v.condition("NonStructuralSchema"); c.holds() {
		return Verdict{Status: Degraded, Message: c.text()}
	}
	if v.condition("Terminating").holds() {
		return Verdict{Status: Progressing, Message: "the definition is being removed"}
	}
	if !v.condition("Established").holds() {
		return Verdict{Status: Progressing, Message: "the kind is not served yet"}
	}
	return healthy
}

func judgeWorkflow(v view) Verdict {
	message := v.str("status.message")
	switch phase := v.str("status.phase"); phase {
	case "", phasePending, "Running":
		return Verdict{Status: Progressing, Message: message}
	case "Succeeded":
		return Verdict{Status: Healthy, Message: message}
	case phaseFailed, "Error":
		return Verdict{Status: Degraded, Message: message}
	default:
		return Verdict{Status: Unknown, Message: fmt.Sprintf("phase %.40q is not known", phase)}
	}
}

// judgeBudget takes a lack of Pods for a use, not a failure.
func judgeBudget(v view) Verdict {
	verdict := Verdict{Status: Progressing, Message: "waiting for the status"}
	for _, c := range v.conditions() {
		if c.status == "False" && c.reason != "InsufficientPods" {
			return Verdict{Status: Degraded, Message: c.reason}
		}
		verdict = Verdict{Status: Healthy, Message: c.reason}
	}
	return verdict
}
