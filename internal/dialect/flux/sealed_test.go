package flux_test

import (
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
	"github.com/holdfastcd/holdfast/test/sopsfile"
)

// A Secret that SOPS sealed is delivered opened, with the keys that the Kustomization
// names; that they are there, or change, brings the pass.
func TestSealedFiles(t *testing.T) {
	x := start(t).tenant(t)
	key, recipient := sopsfile.Key(t)
	next, nextRecipient := sopsfile.Key(t)
	first := x.commit(gitserver.Put("web/db.yaml", sopsfile.YAML(t, sopsfile.Secret("correct-horse"), recipient)))
	x.source()
	x.deliver("bare", map[string]any{"path": "./web"})
	x.await(kustomizations, "bare", "to be told what to add", is("Ready", "False", "BuildFailed", "set spec.decryption.provider to sops"))
	x.delete(kustomizations, "bare")
	x.await(kustomizations, "bare", "to be gone", harness.Gone)

	x.deliver("web", map[string]any{"decryption": map[string]any{"provider": "sops", "secretRef": map[string]any{"name": "keys"}}})
	x.await(kustomizations, "web", "to miss its keys", is("Ready", "False", "BuildFailed", "Secret "+x.namespace+"/keys, which is to hold the keys for sealed files, does not exist"))
	x.create(secrets, map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "keys"}, "stringData": map[string]any{"identity.agekey": key},
	})
	x.await(kustomizations, "web", "to be ready", applied(first))
	x.await(secrets, "db", "to be opened", harness.HasPassword("correct-horse"))

	// The key is rotated: first in Git, then in the cluster.
	second := x.push(gitserver.Put("web/db.yaml", sopsfile.YAML(t, sopsfile.Secret("battery-staple"), nextRecipient)))
	ks := x.await(kustomizations, "web", "to miss the new key", is("Ready", "False", "BuildFailed", "web/db.yaml"))
	if message, _ := conditionOf(ks, "Ready")["message"].(string); strings.Contains(message, "staple") || !strings.Contains(message, nextRecipient) {
		t.Errorf("the message does not name who can open it, or tells what is in it: %s", message)
	}
	x.await(secrets, "db", "to be as it was", harness.HasPassword("correct-horse"))
	x.patch(secrets, "keys", `{"stringData":{"next.agekey":"`+strings.TrimSpace(next)+`"}}`)
	x.await(kustomizations, "web", "to be ready", applied(second))
	x.await(secrets, "db", "to be opened", harness.HasPassword("battery-staple"))
}

// A name is one of the own namespace: another tenant's keys cannot be named.
func TestKeysOfAnotherNamespace(t *testing.T) {
	w := start(t)
	owner, thief := w.tenant(t), w.tenant(t)
	key, recipient := sopsfile.Key(t)
	owner.create(secrets, map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "keys"}, "stringData": map[string]any{"identity.agekey": key},
	})
	thief.commit(gitserver.Put("web/db.yaml", sopsfile.YAML(t, sopsfile.Secret("correct-horse"), recipient)))
	thief.source()
	thief.deliver("web", map[string]any{"decryption": map[string]any{"provider": "sops", "secretRef": map[string]any{"name": "keys"}}})
	thief.await(kustomizations, "web", "to miss its own keys", is("Ready", "False", "BuildFailed", "Secret "+thief.namespace+"/keys, which is to hold"))
	thief.deliver("path", map[string]any{"path": "./web", "decryption": map[string]any{"provider": "sops", "secretRef": map[string]any{"name": owner.namespace + "/keys"}}})
	thief.await(kustomizations, "path", "to find nothing by a path", is("Ready", "False", "BuildFailed", "does not exist"))
}
