package stores

import "testing"

// TestBuild builds the servers of buckets, so that no test waits for it (make audit-tools).
func TestBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes at the first time")
	}
	if _, err := build(); err != nil {
		t.Fatal(err)
	}
}
