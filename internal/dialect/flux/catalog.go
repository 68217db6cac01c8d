package flux

import (
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// catalog holds the newest revision of every GitRepository, so that deliveries
// start from it at once and need not wait until a status tells it.
type catalog struct {
	mu      sync.RWMutex
	entries map[types.NamespacedName]edition
}

// edition is what a GitRepository offers.
type edition struct {
	revision source.Revision // without a tree as long as nothing could be fetched
	label    string          // the revision as a status names it
	ignore   string          // what the tree was filtered by
	url      string          // of the repository, as the GitRepository names it
	err      *fault.Error    // why the newest state could not be had; nil if it could
}

// has reports whether there is something to deliver.
func (e edition) has() bool { return e.revision.Tree != nil }

// get returns the edition of a GitRepository; false if it was not looked at yet.
func (c *catalog) get(name types.NamespacedName) (edition, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, ok := c.entries[name]
	return e, ok
}

// publish makes a revision the newest; it reports false if it was already.
func (c *catalog) publish(name types.NamespacedName, e edition) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, ok := c.entries[name]
	if ok && old.has() && old.label == e.label && old.ignore == e.ignore && old.url == e.url {
		old.err = nil
		c.entries[name] = old
		return false
	}
	c.entries[name] = e
	return true
}

// fail notes why there is no newer revision; the last one stays. It reports
// whether those who have none to deliver should hear of it.
func (c *catalog) fail(name types.NamespacedName, err *fault.Error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, ok := c.entries[name]
	news := !ok || !old.has() && (old.err == nil || old.err.Error() != err.Error())
	old.err = err
	c.entries[name] = old
	return news
}

// drop forgets a GitRepository; it reports whether it was known.
func (c *catalog) drop(name types.NamespacedName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.entries[name]
	delete(c.entries, name)
	return ok
}

func newCatalog() *catalog { return &catalog{entries: map[types.NamespacedName]edition{}} }

// RevisionName renders a revision as Flux's clients know it: the branch, the tag
// or the full name of the ref that led to it, @sha1: and the commit; sha1:commit
// where it was asked for by commit alone.
func RevisionName(r source.Revision) string {
	algorithm := "sha1"
	if len(r.Commit) == 64 {
		algorithm = "sha256"
	}
	if ref := r.Ref(); ref != "" {
		return ref + "@" + algorithm + ":" + r.Commit
	}
	return algorithm + ":" + r.Commit
}

// parseRevision reads what RevisionName writes; empty strings if it cannot.
func parseRevision(s string) (ref, commit string) {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		ref, s = s[:i], s[i+1:]
	}
	_, commit, _ = strings.Cut(s, ":")
	return ref, commit
}
