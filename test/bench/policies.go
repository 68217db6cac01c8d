package main

import (
	"context"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// applyPolicies makes the PolicySet of -policies: what a first sync costs with it and
// without it is what judging costs.
func (b *bench) applyPolicies(ctx context.Context) error {
	if b.policies == "" {
		return nil
	}
	text, err := os.ReadFile(b.policies)
	if err != nil {
		return err
	}
	set := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(text, &set.Object); err != nil {
		return err
	}
	return b.client.Create(ctx, set)
}
