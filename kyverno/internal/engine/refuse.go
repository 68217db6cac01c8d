package engine

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	kyvernov1 "github.com/kyverno/kyverno/api/kyverno/v1"
	kubeutils "github.com/kyverno/kyverno/pkg/utils/kube"
	corev1 "k8s.io/api/core/v1"
)

// function finds JMESPath functions whose answer is not a function of what is judged.
var function = regexp.MustCompile(`\b(time_now|time_now_utc|time_since|random|is_external_url)\s*\(`)

// reachesPattern finds calls of CEL libraries of Kyverno's that ask the world, or a clock.
var reachesPattern = regexp.MustCompile(`\b(http\s*\.\s*[A-Za-z]+|resource\s*\.\s*(?i:get|list|post|togvr)|globalContext\s*\.\s*[A-Za-z]+|image\s*\.\s*(?i:getmetadata)|random(?:\s*\.\s*random)?|time\s*\.\s*now)\s*\(`)

// reaches says what of a CEL expression is refused; "" for nothing.
func reaches(expression string) string {
	if m := reachesPattern.FindStringSubmatch(expression); m != nil {
		return "calls " + strings.Join(strings.Fields(m[1]), "") + "(): policies are judged without network, cluster, clock and chance"
	}
	return ""
}

// refuse says why a rule is not judged; "" if it is. maps are the ConfigMaps beside the
// policies.
func refuse(r *kyvernov1.Rule, namespace string, maps map[string]*corev1.ConfigMap) string {
	switch {
	case r.HasMutate():
		return "it changes objects (mutate), which would then not be what Git says"
	case r.HasGenerate():
		return "it generates objects"
	case len(r.VerifyImages) > 0:
		return "it asks registries (verifyImages); a TrustPolicy verifies images"
	case r.Validation == nil:
		return "it has no validate"
	case r.Validation.Manifests != nil:
		return "it verifies signatures of manifests (validate.manifests)"
	case r.Validation.DeprecatedAssert != nil:
		return "validate.assert is not supported"
	case len(r.ImageExtractors) > 0:
		return "imageExtractors is not supported"
	case r.Validation.CEL != nil && (r.Validation.CEL.ParamKind != nil || r.Validation.CEL.ParamRef != nil):
		return "its parameters (validate.cel.paramKind) are objects of a cluster"
	}
	if why := never(&r.MatchResources); why != "" {
		return why
	}
	if why := refuseContext(r.Context, namespace, maps); why != "" {
		return why
	}
	if why := refuseLoops(r.Validation.ForEachValidation, namespace, maps); why != "" {
		return why
	}
	return refuseFunctions(r)
}

func refuseFunctions(r *kyvernov1.Rule) string {
	raw, err := json.Marshal(r)
	if err != nil {
		return err.Error()
	}
	if m := function.FindSubmatch(raw); m != nil {
		return "it calls " + string(m[1]) + "(): policies are judged without network, clock and chance"
	}
	return ""
}

func refuseLoops(loops []kyvernov1.ForEachValidation, namespace string, maps map[string]*corev1.ConfigMap) string {
	for i := range loops {
		if why := refuseContext(loops[i].Context, namespace, maps); why != "" {
			return why
		}
		if why := refuseLoops(loops[i].GetForEachValidation(), namespace, maps); why != "" {
			return why
		}
	}
	return ""
}

// refuseContext says which entry asks the world, or a ConfigMap that is not there.
func refuseContext(entries []kyvernov1.ContextEntry, namespace string, maps map[string]*corev1.ConfigMap) string {
	for _, e := range entries {
		switch {
		case e.APICall != nil:
			return "its context " + e.Name + " calls an API (apiCall): policies are judged without network"
		case e.GlobalReference != nil:
			return "its context " + e.Name + " reads a GlobalContextEntry (globalReference): policies are judged without network"
		case e.ImageRegistry != nil:
			return "its context " + e.Name + " asks a registry (imageRegistry): policies are judged without network"
		case e.ConfigMap != nil:
			m := *e.ConfigMap
			if m.Namespace == "" {
				m.Namespace = namespace
			}
			if !computed(m.Name) && !computed(m.Namespace) && maps[mapName(m.Namespace, m.Name)] == nil {
				return "its context " + e.Name + " reads ConfigMap " + mapName(m.Namespace, m.Name) + ", which is not beside the policies"
			}
		}
	}
	return ""
}

// never says why a match can match nothing that is delivered.
func never(m *kyvernov1.MatchResources) string {
	filters := slices.Concat(m.Any, m.All)
	if len(filters) == 0 {
		filters = kyvernov1.ResourceFilters{{ResourceDescription: m.ResourceDescription}}
	}
	why := ""
	for i := range filters {
		one := neverFilter(&filters[i].ResourceDescription)
		if one == "" && len(m.All) == 0 {
			return ""
		}
		if one != "" {
			why = one
		}
	}
	return why
}

func neverFilter(d *kyvernov1.ResourceDescription) string {
	if len(d.Operations) > 0 && !slices.Contains(d.Operations, kyvernov1.Create) && !slices.Contains(d.Operations, kyvernov1.Update) {
		return "it is for neither CREATE nor UPDATE, and can match nothing that is delivered"
	}
	for _, k := range d.Kinds {
		if _, _, _, sub := kubeutils.ParseKindSelector(k); sub == "" || sub == "*" {
			return ""
		}
	}
	if len(d.Kinds) > 0 {
		return "it is for subresources, and can match nothing that is delivered"
	}
	return ""
}

// forgetRoles leaves out of a rule what depends on roles of the user, which nobody knows
// here: such a rule is for everybody, and such an exclusion is for nobody.
func forgetRoles(r *kyvernov1.Rule) {
	forget := func(u *kyvernov1.UserInfo) { u.Roles, u.ClusterRoles = nil, nil }
	forget(&r.MatchResources.UserInfo)
	for _, filters := range []kyvernov1.ResourceFilters{r.MatchResources.Any, r.MatchResources.All} {
		for i := range filters {
			forget(&filters[i].UserInfo)
		}
	}
	x := r.ExcludeResources
	if x == nil {
		return
	}
	has := func(u *kyvernov1.UserInfo) bool { return len(u.Roles)+len(u.ClusterRoles) > 0 }
	if has(&x.UserInfo) {
		x.UserInfo, x.ResourceDescription = kyvernov1.UserInfo{}, kyvernov1.ResourceDescription{}
	}
	x.Any = slices.DeleteFunc(x.Any, func(f kyvernov1.ResourceFilter) bool { return has(&f.UserInfo) })
	if slices.ContainsFunc(x.All, func(f kyvernov1.ResourceFilter) bool { return has(&f.UserInfo) }) {
		x.All = nil
	}
	if x.IsEmpty() {
		r.ExcludeResources = nil
	}
}
