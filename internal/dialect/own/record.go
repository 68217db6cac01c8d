package own

import (
	"maps"
	"slices"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// inForce are the entries of the policies that are there when the process begins:
// what changed while it did not run shows against those before. Those of which the
// keys are being read are told of when they have been. o.mu is held.
func (o *Own) inForce() []audit.Entry {
	var entries []audit.Entry
	for _, name := range slices.Sorted(maps.Keys(o.objects)) {
		p := o.objects[name]
		p.what = "in force at the start"
		if !p.Waiting {
			entries = append(entries, o.entry(p.kept, p.what, p.by, p.stands()))
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
