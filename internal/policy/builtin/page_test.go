package builtin

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// page is what users read about these policies.
const page = "../../../docs/policy-builtin.md"

// updatePage has the test write the tables instead of comparing them.
var updatePage = os.Getenv("HOLDFAST_UPDATE") != ""

// The tables of the page say what Names does.
func TestPage(t *testing.T) {
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	written := string(content)
	const begin, end = "<!-- generated:builtin -->\n", "<!-- /generated:builtin -->"
	before, rest, ok := strings.Cut(written, begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no generated section", page)
	}
	made := before + begin + tables() + "\n" + end + after
	if updatePage {
		if err := os.WriteFile(page, []byte(made), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if made != written {
		t.Errorf("%s does not say what the policies are; run HOLDFAST_UPDATE=1 go test ./internal/policy/builtin -run TestPage", page)
	}
}

func tables() string {
	var b strings.Builder
	b.WriteString("\n| name | severity | what it asks for |\n|---|---|---|\n")
	for _, a := range Names() {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s | %s |\n", a.Name, a.Name, a.Severity, cell(a.Summary))
	}
	for _, a := range Names() {
		fmt.Fprintf(&b, "\n### %s\n\n%s [Why](%s).\n\n| parameter | | default | |\n|---|---|---|---|\n", a.Name, a.Summary, a.Reference)
		for _, p := range a.Parameters {
			value := ""
			if p.Default != "" {
				value = "`" + p.Default + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", p.Name, p.Type, value, cell(p.Summary))
		}
	}
	return b.String()
}

func cell(text string) string { return strings.ReplaceAll(text, "|", "\\|") }

// Every policy says all that there is to say.
func TestNames(t *testing.T) {
	form := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	severities := []string{"info", "low", "medium", "high", "critical"}
	seen := map[string]bool{}
	for _, a := range Names() {
		if !form.MatchString(a.Name) || seen[a.Name] || !strings.HasSuffix(a.Summary, ".") || !strings.HasPrefix(a.Reference, "https://") || !slices.Contains(severities, a.Severity) {
			t.Errorf("%+v", a)
		}
		seen[a.Name] = true
		for _, p := range a.Parameters {
			if p.Name == "" || p.Type == "" || p.Summary == "" {
				t.Errorf("%s: parameter %+v", a.Name, p)
			}
		}
	}
	for _, name := range []string{
		"pod-security-baseline", "pod-security-restricted", "no-latest-tag", "image-digests", "resource-limits", "no-public-ingress",
		"no-wildcard-rbac", "no-host-mounts", "no-plaintext-secret", "namespace-network-policy",
	} {
		if !seen[name] {
			t.Errorf("%s is missing: sets name it", name)
		}
	}
}
