package source

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
)

func TestParseArtifact(t *testing.T) {
	tests := []struct {
		reason, url string
		want        Artifact
		kind        fault.Kind // of the error, if there is no host
	}{
		{"an artifact", "oci://registry.example/team/policies", Artifact{Host: "registry.example", Repository: "team/policies"}, 0},
		{"with a port", "oci://registry.example:5000/a", Artifact{Host: "registry.example:5000", Repository: "a"}, 0},
		{"by IPv6", "oci://[::1]:5000/a", Artifact{Host: "[::1]:5000", Repository: "a"}, 0},
		{"without TLS", "oci+http://registry.example/a", Artifact{Host: "registry.example", Repository: "a", Clear: true}, 0},
		{"a tag has a field of its own", "oci://registry.example/a:v1", Artifact{}, fault.Invalid},
		{"so has a digest", "oci://registry.example/a@sha256:00", Artifact{}, fault.Invalid},
		{"a password", "oci://ann:secret-word@registry.example/a", Artifact{}, fault.Refused},
		{"no repository", "oci://registry.example/", Artifact{}, fault.Invalid},
		{"capital letters", "oci://registry.example/Team", Artifact{}, fault.Invalid},
		{"a step up", "oci://registry.example/team/../other", Artifact{}, fault.Invalid},
		{"an escaped one", "oci://registry.example/team/%2e%2e/other", Artifact{}, fault.Invalid},
		{"a query", "oci://registry.example/a?x=y", Artifact{}, fault.Invalid},
		{"no host", "oci:///a", Artifact{}, fault.Invalid},
		{"an option in place of a host", "oci://-x/a", Artifact{}, fault.Invalid},
		{"another scheme", "https://registry.example/a", Artifact{}, fault.Unsupported},
		{"what belongs to a terminal", "oci://registry.example/a\x1b", Artifact{}, fault.Invalid},
	}
	for _, tt := range tests {
		got, err := ParseArtifact(tt.url)
		if tt.want.Host == "" {
			if err == nil || fault.KindOf(err) != tt.kind || strings.Contains(err.Error(), "secret-word") {
				t.Errorf("%s: got %v", tt.reason, err)
			}
			continue
		}
		if err != nil || got != tt.want || got.URL() != tt.url {
			t.Errorf("%s: got %+v (%s), %v", tt.reason, got, got.URL(), err)
		}
	}
}

func TestBucketURLs(t *testing.T) {
	good := Bucket{Endpoint: "s3.example:9000", Name: "policies", Region: "eu-central-1", Prefix: "team a/ü?&#%/../x", Clear: true}
	if got, err := ParseBucket(good.URL()); err != nil || got != good {
		t.Errorf("%s is %+v, %v", good.URL(), got, err)
	}
	if at := NormalizeURL(good.URL()); at != "s3.example:9000/policies" {
		t.Errorf("patterns on repositories see %q", at)
	}
	tests := []struct {
		reason string
		change func(*Bucket)
		kind   fault.Kind
		text   string
	}{
		{"Google's", func(b *Bucket) { b.Endpoint = "storage.googleapis.com" }, fault.Unsupported, "Google Cloud Storage"},
		{"Azure's", func(b *Bucket) { b.Endpoint = "me.blob.core.windows.net:443" }, fault.Unsupported, "Azure Blob Storage"},
		{"a URL in place of a host", func(b *Bucket) { b.Endpoint = "https://s3.example" }, fault.Invalid, "endpoint"},
		{"a path behind it", func(b *Bucket) { b.Endpoint = "s3.example/x" }, fault.Invalid, "endpoint"},
		{"a password before it", func(b *Bucket) { b.Endpoint = "ann:secret-word@s3.example" }, fault.Invalid, "endpoint"},
		{"no endpoint", func(b *Bucket) { b.Endpoint = "" }, fault.Invalid, "endpoint"},
		{"a path as name", func(b *Bucket) { b.Name = "../other" }, fault.Invalid, "name of a bucket"},
		{"another bucket behind it", func(b *Bucket) { b.Name = "a/b" }, fault.Invalid, "name of a bucket"},
		{"no name", func(b *Bucket) { b.Name = "" }, fault.Invalid, "name of a bucket"},
		{"no region", func(b *Bucket) { b.Region = "" }, fault.Invalid, "region"},
		{"a long prefix", func(b *Bucket) { b.Prefix = strings.Repeat("x", maxPrefix+1) }, fault.Invalid, "prefix"},
	}
	for _, tt := range tests {
		b := good
		tt.change(&b)
		if err := b.Check(); err == nil || fault.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "secret-word") {
			t.Errorf("%s: got %v", tt.reason, err)
		}
	}
}

// says is a fetcher that tells its name.
type says string

// Fetch implements Fetcher.
func (s says) Fetch(context.Context, Request) (Revision, error) {
	return Revision{Commit: string(s)}, nil
}

func TestSchemes(t *testing.T) {
	all := Schemes{Git: says("git"), OCI: says("oci"), Bucket: says("bucket")}
	for url, want := range map[string]string{
		"https://git.example/a": "git", "git@git.example:a": "git", "file:///a": "git",
		"oci://r.example/a": "oci", "OCI+http://r.example/a": "oci", "s3://s.example/abc": "bucket", "s3+http://s.example/abc": "bucket",
	} {
		if got, err := all.Fetch(t.Context(), Request{URL: url}); got.Commit != want || err != nil {
			t.Errorf("%s is fetched by %q, %v", url, got.Commit, err)
		}
	}
	if _, err := (Schemes{Git: says("git")}).Fetch(t.Context(), Request{URL: "oci://r.example/a"}); fault.KindOf(err) != fault.Unsupported {
		t.Errorf("what nobody fetches: %v", err)
	}
	// Who may name a Git repository may not reach a registry by its address.
	for _, url := range []string{"oci://r.example/a", "s3://s.example/abc?region=x"} {
		if err := CheckURL(url, true); fault.KindOf(err) != fault.Unsupported {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestRecent(t *testing.T) {
	now := time.Unix(1, 0)
	r := NewRecent[int](func() time.Time { return now })
	key := func(i int) Key { return Key{URL: strings.Repeat("x", i)} }
	r.Put(key(1), 1)
	if v, ok := r.Get(Key{URL: "x", CredentialID: "other"}); ok {
		t.Errorf("another credential sees %d", v)
	}
	for i := 2; i <= maxRecent+1; i++ {
		now = now.Add(time.Second)
		r.Put(key(i), i)
		r.Get(key(1))
	}
	if v, ok := r.Get(key(1)); !ok || v != 1 {
		t.Error("what is used stays")
	}
	if _, ok := r.Get(key(2)); ok || len(r.kept) > maxRecent {
		t.Errorf("what was not used for longest goes; %d are kept", len(r.kept))
	}
	now = now.Add(recentLife + time.Second)
	if _, ok := r.Get(key(1)); ok || len(r.kept) > 0 {
		t.Errorf("what nobody asked for goes; %d are kept", len(r.kept))
	}
}
