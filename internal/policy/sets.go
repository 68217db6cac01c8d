package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
)

// Sets are the policies that one delivery is judged by: the sets that select it. The zero
// value judges nothing.
type Sets struct {
	List []Set // by name
	// Version identifies the sets with all that they hold; "" for none. What was judged
	// under another version is judged again.
	Version string
}

// NewSets returns sets in the order of their names, with their version.
func NewSets(sets ...Set) Sets {
	if len(sets) == 0 {
		return Sets{}
	}
	sorted := slices.SortedFunc(slices.Values(sets), func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	digest := sha256.New()
	enc := json.NewEncoder(digest)
	for i := range sorted {
		_ = enc.Encode(sorted[i]) //nolint:errchkjson,musttag // plain data; a hash takes every byte
	}
	return Sets{List: sorted, Version: hex.EncodeToString(digest.Sum(nil)[:16])}
}
