package leak

import (
	"encoding/base64"
	"math"
	"regexp"
	"strings"
	"sync"

	"github.com/zricethezav/gitleaks/v8/config"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// hit is a value in a text.
type hit struct {
	rule, description string
	start, end        int    // of the value
	from, to          int    // of all that the rule matched
	value             string // never leaves the worker
}

// gitleaks returns the rules of gitleaks. They are compiled once, in a worker; its
// config package cannot be asked a third time (it counts how often it was).
var gitleaks = sync.OnceValues(func() (*config.Config, error) {
	asked := config.ViperConfig{Extend: config.Extend{UseDefault: true, DisabledRules: []string{kubernetesYAML}}}
	c, err := asked.Translate()
	if err != nil {
		return nil, fault.New(fault.Internal, "the rules of gitleaks cannot be read: %s", err)
	}
	if len(c.Rules) == 0 {
		return nil, fault.New(fault.Internal, "gitleaks has no rules")
	}
	return &c, nil
})

// byRules finds what the rules of gitleaks find in a text. It does what gitleaks'
// detector does for one fragment (detect/detect.go), without its archives, its
// decoding and its log.
func byRules(c *config.Config, path, text string) []hit {
	if pathAllowed(c.Allowlists, path) {
		return nil
	}
	lower := strings.ToLower(text)
	present := map[string]bool{}
	for word := range c.Keywords {
		present[word] = strings.Contains(lower, word)
	}
	var all []hit
	for _, rule := range c.GetOrderedRules() {
		if !concerns(&rule, path, present) {
			continue
		}
		if rule.Regex == nil { // a file that is a secret by its name
			all = append(all, hit{rule: rule.RuleID, description: rule.Description})
			continue
		}
		all = append(all, matches(c, &rule, path, text)...)
	}
	return all
}

// concerns reports whether a rule can find anything in a file.
func concerns(rule *config.Rule, path string, present map[string]bool) bool {
	if rule.SkipReport || rule.Path != nil && !rule.Path.MatchString(path) || pathAllowed(rule.Allowlists, path) {
		return false
	}
	for _, word := range rule.Keywords {
		if present[word] {
			return true
		}
	}
	return len(rule.Keywords) == 0
}

func matches(c *config.Config, rule *config.Rule, path, text string) []hit {
	var all []hit
	for _, m := range rule.Regex.FindAllStringIndex(text, -1) {
		h, ok := value(rule, text, m[0], m[1])
		if !ok || rule.Entropy > 0 && entropy(h.value) <= rule.Entropy {
			continue
		}
		if valueAllowed(c.Allowlists, path, text, h) || valueAllowed(rule.Allowlists, path, text, h) {
			continue
		}
		if rule.RuleID == generic && harmless(lines(text, h.from, h.from), text[h.from:h.start], h.value) {
			continue
		}
		all = append(all, h)
	}
	return all
}

// value picks the value from a match: the group that the rule names, or else the first
// that is not empty, or else all of it.
func value(rule *config.Rule, text string, from, to int) (hit, bool) {
	whole := text[from:to]
	from += len(whole) - len(strings.TrimLeft(whole, "\n"))
	whole = strings.Trim(whole, "\n")
	h := hit{rule: rule.RuleID, description: rule.Description, from: from, to: from + len(whole), start: from, end: from + len(whole), value: whole}
	groups := rule.Regex.FindStringSubmatchIndex(whole)
	for i := 1; i < len(groups)/2; i++ {
		if rule.SecretGroup > 0 && i != rule.SecretGroup {
			continue
		}
		if start, end := groups[2*i], groups[2*i+1]; end > start {
			h.start, h.end, h.value = from+start, from+end, whole[start:end]
			return h, true
		}
		if rule.SecretGroup > 0 {
			return h, false
		}
	}
	return h, true
}

// pathAllowed reports whether a list excuses all of a file.
func pathAllowed(lists []*config.Allowlist, path string) bool {
	for _, a := range lists {
		if a.MatchCondition == config.AllowlistMatchAnd && (len(a.Regexes) > 0 || len(a.StopWords) > 0 || len(a.Commits) > 0) {
			continue // that depends on the value, too
		}
		if a.PathAllowed(path) {
			return true
		}
	}
	return false
}

// valueAllowed reports whether a list excuses one value.
func valueAllowed(lists []*config.Allowlist, path, text string, h hit) bool {
	for _, a := range lists {
		target := h.value
		switch a.RegexTarget {
		case "match":
			target = text[h.from:h.to]
		case "line":
			target = lines(text, h.from, h.to)
		}
		matched := a.RegexAllowed(target)
		stopped, _ := a.ContainsStopWord(h.value)
		if a.MatchCondition != config.AllowlistMatchAnd {
			if matched || stopped {
				return true
			}
			continue
		}
		if len(a.Commits) == 0 && (len(a.Paths) == 0 || a.PathAllowed(path)) &&
			(len(a.Regexes) == 0 || matched) && (len(a.StopWords) == 0 || stopped) {
			return true
		}
	}
	return false
}

// lines returns the whole lines of a range.
func lines(text string, from, to int) string {
	start := strings.LastIndexByte(text[:from], '\n') + 1
	if end := strings.IndexByte(text[to:], '\n'); end >= 0 {
		return text[start : to+end]
	}
	return text[start:]
}

// entropy is Shannon's, in bits for each character.
func entropy(s string) float64 {
	counts := map[rune]int{}
	for _, r := range s {
		counts[r]++
	}
	sum := 0.0
	for _, n := range counts {
		f := float64(n) / float64(len(s))
		sum -= f * math.Log2(f)
	}
	return sum
}

// encodedKey is the beginning of a PEM block, or of an age key, in base64.
var encodedKey = regexp.MustCompile(`(?:LS0tLS1CRUdJTi|QUdFLVNFQ1JFVC1LRVkt)[A-Za-z0-9+/]{24,}`)

// laterAgeKey is an age key of a kind that gitleaks does not know yet, such as that for
// post-quantum recipients.
var laterAgeKey = regexp.MustCompile(`AGE-SECRET-KEY-[A-Z]{2,8}-1[A-Z0-9]{40,}`)

// byKeys finds private keys that gitleaks does not.
func byKeys(text string) []hit {
	var all []hit
	for _, m := range encodedKey.FindAllStringIndex(text, -1) {
		encoded := text[m[0]:m[1]]
		head, err := base64.StdEncoding.DecodeString(encoded[:min(len(encoded), 120)/4*4])
		if rule := keyRule(string(head)); err == nil && rule != "" {
			all = append(all, hit{rule: rule, description: "A private key in base64.", from: m[0], to: m[1], start: m[0], end: m[1], value: encoded})
		}
	}
	for _, m := range laterAgeKey.FindAllStringIndex(text, -1) {
		all = append(all, hit{
			rule: RuleAgeKey, description: "A secret key of age, by which files are opened that SOPS sealed.",
			from: m[0], to: m[1], start: m[0], end: m[1], value: text[m[0]:m[1]],
		})
	}
	return all
}

// keyRule names the rule for a text that holds a private key; "" if it holds none.
func keyRule(text string) string {
	switch {
	case strings.Contains(text, "AGE-SECRET-KEY-"):
		return RuleAgeKey
	case strings.Contains(text, "PRIVATE KEY-----"), strings.Contains(text, "PRIVATE KEY BLOCK-----"):
		return RulePrivateKey
	}
	return ""
}
