package engine

import (
	"regexp"
	"strconv"
	"strings"

	engineapi "github.com/kyverno/kyverno/pkg/engine/api"
)

// failedAt finds the path that Kyverno puts into its messages: the only place where it
// tells it.
var failedAt = regexp.MustCompile(`(?:failed at path|execution error at) (/\S*)`)

// path returns the field that a rule found wrong, as Kubernetes writes it; "" where
// Kyverno names none, or several.
func path(r *engineapi.RuleResponse) string {
	if checks := r.PodSecurityChecks(); checks != nil {
		for _, c := range checks.Checks {
			if c.CheckResult.ErrList != nil && len(*c.CheckResult.ErrList) > 0 {
				return (*c.CheckResult.ErrList)[0].Field
			}
		}
		return ""
	}
	m := failedAt.FindAllStringSubmatch(r.Message(), 2)
	if len(m) != 1 {
		return ""
	}
	return field(m[0][1])
}

// field writes /spec/containers/0/image/ as spec.containers[0].image.
func field(pointer string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(strings.Trim(pointer, "/"), "/") {
		switch _, err := strconv.Atoi(part); {
		case err == nil:
			b.WriteString("[" + part + "]")
		case b.Len() == 0:
			b.WriteString(part)
		default:
			b.WriteString("." + part)
		}
	}
	return b.String()
}
