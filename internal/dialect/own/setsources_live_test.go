package own

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	imagename "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/source/bucket"
	"github.com/holdfastcd/holdfast/internal/source/oci"
	"github.com/holdfastcd/holdfast/test/stores"
)

// switched is a server that can be off.
type switched struct {
	http.Handler

	off atomic.Bool
}

// ServeHTTP implements http.Handler.
func (s *switched) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.off.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	s.Handler.ServeHTTP(w, r)
}

// pushPolicy pushes an artifact with one policy, as flux push artifact does.
func pushPolicy(t *testing.T, tag, text string) {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: "p/a.rego", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	for _, c := range []io.Closer{w, z} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	made, err := mutate.AppendLayers(empty.Image, static.NewLayer(out.Bytes(), "application/vnd.cncf.flux.content.v1.tar+gzip"))
	if err != nil {
		t.Fatal(err)
	}
	at, err := imagename.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(at, made); err != nil {
		t.Fatal(err)
	}
}

// again has a source be read at once: a test does not wait for its interval.
func (r *setRig) again(t *testing.T, address string) {
	t.Helper()
	r.sets.env.Hub.Refresh(address)
	r.sets.All()
}

// TestLivePolicyPlaces follows an artifact and a bucket: they change, go away, and come
// back.
func TestLivePolicyPlaces(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs a server of buckets")
	}
	server := &switched{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	front := httptest.NewServer(server)
	t.Cleanup(front.Close)
	artifact := strings.TrimPrefix(front.URL, "http://") + "/policies"
	buckets := stores.S3(t)
	within := buckets.Bucket(t)
	objects := s3.New(s3.Options{
		Region: "us-east-1", BaseEndpoint: &buckets.Endpoint, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(stores.AccessKey, stores.SecretKey, ""),
	})
	put := func(text string) {
		t.Helper()
		key := "p/b.rego"
		if _, err := objects.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &within, Key: &key, Body: strings.NewReader(text)}); err != nil {
			t.Fatal(err)
		}
	}
	r := newSetRig(t)
	r.sets.env.Hub = source.NewHub(source.Schemes{OCI: oci.New(oci.Options{}), Bucket: bucket.New(bucket.Options{})}, time.Now)
	r.sets.given.Credential = func(_ context.Context, url string, secret types.NamespacedName) (source.Credential, error) {
		if !source.IsBucket(url) {
			return source.Credential{}, fault.New(fault.Internal, "it is asked for %s", url)
		}
		return bucket.Credential(secret.String(), map[string][]byte{"accesskey": []byte(stores.AccessKey), "secretkey": []byte(stores.SecretKey)})
	}
	host := strings.TrimPrefix(buckets.Endpoint, "http://")
	pushPolicy(t, artifact+":v1", "one")
	put("two")
	r.write(t, r.ns, `{sources: [{oci: {url: "oci://`+artifact+`", ref: {tag: v1}, insecure: true}, path: p},
{bucket: {endpoint: "`+host+`", name: `+within+`, prefix: p/, secretRef: {namespace: a, name: b}, insecure: true}}]}`)
	r.run(t)
	judged := func(aim, first, second string) {
		t.Helper()
		r.judgedBy(t, aim, func(l []policy.Set) bool {
			d := l[0].Documents
			return len(d) == 2 && d[0].File == "p/a.rego" && string(d[0].Content) == first && d[1].File == "sources[1]/p/b.rego" && string(d[1].Content) == second
		})
	}
	judged("judged by both", "one", "two")
	pushPolicy(t, artifact+":v1", "three")
	put("four")
	r.again(t, "oci://"+artifact)
	r.again(t, "s3://"+host+"/"+within)
	judged("judged by what is there now", "three", "four")

	server.off.Store(true)
	buckets.Stop()
	r.again(t, "oci://"+artifact)
	r.again(t, "s3://"+host+"/"+within)
	r.awaitSet(t, r.ns, "to say that the registry is down", is("Stale", "True", ReasonSource, "answers 503"))
	r.awaitSet(t, r.ns, "to say that the bucket is, too", is("Stale", "True", ReasonSource, "bucket "+host+"/"+within+" cannot be had"))
	judged("judged by what was read before", "three", "four")

	server.off.Store(false)
	buckets.Start(t)
	pushPolicy(t, artifact+":v1", "five")
	r.offered.set("", "", nil, fault.New(fault.Refused, "policy p: it is not signed"))
	r.again(t, "oci://"+artifact)
	r.awaitSet(t, r.ns, "to say that it is not proven", is("Stale", "True", ReasonSource, "not signed"))
	judged("judged by what was proven before", "three", "four")
	r.offered.set("", "", nil, nil)
	r.again(t, "oci://"+artifact)
	judged("judged by the newest", "five", "four")
}
