package git

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/test/gitserver"
)

// tagged fills a repository with a commit for each name, and that tag on it; an
// annotated one for every other.
func tagged(t *testing.T, repo *gitserver.Repo, names ...string) map[string]string {
	t.Helper()
	ids := map[string]string{}
	for i, name := range names {
		ids[name] = push(t, repo, gitserver.Put("a", name))
		if err := repo.Tag(name, ids[name], strings.Repeat("note", i%2)); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

func TestRefs(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	tags := tagged(t, repo, "v1.0.0", "v1.1.0", "1.2.0", "v2.0.0-rc.1", "nightly", "2024", "v1.2", "notes")
	head := push(t, repo, gitserver.Put("a", "head"))
	pulled := push(t, repo.Branch("tmp"), gitserver.Put("a", "pulled"))
	side := push(t, repo.Branch("release"), gitserver.Put("a", "side"))
	for name, id := range map[string]string{"refs/pull/1/head": pulled, "refs/heads/1.x": side, "refs/heads/nightly": side, "refs/heads/2.x": side} {
		if err := repo.SetRef(name, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := repo.Branch("tmp").Remove(); err != nil {
		t.Fatal(err)
	}
	hidden := push(t, repo.Branch("gone"), gitserver.Put("a", "hidden"))
	if err := repo.Branch("gone").Remove(); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		reason string
		ref    source.Ref
		commit string
		prints string // what Flux's clients see before the @
		kind   fault.Kind
		text   string
	}{
		{reason: "nothing", commit: head, prints: "main"},
		{reason: "a branch", ref: source.Ref{Branch: "release"}, commit: side, prints: "release"},
		{reason: "a tag", ref: source.Ref{Tag: "v1.0.0"}, commit: tags["v1.0.0"], prints: "v1.0.0"},
		{reason: "an annotated tag", ref: source.Ref{Tag: "v1.1.0"}, commit: tags["v1.1.0"], prints: "v1.1.0"},
		{reason: "a tag rather than a branch", ref: source.Ref{Branch: "main", Tag: "v1.0.0"}, commit: tags["v1.0.0"], prints: "v1.0.0"},
		{reason: "a tag that is not there", ref: source.Ref{Tag: "v1.0.1"}, kind: fault.NotFound, text: `no tag "v1.0.1" (there are: v1.0.0`},
		{reason: "a branch is no tag", ref: source.Ref{Tag: "release"}, kind: fault.NotFound, text: "there is a branch of that name"},

		{reason: "a range, and a tag without v", ref: source.Ref{SemVer: ">=1.0.0 <2.0.0"}, commit: tags["1.2.0"], prints: "1.2.0"},
		{reason: "a range rather than a tag", ref: source.Ref{Tag: "nightly", SemVer: "1.1.x"}, commit: tags["v1.1.0"], prints: "v1.1.0"},
		{reason: "all, but no pre-releases and no half versions", ref: source.Ref{SemVer: "*"}, commit: tags["1.2.0"], prints: "1.2.0"},
		{reason: "pre-releases where the range has one", ref: source.Ref{SemVer: ">=2.0.0-0"}, commit: tags["v2.0.0-rc.1"], prints: "v2.0.0-rc.1"},
		{reason: "an empty range", ref: source.Ref{SemVer: "3.x"}, kind: fault.NotFound, text: `within "3.x"`},
		{reason: "no range", ref: source.Ref{SemVer: "newest"}, kind: fault.Invalid, text: "not a range of versions"},

		{reason: "a pull request", ref: source.Ref{Name: "refs/pull/1/head"}, commit: pulled, prints: "refs/pull/1/head"},
		{reason: "a branch by its full name", ref: source.Ref{Name: "refs/heads/release", Branch: "main"}, commit: side, prints: "refs/heads/release"},
		{reason: "a tag by its full name", ref: source.Ref{Name: "refs/tags/v1.1.0"}, commit: tags["v1.1.0"], prints: "refs/tags/v1.1.0"},
		{reason: "a peeled tag", ref: source.Ref{Name: "refs/tags/v1.1.0^{}"}, commit: tags["v1.1.0"], prints: "refs/tags/v1.1.0^{}"},
		{reason: "HEAD by name", ref: source.Ref{Name: "HEAD"}, commit: head, prints: "HEAD"},
		{reason: "no full name", ref: source.Ref{Name: "release"}, kind: fault.NotFound, text: "begins with refs/"},
		{reason: "no such ref", ref: source.Ref{Name: "refs/pull/2/head"}, kind: fault.NotFound, text: `no ref "refs/pull/2/head"`},
		{reason: "a name without end", ref: source.Ref{Name: "refs/heads/" + strings.Repeat("x", 2000)}, kind: fault.Invalid, text: "longer than"},

		{reason: "target: HEAD", ref: source.Ref{Target: "HEAD"}, commit: head, prints: "main"},
		{reason: "target: a branch", ref: source.Ref{Target: "release"}, commit: side, prints: "release"},
		{reason: "target: a branch before a tag", ref: source.Ref{Target: "nightly"}, commit: side, prints: "nightly"},
		{reason: "target: a tag", ref: source.Ref{Target: "notes"}, commit: tags["notes"], prints: "notes"},
		{reason: "target: a version is no range", ref: source.Ref{Target: "v1.0.0"}, commit: tags["v1.0.0"], prints: "v1.0.0"},
		{reason: "target: half a version is no range either", ref: source.Ref{Target: "v1.2"}, commit: tags["v1.2"], prints: "v1.2"},
		{reason: "target: a range before a branch", ref: source.Ref{Target: "1.x"}, commit: tags["v1.2"], prints: "v1.2"},
		{reason: "target: a branch where no version is in the range", ref: source.Ref{Target: "2.x"}, commit: side, prints: "2.x"},
		{reason: "target: versions are read leniently", ref: source.Ref{Target: ">=3.0"}, commit: tags["2024"], prints: "2024"},
		{reason: "target: a full name", ref: source.Ref{Target: "refs/heads/release"}, commit: side, prints: "release"},
		{reason: "target: any ref", ref: source.Ref{Target: "pull/1/head"}, commit: pulled, prints: "refs/pull/1/head"},
		{reason: "target: a commit", ref: source.Ref{Target: tags["v1.0.0"]}, commit: tags["v1.0.0"]},
		{reason: "target: the beginning of the head", ref: source.Ref{Target: head[:7]}, commit: head},
		{reason: "target: the beginning of an old commit", ref: source.Ref{Target: strings.ToUpper(tags["nightly"][:10])}, commit: tags["nightly"]},
		{reason: "target: too little of a commit", ref: source.Ref{Target: head[:6]}, kind: fault.NotFound, text: "no branch, tag, version or commit"},
		{reason: "target: the beginning of a commit in no branch", ref: source.Ref{Target: hidden[:12]}, kind: fault.NotFound, text: "no branch, tag, version or commit"},
		{reason: "target: a whole commit in no branch", ref: source.Ref{Target: hidden}, kind: fault.NotFound, text: "no branch or tag contains"},
		{reason: "target: nothing of the kind", ref: source.Ref{Target: "releese"}, kind: fault.NotFound, text: `(there are: release`},

		{reason: "a commit that only a pull request has", ref: source.Ref{Commit: pulled}, commit: pulled},
		{reason: "a commit under an annotated tag", ref: source.Ref{Commit: tags["v1.1.0"]}, commit: tags["v1.1.0"]},
	}
	shared := newStore(t, t.TempDir(), Options{})
	for _, test := range tests {
		for name, s := range map[string]*Store{"fresh": newStore(t, t.TempDir(), Options{}), "shared": shared} {
			rev, err := s.Fetch(t.Context(), source.Request{URL: repo.URL(), Ref: test.ref})
			if test.text != "" {
				wantFault(t, err, test.kind, test.text)
				continue
			}
			if err != nil || rev.Commit != test.commit || rev.Ref() != test.prints {
				t.Errorf("%s (%s store): %s at %q, %v; want %s at %q", test.reason, name, rev.Commit, rev.Ref(), err, test.commit, test.prints)
				continue
			}
			if _, err := tree.FromFS(fsOf{rev.Tree}, tree.Limits{}); err != nil {
				t.Errorf("%s (%s store): the tree is not whole: %v", test.reason, name, err)
			}
		}
	}
}

func TestDetachedHead(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	first := push(t, repo, gitserver.Put("a", "1"))
	push(t, repo, gitserver.Put("a", "2"))
	if _, err := repo.Git("update-ref", "--no-deref", "HEAD", first); err != nil {
		t.Fatal(err)
	}
	if rev := fetch(t, newStore(t, t.TempDir(), Options{}), source.Request{URL: repo.URL()}); rev.Commit != first || rev.Ref() != "HEAD" {
		t.Errorf("a detached HEAD gives %s at %q", rev.Commit, rev.Ref())
	}
}

func TestTagsMove(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	tagged(t, repo, "plain", "annotated")
	s := newStore(t, t.TempDir(), Options{})
	for _, tag := range []string{"plain", "annotated"} {
		req := source.Request{URL: repo.URL(), Ref: source.Ref{Tag: tag}}
		fetch(t, s, req)
		next := push(t, repo, gitserver.Put("a", "moved "+tag))
		if err := repo.Tag(tag, next, "again"); err != nil {
			t.Fatal(err)
		}
		if rev := fetch(t, s, req); rev.Commit != next || content(t, rev.Tree, "a") != "moved "+tag {
			t.Errorf("the tag %s that moved gives %s", tag, rev.Commit)
		}
	}
}

// TestAmbiguousAbbreviations makes up refs, since nobody has two commits with ids
// that begin with the same seven digits at hand.
func TestAmbiguousAbbreviations(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	byDigit := map[byte]string{}
	var twins [2]string
	for i := 0; twins[0] == ""; i++ { // two with the same first digit come soon
		id := push(t, repo, gitserver.Put("a", fmt.Sprint(i)))
		if other := byDigit[id[0]]; other != "" {
			twins = [2]string{other, id}
		}
		byDigit[id[0]] = id
	}
	s := newStore(t, t.TempDir(), Options{})
	req := source.Request{URL: repo.URL()}
	c, err := s.remote.connect(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	r := s.repo(req)
	if err := r.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer r.unlock()
	want := target{groups: allRefs(c.refs), prefix: twins[0][:1]}
	_, err = r.bring(t.Context(), c, want)
	wantFault(t, err, fault.Invalid, "several commits")
	want.prefix = twins[0][:39]
	for range 2 { // looked up, and remembered
		if id, err := r.bring(t.Context(), c, want); err != nil || id.String() != twins[0] {
			t.Errorf("the whole but one digit gives %s, %v", id, err)
		}
	}
}

func TestDeepensStepByStep(t *testing.T) {
	var w wire
	_, repo := newServer(t, gitserver.Options{Wrap: w.wrap})
	ids := make([]string, 120)
	for i := range ids {
		ids[i] = push(t, repo, gitserver.Put("a", fmt.Sprint(i)))
	}
	s := newStore(t, t.TempDir(), Options{})
	req := source.Request{URL: repo.URL()}
	fetch(t, s, req)
	for _, step := range []struct {
		reason  string
		commit  int
		posts   int64
		commits int // in the store afterwards
	}{
		{"within the first step", 110, 1, 50},
		{"what is here is not asked for", 80, 0, 50},
		{"within the second", 10, 1, 120},
	} {
		w.reset()
		req.Ref = source.Ref{Commit: ids[step.commit]}
		if rev := fetch(t, s, req); content(t, rev.Tree, "a") != fmt.Sprint(step.commit) {
			t.Errorf("%s: other content", step.reason)
		}
		if got := w.posts.Load(); got > step.posts+1 { // one to find out that a step brought all there is
			t.Errorf("%s: %d POSTs", step.reason, got)
		}
		if step.posts == 0 && w.posts.Load() != 0 {
			t.Errorf("%s: %d POSTs", step.reason, w.posts.Load())
		}
	}
}

func TestRevisionTellsItsCommit(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	_, repo := newServer(t, gitserver.Options{Now: func() time.Time { return at }})
	if _, err := repo.Commit("Subject\n\nBody", gitserver.Put("a", "1")); err != nil {
		t.Fatal(err)
	}
	rev := fetch(t, newStore(t, t.TempDir(), Options{}), source.Request{URL: repo.URL()})
	if rev.Author != "Holdfast Test <test@example.com>" || rev.Committer != rev.Author || !rev.Date.Equal(at) || strings.TrimSpace(rev.Message) != "Subject\n\nBody" {
		t.Errorf("the commit is told as %q, %q at %s: %q", rev.Author, rev.Committer, rev.Date, rev.Message)
	}
}

func TestTellBadCommits(t *testing.T) {
	id := strings.Repeat("1", 40)
	for raw, want := range map[string]told{
		"tree " + id + "\n": {},
		"tree " + id + "\nauthor x\ncommitter > -5 x\n\n\xff!":                                                          {committer: ">", message: "!"},
		"tree " + id + "\ncommitter A <> 99999999999999999999":                                                          {committer: "A <>"},
		"tree " + id + "\nparent " + id + "\nauthor A <a> 1 +0\ncommitter B <b> 2 +0\ngpgsig -----\n author Z <z>\n\nm": {author: "A <a>", committer: "B <b>", message: "m", date: time.Unix(2, 0).UTC()},
	} {
		c, err := parseCommit([]byte(raw))
		if got := c.tell(); err != nil || got != want {
			t.Errorf("%q is told as %+v (%v), want %+v", raw, got, err, want)
		}
	}
}

func TestSubmodulesAndLFS(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	pointer := "version https://git-lfs.github.com/spec/v1\noid sha256:" + strings.Repeat("a", 64) + "\nsize 12345\n"
	id := push(t, repo, gitserver.Put("apps/a.yaml", "a: 1\n"), gitserver.Put("apps/big.yaml", pointer), gitserver.Put("docs/x", "x"),
		gitserver.Put("docs/long", pointer+strings.Repeat("x", 1024)), gitserver.Put(".gitmodules", "[submodule \"theme\"]\n"))
	if _, err := repo.Git("-c", "core.bare=true", "read-tree", id); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Git("update-index", "--add", "--cacheinfo", "160000,"+id+",docs/theme"); err != nil {
		t.Fatal(err)
	}
	root, err := repo.Git("write-tree")
	if err != nil {
		t.Fatal(err)
	}
	commit, err := repo.Git("-c", "user.name=t", "-c", "user.email=t@example.com", "commit-tree", "-m", "x", "-p", id, root)
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.Set(commit); err != nil {
		t.Fatal(err)
	}
	tr := fetch(t, newStore(t, t.TempDir(), Options{}), source.Request{URL: repo.URL()}).Tree

	// Elsewhere in the repository, neither is in the way.
	if entries, err := tr.ReadDir("apps"); err != nil || len(entries) != 2 {
		t.Errorf("a directory without submodules: %v %v", entries, err)
	}
	if content(t, tr, "apps/a.yaml") != "a: 1\n" || content(t, tr, "docs/x") != "x" {
		t.Error("files beside submodules and pointers have other content")
	}
	if got := content(t, tr, "docs/long"); !strings.HasPrefix(got, "version") {
		t.Error("a large file is no pointer")
	}
	read := func(name string) error { _, err := tr.ReadFile(name, 1<<20); return err }
	list := func(name string) error { _, err := tr.ReadDir(name); return err }
	wantFault(t, read("apps/big.yaml"), fault.Unsupported, "apps/big.yaml: the file's content is in Git LFS")
	wantFault(t, list(""), fault.Unsupported, ".gitmodules: the source has a submodule")
	wantFault(t, list("docs"), fault.Unsupported, "docs/theme: the source has a submodule")
	wantFault(t, list("docs/theme"), fault.Unsupported, "docs/theme: the source has a submodule")
	wantFault(t, read("docs/theme"), fault.Unsupported, "docs/theme: the source has a submodule")
	wantFault(t, read("docs/theme/x.yaml"), fault.Unsupported, "docs/theme/x.yaml: the source has a submodule")
	if e, err := tr.Stat("docs/theme"); err != nil || e.Kind != tree.Submodule {
		t.Errorf("the submodule itself: %v %v", e, err)
	}
}

// TestDamageIsMendedAtOnce has somebody read from a store that rots under it.
func TestDamageIsMendedAtOnce(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	push(t, repo, gitserver.Put("dir/b", strings.Repeat("b", 1000)))
	s := newStore(t, t.TempDir(), Options{})
	req := source.Request{URL: repo.URL()}
	held := fetch(t, s, req)
	packs, err := filepath.Glob(filepath.Join(s.repo(req).dir, "*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	if err := os.Chmod(packs[0], 0o600); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := 20; i < len(raw)-20; i++ {
		raw[i] ^= 0x55
	}
	if err := os.WriteFile(packs[0], raw, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = held.Tree.ReadFile("dir/b", 1<<20)
	wantFault(t, err, fault.Internal, "it will be fetched anew")
	if f, ok := held.Tree.(source.Fragile); !ok || !f.Damaged() {
		t.Error("the tree does not say that it is damaged")
	}
	s.background.Wait() // nobody asks for anything meanwhile
	if content(t, held.Tree, "dir/b") != strings.Repeat("b", 1000) {
		t.Error("the tree that was held is still damaged")
	}
	if f, ok := fetch(t, s, req).Tree.(source.Fragile); !ok || f.Damaged() {
		t.Error("the new tree says that it is damaged")
	}
}

func TestUnusedStoresGo(t *testing.T) {
	server, repo := newServer(t, gitserver.Options{})
	push(t, repo, gitserver.Put("a", "1"))
	other, err := server.Create("other")
	if err != nil {
		t.Fatal(err)
	}
	push(t, other, gitserver.Put("a", "1"))
	now := time.Now()
	dir := t.TempDir()
	opts := Options{Now: func() time.Time { return now }}
	old, used := source.Request{URL: repo.URL()}, source.Request{URL: other.URL()}
	if err := os.MkdirAll(filepath.Join(dir, "kept-by-somebody"), 0o700); err != nil {
		t.Fatal(err)
	}
	first := newStore(t, dir, opts)
	fetch(t, first, old)
	fetch(t, first, used)
	now = now.Add(6 * 24 * time.Hour)
	fetch(t, first, used)
	first.Close()
	now = now.Add(2 * 24 * time.Hour)
	second := newStore(t, dir, opts)
	if _, err := os.Stat(first.repo(old).dir); !os.IsNotExist(err) {
		t.Errorf("the store that was unused for 8 days is there: %v", err)
	}
	for _, kept := range []string{first.repo(used).dir, filepath.Join(dir, "kept-by-somebody")} {
		if _, err := os.Stat(kept); err != nil {
			t.Errorf("%s is gone: %v", kept, err)
		}
	}
	// In a process that runs on, too; but not while somebody reads.
	keep := fetch(t, second, used)
	fetch(t, second, old)
	second.repo(old).live = nil // what a garbage collection does
	now = now.Add(8 * 24 * time.Hour)
	if err := second.expire(); err != nil {
		t.Fatal(err)
	}
	if n := second.repo(old).packCount(); n != 0 {
		t.Errorf("%d packs of an unused store are kept", n)
	}
	if content(t, keep.Tree, "a") != "1" {
		t.Error("a tree that is held lost its content")
	}
	second.repo(old).live = map[plumbing.Hash]weak.Pointer[snapshot]{}
	fetch(t, second, old) // and it can be used again
}

func FuzzResolve(f *testing.F) {
	f.Add("v1.0.0", "1.x", uint8(0))
	f.Add("main", ">=1 || <a", uint8(1))
	f.Add("abcdef0", "abcdef0", uint8(2))
	f.Fuzz(func(t *testing.T, name, text string, kind uint8) {
		refs := packp.NewAdvRefs()
		refs.References["refs/tags/"+name] = plumbing.NewHash(strings.Repeat("1", 40))
		refs.References["refs/heads/"+name] = plumbing.NewHash(strings.Repeat("2", 40))
		ref := [...]source.Ref{{SemVer: text}, {Target: text}, {Name: text}, {Tag: text}, {Branch: text}, {Commit: text}}[kind%6]
		want, err := resolve(refs, ref)
		if err == nil && want.tip.IsZero() && len(want.groups) == 0 {
			t.Errorf("%+v resolves to nothing", ref)
		}
	})
}
