package engine

import (
	"context"
	"fmt"
	"maps"
	goruntime "runtime"
	"strings"

	kyvernov1 "github.com/kyverno/kyverno/api/kyverno/v1"
	kyvernov2 "github.com/kyverno/kyverno/api/kyverno/v2"
	"github.com/kyverno/kyverno/pkg/admissionpolicy"
	"github.com/kyverno/kyverno/pkg/autogen/v1"
	kyverno "github.com/kyverno/kyverno/pkg/engine"
	engineapi "github.com/kyverno/kyverno/pkg/engine/api"
	"github.com/kyverno/kyverno/pkg/engine/factories"
	imagecache "github.com/kyverno/kyverno/pkg/image/verification/cache"
	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
)

// judging is a case, or a share of its subjects, before the policies.
type judging struct {
	program *program
	kyverno engineapi.Engine
	c       *policy.Case
	user    kyvernov2.RequestInfo
	found   policy.Findings
	// flaws are those of their kind that came first; seen counts each kind.
	flaws []noted
	seen  map[string]int
}

// noted is a flaw, and what it is a kind of.
type noted struct {
	key  string
	flaw policy.Flaw
}

// subject is an object before the policies.
type subject struct {
	index  int
	object unstructured.Unstructured
	old    unstructured.Unstructured
	gvk    schema.GroupVersionKind
	gvr    schema.GroupVersionResource
	verb   kyvernov1.AdmissionOperation
	labels map[string]string // of its namespace
	known  bool              // whether all of them are

	versions  *admission.VersionedAttributes // see attributes
	admission map[string]any                 // see request
	images    *images                        // see ask
}

// Judge implements [policy.Program]. An object that is live already is judged as an
// UPDATE of that, every other as a CREATE. Objects are shared out among the processors.
func (p *program) Judge(ctx context.Context, c *policy.Case) (policy.Findings, error) {
	local := false // there is no cluster to ask
	engine := kyverno.NewEngine(p.engine.config, p.engine.jp, nil, nil, imagecache.DisabledImageVerifyCache(),
		factories.DefaultContextLoaderFactory(configMaps{p.maps, delivered(c)}), p, &local)
	shares := min(goruntime.GOMAXPROCS(0), 4, len(c.Subjects)/50+1)
	all := make([]*judging, shares)
	var group errgroup.Group
	for n := range shares {
		j := &judging{program: p, kyverno: engine, c: c, user: user(c.Delivery.Account), seen: map[string]int{}}
		j.found.Judged = map[string]int{}
		all[n] = j
		group.Go(func() error {
			return j.judge(ctx, n*len(c.Subjects)/shares, (n+1)*len(c.Subjects)/shares)
		})
	}
	if err := group.Wait(); err != nil {
		return policy.Findings{}, err
	}
	for _, j := range all[1:] {
		all[0].merge(j)
	}
	return all[0].told(), nil
}

// judge judges some of the subjects.
func (j *judging) judge(ctx context.Context, from, to int) error {
	for i := from; i < to; i++ {
		if err := ctx.Err(); err != nil {
			return fault.New(fault.Limit, "judging by Kyverno's policies took too long").Because(err)
		}
		if derivedBefore(j.c, i) {
			continue
		}
		s := j.subject(i)
		for _, one := range j.program.classic {
			if err := guarded(func() error { return j.classic(ctx, one, s) }); err != nil {
				j.cannot(one.item, 0, "failed", "it could not be evaluated on %s: %s", s.name(), err)
			}
		}
		if err := j.modern(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// derivedBefore says whether a subject is a Pod of a template whose maker Kyverno judges
// by rules that it derives itself.
func derivedBefore(c *policy.Case, i int) bool {
	of := c.Subjects[i].Of
	if of == nil || *of < 0 || *of >= len(c.Subjects) {
		return false
	}
	kind, _ := c.Subjects[*of].Object["kind"].(string)
	return v1.PodControllers.Has(kind)
}

// delivered are the ConfigMaps of a case.
func delivered(c *policy.Case) map[string]map[string]any {
	found := map[string]map[string]any{}
	for i := range c.Subjects {
		o := unstructured.Unstructured{Object: c.Subjects[i].Object}
		if o.GetKind() == "ConfigMap" && o.GetAPIVersion() == "v1" {
			found[mapName(o.GetNamespace(), o.GetName())] = o.Object
		}
	}
	return found
}

// user is what is known of an account: not its roles.
func user(account string) kyvernov2.RequestInfo {
	if account == "" {
		return kyvernov2.RequestInfo{}
	}
	groups := []string{"system:authenticated"}
	if rest, ok := strings.CutPrefix(account, "system:serviceaccount:"); ok {
		namespace, _, _ := strings.Cut(rest, ":")
		groups = []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"}
	}
	return kyvernov2.RequestInfo{AdmissionUserInfo: authenticationv1.UserInfo{Username: account, Groups: groups}}
}

func (j *judging) subject(i int) *subject {
	in := &j.c.Subjects[i]
	s := &subject{index: i, verb: kyvernov1.Create}
	s.object.Object, s.old.Object = in.Object, in.Old
	if in.Old != nil {
		s.verb = kyvernov1.Update
	}
	s.gvk = s.object.GroupVersionKind()
	s.gvr = s.gvk.GroupVersion().WithResource(in.Resource)
	s.known = true
	if namespace := s.object.GetNamespace(); namespace != "" {
		if s.labels, s.known = j.c.Namespaces[namespace]; !s.known {
			s.labels = map[string]string{corev1.LabelMetadataName: namespace}
		}
	}
	return s
}

// attributes are those of the admission of a subject, as CEL sees them.
func (j *judging) attributes(s *subject) (*admission.VersionedAttributes, error) {
	if s.versions != nil {
		return s.versions, nil
	}
	namespace := s.object.GetNamespace()
	if s.gvk.Kind == "Namespace" && s.gvk.Group == "" {
		namespace = "" // as Kyverno has it
	}
	who := admissionpolicy.NewUser(j.user.AdmissionUserInfo)
	attr := admission.NewAttributesRecord(&s.object, s.oldOrNil(), s.gvk, namespace, s.object.GetName(), s.gvr, "", admission.Operation(s.verb), nil, false, &who)
	v, err := versioned(attr)
	s.versions = v
	return v, err
}

// namespaceOf is the Namespace of a subject, as far as it is known.
func (s *subject) namespaceOf() *corev1.Namespace {
	name := s.object.GetNamespace()
	if name == "" || s.gvk.Kind == "Namespace" && s.gvk.Group == "" {
		return nil
	}
	return &corev1.Namespace{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: maps.Clone(s.labels)},
	}
}

// classic judges a subject by a ClusterPolicy or Policy.
func (j *judging) classic(ctx context.Context, c *classic, s *subject) error {
	d := c.of(s.gvk)
	if d == nil || c.policy.IsNamespaced() && c.policy.GetNamespace() != s.object.GetNamespace() {
		return nil
	}
	if met, err := j.met(ctx, c, d, s); err != nil || !met {
		return err
	}
	question, err := j.ask(s, d, false)
	if err != nil {
		return err
	}
	response := j.kyverno.Validate(ctx, question)
	judged := false
	for i := range response.PolicyResponse.Rules {
		judged = judged || response.PolicyResponse.Rules[i].Status() != engineapi.RuleStatusSkip
		if err := j.rule(ctx, c, d, s, &response, &response.PolicyResponse.Rules[i]); err != nil {
			return err
		}
	}
	if why := question.skipped(d, response.PolicyResponse.Rules); why != "" {
		judged = true
		j.tell(c, s, engineapi.RuleError(d.loops.rule, engineapi.Validation, why, nil, nil), why, true)
	}
	if judged {
		j.found.Judged[c.item.name]++
	}
	return nil
}

// met says whether a policy is for a subject, as far as it is not its rules that say so.
// Where that cannot be told, that is told.
func (j *judging) met(ctx context.Context, c *classic, d *derived, s *subject) (bool, error) {
	if d.labels && !s.known {
		j.cannot(c.item, 0, "labels/"+s.object.GetNamespace(), "it selects by labels of the namespace %s, which are not known here", s.object.GetNamespace())
		return false, nil
	}
	if c.when == nil {
		return true, nil
	}
	v, err := j.attributes(s)
	if err != nil {
		return false, err
	}
	met, err := c.when.met(ctx, v)
	if err != nil {
		j.failed(c, s, "", "webhookConfiguration.matchConditions: "+err.Error(), c.lenient || c.silent)
		return false, nil
	}
	return met, nil
}

// rule turns what Kyverno says of a rule into what is told.
func (j *judging) rule(ctx context.Context, c *classic, d *derived, s *subject, response *engineapi.EngineResponse, r *engineapi.RuleResponse) error {
	warn := c.silent || !enforced(response, r.Name())
	switch r.Status() {
	case engineapi.RuleStatusError:
		j.failed(c, s, r.Name(), r.Message(), warn || c.lenient)
	case engineapi.RuleStatusWarn:
		j.tell(c, s, r, r.Message(), true)
	case engineapi.RuleStatusFail:
		if compiled := d.cel[r.Name()]; compiled != nil {
			v, err := j.attributes(s)
			if err != nil {
				return err
			}
			if message := compiled.deny(ctx, v, s.namespaceOf()); message != "" {
				j.tell(c, s, r, message, warn)
			}
			return nil
		}
		message := r.Message()
		if !warn && j.existed(ctx, d, s, r.Name()) {
			warn, message = true, message+" (what is live breaks the rule already, and Kyverno admits that: allowExistingViolations)"
		}
		j.tell(c, s, r, message, warn)
	case engineapi.RuleStatusPass, engineapi.RuleStatusSkip:
	}
	return nil
}

// enforced says whether a failure of a rule would refuse the object.
func enforced(response *engineapi.EngineResponse, rule string) bool {
	one := *response
	one.PolicyResponse.Rules = []engineapi.RuleResponse{*engineapi.RuleFail(rule, engineapi.Validation, "", nil)}
	return one.HasEnforcedFailure()
}

// existed says whether the live object breaks a rule already, where Kyverno lets that be.
func (j *judging) existed(ctx context.Context, d *derived, s *subject, rule string) bool {
	written := d.rules[rule]
	if s.verb != kyvernov1.Update || written == nil || !written.HasValidateAllowExistingViolations() {
		return false
	}
	question, err := j.ask(s, d, true)
	if err != nil {
		return false
	}
	response := j.kyverno.Validate(ctx, question)
	for i := range response.PolicyResponse.Rules {
		r := &response.PolicyResponse.Rules[i]
		if r.Name() == rule {
			return r.Status() == engineapi.RuleStatusFail
		}
	}
	return false
}

// line is where a rule was written; derived rules stand where theirs does.
func (c *classic) line(rule string) int {
	for _, prefix := range []string{"", "autogen-cronjob-", "autogen-"} {
		if name, ok := strings.CutPrefix(rule, prefix); ok {
			if line := c.lines[name]; line != 0 {
				return line
			}
		}
	}
	return c.item.line
}

// path is the field that a rule found wrong. In a loop, Kyverno names it from the element
// on, and not which element: then there is none.
func (c *classic) path(s *subject, r *engineapi.RuleResponse) string {
	if d := c.of(s.gvk); d != nil {
		if rule := d.rules[r.Name()]; rule != nil && len(rule.Validation.ForEachValidation) > 0 {
			return ""
		}
	}
	return path(r)
}

func (j *judging) tell(c *classic, s *subject, r *engineapi.RuleResponse, message string, warn bool) {
	annotations := c.policy.GetAnnotations()
	j.found.List = append(j.found.List, policy.Finding{
		Policy: c.item.name, Rule: r.Name(), Subject: s.index, Path: c.path(s, r), Message: describe(annotations, shorten(message)), Warn: warn,
		Severity: severity(annotations), Reference: annotations["policies.kyverno.io/reference"], File: c.item.file, Line: c.line(r.Name()),
	})
}

// failed tells of a rule that could not be evaluated on an object: a flaw or, where
// Kyverno would let the object pass, a warning.
func (j *judging) failed(c *classic, s *subject, rule, message string, warn bool) {
	if warn {
		r := engineapi.RuleError(rule, engineapi.Validation, "it could not be evaluated: "+message, nil, nil)
		j.tell(c, s, r, r.Message(), true)
		return
	}
	j.cannot(c.item, c.line(rule), rule, "rule %s could not be evaluated on %s: %s", rule, s.name(), shorten(message))
}

// cannot notes a flaw; of the same cause only the first is told, and how many more.
func (j *judging) cannot(it item, line int, cause, format string, args ...any) {
	key := it.file + "\x00" + it.name + "\x00" + cause
	j.seen[key]++
	if j.seen[key] == 1 {
		j.flaws = append(j.flaws, noted{key, it.flaw(line, format, args...)})
	}
}

// merge adds what was found on the subjects that follow.
func (j *judging) merge(next *judging) {
	j.found.List = append(j.found.List, next.found.List...)
	for name, n := range next.found.Judged {
		j.found.Judged[name] += n
	}
	for _, f := range next.flaws {
		if j.seen[f.key] == 0 {
			j.flaws = append(j.flaws, f)
		}
	}
	for key, n := range next.seen {
		j.seen[key] += n
	}
}

// told are the findings, the flaws with how often they came.
func (j *judging) told() policy.Findings {
	for _, f := range j.flaws {
		if n := j.seen[f.key]; n > 1 {
			f.flaw.Message += fmt.Sprintf("; so on %d more", n-1)
		}
		j.found.Flaws = append(j.found.Flaws, f.flaw)
	}
	return j.found
}

func (s *subject) name() string {
	name := s.object.GetName()
	if namespace := s.object.GetNamespace(); namespace != "" {
		name = namespace + "/" + name
	}
	return s.gvk.Kind + " " + name
}

// oldOrNil is a plain nil where there is no old object: CEL looks for that.
func (s *subject) oldOrNil() runtime.Object {
	if s.old.Object == nil {
		return nil
	}
	return &s.old
}

// guarded runs what Kyverno's libraries do with what tenants wrote. A panic in them is an
// error; of what it says only the runtime's own words are repeated.
func guarded(do func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			what := fmt.Sprintf("a panic with a %T", v)
			if e, ok := v.(goruntime.Error); ok {
				what = e.Error()
			}
			err = fmt.Errorf("Kyverno's engine failed inside: %s", what) //nolint:staticcheck // a name
		}
	}()
	return do()
}
