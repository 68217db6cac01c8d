package check

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// ruleSchema, ruleRender and ruleProject are how findings of these kinds are called.
const (
	ruleSchema  = "schema"
	ruleRender  = "render"
	ruleProject = "project"
	ruleTrust   = "policy"
)

// trial judges the deliveries of one state of the repository.
type trial struct {
	*discovery

	policies Policies
	schemas  Schemas
	only     func(*unit, *object.Object) bool // nil: everything is judged
	// spaces are the labels of the namespaces that the repository brings, whichever
	// delivery does so: in the cluster each is judged beside those of the others.
	spaces map[string]map[string]string

	mu       sync.Mutex
	findings []Finding
	unknown  map[string]bool // kinds without a schema
	excused  int
}

// newTrial compiles what deliveries are judged by.
func newTrial(d *discovery) (*trial, error) {
	t := &trial{discovery: d, unknown: map[string]bool{}, policies: d.Dialects.Policies(d.known, d.state), spaces: spacesOf(d.units)}
	for _, n := range t.policies.Notices {
		d.noticef("%s", n)
	}
	t.policies.Sets = append(t.policies.Sets, d.options.Sets...)
	if c := d.options.Cluster; c != nil {
		for name, labels := range c.Namespaces {
			if t.spaces[name] == nil {
				t.spaces[name] = labels
			}
		}
	}
	if d.Schemas == nil {
		return t, nil
	}
	definitions := slices.Clone(d.Dialects.Definitions())
	if d.options.Cluster != nil {
		definitions = append(definitions, d.options.Cluster.Definitions...)
	}
	own := d.scopes.defined()
	for _, name := range slices.Sorted(maps.Keys(own)) {
		definitions = append(definitions, own[name])
	}
	schemas, problems, err := d.Schemas(d.options.Kubernetes, definitions)
	for _, p := range problems {
		d.noticef("a CustomResourceDefinition cannot be used: %s", p)
	}
	t.schemas = schemas
	return t, err
}

// spacesOf are the labels of the namespaces that units bring; of one that several bring,
// those of the first.
func spacesOf(units []*unit) map[string]map[string]string {
	spaces := map[string]map[string]string{}
	for _, u := range units {
		if u.err != nil {
			continue
		}
		for i := range u.rendered.Objects {
			o := &u.rendered.Objects[i]
			if labels := policy.NamespaceLabels(o); labels != nil && spaces[o.GetName()] == nil {
				spaces[o.GetName()] = labels
			}
		}
	}
	return spaces
}

// run judges units, a few at a time.
func (t *trial) run(ctx context.Context, units []*unit) error {
	if err := each(ctx, units, func(u *unit) { t.unit(ctx, u) }); err != nil {
		return err
	}
	if kinds := slices.Sorted(maps.Keys(t.unknown)); len(kinds) > 0 {
		t.noticef("the schema is not known of %s: add the CustomResourceDefinition to the repository", strings.Join(kinds, ", "))
	}
	t.report.Excused += t.excused
	return nil
}

// add takes findings of a unit in. No value that is secret gets through.
func (t *trial) add(u *unit, found ...Finding) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range found {
		f.Deliveries = []string{u.name()}
		f.Message = u.mask.Text(f.Message)
		if f.File != "" {
			f.File = t.state.place(f.File)
		}
		t.findings = append(t.findings, f)
	}
}

func (t *trial) unit(ctx context.Context, u *unit) {
	if u.err != nil {
		t.failed(u, u.err)
		return
	}
	for i := range u.rendered.Objects {
		o := &u.rendered.Objects[i]
		t.add(u, t.project(u, o)...)
		t.add(u, t.schema(u, o)...)
	}
	t.add(u, t.trust(u)...)
	if err := t.policy(ctx, u); err != nil {
		t.undecided(u, err)
	}
}

// ours are the failures that no change of the repository ends.
var ours = []fault.Kind{fault.Internal, fault.Unreachable, fault.Unauthorized, fault.Waiting}

// failed is a delivery that would not be made.
func (t *trial) failed(u *unit, err error) {
	f := fault.From(err)
	if slices.Contains(ours, f.Kind) {
		t.undecided(u, err)
		return
	}
	severity := Error
	if f.Kind == fault.Unsupported {
		severity = Warning
	}
	found := Finding{
		Kind: KindRender, Severity: severity, Rule: ruleRender, Message: sentence(f), File: f.File, Line: f.Line, Object: f.Object,
		subject: cmp.Or(f.Object, u.name()),
	}
	at := u.asked.Origin
	if e, missing := t.state.Stat(strings.Trim(f.File, "/")); f.File == "" || missing != nil || !e.Kind.IsFile() {
		if f.File != "" { // a directory, or a path that is not there
			found.Message = f.File + ": " + found.Message
		}
		found.File, found.Line = at.File, at.Line
	}
	found.Object = cmp.Or(found.Object, u.name())
	t.add(u, found)
}

func (t *trial) undecided(u *unit, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report.Undecided = append(t.report.Undecided, u.name()+": "+u.mask.Text(err.Error()))
}

// sentence is what an error says, without its place.
func sentence(f *fault.Error) string {
	if f.Hint == "" {
		return f.Msg
	}
	return f.Msg + " (" + f.Hint + ")"
}

// wants reports whether an object is to be judged.
func (t *trial) wants(u *unit, o *object.Object) bool { return t.only == nil || t.only(u, o) }

// project judges an object by the rules of its project.
func (t *trial) project(u *unit, o *object.Object) []Finding {
	kind, ok := u.rendered.Kinds.Lookup(o.GroupVersionKind())
	err := u.delivery.Spec.Rules.Permits(o.ID(), !ok || kind.Namespaced)
	if err == nil || !t.wants(u, o) {
		return nil
	}
	f := about(o, KindProject, Error, ruleProject, sentence(err))
	f.Policy = u.delivery.Spec.Rules.Project
	return []Finding{f}
}

// about begins a finding that is about an object.
func about(o *object.Object, kind, severity, rule, message string) Finding {
	id := o.ID()
	f := Finding{
		Kind: kind, Severity: severity, Rule: rule, Message: message, File: o.Origin.File, Line: o.Origin.Line, Object: id.String(),
	}
	id.Namespace = ""
	f.subject = id.String()
	return f
}

// schema judges an object as the API server would on reading it.
func (t *trial) schema(u *unit, o *object.Object) []Finding {
	if t.schemas == nil || !t.wants(u, o) {
		return nil
	}
	content, whole := unsealed(o.Object)
	if !whole || u.delivery.Open && holds(content, "${") {
		return nil // its values are not known
	}
	problems, err := t.schemas.Validate(content)
	if errors.Is(err, ErrUnknownKind) {
		gvk := o.GroupVersionKind()
		t.mu.Lock()
		t.unknown[gvk.Kind+" of "+gvk.GroupVersion().String()] = true
		t.mu.Unlock()
		return nil
	}
	if err != nil {
		return []Finding{about(o, KindSchema, Error, ruleSchema, err.Error())}
	}
	var all []Finding
	for _, p := range problems {
		f := about(o, KindSchema, Error, ruleSchema, p.Message)
		f.Path, f.Line = p.Path, t.line(o, p.Path)
		all = append(all, f)
	}
	return all
}

// unsealed returns an object as it was before it was sealed; whole is false if values of
// it are sealed.
func unsealed(o map[string]any) (content map[string]any, whole bool) {
	if _, ok := o["sops"].(map[string]any); ok {
		o = maps.Clone(o)
		delete(o, "sops")
	}
	return o, !holds(o, secret.SOPS)
}

// holds reports whether a text in a value has something in it, in base64 or as it is.
func holds(value any, what string) bool {
	switch v := value.(type) {
	case map[string]any:
		for _, child := range v {
			if holds(child, what) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, func(child any) bool { return holds(child, what) })
	case string:
		if strings.Contains(v, what) {
			return true
		}
		decoded, err := base64.StdEncoding.DecodeString(v)
		return err == nil && strings.Contains(string(decoded), what)
	}
	return false
}

// policy judges a delivery as a whole by the sets that are for it.
func (t *trial) policy(ctx context.Context, u *unit) error {
	var sets []policy.Set
	var origins []object.Origin
	for _, s := range t.policies.Sets {
		if s.Selects == nil || s.Selects(u.delivery.Subject) {
			sets, origins = append(sets, s.Set), append(origins, s.Origin)
		}
	}
	if len(sets) == 0 || t.Judge == nil || len(u.rendered.Objects) == 0 {
		return nil
	}
	objects := make([]object.Object, len(u.rendered.Objects))
	for i, o := range u.rendered.Objects {
		o.Object, _ = unsealed(o.Object)
		objects[i] = o
	}
	c := policy.NewCase(objects, u.rendered.Kinds, t.Complete, nil)
	c.MarkSealed(objects, func(_ object.ID, value string) bool { return strings.Contains(value, secret.SOPS) })
	for i, o := range u.rendered.Objects {
		c.Subjects[i].Sealed = o.GetKind() == "Secret" && holds(o.Object, secret.SOPS)
	}
	for name, labels := range t.spaces {
		if c.Namespaces[name] == nil {
			c.Namespaces[name] = labels
		}
	}
	c.Kubernetes = t.options.Kubernetes
	s := u.delivery.Subject
	c.Delivery = policy.Delivery{
		Kind: s.Kind, Namespace: s.Namespace, Name: s.Name, Labels: s.Labels, Project: s.Project,
		Repository: withoutUser(s.Repository), Path: u.delivery.Spec.Render.Path,
	}
	decisions, err := t.Judge.Judge(ctx, sets, c, t.options.Now)
	if err != nil {
		return err
	}
	for i, d := range decisions {
		t.decision(u, sets[i], origins[i], d)
	}
	return nil
}

// decision takes in what a set comes to.
func (t *trial) decision(u *unit, set policy.Set, at object.Origin, d policy.Decision) {
	for _, n := range d.Notices {
		t.noticef("%s", n)
	}
	t.mu.Lock()
	t.excused += len(d.Excused)
	t.mu.Unlock()
	byID := map[string]*object.Object{}
	for i := range u.rendered.Objects {
		o := &u.rendered.Objects[i]
		byID[o.ID().String()] = o
	}
	for _, v := range d.Verdicts {
		if v.Outcome == policy.Pass {
			continue
		}
		f := Finding{
			Kind: KindPolicy, Severity: severityOf(v.Outcome), Rule: v.Rule, Message: v.Message, Policy: set.Name, Object: v.Object, Path: v.Path,
			Source: v.Source, SourceLine: v.SourceLine, Level: v.Severity, Reference: v.Reference, File: v.File, Line: v.Line,
		}
		if o := byID[v.Object]; o != nil {
			if !t.wants(u, o) {
				continue
			}
			of := about(o, f.Kind, f.Severity, f.Rule, f.Message)
			f.subject, f.File, f.Line = of.subject, of.File, t.line(o, v.Path)
		}
		t.add(u, t.placed(u, f, at))
	}
}

// placed gives a finding that is about no object the place of its policy, or of the set,
// if that is in the repository, or else of the delivery.
func (t *trial) placed(u *unit, f Finding, set object.Origin) Finding {
	if f.File != "" {
		return f
	}
	if e, err := t.state.Stat(f.Source); f.Source != "" && err == nil && e.Kind.IsFile() {
		f.File, f.Line = f.Source, f.SourceLine
		return f
	}
	if set.File != "" && f.Rule == policy.RuleSet {
		f.File, f.Line = set.File, set.Line
		return f
	}
	f.File, f.Line = u.asked.Origin.File, u.asked.Origin.Line
	f.subject = u.name()
	return f
}

func severityOf(outcome string) string {
	if outcome == policy.Fail {
		return Error
	}
	return Warning
}

// trust judges what can be told of images without asking a registry.
func (t *trial) trust(u *unit) []Finding {
	var all []Finding
	for _, p := range t.policies.Trust {
		if !p.Selects(u.delivery.Subject) {
			continue
		}
		if p.Broken != "" {
			severity := Error
			if p.Audit {
				severity = Warning
			}
			all = append(all, Finding{
				Kind: KindTrust, Severity: severity, Rule: ruleTrust, Message: "it cannot be judged: " + p.Broken, Policy: p.Name,
				File: p.Origin.File, Line: p.Origin.Line,
			})
			continue
		}
		if p.Images == nil {
			continue
		}
		images := object.ImagesAt(u.rendered.Objects, p.Images.Paths)
		asked := make([]trust.Image, len(images))
		for i, name := range images {
			asked[i] = trust.Image{Name: name}
		}
		for _, v := range policy.Images(asked, trust.NewDemands(p.Policy), t.options.Now) {
			if v.Outcome == policy.Pass || !slices.Contains(offline, v.Rule) {
				continue
			}
			all = append(all, t.ofImage(u, v)...)
		}
	}
	return all
}

// offline are the rules on images that a name alone is judged by.
var offline = []string{policy.RuleName, policy.RulePinned, policy.RuleRegistry}

// ofImage tells a verdict on an image of each object that runs it.
func (t *trial) ofImage(u *unit, v policy.Verdict) []Finding {
	var all []Finding
	for i := range u.rendered.Objects {
		o := &u.rendered.Objects[i]
		if !t.wants(u, o) || !slices.Contains(object.Images([]object.Object{*o}), v.Image) {
			continue
		}
		f := about(o, KindTrust, severityOf(v.Outcome), v.Rule, fmt.Sprintf("image %s: %s", v.Image, v.Message))
		f.Policy, f.Line = v.Policy, t.lineOf(o, v.Image)
		all = append(all, f)
	}
	return all
}

// bare is a copy of an object whose secret values are hidden, if it has any.
func bare(o *object.Object) map[string]any {
	c := policy.NewCase([]object.Object{*o}, noKinds{}, nil, nil)
	return runtime.DeepCopyJSON(c.Subjects[0].Object)
}
