// Package leak finds secret values that nobody sealed: in files, by the rules of
// gitleaks and by what Kubernetes and Kustomize make Secrets of. A value that it finds
// never leaves the worker in which it was found, not even in part: a [Finding] says
// where, and by which rule.
//
// The rules are those of gitleaks, with its own exceptions for lock files and the
// like (https://github.com/gitleaks/gitleaks, config/gitleaks.toml). They are read
// through its package config; the loop around them is ours (see rules.go and
// docs/design/plaintext.md), and a test holds it to gitleaks' own detector.
package leak

import (
	"cmp"
	"slices"

	"github.com/holdfastcd/holdfast/internal/tree"
)

// The rules that are ours, beside those of gitleaks, which keep their names.
const (
	RuleSecret     = "kubernetes-secret"      //nolint:gosec // a name: a value of a Secret
	RuleLiteral    = "kustomize-literal"      // a literal of a secretGenerator
	RuleFile       = "kustomize-file"         // a file, or a line of one, that a secretGenerator reads
	RuleSealingKey = "sealing-key"            // the private key by which SealedSecrets are opened
	RulePrivateKey = "private-key"            // gitleaks', and ours for one in base64
	RuleAgeKey     = "age-secret-key"         // gitleaks', and ours for one in base64, and of other kinds
	RuleRendered   = "rendered-secret"        // a value of a rendered Secret that stands in a file
	RuleUnsearched = "unsearched"             // a file that is too large to be searched
	Version        = "gitleaks-8.30.1/2"      // of all rules: what was found under another is searched again
	maxFile        = 2 << 20                  // bytes of a file that are searched
	maxFindings    = 100                      // of one file that are told
	generic        = "generic-api-key"        // gitleaks' rule that goes by entropy alone
	inlineAllow    = "gitleaks:allow"         // gitleaks' word for a line that is allowed
	kubernetesYAML = "kubernetes-secret-yaml" // gitleaks' rule that ours stands for
)

// Finding is a place where a secret value stands for everybody to read.
type Finding struct {
	File   string `json:"file"`
	Line   int    `json:"line"`   // 1-based
	Column int    `json:"column"` // 1-based, in characters
	Rule   string `json:"rule"`
	// Description says what the rule found, for people.
	Description string `json:"description"`
	// Fingerprint is the same in every commit. It comes of the rule, the path and the
	// value, keyed by the salt of the repository; without a salt of the rule, the path,
	// and how many findings of the rule are before it in the file.
	Fingerprint string `json:"fingerprint"`
	// Inline: its line says "gitleaks:allow".
	Inline bool `json:"inline,omitempty"`
	// Blob is the digest of the file in which it is.
	Blob tree.Digest `json:"-"`
}

// Look finds the file at a path beside the file of an index in a search: in the same
// tree. It reports false if there is none.
type Look func(from int, path string) (File, bool)

// File is one that may be searched.
type File struct {
	Path   string
	Digest tree.Digest // of its content
	// Read returns its content; a *fault.Error of kind Limit if it is larger than limit.
	// Several files of a search may be read at once.
	Read func(limit int64) ([]byte, error)
}

// Sort orders findings by file, line, column and rule.
func Sort(all []Finding) {
	slices.SortFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Rule, b.Rule))
	})
}
