package image

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// maxAttached bounds what is looked at of one tag, and of the referrers: the
// newest, which stand last.
const maxAttached = 64

// The media types of what signatures and attestations are kept in.
const (
	mediaSimple   = "application/vnd.dev.cosign.simplesigning.v1+json"
	mediaEnvelope = "application/vnd.dsse.envelope.v1+json"
	mediaBundle   = "application/vnd.dev.sigstore.bundle" // and a version
	mediaJWS      = "application/jose+json"
	mediaCOSE     = "application/cose"
)

// The annotations in which cosign keeps what belongs to a signature.
const (
	noteSignature = "dev.cosignproject.cosign/signature"
	noteCert      = "dev.sigstore.cosign/certificate"
	noteLog       = "dev.sigstore.cosign/bundle"
	noteTimestamp = "dev.sigstore.cosign/rfc3161timestamp"
	notePredicate = "dev.sigstore.bundle.predicateType"
	noteOldType   = "predicateType"
)

// artifact is one blob attached to an image, as its registry has it: nothing of it
// is verified yet.
type artifact struct {
	layout   string // tag, referrer or bundle
	manifest string // digest of the manifest that held it
	media    string
	blob     v1.Descriptor // with its annotations
	content  []byte
	target   v1.Descriptor // of the image; only for notation, which signs it whole
}

// String says where it was found, for messages.
func (a artifact) String() string {
	return fmt.Sprintf("%s (%s %s)", a.layout, a.media, short(a.blob.Digest.String()))
}

// wanted is what policies ask for of an image.
type wanted struct {
	claims map[string]bool // trust.Claim...
}

// predicate reports whether an attestation of this type may be asked for; one
// that says nothing of its type may.
func (w wanted) predicate(kind string) bool {
	return kind == "" || w.claims[claimOf(kind)]
}

// attached returns what is attached to n and wanted, from the tags of cosign and
// from the referrers, in this order. What could not be read is among the errors.
func (r *repository) attached(ctx context.Context, n object.ImageName, w wanted) ([]artifact, []error) {
	digest := r.Name.Digest(n.Digest)
	tag := strings.Replace(n.Digest, ":", "-", 1)
	sources := []func(context.Context) ([]artifact, []error){
		func(ctx context.Context) ([]artifact, []error) { return r.referrers(ctx, digest, w) },
	}
	if w.claims[trust.ClaimSignature] {
		sources = append(sources, func(ctx context.Context) ([]artifact, []error) { return r.inTag(ctx, tag+".sig", w) })
	}
	if len(w.claims) > 1 || !w.claims[trust.ClaimSignature] {
		sources = append(sources, func(ctx context.Context) ([]artifact, []error) { return r.inTag(ctx, tag+".att", w) })
	}
	var mu sync.Mutex
	var all []artifact
	var problems []error
	group, ctx := errgroup.WithContext(ctx)
	for _, source := range sources {
		group.Go(func() error {
			found, errs := source(ctx)
			mu.Lock()
			defer mu.Unlock()
			all, problems = append(all, found...), append(problems, errs...)
			return nil
		})
	}
	_ = group.Wait() // none returns an error; a problem of one leaves the others going
	slices.SortStableFunc(all, func(a, b artifact) int {
		return strings.Compare(b.layout+b.manifest, a.layout+a.manifest)
	})
	return all, problems
}

// inTag returns what the manifest of a tag holds; nothing if there is no such tag.
func (r *repository) inTag(ctx context.Context, tag string, w wanted) ([]artifact, []error) {
	found, err := r.Manifest(ctx, r.Name.Tag(tag))
	if err != nil {
		return nil, []error{err}
	}
	if found == nil {
		return nil, nil
	}
	return r.layers(ctx, found.Manifest, found.Digest.String(), "tag", w)
}

// referrers returns what refers to an image: by the registry's own list, or else
// by the tag that stands for it.
func (r *repository) referrers(ctx context.Context, digest name.Digest, w wanted) ([]artifact, []error) {
	index, err := remote.Referrers(digest, remote.WithContext(ctx), remote.Reuse(r.Puller))
	if err != nil {
		return nil, []error{r.Told(err)}
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, []error{fault.New(fault.Invalid, "the list of what refers to %s cannot be read", digest.DigestStr())}
	}
	listed := slices.DeleteFunc(slices.Clone(manifest.Manifests), func(d v1.Descriptor) bool { return !relevant(d, w) })
	var problems []error
	if len(listed) > maxAttached {
		problems = append(problems, tooMany(len(listed), "the referrers"))
		listed = listed[len(listed)-maxAttached:]
	}
	var all []artifact
	var target *v1.Descriptor
	for _, d := range listed {
		found, err := r.Manifest(ctx, r.Name.Digest(d.Digest.String()))
		if err != nil || found == nil {
			problems = append(problems, missing(err, d))
			continue
		}
		layers, errs := r.layers(ctx, found.Manifest, d.Digest.String(), "referrer", w)
		problems = append(problems, errs...)
		for _, a := range layers {
			if isNotation(a.media) {
				if target == nil {
					if target, err = r.Puller.Head(ctx, digest); err != nil {
						problems = append(problems, r.Told(err))
						break
					}
				}
				a.target = *target
			}
			all = append(all, a)
		}
	}
	return all, problems
}

func tooMany(n int, where string) error {
	return fault.New(fault.Limit, "%s hold %d signatures and attestations, and the last %d were looked at", where, n, maxAttached).
		WithHint("remove old ones")
}

func missing(err error, d v1.Descriptor) error {
	if err == nil {
		return fault.New(fault.NotFound, "a referrer is listed as %s, and the registry does not have it", d.Digest)
	}
	return err
}

// relevant reports whether a referrer may hold what is wanted, by what the list
// says of it. Some registries say nothing, or name the type of an empty config.
func relevant(d v1.Descriptor, w wanted) bool {
	switch kind := d.ArtifactType; {
	case strings.HasPrefix(kind, mediaBundle):
		return w.predicate(d.Annotations[notePredicate])
	case strings.HasPrefix(kind, "application/vnd.cncf.notary.signature"):
		return w.claims[trust.ClaimSignature]
	case kind == "", strings.HasPrefix(kind, "application/vnd.dev.cosign.artifact."),
		kind == "application/vnd.oci.empty.v1+json", kind == "application/vnd.oci.image.config.v1+json":
		return true
	}
	return false
}

func isNotation(media string) bool { return media == mediaJWS || media == mediaCOSE }

// layers returns the layers of a manifest that may hold what is wanted.
func (r *repository) layers(ctx context.Context, manifest []byte, digest, layout string, w wanted) ([]artifact, []error) {
	parsed, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return nil, []error{fault.New(fault.Invalid, "the manifest %s cannot be read", short(digest))}
	}
	var problems []error
	listed := parsed.Layers
	if len(listed) > maxAttached {
		problems = append(problems, tooMany(len(listed), "the layers of "+short(digest)))
		listed = listed[len(listed)-maxAttached:]
	}
	var all []artifact
	for _, d := range listed {
		media := string(d.MediaType)
		a := artifact{layout: layout, manifest: digest, media: media, blob: d}
		switch {
		case media == mediaSimple || isNotation(media):
			if !w.claims[trust.ClaimSignature] {
				continue
			}
		case strings.HasPrefix(media, mediaBundle):
			a.layout = "bundle"
			if !w.predicate(parsed.Annotations[notePredicate]) {
				continue
			}
		case media != mediaEnvelope || !w.predicate(d.Annotations[noteOldType]):
			continue
		}
		if a.content, err = r.Blob(ctx, d, maxBlob); err != nil {
			problems = append(problems, err)
			continue
		}
		all = append(all, a)
	}
	return all, problems
}
