package signing

import (
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry starts go-containerregistry's registry, with referrers, for the test,
// and returns its address, "127.0.0.1:port".
func Registry(tb testing.TB) string {
	tb.Helper()
	server := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	tb.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// Distribution starts the CNCF distribution registry, which has no referrers API
// (they are found by the tag that OCI 1.1 falls back to), and returns its address.
// It lives as long as the test binary.
func Distribution(tb testing.TB) string {
	tb.Helper()
	return ask(tb, map[string]any{"op": "registry"}).Host
}

// Pushed is an image in a registry.
type Pushed struct {
	Tag    string // registry/repository:tag
	Digest string // sha256:…
	Ref    string // registry/repository@sha256:…
}

// Push pushes a small image that no other push has as registry/repository:tag.
func Push(tb testing.TB, tag string) Pushed {
	tb.Helper()
	reference, err := name.NewTag(tag)
	if err != nil {
		tb.Fatal(err)
	}
	image, err := random.Image(64, 1)
	if err != nil {
		tb.Fatal(err)
	}
	if err := remote.Write(reference, image); err != nil {
		tb.Fatalf("push %s: %v", tag, err)
	}
	digest, err := image.Digest()
	if err != nil {
		tb.Fatal(err)
	}
	return Pushed{Tag: tag, Digest: digest.String(), Ref: reference.Context().Digest(digest.String()).String()}
}

// PushIndex pushes an image of two platforms, and returns the index.
func PushIndex(tb testing.TB, tag string) Pushed {
	tb.Helper()
	reference, err := name.NewTag(tag)
	if err != nil {
		tb.Fatal(err)
	}
	index, err := random.Index(64, 1, 2)
	if err != nil {
		tb.Fatal(err)
	}
	if err := remote.WriteIndex(reference, index); err != nil {
		tb.Fatalf("push %s: %v", tag, err)
	}
	digest, err := index.Digest()
	if err != nil {
		tb.Fatal(err)
	}
	return Pushed{Tag: tag, Digest: digest.String(), Ref: reference.Context().Digest(digest.String()).String()}
}
