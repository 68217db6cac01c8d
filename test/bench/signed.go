package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/test/gitserver"
)

// signCommits adds commits to the fleet's repository that ssh-keygen has signed, and
// demands a signature of each one since the first, which is trusted by name. What a
// first sync costs with them, and with -demand=false, is what verification costs.
func (b *bench) signCommits(ctx context.Context) error {
	if b.signed == 0 {
		return nil
	}
	root, err := b.repo.Head()
	if err != nil {
		return err
	}
	key := filepath.Join(b.dir, "signer")
	if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		return fmt.Errorf("ssh-keygen: %w\n%s", err, out)
	}
	for i := range b.signed {
		if err := b.signCommit(key, i); err != nil {
			return err
		}
	}
	if !b.demand {
		return nil
	}
	return b.demandSignatures(ctx, key+".pub", root)
}

func (b *bench) signCommit(key string, i int) error {
	parent, err := b.repo.Head()
	if err != nil {
		return err
	}
	unsigned, err := b.repo.Commit("note", gitserver.Put("notes", fmt.Sprint(i)))
	if err != nil {
		return err
	}
	id, err := b.repo.Git("-c", "gpg.format=ssh", "-c", "user.signingkey="+key, "-c", "user.name=Signer", "-c", "user.email=signer@example.com",
		"commit-tree", "-S", unsigned+"^{tree}", "-p", parent, "-m", "note")
	if err != nil {
		return err
	}
	return b.repo.Set(strings.TrimSpace(id))
}

func (b *bench) demandSignatures(ctx context.Context, public, root string) error {
	line, err := os.ReadFile(filepath.Clean(public))
	if err != nil {
		return err
	}
	policy := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"commits": map[string]any{
		"verify": "range",
		"from":   []any{map[string]any{"repository": b.repo.URL(), "commit": root}},
		"authorities": []any{map[string]any{
			"name": "people", "ssh": map[string]any{"inline": "signer@example.com " + string(line)},
		}},
	}}}}
	policy.SetGroupVersionKind(schema.GroupVersionKind{Group: "holdfast.dev", Version: "v1alpha1", Kind: "TrustPolicy"})
	policy.SetName("signed")
	return b.client.Create(ctx, policy)
}
