package argo

import (
	"context"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// versionAge is how long the API server's version is taken for what it is.
const versionAge = 10 * time.Minute

// abilities knows what charts may ask about the cluster. Both parts are made again
// only when they may have changed, because every rendering of a chart depends on them.
type abilities struct {
	env *dialect.Env

	mu    sync.Mutex
	known render.Capabilities
	kinds schema.Kinds // that known was made from
	asked time.Time    // for the version
}

// get returns what the cluster serves now. While its version cannot be had, charts
// see that of the library that renders them, or the last one known.
func (a *abilities) get() render.Capabilities {
	if a.env.Engine == nil || a.env.Engine.Cluster == nil {
		return render.Capabilities{}
	}
	c := a.env.Engine.Cluster
	a.mu.Lock()
	defer a.mu.Unlock()
	if kinds := c.Kinds(); kinds != a.kinds {
		a.kinds, a.known.APIVersions = kinds, c.APIVersions()
	}
	if now := a.env.Clock(); now.Sub(a.asked) > versionAge {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		version, err := c.Version(ctx)
		if err != nil {
			a.env.Log.Warn("the version of the API server is not known", "error", err)
			return a.known
		}
		a.known.KubeVersion, a.asked = version, now
	}
	return a.known
}
