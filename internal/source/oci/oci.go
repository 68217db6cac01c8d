// Package oci fetches artifacts from registries as trees: those of Flux
// (https://fluxcd.io/flux/cheatsheets/oci-artifacts/), an image or a bundle of one layer,
// and files that were pushed by name, as oras and conftest do
// (https://oras.land/docs/concepts/artifact). What proves who made one is not looked at
// here: that is package trust's.
package oci

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/reach"
	"github.com/holdfastcd/holdfast/internal/registry"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// What one fetch may take from a registry.
const (
	maxRequests = 200       // redirects and tries again included
	maxTotal    = 128 << 20 // bytes of all answers
	maxManifest = 4 << 20
	maxTags     = 10_000
	maxTag      = 128 // of the OCI distribution specification
	timeout     = 2 * time.Minute
)

// defaultLimits are those of a tree that is made of an artifact.
var defaultLimits = tree.Limits{FileBytes: 4 << 20, TotalBytes: 32 << 20, Count: 20_000}

// Options are what a fetcher works with.
type Options struct {
	// AllowLinkLocal permits registries at link-local addresses.
	AllowLinkLocal bool
	// Limits bound a tree; and the bytes that are sent for it. Zero: 4 MiB a file, 32 MiB
	// in all, 20,000 files.
	Limits tree.Limits
	Now    func() time.Time // nil: the machine's clock
	// Transport replaces the network; for tests.
	Transport http.RoundTripper
}

// Fetcher is a [source.Fetcher] for artifacts. It is safe for concurrent use.
type Fetcher struct {
	options Options
	recent  *source.Recent[answer]
}

// answer is what is kept of a fetch.
type answer struct {
	digest string
	tree   tree.Tree
}

// New returns a fetcher.
func New(o Options) *Fetcher {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Limits == (tree.Limits{}) {
		o.Limits = defaultLimits
	}
	return &Fetcher{options: o, recent: source.NewRecent[answer](o.Now)}
}

// Fetch implements [source.Fetcher] for the URLs that [source.ParseArtifact] reads. Of the
// ref, Commit (the hexadecimal digits of a digest of sha256), SemVer and Tag count, in
// this order; none: the tag latest. The revision's Commit are the digits of the digest of
// its manifest; it has no history. What did not change is not sent again.
func (f *Fetcher) Fetch(ctx context.Context, req source.Request) (source.Revision, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	at, err := source.ParseArtifact(req.URL)
	if err != nil {
		return source.Revision{}, err
	}
	repo, err := f.open(at, req.Credential.Secret())
	if err != nil {
		return source.Revision{}, err
	}
	ref, tag, err := resolve(ctx, repo, req.Ref)
	if err != nil {
		return source.Revision{}, err
	}
	found, err := repo.Manifest(ctx, ref)
	switch {
	case err != nil:
		return source.Revision{}, err
	case found == nil:
		return source.Revision{}, fault.New(fault.NotFound, "registry %s has no %s", at.Host, named(at, ref)).
			WithHint("push it, or correct the name; some registries answer so when credentials are missing")
	}
	sum := sha256.Sum256(found.Manifest)
	digest := hex.EncodeToString(sum[:])
	if req.Ref.Commit != "" && digest != req.Ref.Commit {
		return source.Revision{}, fault.New(fault.Refused, "registry %s answers for sha256:%s with something else: sha256:%s", at.Host, req.Ref.Commit, digest)
	}
	t, err := f.tree(ctx, repo, req, digest, found.Manifest)
	if err != nil {
		return source.Revision{}, err
	}
	artifact := at.Host + "/" + at.Repository
	if tag != "" {
		artifact += ":" + tag
	} else {
		artifact += "@sha256:" + digest
	}
	return source.Revision{Commit: digest, Tag: tag, Tree: t, URL: source.NormalizeURL(at.URL()), Artifact: artifact}, nil
}

func named(at source.Artifact, ref name.Reference) string {
	if d, ok := ref.(name.Digest); ok {
		return at.Repository + "@" + d.DigestStr()
	}
	return at.Repository + ":" + ref.Identifier()
}

// tree returns the tree of a manifest: that of the last time, if it is the same one.
func (f *Fetcher) tree(ctx context.Context, repo *registry.Repository, req source.Request, digest string, manifest []byte) (tree.Tree, error) {
	if last, ok := f.recent.Get(req.Key()); ok && last.digest == digest {
		return last.tree, nil
	}
	layers, err := layersOf(manifest)
	if err != nil {
		return nil, err
	}
	b := tree.NewBuilder(f.options.Limits)
	left := f.options.Limits.TotalBytes
	for _, l := range layers {
		content, err := repo.Blob(ctx, l.Descriptor, left)
		if err != nil {
			return nil, err
		}
		// The client has compared them; what is parsed below is nobody else's word.
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != l.Digest.Hex {
			return nil, fault.New(fault.Refused, "the registry answers for %s with something else", l.Digest)
		}
		left -= int64(len(content))
		if err := l.unpack(b, content); err != nil {
			return nil, err
		}
	}
	made := b.Tree()
	f.recent.Put(req.Key(), answer{digest, made})
	return made, nil
}

// open returns a repository, with a transport for one fetch. Errors: Invalid.
func (f *Fetcher) open(at source.Artifact, s source.Secret) (*registry.Repository, error) {
	base := f.options.Transport
	if base == nil {
		t, err := reach.Way{What: "the registry", CA: s.CA, AllowLinkLocal: f.options.AllowLinkLocal}.Transport()
		if err != nil {
			return nil, err
		}
		t.DisableKeepAlives = true // it is for one fetch, and the next is minutes away
		base = t
	}
	limits := f.options.Limits
	bounded := &reach.Bounded{
		Base: base, Work: "an artifact", MaxRequests: maxRequests, MaxTotal: maxTotal,
		Hint: "give it a certificate, or set insecure: true",
		MaxAnswer: func(r *http.Request) int64 {
			if strings.Contains(r.URL.Path, "/blobs/") {
				return limits.TotalBytes
			}
			return max(maxManifest, limits.TotalBytes) // blobs may lie elsewhere, under any name
		},
	}
	if at.Clear {
		bounded.Clear = at.Host
	}
	return registry.Open(at.Host+"/"+at.Repository, registry.Options{
		Transport: bounded, Username: s.Username, Password: s.Password, Clear: at.Clear,
		Hint: "name a Secret with a credential that may read it in secretRef",
	})
}

// resolve returns what to ask for, and the tag that it was found by, if it was by one.
func resolve(ctx context.Context, repo *registry.Repository, ref source.Ref) (name.Reference, string, error) {
	for _, text := range []string{ref.Branch, ref.Name, ref.Target} {
		if text != "" {
			return nil, "", fault.New(fault.Invalid, "an artifact is found by tag, semver or digest, not by %q", text)
		}
	}
	if ref.Commit != "" {
		if b, err := hex.DecodeString(ref.Commit); err != nil || len(b) != sha256.Size || strings.ToLower(ref.Commit) != ref.Commit {
			return nil, "", fault.New(fault.Invalid, "%q is no digest of sha256", ref.Commit)
		}
		return repo.Name.Digest("sha256:" + ref.Commit), "", nil
	}
	tag := cmp.Or(ref.Tag, "latest")
	if ref.SemVer != "" {
		var err error
		if tag, err = highest(ctx, repo, ref.SemVer); err != nil {
			return nil, "", err
		}
	}
	if _, err := name.NewTag(repo.Name.Name()+":"+tag, name.StrictValidation); err != nil {
		return nil, "", fault.New(fault.Invalid, "%.200q is no tag", tag)
	}
	return repo.Name.Tag(tag), tag, nil
}

// highest returns the tag of the highest version within a range. As in Flux, a tag that
// is not a whole version, with or without a leading v, is not looked at. Errors: Invalid,
// NotFound, Limit, and the registry's.
func highest(ctx context.Context, repo *registry.Repository, text string) (string, error) {
	within, err := semver.NewConstraint(text)
	if err != nil {
		return "", fault.New(fault.Invalid, "%q is not a range of versions", text).WithHint("write for instance 1.2.x, or >=1.0.0 <2.0.0")
	}
	lister, err := repo.Puller.Lister(ctx, repo.Name)
	if err != nil {
		return "", repo.Told(err)
	}
	var best *semver.Version
	found := ""
	for n := 0; lister.HasNext(); {
		page, err := lister.Next(ctx)
		if err != nil {
			return "", repo.Told(err)
		}
		if n += len(page.Tags); n > maxTags {
			return "", fault.New(fault.Limit, "the repository has more than %d tags", maxTags).WithHint("name a tag or a digest")
		}
		for _, tag := range page.Tags {
			if len(tag) > maxTag {
				continue
			}
			v, err := semver.StrictNewVersion(strings.TrimPrefix(tag, "v"))
			if err == nil && within.Check(v) && (best == nil || v.GreaterThan(best) || v.Equal(best) && tag > found) {
				best, found = v, tag
			}
		}
	}
	if found == "" {
		return "", fault.New(fault.NotFound, "no tag of the repository is a version within %q", text)
	}
	return found, nil
}

// parse reads a manifest of an image or an artifact.
func parse(manifest []byte) (*v1.Manifest, error) {
	m, err := v1.ParseManifest(bytes.NewReader(manifest))
	switch {
	case err != nil:
		return nil, fault.New(fault.Invalid, "the manifest cannot be read")
	case m.MediaType.IsIndex():
		return nil, fault.New(fault.Unsupported, "it is an index of several images, not an artifact").WithHint("name one of them by its digest")
	case m.SchemaVersion != 2 || len(m.Layers) == 0:
		return nil, fault.New(fault.Unsupported, "it is no artifact with layers of the OCI's second schema")
	}
	return m, nil
}
