package delivery

import (
	"encoding/hex"
	"testing"

	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
)

// Digests are raw bytes in memory, and text in the log: JSON would replace the bytes
// that are no UTF-8, and what is left of them would prove nothing.
func TestDigestsAreText(t *testing.T) {
	spec := Spec{Revision: source.Revision{Tree: treetest.FromFiles(map[string][]byte{"a": []byte("1")})}}
	blob := tree.BlobDigest([]byte("1"))
	inputs := renderOf(spec, tree.Trace{{Op: tree.OpFile, Path: "a", Digest: blob}}).Inputs
	for name, text := range map[string]string{"of the tree": new(state).source(spec).Tree, "of a file": inputs["a"]} {
		if raw, err := hex.DecodeString(text); err != nil || len(raw) < 20 {
			t.Errorf("the digest %s is %q", name, text)
		}
	}
	if want := hex.EncodeToString([]byte(blob)); inputs["a"] != want {
		t.Errorf("the digest of a file is %q, want %q", inputs["a"], want)
	}
}
