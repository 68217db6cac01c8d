package check

import (
	"context"
	"encoding/hex"
	"errors"
	"maps"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"github.com/holdfastcd/holdfast/internal/fault"
	objects "github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/secret/leak"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// changed judges what differs between the working tree and where a revision and HEAD parted.
func (e *Engine) changed(ctx context.Context, r *repository, s *search, now view) error {
	if r.git == nil {
		return errNoRepository()
	}
	base, err := r.parted(s.options.Base, &s.report)
	if err != nil {
		return err
	}
	s.report.Base = base.Hash.String()
	leaves, err := r.leavesOf(base.TreeHash)
	if err != nil {
		return err
	}
	maps.DeleteFunc(leaves, func(name string, _ leaf) bool { return !r.covers(name) })
	if err := s.changed(ctx, now.state, r.gitState(leaves, "")); err != nil || !e.renders(s.options) {
		return err
	}
	at, err := e.stand(r, s.options, now, &s.report)
	if err != nil {
		return err
	}
	if leaves, err = r.leavesOf(base.TreeHash); err != nil {
		return err
	}
	return e.compare(ctx, at, r.gitState(leaves, at.state.at), s)
}

// staged judges what the next commit would change: its files for secrets, and what they
// have delivered otherwise.
func (e *Engine) staged(ctx context.Context, r *repository, s *search) error {
	if err := r.staged(ctx, s); err != nil || !e.renders(s.options) {
		return err
	}
	entries, err := r.entries(s.options.Index)
	if err != nil {
		return err
	}
	next := map[string]leaf{}
	for _, e := range entries {
		if kind, ok := kindOf(e.Mode); ok && !e.IntentToAdd {
			next[e.Name] = leaf{kind, tree.Digest(e.Hash[:])}
		}
	}
	before, err := r.headLeaves()
	if err != nil || maps.Equal(next, before) { // a file that is deleted is none to search, and may be missed
		return err
	}
	at := standing{remotes: slices.Concat(s.options.Repository, r.remotes())}
	if r.below != "" { // paths may be from there
		files, err := r.working(nil)
		if err != nil {
			return err
		}
		if at, err = e.stand(r, s.options, files, &s.report); err != nil {
			return err
		}
		at.state = r.gitState(next, at.state.at)
	} else {
		at.state = r.gitState(next, "")
	}
	return e.compare(ctx, at, r.gitState(before, at.state.at), s)
}

func (r *repository) headLeaves() (map[string]leaf, error) {
	commit, err := r.commitAt(plumbing.HEAD)
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		return map[string]leaf{}, nil // before the first commit
	}
	if err != nil {
		return nil, damaged(err)
	}
	return r.leavesOf(commit.TreeHash)
}

func (r *repository) commitAt(name plumbing.ReferenceName) (*object.Commit, error) {
	ref, err := storer.ResolveReference(r.git, name)
	if err != nil {
		return nil, err
	}
	return r.peel(ref.Hash())
}

// leavesOf lists the files and symlinks of a tree of Git.
func (r *repository) leavesOf(root plumbing.Hash) (map[string]leaf, error) {
	all := map[string]leaf{}
	var visit func(id plumbing.Hash, dir string) error
	visit = func(id plumbing.Hash, dir string) error {
		t, err := object.GetTree(r.git, id)
		if err != nil {
			return damaged(err)
		}
		for _, e := range t.Entries {
			name := path.Join(dir, e.Name)
			if kind, ok := kindOf(e.Mode); ok {
				all[name] = leaf{kind, tree.Digest(e.Hash[:])}
			} else if e.Mode == filemode.Dir {
				if err := visit(e.Hash, name); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return all, visit(root, "")
}

// parted returns the commit at which a revision and HEAD parted; the revision itself,
// with a notice, where the repository is too shallow to tell.
func (r *repository) parted(revision string, report *Report) (*object.Commit, error) {
	base, err := r.revision(revision)
	if err != nil {
		return nil, err
	}
	head, err := r.commitAt(plumbing.HEAD)
	if err != nil || head == nil {
		return base, nil //nolint:nilerr // there is nothing to part from
	}
	ancestors, err := base.MergeBase(head)
	if err != nil || len(ancestors) == 0 {
		report.noticef("where %s and HEAD parted is not known here, and changes are told from %s itself: fetch more of the history", revision, revision)
		return base, nil //nolint:nilerr // and it is told
	}
	return ancestors[0], nil
}

// revision finds a commit by a ref's name, as people write it, by an id or its beginning,
// or from there on: HEAD~1.
func (r *repository) revision(name string) (*object.Commit, error) {
	for _, format := range plumbing.RefRevParseRules {
		ref := plumbing.ReferenceName(strings.Replace(format, "%s", name, 1))
		if commit, err := r.commitAt(ref); err == nil && commit != nil {
			return commit, nil
		}
	}
	if commit := r.abbreviated(name); commit != nil {
		return commit, nil
	}
	if from, steps, ok := backwards(name); ok {
		if commit, err := r.revision(from); err == nil {
			if commit, err = r.before(commit, steps); err == nil {
				return commit, nil
			}
		}
	}
	return nil, fault.New(fault.NotFound, "the repository has no revision %q", name).
		WithHint("name a branch, a tag, a commit, or one before it, such as HEAD~1; fetch it first, if it is not here")
}

// abbreviated finds a commit by its id, or a beginning of it that no other object has.
func (r *repository) abbreviated(id string) *object.Commit {
	if plumbing.IsHash(id) {
		commit, _ := r.peel(plumbing.NewHash(id)) // nil where there is none
		return commit
	}
	const least = 4 // as Git has it
	prefix, err := hex.DecodeString(id[:len(id)/2*2])
	if err != nil || len(id) < least {
		return nil
	}
	all, err := r.git.HashesWithPrefix(prefix)
	if err != nil {
		return nil
	}
	all = slices.DeleteFunc(all, func(h plumbing.Hash) bool { return !strings.HasPrefix(h.String(), strings.ToLower(id)) })
	if len(all) != 1 {
		return nil
	}
	commit, _ := r.peel(all[0])
	return commit
}

// wayBack is one of Git's ways back: ~2, or ^2 for a second parent.
var wayBack = regexp.MustCompile(`^(.+)([~^])([0-9]{0,4})$`)

// back is a number of first parents, or the number of one parent.
type back struct{ first, parent int }

// backwards takes the last step off a revision.
func backwards(name string) (from string, by back, ok bool) {
	m := wayBack.FindStringSubmatch(name)
	if m == nil {
		return "", back{}, false
	}
	n := 1
	if m[3] != "" {
		n, _ = strconv.Atoi(m[3]) // four digits at most
	}
	if m[2] == "~" {
		return m[1], back{first: n}, true
	}
	return m[1], back{parent: n}, true
}

// before goes a step back from a commit.
func (*repository) before(c *object.Commit, by back) (*object.Commit, error) {
	if by.parent > 0 {
		return c.Parent(by.parent - 1)
	}
	for range by.first {
		var err error
		if c, err = c.Parent(0); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// differing lists the files that a state has otherwise than another, or has alone.
func differing(now, then *state) []string {
	var names []string
	for _, name := range now.names() {
		if then.leaves[name].digest != now.leaves[name].digest {
			names = append(names, name)
		}
	}
	return names
}

// changed searches files that changed, and tells what was not found in them before.
func (s *search) changed(ctx context.Context, now, then *state) error {
	names := differing(now, then)
	one := func(in *state, names []string) error {
		wanted := map[string]bool{}
		for _, name := range names {
			wanted[name] = true
		}
		all := map[string]plumbing.Hash{}
		for name, l := range in.leaves {
			if l.kind.IsFile() {
				all[name] = plumbing.Hash{}
			}
		}
		var files []leak.File
		for _, name := range beside(wanted, all) {
			files = append(files, in.file(name))
		}
		look := func(_ int, name string) (leak.File, bool) {
			_, ok := all[name]
			return in.file(name), ok
		}
		return s.files(ctx, files, look, wanted, nil)
	}
	if s.list.Salt == nil { // the fingerprint of a secret says nothing of its value
		defer func() { s.report.Files = len(names) }()
		return one(now, names)
	}
	report := s.report
	s.report = Report{}
	err := one(then, slices.DeleteFunc(slices.Clone(names), func(name string) bool { return then.leaves[name].digest == "" }))
	before := fingerprints(settle(s.report.Findings))
	s.report = report
	if err != nil {
		return err
	}
	if err := one(now, names); err != nil {
		return err
	}
	s.report.Files = len(names)
	s.report.Findings = slices.DeleteFunc(s.report.Findings, func(f Finding) bool { return before[f.Fingerprint] })
	return nil
}

// file is one of a state, to be searched.
func (s *state) file(name string) leak.File {
	return leak.File{Path: s.place(name), Digest: s.leaves[name].digest, Read: func(limit int64) ([]byte, error) { return s.ReadFile(name, limit) }}
}

func fingerprints(all []Finding) map[string]bool {
	known := map[string]bool{}
	for _, f := range all {
		f.sign()
		known[f.Fingerprint] = true
	}
	return known
}

// compare judges what a state delivers otherwise than an earlier one, and tells what
// fails now and did not before.
func (e *Engine) compare(ctx context.Context, at standing, before *state, s *search) error {
	report := Report{}
	now := newDiscovery(e, s.options, at.state, at.remotes, &report)
	if err := now.run(ctx, at.below); err != nil {
		return err
	}
	then := newDiscovery(e, s.options, before, at.remotes, &Report{})
	then.prior = byKey(now.units)
	if err := then.run(ctx, at.below); err != nil {
		return err
	}
	c := newComparison(now, then)
	found, err := c.judge(ctx, now, c.now)
	if err != nil {
		return err
	}
	old, err := c.judge(ctx, then, c.then)
	if err != nil {
		return err
	}
	known := fingerprints(old)
	report.Findings = slices.DeleteFunc(found, func(f Finding) bool {
		f.sign()
		return known[f.Fingerprint]
	})
	report.Changes = c.changes
	now.tell(c.now)
	s.join(report)
	return nil
}

func byKey(units []*unit) map[string]*unit {
	all := map[string]*unit{}
	for _, u := range units {
		all[u.key()] = u
	}
	return all
}

// reuse gives a unit what it was rendered to in another state, if everything that was
// read for it is the same here.
func (u *unit) reuse(other *unit, here tree.Tree) bool {
	if other == nil || other.err != nil || u.err != nil {
		return false
	}
	a, b := &u.delivery.Spec, &other.delivery.Spec
	if a.Namespace != b.Namespace || !reflect.DeepEqual(a.Render, b.Render) || !reflect.DeepEqual(a.Substitute, b.Substitute) || !other.rendered.Trace.Holds(here) {
		return false
	}
	u.rendered, u.mask, u.reused = other.rendered, other.mask, true
	return true
}

// comparison is what differs between two states.
type comparison struct {
	now, then []*unit // that differ
	altered   map[objects.ID]bool
	files     map[string]bool // that differ, from the root of their state
	changes   []Change
}

func newComparison(now, then *discovery) *comparison {
	c := &comparison{altered: map[objects.ID]bool{}, files: map[string]bool{}}
	for _, name := range differing(now.state, then.state) {
		c.files[name] = true
	}
	before, done := byKey(then.units), map[string]bool{}
	for _, u := range now.units {
		old := before[u.key()]
		done[u.key()] = true
		c.unit(now.state, u, old)
	}
	for _, u := range then.units {
		if !done[u.key()] {
			c.unit(then.state, nil, u)
		}
	}
	return c
}

// unit compares a delivery with what it was; nil where it is or was not there.
func (c *comparison) unit(in *state, u, old *unit) {
	if u != nil && old != nil && old.reused && reflect.DeepEqual(u.delivery.Spec.Rules.Version, old.delivery.Spec.Rules.Version) {
		return
	}
	if u != nil {
		c.now = append(c.now, u)
	}
	if old != nil {
		c.then = append(c.then, old)
	}
	if u != nil && u.err != nil || old != nil && old.err != nil {
		return // there is nothing to compare
	}
	for _, change := range compareObjects(u, old) {
		c.altered[change.id] = true
		if change.File != "" {
			change.File = in.place(change.File)
		}
		c.changes = append(c.changes, change)
	}
}

// judge judges the deliveries that differ; of their objects those that do.
func (c *comparison) judge(ctx context.Context, d *discovery, units []*unit) ([]Finding, error) {
	t, err := newTrial(d)
	if err != nil {
		return nil, err
	}
	t.only = func(_ *unit, o *objects.Object) bool { return c.altered[o.ID()] || c.files[o.Origin.File] }
	err = t.run(ctx, units)
	return t.findings, err
}
