package dialect

import (
	"testing"

	"filippo.io/age"

	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/secret/sops"
)

// One pass may have read the Secrets before a key was taken out of them, and join them
// after another pass has read them again: what is kept must not have the key.
func TestJoinKeepsNoKeyThatIsGone(t *testing.T) {
	keysOf := func() *sops.Keys {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		keys, err := sops.Parse(map[string][]byte{"a.agekey": []byte(id.String())}, sops.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	at := labelled("argocd")
	old := map[string]keySecret{"k": {state: "1", keys: keysOf()}}
	now := map[string]keySecret{"k": {state: "2", keys: keysOf()}}
	d := NewDecryption(DecryptionOptions{})
	d.places[at] = &keyring{read: true, known: now, joined: map[string]secret.Opener{}}
	if got := d.join(at, old, "p"); got.ID() != old["k"].keys.ID() {
		t.Errorf("what was read opens: %s", got.ID())
	}
	for range 2 {
		if got := d.join(at, now, "p"); got.ID() != now["k"].keys.ID() {
			t.Errorf("the key that is gone is kept: %s, want %s", got.ID(), now["k"].keys.ID())
		}
	}
}
