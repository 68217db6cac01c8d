// Package engine judges by Kyverno's policies with Kyverno's own engine, as a library.
//
// What Kyverno asks of a cluster is not there: a rule that calls an API, a registry or a
// service is refused by name, as is every rule that would do something else than judge.
// What Kyverno would skip in silence because it could not be evaluated is a flaw.
//
// The format is that of https://kyverno.io/docs/policy-types/.
package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/go-logr/logr"
	kyvernov2 "github.com/kyverno/kyverno/api/kyverno/v2"
	"github.com/kyverno/kyverno/pkg/cel/libs"
	"github.com/kyverno/kyverno/pkg/config"
	"github.com/kyverno/kyverno/pkg/engine/jmespath"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// Engine is Kyverno's, as a [policy.Engine].
type Engine struct {
	config config.Configuration
	jp     jmespath.Interface
}

// New returns the engine. Kyverno's libraries keep two things in variables of the process.
// What their policies may ask the cluster is set to one that refuses. Where they log is
// set to nowhere: unless somebody says where, each logger that they make (one for each
// rule and object) waits for that, and is held, with what it would say, for the first
// 30 s of the process.
func New() *Engine {
	libs.LibraryContext = nothing{}
	log.SetLogger(logr.Discard())
	cfg := config.NewDefaultConfiguration(false)
	return &Engine{config: cfg, jp: jmespath.New(cfg)}
}

// Name implements [policy.Engine].
func (*Engine) Name() string { return "Kyverno" }

// refused are Kyverno's kinds that do something else than judge an object.
var refused = map[string]string{
	"CleanupPolicy":                   "it deletes objects",
	"ClusterCleanupPolicy":            "it deletes objects",
	"DeletingPolicy":                  "it deletes objects",
	"NamespacedDeletingPolicy":        "it deletes objects",
	"GeneratingPolicy":                "it generates objects",
	"NamespacedGeneratingPolicy":      "it generates objects",
	"MutatingPolicy":                  "it changes objects, which would then not be what Git says",
	"NamespacedMutatingPolicy":        "it changes objects, which would then not be what Git says",
	"ImageValidatingPolicy":           "it asks registries; a TrustPolicy verifies images",
	"NamespacedImageValidatingPolicy": "it asks registries; a TrustPolicy verifies images",
	"GlobalContextEntry":              "it asks the cluster or a service",
}

// source is what a set of documents holds.
type source struct {
	policies   []item
	exceptions []item
	maps       map[string]*corev1.ConfigMap // by namespace/name
}

// Compile implements [policy.Engine]. Documents are claimed where they hold an object of
// one of Kyverno's groups; ConfigMaps in all of them are what policies may read.
func (e *Engine) Compile(ctx context.Context, all []policy.Document) (policy.Program, []bool, []policy.Flaw, error) {
	claimed := make([]bool, len(all))
	src := source{maps: map[string]*corev1.ConfigMap{}}
	var flaws []policy.Flaw
	for i, d := range all {
		items, bad := read(d)
		flaws = append(flaws, bad...)
		claimed[i] = len(bad) > 0
		for _, it := range items {
			claimed[i] = claimed[i] || it.kyvernos()
			flaws = append(flaws, src.add(it)...)
		}
	}
	p := &program{engine: e, maps: src.maps}
	flaws = append(flaws, p.except(src.exceptions)...)
	for _, it := range src.policies {
		if err := ctx.Err(); err != nil {
			return nil, claimed, nil, err
		}
		err := guarded(func() error {
			flaws = append(flaws, p.add(it)...)
			return nil
		})
		if err != nil {
			flaws = append(flaws, it.flaw(0, "%s", err))
		}
	}
	if len(p.classic) == 0 && len(p.modern) == 0 {
		return nil, claimed, flaws, nil
	}
	return p, claimed, flaws, nil
}

// add sorts an object in.
func (s *source) add(it item) []policy.Flaw {
	if it.kind == "ConfigMap" && it.group == "" && it.version == "v1" {
		var m corev1.ConfigMap
		if json.Unmarshal(it.json, &m) == nil {
			s.maps[mapName(m.Namespace, m.Name)] = &m
		}
		return nil
	}
	if !it.kyvernos() {
		return nil
	}
	if why := refused[it.kind]; why != "" {
		return []policy.Flaw{it.flaw(0, "%s is not judged: %s", it.kind, why)}
	}
	switch it.group + "/" + it.kind {
	case "kyverno.io/ClusterPolicy", "kyverno.io/Policy",
		"policies.kyverno.io/ValidatingPolicy", "policies.kyverno.io/NamespacedValidatingPolicy":
		s.policies = append(s.policies, it)
	case "kyverno.io/PolicyException", "policies.kyverno.io/PolicyException":
		s.exceptions = append(s.exceptions, it)
	default:
		return []policy.Flaw{it.flaw(0, "%s/%s %s is no policy that is known here", it.group, it.version, it.kind)}
	}
	return nil
}

// mapName is the key of a ConfigMap; Kyverno takes the namespace default for one that
// names none.
func mapName(namespace, name string) string {
	if namespace == "" {
		namespace = "default"
	}
	return namespace + "/" + name
}

// program is the policies of a set, compiled.
type program struct {
	engine     *Engine
	classic    []*classic
	modern     []*modern
	exceptions []*kyvernov2.PolicyException
	modernOnes []modernException
	maps       map[string]*corev1.ConfigMap
}

// versions are those of Kyverno's APIs that its types here can read.
var versions = map[string]bool{
	"kyverno.io/v1": true, "kyverno.io/v2beta1": true, "kyverno.io/v2": true,
	"policies.kyverno.io/v1": true, "policies.kyverno.io/v1beta1": true, "policies.kyverno.io/v1alpha1": true,
}

// add compiles one policy.
func (p *program) add(it item) []policy.Flaw {
	if !versions[it.group+"/"+it.version] {
		return []policy.Flaw{it.flaw(0, "version %s/%s is not known here", it.group, it.version)}
	}
	if it.name == "" || strings.HasSuffix(it.name, "/") {
		return []policy.Flaw{it.flaw(0, "a %s has no name", it.kind)}
	}
	if it.group == "kyverno.io" {
		c, flaws := compileClassic(it, p.maps)
		if c != nil {
			p.classic = append(p.classic, c)
		}
		return flaws
	}
	m, flaws := compileModern(it, p.modernOnes)
	if m != nil {
		p.modern = append(p.modern, m)
	}
	return flaws
}

// severity reads what Kyverno's annotations say of a policy.
func severity(annotations map[string]string) string {
	switch s := strings.ToLower(annotations["policies.kyverno.io/severity"]); s {
	case "info", "low", "medium", "high", "critical":
		return s
	}
	return ""
}

// describe puts the category before a message, where a policy has one.
func describe(annotations map[string]string, message string) string {
	message = strings.TrimSpace(message)
	if c := annotations["policies.kyverno.io/category"]; c != "" {
		return fmt.Sprintf("%s (%s)", message, c)
	}
	return message
}

// maxMessage bounds what a message takes over from a library, in bytes.
const maxMessage = 1000

// shorten takes the middle out of a message that is too long: some of Kyverno's repeat
// what they were given, and end with what is the matter.
func shorten(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	const half = maxMessage / 2
	return strings.ToValidUTF8(message[:half], "") + " … " + strings.ToValidUTF8(message[len(message)-half:], "")
}
