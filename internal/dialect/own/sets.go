package own

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// SetOptions are what the process adds to PolicySets. Only Policies is needed.
type SetOptions struct {
	Options

	// Policies tell whether a set can be judged by at all.
	Policies delivery.Policies
	// Credential reads what a Secret holds for the address of a source: a Git repository's,
	// or one that [source.ParseArtifact] or [source.ParseBucket] reads; nil: no Secret can be read.
	Credential func(ctx context.Context, url string, secret types.NamespacedName) (source.Credential, error)
	// Repository returns what a GitRepository offers, and its address; nil: none is known.
	Repository func(ctx context.Context, name types.NamespacedName) (source.Revision, string, error)
	// Verify judges a revision of policies by what the subject must prove; last is the
	// commit that was judged by before, "" for none. nil: nothing is demanded.
	Verify func(ctx context.Context, r source.Revision, s trust.Subject, last string) error
	// Served tells how the cluster serves a kind; nil: it serves none with policies.
	Served func(kschema.GroupKind) (schema.Kind, bool)
}

// PolicySets serves the PolicySets of a cluster: which policies a delivery is judged by,
// and how each set stands. Of a delivery that has asked it is told what they say.
type PolicySets struct {
	*roster[*currentSet, delivery.Ruling]

	given  SetOptions
	client dynamic.Interface
	bare   metadata.Interface // of objects' metadata
	queue  workqueue.TypedDelayingInterface[string]
	lists  *clusterLists

	made     map[string]policy.Sets
	spaces   map[string]map[string]string // labels of namespaces; nil while nobody asks
	spacious func() bool                  // they are known
}

// currentSet is a set as it is now.
type currentSet struct {
	CompiledSet
	*kept

	read []*reading // of each source
	told string     // what was recorded of it last

	now     policy.Set // with all that was read
	version string     // of now
	waiting string     // what has not been read yet; "" where everything was
	absent  []string   // of spec.cluster, what the cluster does not serve
	idle    bool       // the cluster holds nothing that it could judge by
	flaw    string     // why a policy of it cannot be judged by; "" if all can, or nobody knows
	probed  string     // version that flaw is about
}

// SetupPolicySets makes what serves PolicySets. They are known once [PolicySets.Start]
// has returned. Errors are *fault.Error: NotFound if the cluster does not serve the kind,
// Unreachable, Internal.
func SetupPolicySets(mgr ctrl.Manager, env *dialect.Env, o SetOptions) (*PolicySets, error) {
	plain, err := serving(mgr, api.PolicySetKind)
	if err != nil {
		return nil, err
	}
	bare, err := metadata.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, noClient(err)
	}
	return newPolicySets(env, o, plain, bare), nil
}

func newPolicySets(env *dialect.Env, o SetOptions, c dynamic.Interface, bare metadata.Interface) *PolicySets {
	if o.Served == nil {
		o.Served = func(kschema.GroupKind) (schema.Kind, bool) { return schema.Kind{}, false }
	}
	p := &PolicySets{
		roster: newRoster[*currentSet, delivery.Ruling](api.PolicySetKind, env, o.Options),
		given:  o, client: c, bare: bare, queue: workqueue.NewTypedDelayingQueue[string](), made: map[string]policy.Sets{},
	}
	p.watch, p.waits = p.follow, p.reading
	p.look = func(name string) { p.queue.AddAfter(name, 100*time.Millisecond) }
	p.lists = newClusterLists(c, o.Served, p.All)
	return p
}

// readers is how many sets are read at once.
const readers = 2

// follow follows the sets until ctx ends. It returns at once.
func (p *PolicySets) follow(ctx context.Context) error {
	for range readers {
		go p.work(ctx)
	}
	go func() {
		<-ctx.Done()
		p.queue.ShutDown()
	}()
	return subscribe(ctx, p.client, "policysets", subscriber{
		seen: func(u *unstructured.Unstructured) { p.seen(ctx, u) },
		gone: func(u *unstructured.Unstructured) { p.gone(ctx, u) },
		known: func() {
			p.mu.Lock()
			p.known = true
			p.settle()
			p.mu.Unlock()
			p.options.Changed()
		},
	})
}

// work reads sets, one after the other, and tells how they stand.
func (p *PolicySets) work(ctx context.Context) {
	for {
		name, over := p.queue.Get()
		if over {
			return
		}
		if after := p.refresh(ctx, name); after > 0 {
			p.queue.AddAfter(name, after)
		}
		p.queue.Done(name)
	}
}

// All has every set be read again: what its sources must prove, or the policies of the
// cluster, may have changed.
func (p *PolicySets) All() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.objects {
		p.queue.Add(name)
	}
}

// KindsChanged has the policies of the cluster be looked for again: it serves other kinds.
func (p *PolicySets) KindsChanged() { p.All() }

// Refresh has the sets be read again that follow a repository, however its address is
// written. The hub must have been told before.
func (p *PolicySets) Refresh(url, _ string) {
	want := source.NormalizeURL(url)
	p.someOf(func(s SetSource) bool { return want != "" && source.NormalizeURL(s.URL) == want })
}

// Offered has the sets be read again that follow a GitRepository.
func (p *PolicySets) Offered(name types.NamespacedName) {
	p.someOf(func(s SetSource) bool { return s.Repository == name })
}

func (p *PolicySets) someOf(wanted func(SetSource) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, s := range p.objects {
		if slices.ContainsFunc(s.Sources, wanted) {
			p.queue.Add(name)
		}
	}
}

// Exists reports whether there is a set of a name.
func (p *PolicySets) Exists(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.objects[name] != nil
}

// reading reports whether a source, or the namespaces, were not tried yet. p.mu is held.
func (p *PolicySets) reading() bool {
	if len(p.objects) > 0 && !p.placed() {
		return true
	}
	for _, s := range p.objects {
		if slices.ContainsFunc(s.read, func(r *reading) bool { return !r.tried }) {
			return true
		}
	}
	return false
}

// placed reports whether the namespaces are known. p.mu is held.
func (p *PolicySets) placed() bool { return p.spacious != nil && p.spacious() }

// selected are the sets that select a delivery, by name. Errors are Waiting. p.mu is held.
func (p *PolicySets) selected(s trust.Subject) ([]policy.Set, error) {
	if !p.known {
		return nil, fault.New(fault.Waiting, "the PolicySets are not known yet")
	}
	var sets []policy.Set
	for _, name := range slices.Sorted(maps.Keys(p.objects)) {
		c := p.objects[name]
		switch {
		case !c.Selects(s), c.idle:
		case c.waiting != "":
			return nil, fault.New(fault.Waiting, "PolicySet %s: %s has not been read yet", name, c.waiting)
		default:
			sets = append(sets, c.now)
		}
	}
	return sets, nil
}

// Sets returns what a delivery is judged by: the sets that select it. Errors are
// *fault.Error of kind Waiting, while the sets or their sources have not been read yet:
// nothing is delivered until they are.
func (p *PolicySets) Sets(s trust.Subject) (policy.Sets, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known {
		p.note(s)
	}
	sets, err := p.selected(s)
	if err != nil {
		return policy.Sets{}, err
	}
	var key strings.Builder
	for _, set := range sets {
		key.WriteString(set.Name + "\n")
	}
	if len(sets) > 0 && !p.placed() {
		return policy.Sets{}, fault.New(fault.Waiting, "the namespaces are not known yet")
	}
	all, ok := p.made[key.String()]
	if !ok {
		all = policy.NewSets(sets...)
		p.made[key.String()] = all
	}
	return all, nil
}

// seen takes in a set as it is now.
func (p *PolicySets) seen(ctx context.Context, u *unstructured.Unstructured) {
	p.mu.Lock()
	before, fresh := p.take(u)
	if fresh == nil {
		p.mu.Unlock()
		return
	}
	next := &currentSet{CompiledSet: CompilePolicySet(u, p.now()), kept: fresh}
	if before != nil && before.object.GetUID() == u.GetUID() {
		next.told = before.told
	}
	for _, s := range next.Sources {
		next.read = append(next.read, before.reading(s))
	}
	p.objects[u.GetName()] = next
	p.lists.keep(ctx, p.asked())
	p.watchNamespaces(ctx)
	tell := p.assemble(next)
	p.queue.Add(u.GetName())
	p.mu.Unlock()
	tell()
}

// gone takes in that a set is deleted.
func (p *PolicySets) gone(ctx context.Context, u *unstructured.Unstructured) {
	p.mu.Lock()
	before, ok := p.drop(u.GetName())
	clear(p.made)
	p.lists.keep(ctx, p.asked())
	p.settle()
	tell := ok && p.known
	p.mu.Unlock()
	if tell {
		p.options.Record(p.entry(before.kept, "deleted", nil, before.judges()))
		p.options.Changed()
	}
}

// asked are the kinds of policies in the cluster that sets take in. p.mu is held.
func (p *PolicySets) asked() []string {
	var all []string
	for _, s := range p.objects {
		all = append(all, s.Cluster...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// assemble puts together what a set is judged by now. It returns what tells of it if it
// is another than before, to be called without the lock. p.mu is held.
func (p *PolicySets) assemble(c *currentSet) (tell func()) {
	waited := c.waiting
	c.gather(p.lists)
	version := policy.NewSets(c.now).Version
	p.settle()
	if c.version == version && waited == c.waiting {
		return func() {}
	}
	c.version = version
	clear(p.made)
	if !p.known {
		return func() {}
	}
	entry, news := audit.Entry{}, c.waiting == "" && c.told != version
	if news {
		c.told = version
		entry = p.entry(c.kept, c.what, c.by, c.judges())
		c.what, c.by = "its sources changed", nil
	}
	return func() {
		if news {
			p.options.Record(entry)
		}
		p.options.Changed()
	}
}

// gather makes c.now of what was read.
func (c *currentSet) gather(lists *clusterLists) {
	var documents []policy.Document
	var revisions []string
	broken := c.Set.Broken
	c.waiting = ""
	for i, r := range c.read {
		switch {
		case r.has():
			documents = append(documents, r.named(i)...)
			revisions = append(revisions, r.commit)
		case !r.tried || fault.KindOf(r.err) == fault.Waiting:
			c.waiting = c.Sources[i].String()
		case broken == "":
			broken = fmt.Sprintf("%s cannot be had: %s", c.Sources[i], fault.From(r.err))
		}
	}
	found, flaw := c.takeIn(lists)
	documents, broken = append(documents, found...), cmp.Or(broken, flaw)
	if broken != "" {
		c.waiting = ""
	}
	c.now = c.With(documents, strings.Join(revisions, ","))
	c.now.Broken = broken
	c.idle = broken == "" && c.waiting == "" && len(c.now.Documents)+len(c.now.Builtins) == 0
}

// judges says what a set does, and identifies what it judges by.
func (c *currentSet) judges() string {
	mode := api.ModeEnforce
	if c.now.Warn {
		mode = api.ModeWarn
	}
	if c.now.Broken != "" {
		mode += ", broken"
	}
	return fmt.Sprintf("%s, judges by %s at revision %s", mode, c.version, c.now.Revision)
}
