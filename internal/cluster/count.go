package cluster

import (
	"net/http"
	"strings"
	"sync/atomic"
)

// The verbs that requests are counted by.
var verbs = [...]string{"get", "list", "watch", "apply", "dry-run", "delete", "other"}

// counter counts requests by verb on their way out.
type counter struct {
	counts [len(verbs)]atomic.Int64
}

func (c *counter) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		c.counts[verb(r)].Add(1)
		return next.RoundTrip(r)
	})
}

func (c *counter) read() map[string]int {
	m := map[string]int{}
	for i, name := range verbs {
		if n := c.counts[i].Load(); n > 0 {
			m[name] = int(n)
		}
	}
	return m
}

// verb returns the index in verbs of a request's verb.
func verb(r *http.Request) int {
	switch r.Method {
	case http.MethodPatch:
		if strings.Contains(r.URL.RawQuery, "dryRun=") {
			return 4
		}
		return 3
	case http.MethodDelete:
		return 5
	case http.MethodGet:
		return readVerb(r)
	}
	return 6
}

func readVerb(r *http.Request) int {
	if strings.Contains(r.URL.RawQuery, "watch=") {
		return 2
	}
	// What tells a list by its URL is that it says how fresh it must be.
	if strings.Contains(r.URL.RawQuery, "resourceVersion=") || strings.Contains(r.URL.RawQuery, "limit=") {
		return 1
	}
	return 0
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
