package cli

import (
	"path/filepath"
	"strings"
	"testing"
)

// The example that everybody copies is what Holdfast itself would have: nothing is found
// in it by the standards for Pods.
func TestExampleIsClean(t *testing.T) {
	env := map[string]string{"XDG_CACHE_HOME": t.TempDir()}
	example := filepath.Join("..", "..", "examples", "fleet")
	code, out, errs := run(env, "", "check", example, "--builtin", "pod-security-baseline,pod-security-restricted,no-latest-tag,no-wildcard-rbac,no-plaintext-secret")
	if code != exitOK || out != "" || !strings.Contains(errs, "of 5 deliveries") {
		t.Errorf("%d: %s%s", code, out, errs)
	}
}
