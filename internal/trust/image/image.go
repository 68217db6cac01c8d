// Package image gathers evidence about images from their registries: the digest
// behind a name, and what is attached to it there, as far as somebody signed it
// whom a policy names. Whether that suffices is judged by package policy.
//
// It reads the signatures of cosign by key and keyless, in the tags
// sha256-*.sig and .att (https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md)
// and as sigstore bundles among the referrers of the OCI distribution
// specification, and those of notation
// (https://github.com/notaryproject/specifications). Nothing but registries is
// asked: roots of trust are part of the policy.
package image

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/trust"
)

const (
	// together is how many images one call examines at a time.
	together = 8
	// maxProblems bounds the lines that say why an image proves nothing.
	maxProblems = 16

	defaultTimeout = 60 * time.Second

	// How long what was found is believed: a digest never changes, but signatures
	// join it, tags move, and certificates expire.
	keepProven   = 10 * time.Minute
	keepUnproven = 15 * time.Second
	keepTag      = 15 * time.Second
)

// Options are what an examiner works with.
type Options struct {
	Clock func() time.Time // nil: the machine's
	Log   *slog.Logger     // nil: none
	// Transport replaces the network; for tests.
	Transport http.RoundTripper
	// AllowLinkLocal permits registries at link-local addresses.
	AllowLinkLocal bool
	// Timeout bounds the examination of one image; 0: a minute.
	Timeout time.Duration
}

// Examiner gathers evidence about images, and remembers it by digest and policy.
// It is safe for concurrent use.
type Examiner struct {
	options    Options
	transports cache[[32]byte, http.RoundTripper]
	judges     cache[string, *judges] // by the version of the demands
	tags       cache[string, string]  // by version and name: digests
	found      cache[string, finding] // by version and registry/repository@digest
	once       singleflight.Group
}

// finding is what is known of one digest.
type finding struct {
	proofs      []trust.Proof
	problems    []string
	unreachable bool
}

// New returns an examiner.
func New(o Options) *Examiner {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	return &Examiner{options: o}
}

// Examine returns what is found about the images of these names, in their order.
// pins are digests of names that were resolved before and still count: their
// registries are not asked what the names stand for now. Images that no policy of
// d is for come back with their names alone. What could not be found or verified
// is a problem of the image, not an error; the only error is ctx's.
func (e *Examiner) Examine(ctx context.Context, names []string, d trust.Demands, pins map[string]string) ([]trust.Image, error) {
	if d.Version == "" {
		d = trust.NewDemands(d.Policies...) // what is remembered, is by version
	}
	images := make([]trust.Image, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(together)
	for i, name := range names {
		group.Go(func() error {
			images[i] = e.examine(ctx, name, d, pins[name])
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fault.New(fault.Unreachable, "the examination of images was interrupted").Because(err)
	}
	return images, nil
}

// examine is [Examiner.Examine] for one image.
func (e *Examiner) examine(ctx context.Context, name string, d trust.Demands, pin string) trust.Image {
	img := trust.Image{Name: name}
	parsed, err := object.ParseImage(name)
	concerned := concern(parsed, err, d)
	if len(concerned) == 0 {
		return img
	}
	if err != nil {
		img.Problems = []string{err.Error()}
		return img
	}
	if parsed.Digest == "" {
		if parsed.Digest, err = e.resolve(ctx, parsed, d, pin); err != nil {
			img.Problems = []string{"its digest is unknown: " + err.Error()}
			img.Unreachable = passing(err)
			return img
		}
	}
	img.Digest, img.Pinned = parsed.Digest, parsed.String()
	f := e.evidence(ctx, parsed, d, concerned)
	// The cache's slices are shared; a reader may sort its own.
	img.Proofs, img.Problems, img.Unreachable = slices.Clone(f.proofs), slices.Clone(f.problems), f.unreachable
	return img
}

// concern returns the indices of the policies that are for an image. What cannot
// be read, of the image or the policy, is for all.
func concern(n object.ImageName, unreadable error, d trust.Demands) []int {
	var indices []int
	for i, p := range d.Policies {
		if p.Images != nil && (unreadable != nil || object.Concerns(p.Images.Match, n)) {
			indices = append(indices, i)
		}
	}
	return indices
}

// resolve returns the digest behind a name: the one it was pinned to, or what its
// registry says. Errors are *fault.Error.
func (e *Examiner) resolve(ctx context.Context, n object.ImageName, d trust.Demands, pin string) (string, error) {
	if pin != "" {
		if _, err := object.ParseImage(n.Repository + "@" + pin); err != nil {
			return "", fault.New(fault.Invalid, "it is remembered by %q, which is not a digest", pin)
		}
		return pin, nil
	}
	key := d.Version + " " + n.String()
	if digest, ok := e.tags.get(key, e.options.Clock()); ok {
		return digest, nil
	}
	digest, err := shared(ctx, &e.once, "tag "+key, e.options.Timeout, func(ctx context.Context) (string, error) {
		repo, err := e.open(n, d)
		if err != nil {
			return "", err
		}
		return repo.resolve(ctx, n.Tag)
	})
	if err == nil {
		e.tags.put(key, digest, e.options.Clock().Add(keepTag))
	}
	return digest, err
}

// evidence returns what is attached to a digest and proven, remembered for as
// long as it is believed.
func (e *Examiner) evidence(ctx context.Context, n object.ImageName, d trust.Demands, concerned []int) finding {
	j := e.judgesOf(d)
	wanted := j.wanted(concerned)
	if len(wanted.claims) == 0 {
		return finding{}
	}
	n.Tag = ""
	key := d.Version + " " + n.String()
	if f, ok := e.found.get(key, e.options.Clock()); ok {
		return f
	}
	f, err := shared(ctx, &e.once, key, e.options.Timeout, func(ctx context.Context) (finding, error) {
		f, until := e.prove(ctx, n, d, j, concerned)
		e.found.put(key, f, until)
		return f, nil
	})
	if err != nil {
		return finding{problems: []string{err.Error()}, unreachable: true}
	}
	return f
}

// prove gathers what is attached to n and verifies it for each policy that is
// concerned, and says until when the answer counts.
func (e *Examiner) prove(ctx context.Context, n object.ImageName, d trust.Demands, j *judges, concerned []int) (finding, time.Time) {
	now := e.options.Clock()
	began := time.Now()
	var f finding
	repo, err := e.open(n, d)
	if err != nil {
		f.problems = []string{err.Error()}
		return f, now.Add(keepUnproven)
	}
	attached, problems := repo.attached(ctx, n, j.wanted(concerned))
	for _, err := range problems {
		f.problems = append(f.problems, err.Error())
		f.unreachable = f.unreachable || passing(err)
	}
	until := now.Add(keepProven)
	for _, i := range concerned {
		p := j.policies[i].prove(ctx, attached, n, now)
		f.proofs, f.problems = append(f.proofs, p.proofs...), append(f.problems, p.problems...)
		if !p.until.IsZero() && p.until.Before(until) {
			until = p.until
		}
		if soon := now.Add(keepUnproven); !p.whole && soon.Before(until) {
			until = soon
		}
	}
	if len(attached) == 0 && len(f.problems) == 0 {
		f.problems = []string{fmt.Sprintf("no signature and no attestation is attached to %s (its registry was asked for tags and referrers): sign the image by this digest, with cosign sign or notation sign", n)}
	}
	f.problems = bound(f.problems)
	e.options.Log.Debug("examined an image", "image", n.String(), "attached", len(attached), "proofs", len(f.proofs), "took", time.Since(began))
	return f, until
}

// bound returns the first lines, each once.
func bound(lines []string) []string {
	var told []string
	for _, line := range lines {
		if !slices.Contains(told, line) {
			told = append(told, line)
		}
	}
	if more := len(told) - maxProblems; more > 0 {
		told = append(told[:maxProblems:maxProblems], fmt.Sprintf("and %d more", more))
	}
	return told
}

// passing reports whether what failed may go away without a change.
func passing(err error) bool {
	switch fault.KindOf(err) {
	case fault.Unreachable, fault.NotFound, fault.Unauthorized:
		return true
	default:
		return false
	}
}

// shared does work once for all who ask for it at the same time. It goes on when
// one of them gives up, and ends at its deadline. Errors are the work's, or ctx's.
func shared[T any](ctx context.Context, g *singleflight.Group, key string, limit time.Duration, work func(context.Context) (T, error)) (T, error) {
	result := g.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		return work(ctx)
	})
	var none T
	select {
	case r := <-result:
		if r.Err != nil {
			return none, r.Err
		}
		value, _ := r.Val.(T)
		return value, nil
	case <-ctx.Done():
		return none, fault.New(fault.Unreachable, "interrupted").Because(ctx.Err())
	}
}

// short is a digest as far as a person reads it.
func short(digest string) string {
	algorithm, hex, _ := strings.Cut(digest, ":")
	if len(hex) > 12 {
		hex = hex[:12]
	}
	return algorithm + ":" + hex
}
