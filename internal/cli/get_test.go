package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/internal/overview"
)

func TestGetTable(t *testing.T) {
	const revision = "main@sha1:0123456789abcdef0123456789abcdef01234567"
	long := "policy baseline: " + strings.Repeat("a container has no limits; ", 20)
	rows := []overview.Row{
		{Kind: "Kustomization", Namespace: "flux-system", Name: "infrastructure", Source: "GitRepository/fleet", Revision: revision, State: overview.Synced, Health: "Healthy", Message: "Applied revision: " + revision},
		{Kind: "GitRepository", Namespace: "flux-system", Name: "fleet", Source: "https://git.example/fleet.git", Revision: revision, State: overview.Synced, Message: "stored artifact for revision '" + revision + "'"},
		{Kind: "Application", Namespace: "argocd", Name: "shop", Source: "https://git.example/fleet.git", Revision: revision, State: overview.Failed, Health: "Unknown", Message: long},
		{Kind: "Application", Namespace: "argocd", Name: "web", Revision: revision, State: overview.Synced, Health: "Healthy", Message: "warning: it is not signed"},
	}
	table := func(o Get, rows []overview.Row) []string {
		var out bytes.Buffer
		p := Process{Out: &out, Err: &out, Lookup: func(string) (string, bool) { return "", false }}
		if err := newPrinter(p, o, rows).all(p, rows); err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(out.String()), "\n")
	}
	lines := table(Get{}, rows)
	for _, line := range lines {
		if n := len([]rune(line)); n > lineWidth {
			t.Errorf("a line of the table has %d columns, and %d are what there is room for:\n%s", n, lineWidth, line)
		}
	}
	tests := []struct {
		reason, line, want string
	}{
		{"what is synced need not say its revision again", lines[1], "main@01234567   Synced   Healthy   -"},
		{"nor need a source", lines[2], "main@01234567   Synced   -         -"},
		{"a long message is cut, and says so", lines[3], "…"},
		{"a warning is no repetition", lines[4], "warning: it is not signed"},
		{"one that is named is told whole", table(Get{Name: "shop"}, rows[2:3])[1], long[len(long)-20 : len(long)-1]},
		{"so is everything in the wide table", table(Get{Output: "wide"}, rows)[1], "Applied revision: " + revision},
	}
	for _, tc := range tests {
		if !strings.HasSuffix(tc.line, tc.want) {
			t.Errorf("%s: want %q at the end of\n%s", tc.reason, tc.want, tc.line)
		}
	}
}

func TestGetArguments(t *testing.T) {
	tests := []struct {
		reason, args string
		kind, name   string
		bad          bool
	}{
		{"everything", "", "", "", false},
		{"a kind", "ks", "ks", "", false},
		{"a kind and a name", "ks apps", "ks", "apps", false},
		{"the same, as other commands take it", "ks/apps", "ks", "apps", false},
		{"a name alone", "shop", "", "shop", false},
		{"what is no kind is none with a name, either", "pod/web", "", "", true},
	}
	for _, tc := range tests {
		var o Get
		if err := o.complete(strings.Fields(tc.args)); (err != nil) != tc.bad {
			t.Errorf("%s: %v", tc.reason, err)
		} else if err == nil && (o.Kind != tc.kind || o.Name != tc.name) {
			t.Errorf("%s: kind %q, name %q", tc.reason, o.Kind, o.Name)
		}
	}
}
