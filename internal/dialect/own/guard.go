package own

import (
	"maps"
	"slices"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Guarding returns the sets by which to judge what others write into a namespace: those
// that would select a delivery of that namespace of which nothing else is known. Errors are
// *fault.Error of kind Waiting, as those of [PolicySets.Sets].
func (p *PolicySets) Guarding(namespace string) ([]policy.Set, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.known {
		return nil, fault.New(fault.Waiting, "the PolicySets are not known yet")
	}
	var sets []policy.Set
	for _, name := range slices.Sorted(maps.Keys(p.sets)) {
		c := p.sets[name]
		if !c.Selects(trust.Subject{Namespace: namespace}) {
			continue
		}
		if c.waiting != "" {
			return nil, fault.New(fault.Waiting, "PolicySet %s: %s has not been read yet", name, c.waiting)
		}
		sets = append(sets, c.now)
	}
	return sets, nil
}
