package git

import (
	"cmp"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

const (
	heads = "refs/heads/"
	tags  = "refs/tags/"
	// maxRef is longer than any name or range that a person writes.
	maxRef = 1024
	// minAbbreviation is how much of a commit's id is taken for one.
	minAbbreviation = 7
)

// target is what to fetch for a request: a tip, or a commit that one of a group
// of tips must lead to.
type target struct {
	branch, tag, name string        // what was asked for, as in source.Revision
	tip               plumbing.Hash // what a ref points to, a commit or a tag
	commit            plumbing.Hash // zero if the tip's will do
	prefix            string        // the beginning of the commit's id
	// groups are the tips one of which must lead to commit, likely ones first.
	groups [][]plumbing.Hash
}

// resolve says what to fetch, by the refs that the remote showed to the one
// who asks. Errors: Invalid (not a commit id, not a range), NotFound.
func resolve(refs *packp.AdvRefs, ref source.Ref) (target, error) {
	for _, text := range []string{ref.Branch, ref.Tag, ref.SemVer, ref.Name, ref.Target, ref.Commit} {
		if len(text) > maxRef {
			return target{}, fault.New(fault.Invalid, "the name of the ref is longer than %d bytes", maxRef)
		}
	}
	switch {
	case ref.Commit != "":
		return resolveCommit(refs, ref.Commit, ref.Branch)
	case ref.Name != "":
		return resolveName(refs, ref.Name)
	case ref.SemVer != "":
		return resolveRange(refs, ref.SemVer)
	case ref.Tag != "":
		return resolveTag(refs, strings.TrimPrefix(ref.Tag, tags))
	case ref.Target != "":
		return resolveTarget(refs, ref.Target)
	}
	return resolveBranch(refs, strings.TrimPrefix(ref.Branch, heads))
}

func resolveCommit(refs *packp.AdvRefs, commit, branch string) (target, error) {
	var want target
	id, err := hex.DecodeString(commit)
	if err != nil || len(id) != hashSize {
		return target{}, fault.New(fault.Invalid, "%q is not a commit id", commit).WithHint("write all of its 40 hexadecimal digits")
	}
	if branch != "" {
		if want, err = resolveBranch(refs, strings.TrimPrefix(branch, heads)); err != nil {
			return target{}, err
		}
		copy(want.commit[:], id)
		want.groups, want.tip = [][]plumbing.Hash{{want.tip}}, plumbing.ZeroHash
		return want, nil
	}
	copy(want.commit[:], id)
	want.groups = allRefs(refs)
	want.tip = pointing(refs, want.commit)
	return want, nil
}

// pointing returns what a ref of any name has that means the commit; zero if none does.
func pointing(refs *packp.AdvRefs, commit plumbing.Hash) plumbing.Hash {
	for _, id := range refs.References {
		if id == commit {
			return commit
		}
	}
	for name, id := range refs.Peeled {
		if id == commit {
			return refs.References[name]
		}
	}
	return plumbing.ZeroHash
}

func resolveBranch(refs *packp.AdvRefs, branch string) (target, error) {
	if branch == "" {
		return resolveHead(refs)
	}
	tip, ok := refs.References[heads+branch]
	if !ok {
		return target{}, fault.New(fault.NotFound, "the repository has no branch %q", branch).WithHint("%s", nearby(refs, heads, branch))
	}
	return target{branch: branch, tip: tip}, nil
}

// resolveHead returns the default branch, or the commit that HEAD names itself.
func resolveHead(refs *packp.AdvRefs) (target, error) {
	if branch := headBranch(refs); branch != "" {
		return resolveBranch(refs, branch)
	}
	if refs.Head != nil {
		return target{name: "HEAD", tip: *refs.Head}, nil
	}
	return target{}, fault.New(fault.NotFound, "the repository has no default branch").WithHint("%s", nearby(refs, heads, ""))
}

func resolveTag(refs *packp.AdvRefs, tag string) (target, error) {
	tip, ok := refs.References[tags+tag]
	if !ok {
		return target{}, fault.New(fault.NotFound, "the repository has no tag %q", tag).WithHint("%s", nearby(refs, tags, tag))
	}
	return target{tag: tag, tip: tip}, nil
}

// resolveName finds a ref by its full name. As where Git lists refs, ^{} after a
// tag means the commit that it leads to, which is what is delivered anyway.
func resolveName(refs *packp.AdvRefs, name string) (target, error) {
	if name == "HEAD" && refs.Head != nil {
		return target{name: name, tip: *refs.Head}, nil
	}
	tip, ok := refs.References[strings.TrimSuffix(name, "^{}")]
	if !ok {
		f := fault.New(fault.NotFound, "the repository has no ref %q", name)
		if !strings.HasPrefix(name, "refs/") {
			f = f.WithHint("a full name begins with refs/, as in refs/heads/main")
		}
		return target{}, f
	}
	return target{name: name, tip: tip}, nil
}

// resolveRange finds the highest version among the tags. As in Flux, a tag that
// is not a whole version, with or without a leading v, is not looked at.
func resolveRange(refs *packp.AdvRefs, text string) (target, error) {
	within, err := semver.NewConstraint(text)
	if err != nil {
		return target{}, fault.New(fault.Invalid, "%q is not a range of versions", text).WithHint("write for instance 1.2.x, or >=1.0.0 <2.0.0")
	}
	tag := highest(refs, within, func(tag string) (*semver.Version, error) {
		return semver.StrictNewVersion(strings.TrimPrefix(tag, "v"))
	})
	if tag == "" {
		return target{}, fault.New(fault.NotFound, "no tag of the repository is a version within %q", text).WithHint("%s", nearby(refs, tags, ""))
	}
	return resolveTag(refs, tag)
}

// highest returns the tag of the highest version within a range, "" if there is
// none. Of tags that mean the same version, the last by name counts.
func highest(refs *packp.AdvRefs, within *semver.Constraints, parse func(string) (*semver.Version, error)) string {
	var best *semver.Version
	found := ""
	for _, tag := range names(refs, tags) {
		if len(tag) > maxRef {
			continue
		}
		v, err := parse(tag)
		if err == nil && within.Check(v) && (best == nil || !v.LessThan(best)) {
			best, found = v, tag
		}
	}
	return found
}

// resolveTarget finds what Argo CD would (its util/git/client.go and
// util/versions): a whole commit id; HEAD; unless the text is a version itself,
// the highest tag within the range that it may be, with versions read leniently;
// a branch; a tag; any ref by its name; the beginning of a commit id.
func resolveTarget(refs *packp.AdvRefs, text string) (target, error) {
	if isHex(text) && len(text) == 2*hashSize {
		return resolveCommit(refs, text, "")
	}
	if text == "HEAD" {
		return resolveHead(refs)
	}
	if _, err := semver.NewVersion(text); err != nil {
		if within, err := semver.NewConstraint(text); err == nil {
			if tag := highest(refs, within, semver.NewVersion); tag != "" {
				return resolveTag(refs, tag)
			}
		}
	}
	if tip, ok := refs.References[heads+text]; ok {
		return target{branch: text, tip: tip}, nil
	}
	if tip, ok := refs.References[tags+text]; ok {
		return target{tag: text, tip: tip}, nil
	}
	for _, name := range []string{text, "refs/" + text} {
		if tip, ok := refs.References[name]; ok {
			return named(name, tip), nil
		}
	}
	if isHex(text) && len(text) >= minAbbreviation && len(text) < 2*hashSize {
		return target{prefix: strings.ToLower(text), groups: allRefs(refs)}, nil
	}
	return target{}, fault.New(fault.NotFound, "the repository has no branch, tag, version or commit %q", text).WithHint("%s", nearby(refs, heads, text))
}

// named is a ref by its full name, told as a branch or a tag if it is one.
func named(name string, tip plumbing.Hash) target {
	if branch, ok := strings.CutPrefix(name, heads); ok {
		return target{branch: branch, tip: tip}
	}
	if tag, ok := strings.CutPrefix(name, tags); ok {
		return target{tag: tag, tip: tip}
	}
	return target{name: name, tip: tip}
}

func isHex(text string) bool { return strings.Trim(text, "0123456789abcdefABCDEF") == "" }

// headBranch returns the branch that HEAD names; an old server tells only
// HEAD's commit, and then the branch is guessed.
func headBranch(refs *packp.AdvRefs) string {
	for _, link := range refs.Capabilities.Get(capability.SymRef) {
		if branch, ok := strings.CutPrefix(link, "HEAD:"+heads); ok {
			return branch
		}
	}
	if refs.Head == nil {
		return ""
	}
	for _, branch := range append([]string{"main", "master"}, names(refs, heads)...) {
		if refs.References[heads+branch] == *refs.Head {
			return branch
		}
	}
	return ""
}

// names returns what there is below a prefix, in order.
func names(refs *packp.AdvRefs, prefix string) []string {
	var found []string
	for name := range refs.References {
		if short, ok := strings.CutPrefix(name, prefix); ok {
			found = append(found, short)
		}
	}
	slices.Sort(found)
	return found
}

// allRefs returns HEAD's branch, and then all branches and tags.
func allRefs(refs *packp.AdvRefs) [][]plumbing.Hash {
	var groups [][]plumbing.Hash
	if tip, ok := refs.References[heads+headBranch(refs)]; ok {
		groups = append(groups, []plumbing.Hash{tip})
	}
	var rest []plumbing.Hash
	for _, name := range slices.Sorted(maps.Keys(refs.References)) {
		if strings.HasPrefix(name, heads) || strings.HasPrefix(name, tags) {
			rest = append(rest, refs.References[name])
		}
	}
	return append(groups, rest)
}

// nearby tells which branches or tags there are, those that look like the
// wanted one first.
func nearby(refs *packp.AdvRefs, prefix, wanted string) string {
	kind, other, otherKind := "branches", tags, "tag"
	if prefix == tags {
		kind, other, otherKind = "tags", heads, "branch"
	}
	if _, ok := refs.References[other+wanted]; ok && wanted != "" {
		return "there is a " + otherKind + " of that name"
	}
	found := names(refs, prefix)
	if len(found) == 0 {
		return "it has no " + kind + " at all"
	}
	slices.SortStableFunc(found, func(a, b string) int { return cmp.Compare(alike(b, wanted), alike(a, wanted)) })
	more := ""
	if len(found) > 5 {
		found, more = found[:5], ", …"
	}
	return "there are: " + strings.Join(found, ", ") + more
}

// alike measures how much of both ends two names share, whatever their case.
func alike(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	front, back := 0, 0
	for front < min(len(a), len(b)) && a[front] == b[front] {
		front++
	}
	for back < min(len(a), len(b))-front && a[len(a)-1-back] == b[len(b)-1-back] {
		back++
	}
	return front + back
}
