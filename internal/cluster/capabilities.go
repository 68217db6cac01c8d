package cluster

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// APIVersions lists what the cluster serves now, as charts ask for it:
// group/version, and group/version/Kind; sorted, each once.
func (c *Cluster) APIVersions() []string {
	names := map[string]bool{}
	for gvk := range c.kinds.Load().served {
		gv := gvk.GroupVersion().String()
		names[gv], names[gv+"/"+gvk.Kind] = true, true
	}
	return slices.Sorted(maps.Keys(names))
}

// Version asks the API server for its version, such as v1.36.0. It fails with
// Unreachable, Unauthorized and Rejected.
func (c *Cluster) Version(ctx context.Context) (string, error) {
	body, err := c.plain.Get().AbsPath("/version").DoRaw(ctx)
	if err != nil {
		return "", explain(err, request{verb: "get"})
	}
	var v struct {
		GitVersion string `json:"gitVersion"`
	}
	if err := json.Unmarshal(body, &v); err != nil || v.GitVersion == "" {
		return "", fault.New(fault.Rejected, "the API server does not tell its version")
	}
	return v.GitVersion, nil
}
