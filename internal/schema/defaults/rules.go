package defaults

import (
	"maps"
	"math"
	"slices"
	"strings"
)

// rule says what an absent field gets, by what is around it; nil is nothing. One
// about a map may be asked of a map that is there, and then says what its missing
// keys get. A rule reads, and never writes.
type rule func(n *node) any

// rules are all that the table leaves open, by type and field. A test holds the two
// together. Source: the API server's defaulting functions and conversions.
var rules = map[string]rule{
	"apiextensions/v1.CustomResourceConversion strategy":      (*node).strategy,
	"apiextensions/v1.CustomResourceDefinitionNames listKind": (*node).listKind,
	"apiextensions/v1.CustomResourceDefinitionNames singular": (*node).singular,

	"apps/v1.DaemonSetUpdateStrategy rollingUpdate":   rolls,
	"apps/v1.DeploymentStrategy rollingUpdate":        rolls,
	"apps/v1.StatefulSetUpdateStrategy rollingUpdate": unless("type", map[string]any{}),
	"apps/v1.RollingUpdateDaemonSet maxUnavailable":   always(int64(1)),
	"apps/v1.RollingUpdateDeployment maxSurge":        always("25%"),
	"apps/v1.RollingUpdateDeployment maxUnavailable":  always("25%"),

	"autoscaling/v2.HPAScalingRules policies":                   (*node).scalingPolicies,
	"autoscaling/v2.HPAScalingRules stabilizationWindowSeconds": (*node).stabilization,

	"batch/v1.JobSpec backoffLimit":         ofJob(depending("backoffLimitPerIndex", int64(math.MaxInt32), int64(6))),
	"batch/v1.JobSpec completions":          ofJob(unless("parallelism", int64(1))),
	"batch/v1.JobSpec podReplacementPolicy": ofJob(depending("podFailurePolicy", "Failed", "TerminatingOrFailed")),

	"core/v1.Container imagePullPolicy":                 pull("image"),
	"core/v1.EphemeralContainer imagePullPolicy":        pull("image"),
	"core/v1.ImageVolumeSource pullPolicy":              pull("reference"),
	"core/v1.ContainerPort hostPort":                    (*node).hostPort,
	"core/v1.LimitRangeItem default":                    (*node).limit,
	"core/v1.LimitRangeItem defaultRequest":             (*node).request,
	"core/v1.NodeSpec podCIDR":                          (*node).podCIDR,
	"core/v1.NodeSpec podCIDRs":                         (*node).podCIDRs,
	"core/v1.PodSpec serviceAccount":                    (*node).serviceAccount,
	"core/v1.PodSpec serviceAccountName":                (*node).serviceAccount,
	"core/v1.ReplicationControllerSpec selector":        (*node).selector,
	"core/v1.ResourceRequirements requests":             (*node).requests,
	"core/v1.Secret data":                               nothing,
	"core/v1.ServicePort targetPort":                    copyOf("port"),
	"core/v1.ServiceSpec sessionAffinityConfig":         where("sessionAffinity", map[string]any{}, "ClientIP"),
	"core/v1.ServiceSpec externalTrafficPolicy":         (*node).externalTraffic,
	"core/v1.ServiceSpec internalTrafficPolicy":         where("type", "Cluster", "", "ClusterIP", "NodePort", "LoadBalancer"),
	"core/v1.ServiceSpec allocateLoadBalancerNodePorts": where("type", true, "LoadBalancer"),
	"core/v1.Volume emptyDir":                           (*node).emptyDir,

	"networking/v1.NetworkPolicySpec policyTypes": (*node).policyTypes,

	"rbac/v1.Subject apiGroup": where("kind", "rbac.authorization.k8s.io", "User", "Group"),

	"resource/v1.DeviceSubRequest count":            exact,
	"resource/v1.ExactDeviceRequest count":          exact,
	"resource/v1beta1.DeviceRequest allocationMode": depending("deviceClassName", "ExactCount", nil),
	"resource/v1beta1.DeviceRequest count":          (*node).exactOfClass,
	"resource/v1beta1.DeviceSubRequest count":       exact,
	"resource/v1beta2.DeviceSubRequest count":       exact,
	"resource/v1beta2.ExactDeviceRequest count":     exact,
}

// The forms that rules have in common.

// always gives a value, where the field is there at all.
func always(value any) rule { return func(*node) any { return value } }

// nothing gives nothing: the server moves here what was written elsewhere.
func nothing(*node) any { return nil }

// where gives a value where another field is one of some texts; "" is absent.
func where(name string, value any, texts ...string) rule {
	return func(n *node) any {
		if slices.Contains(texts, n.text(name)) {
			return value
		}
		return nil
	}
}

// unless gives a value where another field is absent.
func unless(name string, value any) rule { return depending(name, nil, value) }

// depending gives one value where another field is there, and a second one where it
// is not.
func depending(name string, there, absent any) rule {
	return func(n *node) any {
		if v := n.o[name]; v == nil || v == "" {
			return absent
		}
		return there
	}
}

// copyOf gives what another field has.
func copyOf(name string) rule { return func(n *node) any { return n.o[name] } }

// pull is the policy of pulling the image that a field names: a tag that moves is
// looked up again. No tag is latest, and a digest is none.
func pull(name string) rule {
	return func(n *node) any {
		image := n.text(name)
		name, _, digested := strings.Cut(image, "@")
		_, tag, tagged := strings.Cut(name[strings.LastIndex(name, "/")+1:], ":")
		if tag == "latest" || image != "" && !tagged && !digested {
			return "Always"
		}
		return "IfNotPresent"
	}
}

// ofJob limits a rule to Jobs: the server leaves the template of a CronJob alone.
func ofJob(r rule) rule {
	return func(n *node) any {
		if n.kind != "batch/v1/Job" {
			return nil
		}
		return r(n)
	}
}

var (
	rolls = where("type", map[string]any{}, "", "RollingUpdate")
	exact = where("allocationMode", int64(1), "", "ExactCount")
)

func (n *node) text(name string) string { s, _ := n.o[name].(string); return s }

// in follows field names down from n; nil where they end.
func (n *node) in(path ...string) any {
	var v any = n.o
	for _, name := range path {
		o, _ := v.(map[string]any)
		v = o[name]
	}
	return v
}

// isPod says whether the whole object is a Pod, and no template of one.
func (n *node) isPod() bool { return n.kind == "v1/Pod" }

func (n *node) strategy() any {
	if len(n.o) == 0 { // nobody wrote a conversion
		return "None"
	}
	return nil
}

func (n *node) listKind() any {
	if kind := n.text("kind"); kind != "" {
		return kind + "List"
	}
	return nil
}

func (n *node) singular() any {
	if kind := n.text("kind"); kind != "" {
		return strings.ToLower(kind)
	}
	return nil
}

func (n *node) scalingPolicies() any {
	policy := func(kind string, value int64) any {
		return map[string]any{"type": kind, "value": value, "periodSeconds": int64(15)}
	}
	if n.at == "scaleUp" {
		return []any{policy("Pods", 4), policy("Percent", 100)}
	}
	return []any{policy("Percent", 100)}
}

func (n *node) stabilization() any {
	if n.at == "scaleUp" {
		return int64(0)
	}
	return nil
}

func (n *node) exactOfClass() any {
	if n.text("deviceClassName") == "" {
		return nil
	}
	return exact(n)
}

// hostPort is the container's own port in a Pod on its node's network. Containers
// that are added to a running Pod have none.
func (n *node) hostPort() any {
	container := n.up
	if !n.isPod() || container.at == "ephemeralContainers" || container.up.o["hostNetwork"] != true {
		return nil
	}
	return n.o["containerPort"]
}

// requests are the limits, key by key, in a Pod.
func (n *node) requests() any {
	limits, _ := n.o["limits"].(map[string]any)
	if !n.isPod() || len(limits) == 0 || n.up.at == "ephemeralContainers" {
		return nil
	}
	if n.up.at != "spec" {
		return limits
	}
	// Of the whole Pod: what its containers ask for is summed up by the server, which
	// is not repeated here.
	mine := map[string]any{}
	for key, limit := range limits {
		if !n.up.asks(key) {
			mine[key] = limit
		}
	}
	return mine
}

// asks says whether a container of a Pod's spec has a request or limit of a key.
func (n *node) asks(key string) bool {
	for _, list := range []string{"containers", "initContainers"} {
		items, _ := n.o[list].([]any)
		for _, item := range items {
			c, _ := item.(map[string]any)
			container := &node{o: c}
			if container.in("resources", "requests", key) != nil || container.in("resources", "limits", key) != nil {
				return true
			}
		}
	}
	return false
}

// limit is what a LimitRange gives containers that name no limit: the most it
// allows.
func (n *node) limit() any {
	most, _ := n.o["max"].(map[string]any)
	if n.text("type") != "Container" {
		return nil
	}
	return most
}

// request is what a LimitRange gives containers that name no request: the limit, or
// else the least it allows.
func (n *node) request() any {
	if n.text("type") != "Container" {
		return nil
	}
	all := map[string]any{}
	for _, name := range []string{"min", "max", "default"} { // later ones count more
		values, _ := n.o[name].(map[string]any)
		maps.Copy(all, values)
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

func (n *node) podCIDR() any {
	if all, _ := n.o["podCIDRs"].([]any); len(all) > 0 {
		return all[0]
	}
	return nil
}

func (n *node) podCIDRs() any {
	if one := n.text("podCIDR"); one != "" {
		return []any{one}
	}
	return nil
}

// serviceAccount is the other of the field's two names. The account that a Pod has
// where it names none is set by admission, which no cluster can do without.
func (n *node) serviceAccount() any {
	for _, name := range []string{"serviceAccountName", "serviceAccount"} {
		if account := n.text(name); account != "" {
			return account
		}
	}
	if n.isPod() {
		return "default"
	}
	return nil
}

func (n *node) selector() any {
	labels, _ := n.in("template", "metadata", "labels").(map[string]any)
	given, _ := n.o["selector"].(map[string]any)
	if len(labels) == 0 || len(given) > 0 {
		return nil
	}
	return labels
}

// externalTraffic concerns Services that are reached from outside.
func (n *node) externalTraffic() any {
	outside, _ := n.o["externalIPs"].([]any)
	kind := n.text("type")
	if kind == "NodePort" || kind == "LoadBalancer" || len(outside) > 0 && (kind == "" || kind == "ClusterIP") {
		return "Cluster"
	}
	return nil
}

// emptyDir is what a volume is that has nothing but a name.
func (n *node) emptyDir() any {
	for name, v := range n.o {
		if name != "name" && v != nil {
			return nil
		}
	}
	return map[string]any{}
}

func (n *node) policyTypes() any {
	if egress, _ := n.o["egress"].([]any); len(egress) > 0 {
		return []any{"Ingress", "Egress"}
	}
	return []any{"Ingress"}
}

// ofMetadata is what the server sets in an object's metadata, and admission in what
// every cluster has.
var ofMetadata = map[string]func(o map[string]any){
	"v1/Namespace":             nameLabel,
	"v1/ReplicationController": templateLabels,
	"batch/v1/Job":             templateLabels,
}

// nameLabel gives a namespace the label by which it can be selected by name.
func nameLabel(o map[string]any) {
	metadata, _ := o["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	if name == "" {
		return
	}
	if metadata["labels"] == nil {
		metadata["labels"] = map[string]any{}
	}
	if labels, ok := metadata["labels"].(map[string]any); ok {
		labels["kubernetes.io/metadata.name"] = name
	}
}

// templateLabels gives an object without labels those of its Pods.
func templateLabels(o map[string]any) {
	metadata, _ := o["metadata"].(map[string]any)
	labels, _ := (&node{o: o}).in("spec", "template", "metadata", "labels").(map[string]any)
	own, _ := metadata["labels"].(map[string]any)
	if metadata != nil && len(labels) > 0 && len(own) == 0 {
		metadata["labels"] = clone(labels)
	}
}
