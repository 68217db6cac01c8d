package git

import (
	"cmp"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

const heads = "refs/heads/"

// resolve says what to fetch, by the refs that the remote showed to the one
// who asks. Errors: Invalid (not a commit id), NotFound.
func resolve(refs *packp.AdvRefs, ref source.Ref) (target, error) {
	var want target
	if ref.Branch != "" || ref.Commit == "" {
		var err error
		if want, err = resolveBranch(refs, strings.TrimPrefix(ref.Branch, heads)); err != nil {
			return target{}, err
		}
	}
	if ref.Commit == "" {
		return want, nil
	}
	id, err := hex.DecodeString(ref.Commit)
	if err != nil || len(id) != hashSize {
		return target{}, fault.New(fault.Invalid, "%q is not a commit id", ref.Commit).WithHint("write all of its 40 hexadecimal digits")
	}
	copy(want.commit[:], id)
	if ref.Branch != "" {
		want.groups = [][]plumbing.Hash{{want.tip}}
		return want, nil
	}
	want.groups = allRefs(refs)
	return want, nil
}

func resolveBranch(refs *packp.AdvRefs, branch string) (target, error) {
	if branch == "" {
		branch = headBranch(refs)
	}
	if branch == "" {
		return target{}, fault.New(fault.NotFound, "the repository has no default branch").WithHint("%s", nearby(refs, ""))
	}
	tip, ok := refs.References[heads+branch]
	if !ok {
		return target{}, fault.New(fault.NotFound, "the repository has no branch %q", branch).WithHint("%s", nearby(refs, branch))
	}
	return target{branch: branch, tip: tip}, nil
}

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
	for _, branch := range append([]string{"main", "master"}, branches(refs)...) {
		if refs.References[heads+branch] == *refs.Head {
			return branch
		}
	}
	return ""
}

func branches(refs *packp.AdvRefs) []string {
	var names []string
	for name := range refs.References {
		if branch, ok := strings.CutPrefix(name, heads); ok {
			names = append(names, branch)
		}
	}
	slices.Sort(names)
	return names
}

// allRefs returns HEAD's branch, and then all branches and tags.
func allRefs(refs *packp.AdvRefs) [][]plumbing.Hash {
	var groups [][]plumbing.Hash
	if tip, ok := refs.References[heads+headBranch(refs)]; ok {
		groups = append(groups, []plumbing.Hash{tip})
	}
	var rest []plumbing.Hash
	for _, name := range slices.Sorted(maps.Keys(refs.References)) {
		if strings.HasPrefix(name, heads) || strings.HasPrefix(name, "refs/tags/") {
			rest = append(rest, refs.References[name])
		}
	}
	return append(groups, rest)
}

// nearby tells which branches there are, those that look like the wanted one first.
func nearby(refs *packp.AdvRefs, branch string) string {
	if _, ok := refs.References["refs/tags/"+branch]; ok {
		return "there is a tag of that name, and tags are not supported yet"
	}
	names := branches(refs)
	if len(names) == 0 {
		return "it has no branches at all"
	}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(alike(b, branch), alike(a, branch)) })
	more := ""
	if len(names) > 5 {
		names, more = names[:5], ", …"
	}
	return "there are: " + strings.Join(names, ", ") + more
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
