package git

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/test/gitserver"
)

// filtering has the server leave out trees and files for those who ask for it, as
// the large ones do.
func filtering(t *testing.T, repo *gitserver.Repo) {
	t.Helper()
	git(t, repo, "config", "uploadpack.allowFilter", "true")
}

func git(t *testing.T, repo *gitserver.Repo, args ...string) string {
	t.Helper()
	out, err := repo.Git(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// line adds n commits on top of one.
func line(t *testing.T, repo *gitserver.Repo, n int, parents ...string) string {
	t.Helper()
	id := ""
	for i := range n {
		args := []string{
			"-c", "user.name=T", "-c", "user.email=t@example.com",
			"commit-tree", "-m", fmt.Sprintf("commit %d", i), git(t, repo, "rev-parse", "main^{tree}"),
		}
		for _, p := range parents {
			args = append(args, "-p", p)
		}
		id = git(t, repo, args...)
		parents = []string{id}
	}
	return id
}

func TestHistory(t *testing.T) {
	for _, filter := range []bool{true, false} {
		t.Run(fmt.Sprintf("filter=%v", filter), func(t *testing.T) {
			_, repo := newServer(t, gitserver.Options{})
			if filter {
				filtering(t, repo)
			}
			first := push(t, repo, gitserver.Put("a", "1"))
			fork := line(t, repo, 3, first)
			base := line(t, repo, 70, fork) // longer than what is deepened at first
			side := line(t, repo, 2, fork)  // forked from before the base
			late := line(t, repo, 2, base)
			merge := line(t, repo, 1, late, side)
			head := line(t, repo, 2, merge)
			if err := repo.Set(head); err != nil {
				t.Fatal(err)
			}
			elsewhere := line(t, repo, 1, base, first)
			if err := repo.Branch("other").Set(elsewhere); err != nil {
				t.Fatal(err)
			}
			rev := fetch(t, newStore(t, t.TempDir(), Options{}), source.Request{URL: repo.URL()})
			for _, test := range []struct {
				reason string
				base   string
				first  bool
			}{
				{"nothing since the head itself", head, false},
				{"a merge, with what came in by it", base, false},
				{"a merge, along first parents", base, true},
				{"from inside the side branch", side, false},
				{"from inside the side branch, along first parents", side, true},
				{"all", "", false},
				{"all, along first parents", "", true},
			} {
				args := []string{"rev-list"}
				if test.first {
					args = append(args, "--first-parent")
				}
				if args = append(args, head); test.base != "" {
					args = append(args, "^"+test.base)
				}
				want := strings.Fields(git(t, repo, args...))
				got, err := rev.History.Since(t.Context(), test.base, test.first)
				if err != nil {
					t.Fatalf("%s: %v", test.reason, err)
				}
				checkOrder(t, repo, test.reason, got)
				slices.Sort(got)
				slices.Sort(want)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s: differs from git rev-list (-git +ours):\n%s", test.reason, diff)
				}
			}
			_, err := rev.History.Since(t.Context(), elsewhere, false)
			wantFault(t, err, fault.NotFound, "not among the ancestors")
			for id, want := range map[string]bool{head: true, first: true, side: true, elsewhere: false, strings.Repeat("1", 40): false} {
				if got, err := rev.History.Contains(t.Context(), id); err != nil || got != want {
					t.Errorf("Contains(%s) = %v, %v, want %v", id, got, err, want)
				}
			}
			raw, err := rev.History.Commit(t.Context(), fork)
			if err != nil || string(raw) != rawObject(t, repo, fork) {
				t.Errorf("Commit(fork) = %q, %v", raw, err)
			}
			_, err = rev.History.Commit(t.Context(), elsewhere)
			wantFault(t, err, fault.NotFound, "does not reach")
			_, err = rev.History.Commit(t.Context(), "main")
			wantFault(t, err, fault.Invalid, "not a commit id")
		})
	}
}

// checkOrder checks that no commit comes before one of its children.
func checkOrder(t *testing.T, repo *gitserver.Repo, reason string, list []string) {
	t.Helper()
	if len(list) == 0 {
		return
	}
	at := map[string]int{}
	for i, id := range list {
		at[id] = i
	}
	for record := range strings.Lines(git(t, repo, append([]string{"rev-list", "--parents", "--no-walk"}, list...)...)) {
		ids := strings.Fields(record)
		for _, parent := range ids[1:] {
			if i, ok := at[parent]; ok && i < at[ids[0]] {
				t.Errorf("%s: commit %s comes after its parent %s", reason, ids[0], parent)
			}
		}
	}
}

// rawObject is the content of a commit or tag, byte for byte.
func rawObject(t *testing.T, repo *gitserver.Repo, id string) string {
	t.Helper()
	kind := git(t, repo, "cat-file", "-t", id)
	return git(t, repo, "cat-file", kind, id) + "\n"
}

// TestHistoryTag reads the annotated tag by which a revision was found.
func TestHistoryTag(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	head := push(t, repo, gitserver.Put("a", "1"))
	for name, message := range map[string]string{"v1": "", "v2": "release"} {
		if err := repo.Tag(name, head, message); err != nil {
			t.Fatal(err)
		}
	}
	s := newStore(t, t.TempDir(), Options{})
	for _, test := range []struct {
		reason string
		ref    source.Ref
		tag    bool
	}{
		{"a branch", source.Ref{Branch: "main"}, false},
		{"a tag that is a ref alone", source.Ref{Tag: "v1"}, false},
		{"an annotated tag", source.Ref{Tag: "v2"}, true},
		{"a commit, whatever points to it", source.Ref{Commit: head}, false},
	} {
		rev, err := s.Fetch(t.Context(), source.Request{URL: repo.URL(), Ref: test.ref})
		if err != nil {
			t.Fatalf("%s: %v", test.reason, err)
		}
		id, raw, err := rev.History.Tag(t.Context())
		if err != nil || (id != "") != test.tag {
			t.Errorf("%s: tag is %q, %v", test.reason, id, err)
		}
		if test.tag && string(raw) != rawObject(t, repo, id) {
			t.Errorf("%s: content is %q", test.reason, raw)
		}
		if rev.URL != source.NormalizeURL(repo.URL()) {
			t.Errorf("%s: URL is %q", test.reason, rev.URL)
		}
	}
}

// TestHistoryRequests counts what the server is asked.
func TestHistoryRequests(t *testing.T) {
	for _, test := range []struct {
		reason string
		behind int // commits between the one delivered last and the head
		posts  int64
	}{
		{"the next commit names its parent: nothing is asked", 1, 0},
		{"a few commits: one step", 10, 1},
		{"more: two", 60, 2},
	} {
		w := &wire{}
		_, repo := newServer(t, gitserver.Options{Wrap: w.wrap})
		filtering(t, repo)
		base := line(t, repo, 120, push(t, repo, gitserver.Put("a", "1")))
		if err := repo.Set(base); err != nil {
			t.Fatal(err)
		}
		s := newStore(t, t.TempDir(), Options{})
		fetch(t, s, source.Request{URL: repo.URL()})
		if err := repo.Set(line(t, repo, test.behind, base)); err != nil {
			t.Fatal(err)
		}
		rev := fetch(t, s, source.Request{URL: repo.URL()})
		w.reset()
		for range 3 {
			if list, err := rev.History.Since(t.Context(), base, false); err != nil || len(list) != test.behind {
				t.Fatalf("%s: %d commits, %v", test.reason, len(list), err)
			}
			if found, err := rev.History.Contains(t.Context(), base); !found || err != nil {
				t.Fatalf("%s: %v, %v", test.reason, found, err)
			}
		}
		if got := w.posts.Load(); got != test.posts {
			t.Errorf("%s: %d requests, want %d", test.reason, got, test.posts)
		}
	}
}

// TestHistoryMoved asks for the history of a revision whose branch has moved on, and
// of one whose branch was rewound.
func TestHistoryMoved(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	filtering(t, repo)
	first := push(t, repo, gitserver.Put("a", "1"))
	old := line(t, repo, 10, first)
	if err := repo.Set(old); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, t.TempDir(), Options{})
	rev := fetch(t, s, source.Request{URL: repo.URL()})
	ahead := line(t, repo, 60, old)
	if err := repo.Set(ahead); err != nil {
		t.Fatal(err)
	}
	if list, err := rev.History.Since(t.Context(), first, true); err != nil || len(list) != 10 {
		t.Errorf("moved on: %d commits, %v", len(list), err)
	}
	if err := repo.Set(line(t, repo, 10, ahead)); err != nil {
		t.Fatal(err)
	}
	rev = fetch(t, s, source.Request{URL: repo.URL()})
	if err := repo.Set(first); err != nil {
		t.Fatal(err)
	}
	_, err := rev.History.Since(t.Context(), first, true)
	wantFault(t, err, fault.Unreachable, "no longer offers the history")
}
