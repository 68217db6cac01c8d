package argo

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/source"
)

func TestFollows(t *testing.T) {
	const url = "https://git.example.com/shop/deploy"
	tests := []struct {
		reason, target, url, branch string
		want                        bool
	}{
		{"its branch", "main", url, "main", true},
		{"however the address is written", "main", "git@git.example.com:shop/deploy.git", "main", true},
		{"as a full ref", "refs/heads/main", url, "refs/heads/main", true},
		{"another branch", "main", url, "dev", false},
		{"another repository", "main", "https://git.example.com/shop/other", "main", false},
		{"HEAD may be any", "HEAD", url, "dev", true},
		{"nothing is HEAD", "", url, "dev", true},
		{"a commit does not move", commitA, url, "main", false},
		{"all branches", "main", url, "", true},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			u := parse(t, web)
			_ = unstructured.SetNestedField(u.Object, tc.target, "spec", "source", "targetRevision")
			if got := follows(u, push{source.NormalizeURL(tc.url), tc.branch}); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestHeads(t *testing.T) {
	a := &Argo{heads: map[source.Key]string{}}
	r := source.Request{URL: "https://x/y", Ref: source.Ref{Branch: "main"}}
	for i, s := range []struct {
		commit string
		want   bool
	}{{commitA, false}, {commitA, false}, {commitB, true}, {commitB, false}} {
		if got := a.noteHead(r, s.commit); got != s.want {
			t.Errorf("%d: got %v", i, got)
		}
	}
	r.Ref = source.Ref{Commit: commitA}
	if a.noteHead(r, commitA) || a.noteHead(r, commitB) {
		t.Error("a commit cannot move")
	}
}

func TestPushesCoalesce(t *testing.T) {
	p := newPushes()
	for range 3 {
		p.add(push{"x", "main"})
	}
	p.add(push{"x", "dev"})
	<-p.wake
	if got := len(p.take()); got != 2 {
		t.Errorf("got %d pushes", got)
	}
	if got := len(p.take()); got != 0 {
		t.Errorf("%d pushes came twice", got)
	}
}
