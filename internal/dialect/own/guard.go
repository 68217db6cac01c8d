package own

import (
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Guarding returns the sets by which to judge what others write into a namespace: those
// that would select a delivery of that namespace of which nothing else is known. Errors are
// *fault.Error of kind Waiting, as those of [PolicySets.Sets].
func (p *PolicySets) Guarding(namespace string) ([]policy.Set, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.selected(trust.Subject{Namespace: namespace})
}
