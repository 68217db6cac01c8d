package own

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// reading is what was read of a source.
type reading struct {
	of        SetSource
	tried     bool
	documents []policy.Document // the last that could be had
	commit    string            // that they are from
	err       error             // why there are no newer ones; nil if these are the newest
	since     time.Time         // when err came up
}

func (r *reading) has() bool { return len(r.documents) > 0 }

// named are the documents of the source of an index, each with a name of its own.
func (r *reading) named(index int) []policy.Document {
	if index == 0 {
		return r.documents
	}
	all := slices.Clone(r.documents)
	for i := range all {
		all[i].File = fmt.Sprintf("sources[%d]/%s", index, all[i].File)
	}
	return all
}

// reading returns what was read of a source that the set had before, too.
func (c *currentSet) reading(s SetSource) *reading {
	if c != nil {
		for _, r := range c.read {
			if r.of == s {
				return r
			}
		}
	}
	return &reading{of: s}
}

// refresh reads the sources of a set, has it judged whether its policies can be judged
// by, and tells how it stands. It returns when to do it again; 0: when somebody asks.
func (p *PolicySets) refresh(ctx context.Context, name string) time.Duration {
	p.sweep()
	p.mu.Lock()
	c := p.objects[name]
	if c == nil {
		p.mu.Unlock()
		return 0
	}
	subject := trust.Subject{Kind: api.PolicySetKind, Name: name, Labels: c.object.GetLabels()}
	p.mu.Unlock()
	again := recount
	for _, r := range c.read {
		again = min(again, p.fetch(ctx, subject, r))
	}
	p.mu.Lock()
	if p.objects[name] != c { // it changed meanwhile, and is in the queue
		p.mu.Unlock()
		return 0
	}
	p.lists.keep(ctx, p.asked())
	tell := p.assemble(c)
	p.mu.Unlock()
	tell()
	p.probe(ctx, c)
	return min(again, p.tell(ctx, name))
}

// fetch reads a source of a set, and returns when to do it again. Of one that cannot be
// had, what was read before stands.
func (p *PolicySets) fetch(ctx context.Context, set trust.Subject, r *reading) time.Duration {
	documents, commit, err := p.readSource(ctx, set, r)
	p.mu.Lock()
	defer p.mu.Unlock()
	r.tried = true
	if err == nil {
		r.documents, r.commit, r.err, r.since = documents, commit, nil, time.Time{}
		return r.of.Interval
	}
	if r.err == nil || r.err.Error() != err.Error() {
		p.env.Log.Warn("policies cannot be read; what was read before stands", "policyset", set.Name, "source", r.of.String(), "error", err.Error())
	}
	if r.err == nil {
		r.since = p.now()
	}
	r.err = err
	if kind := fault.KindOf(err); kind == fault.Waiting {
		return 2 * time.Second
	}
	return min(r.of.Interval, 30*time.Second)
}

// readSource brings the newest policies of a source, once they have proven what
// TrustPolicies demand of the set.
func (p *PolicySets) readSource(ctx context.Context, set trust.Subject, r *reading) ([]policy.Document, string, error) {
	revision, address, err := p.revision(ctx, set.Name, r.of)
	if err != nil {
		return nil, "", err
	}
	if p.given.Verify != nil {
		set.Repository = address
		if err := p.given.Verify(ctx, revision, set, r.commit); err != nil {
			return nil, "", err
		}
	}
	if r.has() && r.commit == revision.Commit {
		return r.documents, r.commit, nil
	}
	documents, err := ReadPolicies(revision.Tree, r.of.Path)
	return documents, revision.Commit, err
}

func (p *PolicySets) revision(ctx context.Context, set string, s SetSource) (source.Revision, string, error) {
	if s.Repository.Name != "" {
		if p.given.Repository == nil {
			return source.Revision{}, "", fault.New(fault.NotFound, "no GitRepository is known here")
		}
		return p.given.Repository(ctx, s.Repository)
	}
	request := source.Request{URL: cmp.Or(s.Place, s.URL), Ref: s.Ref, Tenant: "policyset " + set}
	if s.Place == "" {
		if err := source.CheckURL(s.URL, p.env.AllowFileURLs); err != nil {
			return source.Revision{}, "", err
		}
	}
	if s.Secret != (types.NamespacedName{}) {
		if p.given.Credential == nil {
			return source.Revision{}, "", fault.New(fault.Unauthorized, "no Secret can be read here")
		}
		var err error
		if request.Credential, err = p.given.Credential(ctx, request.URL, s.Secret); err != nil {
			return source.Revision{}, "", err
		}
	}
	revision, err := p.env.Hub.Get(ctx, request, s.Interval*4/5)
	return revision, request.URL, err
}

// probe has a set judge nothing: policies that cannot be judged by are told before a
// delivery meets them.
func (p *PolicySets) probe(ctx context.Context, c *currentSet) {
	p.mu.Lock()
	set, version, known := c.now, c.version, c.probed == c.version || c.waiting != "" || c.now.Broken != ""
	p.mu.Unlock()
	if known || p.given.Policies == nil {
		return
	}
	flaw, ok := probe(ctx, p.given.Policies, set, p.now())
	if !ok {
		return // it says nothing of the set
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.version == version {
		c.probed, c.flaw = version, flaw
	}
}

// probe returns why a set cannot be judged by; "" if it can, false if nobody can tell.
func probe(ctx context.Context, by delivery.Policies, set policy.Set, now time.Time) (flaw string, ok bool) {
	decisions, err := by.Judge(ctx, []policy.Set{set}, &policy.Case{}, now)
	if err != nil || len(decisions) != 1 {
		return "", false
	}
	var lines []string
	for _, v := range decisions[0].Verdicts {
		if v.Rule == policy.RuleSet {
			lines = append(lines, v.Message)
		}
	}
	return listed(lines), true
}

// listed joins the first of some lines and counts the rest.
func listed(lines []string) string {
	c := compiler{problems: lines}
	text, _ := c.verdict(false)
	return text
}
