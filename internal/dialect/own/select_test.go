package own

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/trust"
)

func TestSelect(t *testing.T) {
	app := trust.Subject{
		Kind: "Application", Namespace: "argocd", Name: "shop", Project: "shop",
		Labels: map[string]string{"tier": "production"}, Repository: "https://git.example.com/shop/web.git",
	}
	ks := trust.Subject{Kind: "Kustomization", Namespace: "team-a", Name: "apps", Repository: "ssh://git@git.example.com/shop/web"}
	plain := trust.Subject{Kind: "Application", Namespace: "argocd", Name: "plain"}
	tests := map[string]struct {
		reason  string
		spec    api.Select
		subject trust.Subject
		want    bool
	}{
		"empty":                  {"who says nothing means all", api.Select{}, ks, true},
		"namespace":              {"a glob matches", api.Select{Namespaces: []string{"other", "team-*"}}, ks, true},
		"another namespace":      {"no glob matches", api.Select{Namespaces: []string{"other"}}, ks, false},
		"project":                {"", api.Select{Projects: []string{"sh?p"}}, app, true},
		"another project":        {"", api.Select{Projects: []string{"platform"}}, app, false},
		"no project":             {"an Application that names none is in the project default", api.Select{Projects: []string{"default"}}, plain, true},
		"project, Kustomization": {"a Kustomization has no project, not even any", api.Select{Projects: []string{"*"}}, ks, false},
		"labels":                 {"", api.Select{Labels: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "production"}}}, app, true},
		"other labels":           {"", api.Select{Labels: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "test"}}}, app, false},
		"no such label":          {"what others are not marked with", api.Select{Labels: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "lab", Operator: "DoesNotExist"}}}}, app, true},
		"all of it":              {"fields add up", api.Select{Namespaces: []string{"argocd"}, Projects: []string{"shop"}, Repositories: []string{"git.example.com/shop/*"}}, app, true},
		"one of it not":          {"one that does not match is enough", api.Select{Namespaces: []string{"argocd"}, Projects: []string{"platform"}}, app, false},
		"another form":           {"ssh and https lead to one repository", api.Select{Repositories: []string{"https://git.example.com/shop/web"}}, ks, true},
		"repository not known":   {"nobody can tell that it is not meant", api.Select{Repositories: []string{"git.example.com/**"}}, plain, true},
		"malformed glob":         {"in doubt it selects", api.Select{Namespaces: []string{"[team"}}, ks, true},
		"malformed repository":   {"in doubt it selects", api.Select{Repositories: []string{"git.example.com/?"}}, ks, true},
		"malformed labels":       {"in doubt it selects", api.Select{Labels: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Is"}}}}, ks, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := &compiler{}
			got := c.compileSelect(tt.spec).selects(tt.subject)
			if got != tt.want {
				t.Errorf("%s: got %v", tt.reason, got)
			}
			if malformed := strings.HasPrefix(name, "malformed"); malformed != (len(c.problems) > 0) {
				t.Errorf("%s: problems %q", tt.reason, c.problems)
			}
		})
	}
}

// Whoever writes a delivery chooses how its repository is written. However that is,
// what a server takes for the repository must be selected.
func TestRepositoriesAreNotFooled(t *testing.T) {
	const pattern = "git.example.com/team/**"
	tests := []struct {
		raw, reason string
		want        bool
	}{
		{"https://git.example.com/team/app", "as written", true},
		{"https://git.example.com/team/app.git", "a suffix", true},
		{"https://git.example.com/team/app.git/", "a suffix and a slash", true},
		{"https://git.example.com/team/app.git.git", "two suffixes", true},
		{"http://git.example.com/team/app", "another scheme", true},
		{"git@git.example.com:team/app.git", "scp's form", true},
		{"ssh://git@git.example.com/team/app", "ssh", true},
		{"ssh://git@git.example.com:2222/team/app", "a server's other port", true},
		{"https://git.example.com:8443/team/app", "a server's other port", true},
		{"https://git.example.com:443/team/app", "the usual port, spelled out", true},
		{"https://GIT.Example.COM/Team/App", "case does not count to many servers", true},
		{"https://git.example.com./team/app", "a root dot", true},
		{"https://git.example.com//team//app", "slashes", true},
		{"https://git.example.com/./team/app", "a step that leads nowhere", true},
		{"https://git.example.com/other/../team/app", "a way round", true},
		{"https://git.example.com/te%61m/app", "an escape that the server undoes", true},
		{"https://git.example.com/team%2Fapp", "an escaped slash", true},
		{"https://git.example.com/team/app.gi%74", "an escaped suffix", true},
		{"https://ｇit.example.com/team/app", "letters that resolvers take for others", true},
		{"https://git。example。com/team/app", "dots that resolvers take for others", true},
		{"https://user@git.example.com/team/app", "a user", true},
		{"https://user:pass@git.example.com/team/app", "a user with a password", true},
		{"https://[::1", "what cannot be read may be anything", true},
		{"", "what is not known may be anything", true},

		{"https://git.example.com@evil.example/team/app", "the host is behind the @", false},
		{"https://evil.example/git.example.com/team/app", "a host in a path is none", false},
		{"https://git.example.com.evil.example/team/app", "a longer name is another", false},
		{"https://git.example.com/team2/app", "a longer path is another", false},
		{"https://git.example.com/other/app", "another path", false},
		{"https://evil.example/#git.example.com/team/app", "a fragment is no address", false},
		{"https://evil.example/?git.example.com/team/app", "a query is no address", false},
	}
	c := &compiler{}
	s := c.compileSelect(api.Select{Repositories: []string{pattern}})
	if len(c.problems) > 0 {
		t.Fatal(c.problems)
	}
	for _, tt := range tests {
		if got := s.repository(tt.raw); got != tt.want {
			at, ok := addressOf(tt.raw)
			t.Errorf("%s: %s: selected %v, read as %+v %v", tt.raw, tt.reason, got, at, ok)
		}
	}
}

func TestPatterns(t *testing.T) {
	tests := []struct {
		pattern, raw, reason string
		want                 bool
	}{
		{"git.example.com/team/*", "https://git.example.com/team/app", "one step", true},
		{"git.example.com/team/*", "https://git.example.com/team/sub/app", "* ends at a slash", false},
		{"git.example.com/team/**", "https://git.example.com/team/sub/app", "** does not", true},
		{"git.example.com/*/app", "https://git.example.com/team/app", "in the middle", true},
		{"git.example.com", "https://git.example.com/team/app", "a host alone is all of it", true},
		{"https://git.example.com/", "https://git.example.com/team/app", "so is its root", true},
		{"*.example.com/team/*", "https://git.example.com/team/app", "part of a host", true},
		{"*.example.com/team/*", "https://example.com/team/app", "the part must be there", false},
		{"git@git.example.com:team/*.git", "https://git.example.com/team/app", "patterns in every form", true},
		{"git.example.com:8443/team/*", "https://git.example.com:8443/team/app", "a port that is named", true},
		{"git.example.com:8443/team/*", "https://git.example.com/team/app", "counts", false},
		{"**", "https://git.example.com/team/app", "everything", true},
		{"*", "https://git.example.com/team/app", "everything", true},
		{"git.example.com/Team/App.git", "https://git.example.com/team/app", "case of the pattern", true},
		{"git.example.com/a+b/*", "https://git.example.com/a+b/c", "characters mean themselves", true},
		{"git.example.com/a.b/*", "https://git.example.com/axb/c", "a dot is a dot", false},
		{"file:///srv/git/*", "file:///srv/git/app", "files", true},
		{"[::1]:8080/team/*", "http://[::1]:8080/team/app", "addresses", true},
		{"127.0.0.1/**", "http://127.0.0.1:3000/team/app", "addresses", true},
	}
	for _, tt := range tests {
		c := &compiler{}
		s := c.compileSelect(api.Select{Repositories: []string{tt.pattern}})
		if len(c.problems) > 0 {
			t.Errorf("%s: %q", tt.pattern, c.problems)
		}
		if got := s.repository(tt.raw); got != tt.want {
			t.Errorf("%s on %s: %s: got %v", tt.pattern, tt.raw, tt.reason, got)
		}
	}
}

// Addresses and patterns come from whoever may write a resource.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{"https://git.example.com/a%2fb.git", "git@h:p", "[::1]:80/x", "ｇ.example/**", "file:///x", "*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if len(raw) > 512 {
			return
		}
		at, ok := addressOf(raw)
		if !ok {
			return
		}
		p, err := compilePattern(raw)
		if err != nil || strings.Contains(raw, "*") {
			return
		}
		if strings.HasSuffix(at.path, "/") {
			return // a host alone
		}
		if !p.matches(at) {
			t.Errorf("%q does not match itself: %+v %s", raw, at, p.path)
		}
	})
}
