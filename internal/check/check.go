// Package check judges what a repository holds, before it is pushed: whether secrets stand
// in it in plaintext, and whether what it would deliver is what the API server takes and
// policies, projects and trust permit. It renders and judges by the very functions that a
// controller does. What is looked at is a directory, what is staged in Git, every commit,
// or what a change alters. What it finds is a [Report]: text, JSON, SARIF, JUnit, Markdown.
package check

import (
	"context"
	"errors"
	"path"
	"slices"
	"time"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/secret/leak"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// Options say what to judge, and how.
type Options struct {
	// Dir is a directory or file: of a repository, or of none.
	Dir string
	// Staged judges what the next commit would change, and nothing else.
	Staged bool
	// Index is Git's index, where it is not the repository's own; "" if it is.
	Index string
	// History judges every commit that a ref or HEAD reaches, for secrets alone.
	History bool
	// Base is a revision: what differs from where it and HEAD parted is judged, and
	// nothing else.
	Base string
	// HonorInline leaves out findings whose line says "gitleaks:allow".
	HonorInline bool
	// SecretsOnly searches for secrets, and renders nothing.
	SecretsOnly bool
	// Kubernetes is the minor version of the API that objects are judged for, "1.36";
	// "" for the newest that is known.
	Kubernetes string
	// Cluster is what is known of the cluster that the repository is for; nil: nothing.
	Cluster *Cluster
	// Sets are policies beside those of the repository, for every delivery.
	Sets []SelectedSet
	// Repository is the address under which deliveries name this repository, beside
	// those of its remotes.
	Repository []string
	Now        time.Time
}

// Cluster is what verdicts go by that only a cluster knows.
type Cluster struct {
	// Definitions are its CustomResourceDefinitions; one of the repository counts more.
	Definitions []map[string]any
	// Namespaces are the labels of its namespaces, by their names; those that the
	// repository gives to one count more.
	Namespaces map[string]map[string]string
}

// Scanner searches files for secrets; *leak.Scanner is one.
type Scanner interface {
	// Search is that of [leak.Scanner].
	Search(ctx context.Context, files []leak.File, look leak.Look, salt []byte) ([]leak.Finding, error)
}

// Judge judges deliveries by policies; *judge.Judge is one.
type Judge interface {
	Judge(ctx context.Context, sets []policy.Set, c *policy.Case, now time.Time) ([]policy.Decision, error)
}

// Schemas judge objects as the API server does on reading them.
type Schemas interface {
	// Validate returns what is wrong; ErrUnknownKind for a kind that has no schema.
	Validate(o map[string]any) ([]Problem, error)
}

// ErrUnknownKind says that the schema of a kind is not known.
var ErrUnknownKind = errors.New("the schema of the kind is not known")

// Problem is what a schema has against a field.
type Problem struct{ Path, Message string }

// Engine is what a check works with. Without a Renderer it searches for secrets alone.
type Engine struct {
	Secrets  Scanner
	Renderer render.Renderer
	Dialects Dialects
	Judge    Judge
	// Left makes the opener that leaves sealed files of a directory as they are, and tells of
	// each; nil: such files are refused.
	Left func(note func(file string)) secret.Opener
	// Complete fills in what the API server would; nil: nothing.
	Complete func(map[string]any)
	// Cache keeps reports; nil: none are kept.
	Cache *Cache
	// Schemas returns those of a minor version ("" for the newest) and of definitions;
	// problems are those of definitions that cannot be used. nil: nothing is validated.
	Schemas func(minor string, definitions []map[string]any) (s Schemas, problems []error, err error)
}

// Run judges what the options name. Errors are *fault.Error, and mean that it could not
// be told whether something is wrong; [Report.Undecided] says so of single deliveries.
func (e *Engine) Run(ctx context.Context, o Options) (Report, error) {
	r, err := open(o.Dir)
	if err != nil {
		return Report{}, err
	}
	defer r.close()
	return e.run(ctx, r, o)
}

func (e *Engine) run(ctx context.Context, r *repository, o Options) (Report, error) {
	list, err := r.allowList(o.Now)
	if err != nil {
		return Report{}, err
	}
	s := &search{Scanner: e.Secrets, options: o, list: list, report: Report{Findings: []Finding{}}}
	var now view
	if !o.History && !o.Staged {
		if now, err = r.working(s); err != nil {
			return Report{}, err
		}
	}
	key := e.Cache.key(r, o, now.state)
	if known, ok := e.Cache.look(key); ok {
		return known, nil
	}
	switch {
	case o.History:
		err = r.history(ctx, s)
	case o.Staged:
		err = e.staged(ctx, r, s)
	case o.Base != "":
		err = e.changed(ctx, r, s, now)
	default:
		err = e.directory(ctx, r, s, now)
	}
	s.report.Findings = settle(s.report.Findings)
	slices.Sort(s.report.Notices)
	slices.Sort(s.report.Undecided)
	if err == nil {
		e.Cache.keep(key, s.report)
	}
	return s.report, err
}

// renders reports whether deliveries are to be judged.
func (e *Engine) renders(o Options) bool { return e.Renderer != nil && !o.SecretsOnly }

// directory judges the working tree: its files, and beside that what they deliver.
func (e *Engine) directory(ctx context.Context, r *repository, s *search, now view) error {
	if !e.renders(s.options) {
		return r.directory(ctx, s, now)
	}
	at, err := e.stand(r, s.options, now, &s.report)
	if err != nil {
		return err
	}
	report := Report{}
	judged := make(chan error, 1)
	go func() { judged <- e.deliveries(ctx, at, s.options, &report) }()
	err = r.directory(ctx, s, now)
	if failed := <-judged; err == nil {
		err = failed
	}
	s.join(report)
	return err
}

// standing is a state of the repository, and what was named of it.
type standing struct {
	state   *state
	below   string // what was named, in the state
	remotes []string
}

// stand chooses the directory that paths of deliveries are read from: the root of the
// repository, or what was named, if the paths are there.
func (e *Engine) stand(r *repository, o Options, now view, report *Report) (standing, error) {
	remotes := slices.Concat(o.Repository, r.remotes())
	if r.below == "" {
		return standing{now.state, "", remotes}, nil
	}
	at := r.below
	if r.isFile(r.below) {
		at = path.Dir(r.below)
	}
	d := newDiscovery(e, o, now.state, remotes, &Report{})
	below, above := 0, 0
	for _, one := range d.raw(r.below) {
		p := path.Clean("/" + e.Dialects.Source(one, d.known).Path)
		if p != "/" && r.exists(path.Join(at, p)) {
			below++
		}
		if p != "/" && r.exists(p[1:]) {
			above++
		}
	}
	if below > above {
		return standing{now.state.within(at), "", remotes}, nil
	}
	report.uncachable = true // what it depends on is more than what was named
	whole := *r
	whole.below = ""
	all, err := whole.working(nil)
	return standing{all.state, r.below, remotes}, err
}

// deliveries renders and judges what a state of the repository would deliver.
func (e *Engine) deliveries(ctx context.Context, at standing, o Options, report *Report) error {
	d := newDiscovery(e, o, at.state, at.remotes, report)
	if err := d.run(ctx, at.below); err != nil {
		return err
	}
	t, err := newTrial(d)
	if err != nil {
		return err
	}
	if err := t.run(ctx, d.units); err != nil {
		return err
	}
	report.Findings = append(report.Findings, t.findings...)
	d.tell(d.units)
	return nil
}

// tell lists what was judged.
func (d *discovery) tell(units []*unit) {
	for _, u := range units {
		if u.err != nil {
			continue
		}
		j := Judged{Name: u.name(), Line: u.asked.Origin.Line, Path: d.state.place(u.delivery.Spec.Render.Path), Objects: len(u.rendered.Objects)}
		if u.asked.Origin.File != "" {
			j.File = d.state.place(u.asked.Origin.File)
		}
		d.report.Deliveries = append(d.report.Deliveries, j)
		d.report.Objects += j.Objects
	}
}

// search searches files for secrets, and keeps what nothing excuses.
type search struct {
	Scanner

	options Options
	list    leak.AllowList
	report  Report
}

// join takes in what came of judging deliveries.
func (s *search) join(r Report) {
	s.report.Findings = append(s.report.Findings, r.Findings...)
	s.report.Deliveries, s.report.Objects, s.report.Excused = r.Deliveries, r.Objects, r.Excused
	s.report.Undecided, s.report.Changes = r.Undecided, r.Changes
	for _, n := range r.Notices {
		s.report.noticef("%s", n)
	}
}

// files searches files; only those that wanted, if it is not nil, are told of. commits
// names the first commit of a content.
func (s *search) files(ctx context.Context, files []leak.File, look leak.Look, wanted map[string]bool, commits map[tree.Digest]string) error {
	found, err := s.Search(ctx, files, look, s.list.Salt)
	if err != nil {
		return err
	}
	if wanted != nil {
		found = slices.DeleteFunc(found, func(f leak.Finding) bool { return !wanted[f.File] })
	}
	judged := s.list.Judge(found, s.options.Now)
	s.report.Allowed += judged.Allowed
	for _, n := range judged.Notices {
		s.report.noticef("%s", n)
	}
	for _, f := range judged.Findings {
		if f.Inline && s.options.HonorInline {
			s.report.Allowed++
			continue
		}
		s.report.Findings = append(s.report.Findings, ofSecret(f, commits[f.Blob]))
	}
	s.report.Files += len(files)
	return nil
}
