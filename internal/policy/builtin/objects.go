package builtin

import (
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// objects are the policies on objects of any kind.
func objects() []definition {
	return []definition{
		define(About{
			Name:      "no-default-namespace",
			Summary:   "Nothing is delivered into the namespace default, where rights and limits of nobody hold.",
			Reference: "https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/#initial-namespaces", Severity: "low",
		}, func() namespaceParameters { return namespaceParameters{Namespaces: []string{"default"}} }, noDefaultNamespace),
		define(About{
			Name:      "required-labels",
			Summary:   "Objects carry the labels by which people find out whose they are.",
			Reference: "https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/", Severity: "low",
		}, func() labelParameters {
			return labelParameters{
				Labels: []string{"app.kubernetes.io/name"},
				Kinds:  []string{"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod", "Service"},
			}
		}, requiredLabels),
	}
}

type namespaceParameters struct {
	Namespaces []string `doc:"namespaces that nothing is delivered into; globs" json:"namespaces"`
	Kinds      []string `doc:"kinds that are judged; globs; empty for all"      json:"kinds"`
}

func noDefaultNamespace(p namespaceParameters) (judge, error) {
	if len(p.Namespaces) == 0 {
		return nil, errors.New("namespaces: none is refused: take the policy away instead")
	}
	err := errors.Join(checkGlobs("namespaces", p.Namespaces), checkGlobs("kinds", p.Kinds))
	return func(v *view, r *reporter) {
		for i, s := range r.all(exempt{}) {
			id := v.ids[i]
			if !s.Namespaced || len(p.Kinds) > 0 && !anyGlob(p.Kinds, id.Kind) {
				continue
			}
			namespace := id.Namespace
			if namespace == "" {
				namespace = "default" // as for kubectl
			}
			if anyGlob(p.Namespaces, namespace) {
				r.findingf(i, "", "metadata.namespace", "it lies in namespace %s: give it one of its own", namespace)
			}
		}
	}, err
}

type labelParameters struct {
	exempt

	Labels []string `doc:"labels that are required: a name, or name=glob for its value" json:"labels"`
	Kinds  []string `doc:"kinds that are judged; globs"                                 json:"kinds"`
}

func requiredLabels(p labelParameters) (judge, error) {
	if len(p.Labels) == 0 || len(p.Kinds) == 0 {
		return nil, errors.New("labels and kinds: neither may be empty: take the policy away instead")
	}
	for _, l := range p.Labels {
		name, glob, valued := strings.Cut(l, "=")
		if name == "" || valued && checkGlobs("labels", []string{glob}) != nil {
			return nil, fmt.Errorf("labels: %q is neither a name nor name=glob", l)
		}
	}
	return func(v *view, r *reporter) {
		for i, s := range r.all(p.exempt) {
			if !anyGlob(p.Kinds, v.ids[i].Kind) {
				continue
			}
			labels, _, _ := unstructured.NestedStringMap(s.Object, "metadata", "labels")
			for _, l := range p.Labels {
				p.judge(r, i, labels, l)
			}
		}
	}, errors.Join(checkGlobs("kinds", p.Kinds), p.check())
}

func (p labelParameters) judge(r *reporter, subject int, labels map[string]string, wanted string) {
	name, glob, valued := strings.Cut(wanted, "=")
	value, ok := labels[name]
	at := "metadata.labels[" + name + "]"
	switch {
	case !ok:
		r.findingf(subject, "", at, "it has no label %s", wanted)
	case valued && !policy.Glob(glob, value):
		r.findingf(subject, "", at, "its label %s is %q, and %s is asked for", name, value, glob)
	}
}
