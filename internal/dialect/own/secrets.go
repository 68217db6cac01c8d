package own

import (
	"regexp"
	"strings"
	"time"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/trust"
)

var fingerprinted = regexp.MustCompile(`\A[0-9a-f]{32}\z`)

// plaintext compiles what is demanded of secrets. That no entry is for longer than a
// year is judged with everything else that goes by the clock, when a delivery is.
func (c *compiler) plaintext(in *api.Secrets) *trust.Plaintext {
	if in == nil {
		return nil
	}
	if in.Plaintext != api.PlaintextRefuse {
		c.problemf(ReasonInvalid, "spec.secrets.plaintext: %q is not known; write Refuse", in.Plaintext)
	}
	out := &trust.Plaintext{Repository: in.HonorRepositoryAllowList}
	for i, a := range in.Allow {
		day, err := time.Parse(time.DateOnly, a.Expires)
		switch {
		case strings.TrimSpace(a.Path) == "", strings.TrimSpace(a.Rule) == "", strings.TrimSpace(a.Reason) == "":
			c.problemf(ReasonInvalid, "spec.secrets.allow[%d]: path, rule and reason are all needed", i)
		case err != nil:
			c.problemf(ReasonInvalid, "spec.secrets.allow[%d].expires: %q is no date; write it as 2006-01-02", i, a.Expires)
		case a.Fingerprint != "" && !fingerprinted.MatchString(a.Fingerprint):
			c.problemf(ReasonInvalid, "spec.secrets.allow[%d].fingerprint: %q is none", i, a.Fingerprint)
		}
		out.Allow = append(out.Allow, trust.Allowance{Path: a.Path, Rule: a.Rule, Fingerprint: a.Fingerprint, Reason: a.Reason, Expires: day})
	}
	return out
}
