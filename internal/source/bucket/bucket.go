// Package bucket fetches the objects of a bucket as a tree: of Amazon's S3, and of what
// speaks like it (https://docs.aws.amazon.com/AmazonS3/latest/API/). Nothing proves who
// wrote an object, so that a policy which demands a signature refuses every bucket.
package bucket

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"golang.org/x/sync/errgroup"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/reach"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// What one fetch may take from a server.
const (
	maxListing = 8 << 20 // of a thousand keys
	timeout    = 2 * time.Minute
	together   = 8 // objects that are sent at once
	tries      = 2 // to read a bucket that changes meanwhile
)

// defaultLimits are those of a tree that is made of a bucket.
var defaultLimits = tree.Limits{FileBytes: 4 << 20, TotalBytes: 32 << 20, Count: 5000}

// Options are what a fetcher works with.
type Options struct {
	// AllowLinkLocal permits servers at link-local addresses.
	AllowLinkLocal bool
	// Limits bound a tree. Zero: 4 MiB a file, 32 MiB in all, 5,000 files.
	Limits tree.Limits
	Now    func() time.Time // nil: the machine's clock
	// Transport replaces the network; for tests.
	Transport http.RoundTripper
}

// Fetcher is a [source.Fetcher] for buckets. It is safe for concurrent use.
type Fetcher struct {
	options Options
	recent  *source.Recent[answer]
}

// answer is what is kept of a fetch.
type answer struct {
	objects map[string]object
	id      string
	tree    tree.Tree
}

// object is one object, in one state.
type object struct {
	etag    string
	size    int64
	content []byte
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

// Fetch implements [source.Fetcher] for the URLs that [source.ParseBucket] reads; the ref
// must be empty. Username and Password of the credential are the access key and its
// secret. The files of the tree are named as the objects are, prefix included; objects
// that end in a slash are none. The revision's Commit are the digits of a digest of names
// and contents; it has no history. Only objects whose ETag or size is another than before
// are sent again.
func (f *Fetcher) Fetch(ctx context.Context, req source.Request) (source.Revision, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	at, err := source.ParseBucket(req.URL)
	if err != nil {
		return source.Revision{}, err
	}
	if req.Ref != (source.Ref{}) {
		return source.Revision{}, fault.New(fault.Invalid, "a bucket has no branches, tags or digests")
	}
	b, err := f.open(at, req.Credential.Secret())
	if err != nil {
		return source.Revision{}, err
	}
	last, _ := f.recent.Get(req.Key())
	now, err := b.read(ctx, last)
	for n := 1; n < tries && errors.Is(err, errMoved); n++ {
		now, err = b.read(ctx, last)
	}
	if err != nil {
		return source.Revision{}, err
	}
	f.recent.Put(req.Key(), now)
	return source.Revision{Commit: now.id, Tree: now.tree, URL: source.NormalizeURL(at.URL())}, nil
}

// bucket is one bucket, for one fetch.
type bucket struct {
	at     source.Bucket
	client *s3.Client
	limits tree.Limits
}

func (f *Fetcher) open(at source.Bucket, s source.Secret) (*bucket, error) {
	base := f.options.Transport
	if base == nil {
		t, err := reach.Way{What: "the bucket", CA: s.CA, AllowLinkLocal: f.options.AllowLinkLocal}.Transport()
		if err != nil {
			return nil, err
		}
		t.IdleConnTimeout = time.Second // it is for one fetch, and the next is minutes away
		base = t
	}
	limits := f.options.Limits
	endpoint, bounded := "https://"+at.Endpoint, &reach.Bounded{
		Base: base, Work: "a bucket", Hint: "give it a certificate, or set insecure: true",
		MaxRequests: 4 * int64(limits.Count), MaxTotal: 2*limits.TotalBytes + int64(limits.Count)*maxListing/1000 + maxListing,
		MaxAnswer: func(*http.Request) int64 { return max(limits.FileBytes, maxListing) },
	}
	if at.Clear {
		endpoint, bounded.Clear = "http://"+at.Endpoint, at.Endpoint
	}
	var who aws.CredentialsProvider = aws.AnonymousCredentials{}
	if s.Username != "" {
		who = credentials.NewStaticCredentialsProvider(s.Username, s.Password, "")
	}
	client := s3.New(s3.Options{
		Region: at.Region, BaseEndpoint: &endpoint, UsePathStyle: true, Credentials: who,
		// What redirects would be another place than the one that is permitted.
		HTTPClient: &http.Client{Transport: bounded, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		// What speaks like S3 often does not know its newer checksums.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
		RetryMaxAttempts:           2,
		AppID:                      "holdfast",
	})
	return &bucket{at, client, limits}, nil
}

// read lists the bucket, and reads what is not in last.
func (b *bucket) read(ctx context.Context, last answer) (answer, error) {
	listed, err := b.list(ctx)
	if err != nil {
		return answer{}, err
	}
	if same(listed, last.objects) {
		return last, nil
	}
	objects := make([]object, len(listed))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(together)
	for i, l := range listed {
		if had, ok := last.objects[l.key]; ok && had.etag == l.etag && had.size == l.size {
			objects[i] = had
			continue
		}
		g.Go(func() (err error) {
			objects[i], err = b.get(ctx, l)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return answer{}, err
	}
	return assemble(listed, objects, b.limits)
}

// same reports whether what is listed is what was read before.
func same(listed []listing, last map[string]object) bool {
	if len(last) != len(listed) {
		return false
	}
	for _, l := range listed {
		if had, ok := last[l.key]; !ok || had.etag != l.etag || had.size != l.size {
			return false
		}
	}
	return true
}

// assemble makes a tree of objects, and a digest of it: of each name and content, in the
// order of the names.
func assemble(listed []listing, objects []object, limits tree.Limits) (answer, error) {
	made, all, sum := tree.NewBuilder(limits), map[string]object{}, sha256.New()
	for i, l := range listed {
		if err := made.File(l.key, objects[i].content); err != nil {
			return answer{}, err
		}
		all[l.key] = objects[i]
		fmt.Fprintf(sum, "%q %x\n", l.key, sha256.Sum256(objects[i].content))
	}
	return answer{objects: all, id: hex.EncodeToString(sum.Sum(nil)), tree: made.Tree()}, nil
}

// listing is an object, as a list of the bucket has it.
type listing struct {
	key, etag string
	size      int64
}

// list lists the objects that count, in the order of their keys. Errors: Limit, and those
// of [bucket.told].
func (b *bucket) list(ctx context.Context) ([]listing, error) {
	var all []listing
	size := int64(0)
	pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{Bucket: &b.at.Name, Prefix: &b.at.Prefix},
		func(o *s3.ListObjectsV2PaginatorOptions) { o.StopOnDuplicateToken = true })
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, b.told("", err)
		}
		for _, o := range page.Contents {
			l := listing{aws.ToString(o.Key), aws.ToString(o.ETag), aws.ToInt64(o.Size)}
			if strings.HasSuffix(l.key, "/") && l.size == 0 { // what consoles make for a directory
				continue
			}
			if !strings.HasPrefix(l.key, b.at.Prefix) || l.etag == "" || l.size < 0 {
				return nil, fault.New(fault.Unreachable, "the bucket lists what was not asked for, or without its ETag")
			}
			if size += l.size; l.size > b.limits.FileBytes || size > b.limits.TotalBytes || len(all) == b.limits.Count {
				return nil, fault.New(fault.Limit, "more than %d objects, %d bytes in one, or %d in all", b.limits.Count, b.limits.FileBytes, b.limits.TotalBytes).
					At(bounded(l.key), 0).WithHint("keep policies below a prefix of their own, and name it")
			}
			all = append(all, l)
		}
	}
	if len(all) == 0 {
		return nil, fault.New(fault.NotFound, "the bucket %s holds nothing with the prefix %q", b.at.Name, b.at.Prefix)
	}
	return all, nil
}

// errMoved is why an object was not what had been listed.
var errMoved = errors.New("it changed meanwhile")

// get reads an object as it was listed. Errors: Unreachable because of errMoved, and those of
// [bucket.told].
func (b *bucket) get(ctx context.Context, l listing) (object, error) {
	res, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.at.Name, Key: &l.key, IfMatch: &l.etag})
	if err != nil {
		return object{}, b.told(l.key, err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(io.LimitReader(res.Body, l.size+1))
	if err != nil {
		return object{}, b.told(l.key, err)
	}
	if int64(len(content)) != l.size || aws.ToString(res.ETag) != l.etag {
		return object{}, moved(l.key)
	}
	return object{l.etag, l.size, content}, nil
}

func moved(key string) error {
	return fault.New(fault.Unreachable, "the object is another than the bucket listed").At(bounded(key), 0).
		WithHint("the bucket is read again").Because(errMoved)
}

// bounded is a key as far as it fits into a message.
func bounded(key string) string { return strings.ToValidUTF8(key[:min(len(key), 200)], "") }

// told says what went wrong, and what to do.
func (b *bucket) told(key string, err error) error {
	if own, ok := errors.AsType[*fault.Error](err); ok {
		return own
	}
	at := bounded(key)
	status := 0
	if res, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		status = res.HTTPStatusCode()
	}
	code := ""
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		code = bounded(api.ErrorCode())
	}
	switch {
	case code == "NoSuchBucket":
		return fault.New(fault.NotFound, "there is no bucket %s at %s", b.at.Name, b.at.Endpoint)
	case code == "NoSuchKey" || status == http.StatusPreconditionFailed:
		return moved(key)
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		return fault.New(fault.Unauthorized, "the bucket %s may not be read: %s", b.at.Name, code).At(at, 0).
			WithHint("name a Secret with accesskey and secretkey that has s3:ListBucket and s3:GetObject in secretRef").Because(err)
	case code == "AuthorizationHeaderMalformed" || status >= 300 && status < 400:
		return fault.New(fault.Invalid, "the bucket %s is elsewhere: %s answers %d", b.at.Name, b.at.Endpoint, status).
			WithHint("write its own endpoint and region; redirects are not followed").Because(err)
	case status != 0:
		return fault.New(fault.Unreachable, "the bucket %s answers %d %s", b.at.Name, status, code).At(at, 0).WithHint("it is asked again by itself").Because(err)
	}
	return fault.New(fault.Unreachable, "the bucket at %s %s", b.at.Endpoint, reach.Cause(err)).At(at, 0).
		WithHint("it is asked again by itself; check the endpoint, the network and its certificate authority").Because(err)
}
