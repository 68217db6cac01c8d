package git

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/test/gitserver"
)

// forgery is a repository that no Git program would write.
type forgery struct {
	parts [][]byte
	refs  []string // lines, the first one HEAD's
	posts atomic.Int64
}

func (f *forgery) add(kind plumbing.ObjectType, content string) plumbing.Hash {
	f.parts = append(f.parts, append(objectHeader(kind, int64(len(content))), deflated(content)...))
	return plumbing.ComputeHash(kind, []byte(content))
}

// branch makes a branch of a tree, and adds nothing else.
func (f *forgery) branch(name string, tree plumbing.Hash) string {
	id := f.add(plumbing.CommitObject, fmt.Sprintf("tree %s\nauthor a <a> 0 +0000\n\n%s", tree, name))
	f.refs = append(f.refs, id.String()+" refs/heads/"+name)
	return id.String()
}

// serve answers every question with all that there is.
func (f *forgery) serve(t *testing.T) string {
	t.Helper()
	s, _ := newServer(t, gitserver.Options{Wrap: func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				f.posts.Add(1)
				w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
				_, _ = w.Write(append([]byte("0008NAK\n"), packOf(byte(len(f.parts)), f.parts...)...))
				return
			}
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			_, _ = w.Write([]byte("001e# service=git-upload-pack\n0000"))
			for i, line := range f.refs {
				if i == 0 {
					line += "\x00ofs-delta"
				}
				_, _ = w.Write([]byte(pkt(line + "\n")))
			}
			_, _ = w.Write([]byte("0000"))
		})
	}})
	return s.URL("x")
}

// TestDamagedCommits: whoever may push to a repository that others read, too, pushes
// what is damaged where it comes from. It is refused to those who read it, and the
// others do not notice, but for one new beginning where damage here is possible.
func TestDamagedCommits(t *testing.T) {
	file := func(mode, name string, id plumbing.Hash) string { return mode + " " + name + "\x00" + string(id[:]) }
	tests := map[string]struct {
		reason string
		tree   func(f *forgery, blob plumbing.Hash) plumbing.Hash
		kind   fault.Kind // at last
		says   string
		anew   int64 // how often the store begins anew
	}{
		"file as directory": {
			"a file is named where a directory belongs",
			func(f *forgery, blob plumbing.Hash) plumbing.Hash {
				return f.add(plumbing.TreeObject, file("40000", "dir", blob))
			},
			fault.Invalid, "a blob where a tree belongs", 0,
		},
		"file as the root": {
			"also as the whole tree",
			func(_ *forgery, blob plumbing.Hash) plumbing.Hash { return blob },
			fault.Invalid, "a blob where a tree belongs", 0,
		},
		"directory as file": {
			"and a directory where a file belongs",
			func(f *forgery, blob plumbing.Hash) plumbing.Hash {
				dir := f.add(plumbing.TreeObject, file("100644", "b", blob))
				return f.add(plumbing.TreeObject, file("40000", "dir", f.add(plumbing.TreeObject, file("100644", "a", dir))))
			},
			fault.Invalid, "a tree where a blob belongs", 0,
		},
		"nonsense": {
			"a directory that is none",
			func(f *forgery, _ plumbing.Hash) plumbing.Hash { return f.add(plumbing.TreeObject, "nonsense") },
			fault.Invalid, "directory that Git would not have made", 0,
		},
		"missing": {
			"nobody has what is named: it may have been lost here, once",
			func(f *forgery, _ plumbing.Hash) plumbing.Hash {
				return f.add(plumbing.TreeObject, file("40000", "dir", plumbing.NewHash(strings.Repeat("ab", 20))))
			},
			fault.NotFound, "does not have all of commit", 1,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var f forgery
			blob := f.add(plumbing.BlobObject, "good")
			f.branch("good", f.add(plumbing.TreeObject, file("100644", "a", blob)))
			f.branch("bad", tc.tree(&f, blob))
			url := f.serve(t)
			s := newStore(t, t.TempDir(), Options{})
			good := fetch(t, s, source.Request{URL: url, Ref: source.Ref{Branch: "good"}, Tenant: "quiet"})
			req := source.Request{URL: url, Ref: source.Ref{Branch: "bad"}, Tenant: "hostile"}
			fetch(t, s, req)
			before, posts := s.repo(req).generation.Load(), f.posts.Load()
			var err error
			for range 5 {
				_, err = fetch(t, s, req).Tree.ReadFile("dir/a", 100)
				s.background.Wait()
			}
			if fault.KindOf(err) != tc.kind || err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v (%v), want %v, %q: %s", err, fault.KindOf(err), tc.kind, tc.says, tc.reason)
			}
			if n := s.repo(req).generation.Load() - before; n != tc.anew {
				t.Errorf("the store began anew %d times, want %d", n, tc.anew)
			}
			if tc.anew > 0 { // whoever reads it, has it fetched again
				_, _ = good.Tree.ReadFile("a", 100)
				s.background.Wait()
			}
			if content(t, good.Tree, "a") != "good" {
				t.Error("the others cannot read")
			}
			if n := f.posts.Load() - posts; n > 2*tc.anew {
				t.Errorf("%d packs were fetched, want %d at most", n, 2*tc.anew)
			}
		})
	}
}

// TestDamagedCommitsAreNotInTheWay of making one pack of many.
func TestDamagedCommitsAreNotInTheWay(t *testing.T) {
	var f forgery
	blob := f.add(plumbing.BlobObject, "good")
	f.branch("good", f.add(plumbing.TreeObject, "100644 a\x00"+string(blob[:])))
	f.branch("bad", f.add(plumbing.TreeObject, "40000 dir\x00"+string(blob[:])))
	missing := plumbing.NewHash(strings.Repeat("ab", 20))
	f.branch("worse", f.add(plumbing.TreeObject, "100644 a\x00"+string(missing[:])))
	url := f.serve(t)
	s := newStore(t, t.TempDir(), Options{})
	var held []source.Revision
	for _, branch := range []string{"good", "bad", "worse"} {
		held = append(held, fetch(t, s, source.Request{URL: url, Ref: source.Ref{Branch: branch}}))
	}
	r := s.repo(source.Request{URL: url})
	if err := r.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer r.unlock()
	if err := r.compact(t.Context()); err == nil {
		t.Error("a commit that misses a file is made a part of the pack")
	}
	if err := r.compact(t.Context()); err != nil { // without the one that was found out
		t.Errorf("what is damaged is in the way: %v", err)
	}
	if r.packCount() != 1 || content(t, held[0].Tree, "a") != "good" {
		t.Errorf("%d packs", r.packCount())
	}
}
