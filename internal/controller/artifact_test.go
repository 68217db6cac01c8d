package controller

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/internal/trust/commit"
	"github.com/holdfastcd/holdfast/internal/trust/image"
	"github.com/holdfastcd/holdfast/test/signing"
)

// TestPlacesAreVerified judges artifacts and buckets by what TrustPolicies demand.
func TestPlacesAreVerified(t *testing.T) {
	host := signing.Registry(t)
	signed, unsigned := signing.Push(t, host+"/policies/signed:v1"), signing.Push(t, host+"/policies/unsigned:v1")
	key := signing.NewKey(t)
	signing.Cosign(t, signed.Ref, signing.Options{By: signing.By{Key: key}})
	artifact := func(p signing.Pushed) source.Revision {
		return source.Revision{Commit: strings.TrimPrefix(p.Digest, "sha256:"), Artifact: p.Tag}
	}
	images := func(i trust.Images) trust.Policy {
		i.Authorities = []trust.Authority{{Name: "release", Key: key.Public}}
		return trust.Policy{Name: "p", Images: &i, Rewind: true}
	}
	moved := artifact(unsigned)
	moved.Artifact = signed.Tag
	bucket := source.Revision{Commit: strings.Repeat("a", 64)}
	commits := trust.Policy{Name: "p", Commits: &trust.Commits{Authorities: []trust.Authority{{Name: "me", Key: key.Public}}}}
	tests := []struct {
		reason string
		r      source.Revision
		p      trust.Policy
		want   string // "": it holds
	}{
		{"an artifact that is signed", artifact(signed), images(trust.Images{}), ""},
		{"one that is not", artifact(unsigned), images(trust.Images{}), "signed"},
		{"a tag that has moved since: the digest that was fetched counts", moved, images(trust.Images{}), "signed"},
		{"a tag, where a digest is demanded", artifact(signed), images(trust.Images{Pinned: true}), "by digest"},
		{"a place that is not permitted", artifact(signed), images(trust.Images{Allowed: []string{"ghcr.io/**"}}), "permitted"},
		{"images of others are demanded", artifact(unsigned), images(trust.Images{Match: []string{"ghcr.io/**"}}), ""},
		{"signed commits, of an artifact", artifact(signed), commits, "demands signed commits, and this source has none (deliver from a Git repository)"},
		{"signed commits, of a bucket", bucket, commits, "demands signed commits, and this source has none"},
		{"a history, of an artifact", artifact(signed), trust.Policy{Name: "p"}, "never rewound"},
		{"a history, of a bucket", bucket, trust.Policy{Name: "p"}, "never rewound"},
		{"what only audits", bucket, trust.Policy{Name: "p", Audit: true}, ""},
		{"a policy that is broken", bucket, trust.Policy{Name: "p", Rewind: true, Broken: "no key"}, "no key"},
		{"signed images, of a bucket: it is none", bucket, images(trust.Images{}), ""},
	}
	verifier, examiner := commit.New(commit.Options{}), image.New(image.Options{})
	for _, tt := range tests {
		d := trust.NewDemands(tt.p)
		_, err := verifier.Verify(t.Context(), tt.r, d, "")
		if err == nil {
			err = verifyArtifact(t.Context(), examiner, tt.r, d, time.Now())
		}
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.reason, err)
		case tt.want != "" && (fault.KindOf(err) != fault.Refused || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %q in it", tt.reason, err, tt.want)
		}
	}
}

func TestSourceCredential(t *testing.T) {
	secret := func(name string, data map[string]string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "u"}, Data: bytesOf(data)}
	}
	reader := fake.NewClientBuilder().WithObjects(
		secret("registry", map[string]string{".dockerconfigjson": `{"auths": {"r.example": {"username": "u", "password": "secret-word"}}}`}),
		secret("bucket", map[string]string{"accesskey": "u", "secretkey": "secret-word"}),
		secret("git", map[string]string{"username": "u", "password": "secret-word"}),
	).Build()
	tests := []struct {
		reason, url, name string
		ok                bool
		kind              fault.Kind
	}{
		{"a registry", "oci://r.example/a", "registry", true, 0},
		{"another registry", "oci://q.example/a", "registry", false, fault.Unauthorized},
		{"a bucket", "s3://s.example/abc?region=x", "bucket", true, 0},
		{"a bucket, by what is for a registry", "s3://s.example/abc?region=x", "registry", false, fault.Unauthorized},
		{"Git", "https://g.example/a", "git", true, 0},
		{"what is not there", "oci://r.example/a", "none", false, fault.NotFound},
	}
	for _, tt := range tests {
		c, err := sourceCredential(t.Context(), reader, tt.url, types.NamespacedName{Namespace: "ns", Name: tt.name})
		switch {
		case tt.ok && (err != nil || c.Secret().Password != "secret-word" || !strings.Contains(c.ID, "ns/"+tt.name+"@u:")):
			t.Errorf("%s: %s, %v", tt.reason, c, err)
		case !tt.ok && (err == nil || fault.KindOf(err) != tt.kind || strings.Contains(err.Error(), "secret-word")):
			t.Errorf("%s: got %v", tt.reason, err)
		}
	}
}

func bytesOf(texts map[string]string) map[string][]byte {
	all := map[string][]byte{}
	for key, text := range texts {
		all[key] = []byte(text)
	}
	return all
}
