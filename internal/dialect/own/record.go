package own

import (
	"fmt"
	"maps"
	"slices"
	"time"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// entry is what the audit log holds of a change of a policy. Who made it is what a
// field manager says of itself.
func (o *Own) entry(p *current, what string, by []audit.Person) audit.Entry {
	e := audit.Entry{
		Time: o.now(), Action: audit.Policy,
		Delivery: name(api.TrustPolicyKind, "", p.object.GetName()), UID: string(p.object.GetUID()), Who: by,
	}
	e.Reason = fmt.Sprintf("%s: generation %d, %s", what, p.object.GetGeneration(), p.stands())
	return e
}

// inForce are the entries of the policies that are there when the process begins:
// what changed while it did not run shows against those before. Those of which the
// keys are being read are told of when they have been. o.mu is held.
func (o *Own) inForce() []audit.Entry {
	var entries []audit.Entry
	for _, name := range slices.Sorted(maps.Keys(o.policies)) {
		p := o.policies[name]
		p.what = "in force at the start"
		if !p.Waiting {
			entries = append(entries, o.entry(p, p.what, p.by))
		}
	}
	return entries
}

// stands says what a policy does, and identifies what it demands.
func (c Compiled) stands() string {
	mode := api.ModeEnforce
	if c.Policy.Audit {
		mode = api.ModeAudit
	}
	if c.Policy.Broken != "" {
		mode += ", broken"
	}
	return mode + ", demands " + trust.NewDemands(c.Policy).Version
}

func (o *Own) now() time.Time {
	if o.env.Clock == nil {
		return time.Now()
	}
	return o.env.Clock()
}
