package sealed

import "testing"

// A key that leaked is barred, and not the Secret that it was found in: a copy of it, as a
// backup brings it back, opens nothing either.
func TestCompromisedIsTheKey(t *testing.T) {
	k, err := newKeys(Options{})
	if err != nil {
		t.Fatal(err)
	}
	original, restored := secretKey(t, 0), secretKey(t, 0)
	restored.Name = "restored"
	k.noteSecret(t.Context(), original, false)
	k.noteSecret(t.Context(), restored, false)
	if len(k.ring.Load().keys) == 0 {
		t.Fatal("no key is at hand")
	}
	original.Labels[KeyLabel] = KeyCompromised
	k.noteSecret(t.Context(), original, false)
	if left := k.ring.Load().keys; len(left) != 0 {
		t.Errorf("the copy opens still: %v", left)
	}
	original.Labels[KeyLabel] = KeyActive
	k.noteSecret(t.Context(), original, false)
	if len(k.ring.Load().keys) == 0 {
		t.Error("whoever takes the word back has the key again")
	}
}
