package builtin

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	standard "k8s.io/pod-security-admission/policy"
)

// newest is the minor of Kubernetes that the library of the standards was released with:
// what a later one asks for is not known here.
const newest = 36

const standardsPage = "https://kubernetes.io/docs/concepts/security/pod-security-standards/"

type standardsParameters struct {
	exempt

	Version              string   `doc:"the Kubernetes release whose standards hold, as v1.36, or latest: the newest that is known here" json:"version"`
	ExemptRuntimeClasses []string `doc:"values of runtimeClassName of Pods that are not judged"                                          json:"exemptRuntimeClasses"`
}

func standards() []definition {
	defaults := func() standardsParameters { return standardsParameters{Version: "latest"} }
	return []definition{
		define(About{
			Name:      "pod-security-baseline",
			Summary:   "Pods keep to the Pod Security Standards, level baseline: no known way to more privileges.",
			Reference: standardsPage + "#baseline", Severity: "high",
		}, defaults, func(p standardsParameters) (judge, error) { return podSecurity(api.LevelBaseline, p) }),
		define(About{
			Name:      "pod-security-restricted",
			Summary:   "Pods keep to the Pod Security Standards, level restricted: current practice of hardening; baseline is part of it.",
			Reference: standardsPage + "#restricted", Severity: "high",
		}, defaults, func(p standardsParameters) (judge, error) { return podSecurity(api.LevelRestricted, p) }),
	}
}

// evaluation is the standards at one level and version, by the API server's own library.
type evaluation struct {
	standard.Evaluator

	at api.LevelVersion
	// checks are those of the level, in the order of the library's results, which do not
	// name them.
	checks []check
}

// check is one of the standards' checks, by itself.
type check struct {
	standard.Evaluator

	id string
}

func podSecurity(level api.Level, p standardsParameters) (judge, error) {
	version, err := api.ParseVersion(p.Version)
	if err != nil || !version.Latest() && version.Minor() > newest {
		return nil, fmt.Errorf("version: %q is none of latest, v1.0 to v1.%d", p.Version, newest)
	}
	e, err := newEvaluation(api.LevelVersion{Level: level, Version: version})
	if err != nil {
		return nil, err
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	return func(_ *view, r *reporter) {
		for pod := range r.pods(p.exempt) {
			if class := pod.spec.RuntimeClassName; class != nil && slices.Contains(p.ExemptRuntimeClasses, *class) {
				continue
			}
			e.judge(pod, r)
		}
	}, nil
}

func newEvaluation(at api.LevelVersion) (*evaluation, error) {
	library, err := standard.NewEvaluator(standard.DefaultChecks(), nil)
	if err != nil {
		return nil, err
	}
	ids, err := idsOf(at)
	if err != nil {
		return nil, err
	}
	e := &evaluation{Evaluator: library, at: at}
	for _, id := range ids {
		all := standard.DefaultChecks()
		one := slices.IndexFunc(all, func(c standard.Check) bool { return string(c.ID) == id })
		alone, err := standard.NewEvaluator(all[one:one+1], nil)
		if err != nil {
			return nil, err
		}
		e.checks = append(e.checks, check{alone, id})
	}
	return e, nil
}

// idsOf asks the library which checks it makes, by checks that say who they are.
func idsOf(at api.LevelVersion) ([]string, error) {
	naming := standard.DefaultChecks()
	for i, c := range naming {
		for j := range c.Versions {
			c.Versions[j].CheckPod = func(*metav1.ObjectMeta, *corev1.PodSpec) standard.CheckResult {
				return standard.CheckResult{ForbiddenReason: string(naming[i].ID)}
			}
		}
	}
	named, err := standard.NewEvaluator(naming, nil)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, r := range named.EvaluatePod(at, nil, nil) {
		ids = append(ids, r.ForbiddenReason)
	}
	return ids, nil
}

// judge reports each check that a Pod fails, for each part of the Pod that fails it.
func (e *evaluation) judge(p *pod, r *reporter) {
	for i, result := range e.EvaluatePod(e.at, &p.meta, &p.spec) {
		if result.Allowed {
			continue
		}
		for _, c := range e.culprits(p, e.checks[i], result) {
			message := result.ForbiddenReason
			if c.detail != "" {
				message += ": " + c.detail
			}
			r.findingf(p.subject, e.checks[i].id, c.path, "%s", message)
		}
	}
}

// culprit is a part of a Pod that fails a check by itself.
type culprit struct{ path, detail string }

// culprits finds what of a Pod fails a check: the library tells names, not fields. A part
// is one if the Pod fails with it alone.
func (e *evaluation) culprits(p *pod, check check, whole standard.CheckResult) []culprit {
	field := checked[check.id]
	fails := func(meta *metav1.ObjectMeta, spec *corev1.PodSpec) (string, bool) {
		result := standard.AggregateCheckResults(check.EvaluatePod(e.at, meta, spec))
		return strings.Join(result.ForbiddenDetails, ", "), !result.Allowed
	}
	bare := p.spec
	bare.Containers, bare.InitContainers, bare.EphemeralContainers = nil, nil, nil
	if _, bad := fails(&p.meta, &bare); bad {
		if _, still := fails(&metav1.ObjectMeta{}, &bare); !still {
			return []culprit{{p.at + "metadata.annotations", whole.ForbiddenDetail}}
		}
		if found := volumesAtFault(p, bare, fails); field == "volumes" && len(found) > 0 {
			return found
		}
		return []culprit{{p.at + "spec." + podField(field, &p.spec), whole.ForbiddenDetail}}
	}
	found := containersAtFault(p, bare, field, fails)
	if len(found) == 0 {
		return []culprit{{p.at + "spec", whole.ForbiddenDetail}}
	}
	return found
}

// checked are the fields that a check is about: of containers, and of the Pod, which has
// most of them in the same place.
var checked = map[string]string{
	"allowPrivilegeEscalation":   "securityContext.allowPrivilegeEscalation",
	"appArmorProfile":            "securityContext.appArmorProfile",
	"capabilities_baseline":      "securityContext.capabilities.add",
	"capabilities_restricted":    "securityContext.capabilities",
	"hostNamespaces":             "host",
	"hostPathVolumes":            "volumes",
	"hostPorts":                  "ports",
	"hostProbesAndHostLifecycle": "",
	"privileged":                 "securityContext.privileged",
	"procMount":                  "securityContext.procMount",
	"procMount_restricted":       "securityContext.procMount",
	"restrictedVolumes":          "volumes",
	"runAsNonRoot":               "securityContext.runAsNonRoot",
	"runAsUser":                  "securityContext.runAsUser",
	"seLinuxOptions":             "securityContext.seLinuxOptions",
	"seccompProfile_baseline":    "securityContext.seccompProfile",
	"seccompProfile_restricted":  "securityContext.seccompProfile",
	"sysctls":                    "securityContext.sysctls",
	"windowsHostProcess":         "securityContext.windowsOptions.hostProcess",
}

// podField is the field of a Pod; of the three that share the host's namespaces, the first
// that is set.
func podField(field string, spec *corev1.PodSpec) string {
	switch {
	case field != "host":
		return field
	case spec.HostNetwork:
		return "hostNetwork"
	case spec.HostPID:
		return "hostPID"
	}
	return "hostIPC"
}

type fails func(*metav1.ObjectMeta, *corev1.PodSpec) (detail string, bad bool)

func volumesAtFault(p *pod, bare corev1.PodSpec, fails fails) []culprit {
	var found []culprit
	for i := range p.spec.Volumes {
		bare.Volumes = p.spec.Volumes[i : i+1]
		if detail, bad := fails(&metav1.ObjectMeta{}, &bare); bad {
			found = append(found, culprit{fmt.Sprintf("%sspec.volumes[%d]", p.at, i), detail})
		}
	}
	return found
}

func containersAtFault(p *pod, bare corev1.PodSpec, field string, fails fails) []culprit {
	var found []culprit
	for _, c := range p.containers() {
		bare.Containers = []corev1.Container{*c.Container}
		if detail, bad := fails(&p.meta, &bare); bad {
			found = append(found, culprit{strings.TrimSuffix(c.path+"."+field, "."), detail})
		}
	}
	return found
}
