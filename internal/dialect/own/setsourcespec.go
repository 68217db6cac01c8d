package own

import (
	"cmp"
	"crypto/sha256"
	"path"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// setSource compiles where policies are kept.
func (c *compiler) setSource(field string, in *api.PolicySource) SetSource {
	out := SetSource{Path: strings.Trim(path.Clean("/"+in.Path), "/"), Interval: defaultInterval}
	c.exactlyOne(field, "git, gitRepositoryRef, oci and bucket", in.Git != nil, in.GitRepositoryRef != nil, in.OCI != nil, in.Bucket != nil)
	if in.GitRepositoryRef != nil {
		out.Repository = c.objectRef(field+".gitRepositoryRef", in.GitRepositoryRef)
	}
	if in.Git != nil {
		c.git(field+".git", in.Git, &out)
	}
	if in.OCI != nil {
		c.oci(field+".oci", in.OCI, &out)
	}
	if in.Bucket != nil {
		c.bucket(field+".bucket", in.Bucket, &out)
	}
	return out
}

func (c *compiler) git(field string, in *api.GitSource, out *SetSource) {
	switch {
	case source.IsArtifact(in.URL):
		c.problemf(ReasonInvalid, "%s.url: it is the address of an artifact; name it in oci", field)
	case source.IsBucket(in.URL):
		c.problemf(ReasonInvalid, "%s.url: it is the address of a bucket; name it in bucket", field)
	case source.NormalizeURL(in.URL) == "":
		c.problemf(ReasonInvalid, "%s.url: it is no address of a repository", field)
	}
	r := in.Ref
	out.URL, out.Ref = in.URL, source.Ref{Branch: r.Branch, Tag: r.Tag, SemVer: r.SemVer, Commit: r.Commit}
	if more(cmp.Or(r.Commit, r.Branch), r.Tag, r.SemVer) {
		c.problemf(ReasonInvalid, "%s.ref: set one of branch, tag, semver and commit; a commit may stand beside its branch", field)
	}
	c.polled(field, in.SecretRef, in.Interval, out)
}

func (c *compiler) oci(field string, in *api.OCISource, out *SetSource) {
	at, err := source.ParseArtifact(in.URL)
	switch {
	case err != nil:
		c.problemf(ReasonInvalid, "%s.url: %s", field, fault.From(err))
	case at.Clear: // it is written in one place
		c.problemf(ReasonInvalid, "%s.url: write oci://, and insecure: true for a registry without TLS", field)
	}
	at.Clear = in.Insecure
	digest, known := strings.CutPrefix(in.Ref.Digest, "sha256:")
	if in.Ref.Digest != "" && (!known || len(digest) != sha256.Size*2 || !commitID.MatchString(digest)) {
		c.problemf(ReasonInvalid, "%s.ref.digest: %q is no digest; write sha256: and 64 hexadecimal digits", field, in.Ref.Digest)
	}
	if more(in.Ref.Tag, in.Ref.SemVer, in.Ref.Digest) {
		c.problemf(ReasonInvalid, "%s.ref: set one of tag, semver and digest", field)
	}
	out.Place, out.Ref = at.URL(), source.Ref{Tag: in.Ref.Tag, SemVer: in.Ref.SemVer, Commit: digest}
	c.polled(field, in.SecretRef, in.Interval, out)
}

func (c *compiler) bucket(field string, in *api.BucketSource, out *SetSource) {
	at := source.Bucket{Endpoint: in.Endpoint, Name: in.Name, Region: cmp.Or(in.Region, defaultRegion), Prefix: in.Prefix, Clear: in.Insecure}
	if err := at.Check(); err != nil {
		c.problemf(ReasonInvalid, "%s: %s", field, fault.From(err))
	}
	out.Place = at.URL()
	c.polled(field, in.SecretRef, in.Interval, out)
}

// polled compiles what every source has that is asked by its address.
func (c *compiler) polled(field string, secret *api.ObjectRef, interval *metav1.Duration, out *SetSource) {
	if secret != nil {
		out.Secret = c.objectRef(field+".secretRef", secret)
	}
	if interval != nil {
		out.Interval = max(interval.Duration, minInterval)
	}
}

func (c *compiler) objectRef(field string, r *api.ObjectRef) types.NamespacedName {
	if r.Namespace == "" || r.Name == "" {
		c.problemf(ReasonInvalid, "%s: namespace and name are both needed", field)
	}
	return types.NamespacedName{Namespace: r.Namespace, Name: r.Name}
}

// more reports whether more than one text is set.
func more(texts ...string) bool {
	set := 0
	for _, text := range texts {
		if text != "" {
			set++
		}
	}
	return set > 1
}
