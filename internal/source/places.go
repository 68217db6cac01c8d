package source

import (
	"context"
	"net/url"
	"regexp"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// The schemes of what is no Git repository. Those with +http are spoken to without TLS,
// which whoever names the source must have asked for.
const (
	schemeOCI         = "oci"
	schemeOCIClear    = "oci+http"
	schemeBucket      = "s3"
	schemeBucketClear = "s3+http"
)

// Schemes is a [Fetcher] that leaves each request to the one for its URL. One that is nil
// is not supported.
type Schemes struct {
	Git, OCI, Bucket Fetcher
}

// Fetch implements [Fetcher].
func (s Schemes) Fetch(ctx context.Context, req Request) (Revision, error) {
	f := s.Git
	switch schemeOf(req.URL) {
	case schemeOCI, schemeOCIClear:
		f = s.OCI
	case schemeBucket, schemeBucketClear:
		f = s.Bucket
	}
	if f == nil {
		return Revision{}, fault.New(fault.Unsupported, "URLs of scheme %q are not supported here", schemeOf(req.URL))
	}
	return f.Fetch(ctx, req)
}

// schemeOf returns the scheme of a URL in lower case; "" if it has none.
func schemeOf(raw string) string {
	scheme, _, ok := strings.Cut(raw, "://")
	if !ok {
		return ""
	}
	return strings.ToLower(scheme)
}

// IsArtifact reports whether a URL is that of an artifact in a registry, and IsBucket
// whether it is that of a bucket.
func IsArtifact(raw string) bool {
	s := schemeOf(raw)
	return s == schemeOCI || s == schemeOCIClear
}

// IsBucket reports whether a URL is that of a bucket.
func IsBucket(raw string) bool {
	s := schemeOf(raw)
	return s == schemeBucket || s == schemeBucketClear
}

// Artifact is where artifacts are kept in a registry.
type Artifact struct {
	Host       string // with a port where it has one
	Repository string
	Clear      bool // HTTP, without TLS
}

// repositoryName is the form of a repository's name, of the OCI distribution specification.
var repositoryName = regexp.MustCompile(`\A[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\z`)

// ParseArtifact reads oci://host/repository. Errors are *fault.Error without credentials:
// Invalid, Refused, Unsupported.
func ParseArtifact(raw string) (Artifact, error) {
	u, err := parsePlace(raw)
	if err != nil {
		return Artifact{}, err
	}
	if !IsArtifact(raw) {
		return Artifact{}, fault.New(fault.Unsupported, "it is no artifact in a registry").WithHint("write oci://host/repository")
	}
	a := Artifact{Host: u.Host, Repository: strings.Trim(u.Path, "/"), Clear: strings.HasSuffix(u.Scheme, "+http")}
	switch {
	case u.RawQuery != "":
		return Artifact{}, fault.New(fault.Invalid, "the URL of an artifact has no query")
	case strings.ContainsAny(a.Repository, ":@"):
		return Artifact{}, fault.New(fault.Invalid, "the URL of an artifact has no tag and no digest").WithHint("write them into ref")
	case !repositoryName.MatchString(a.Repository) || len(a.Repository) > 255:
		return Artifact{}, fault.New(fault.Invalid, "%q is not the name of a repository in a registry", a.Repository).WithHint("write oci://host/repository, in lower case")
	}
	return a, nil
}

// URL is the form that [ParseArtifact] reads.
func (a Artifact) URL() string {
	scheme := schemeOCI
	if a.Clear {
		scheme = schemeOCIClear
	}
	return scheme + "://" + a.Host + "/" + a.Repository
}

// Bucket is where objects are kept that are files of a source.
type Bucket struct {
	Endpoint string // host, with a port where it has one
	Name     string
	Region   string
	Prefix   string // of the keys that count
	Clear    bool   // HTTP, without TLS
}

var (
	bucketName = regexp.MustCompile(`\A[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\z`)
	regionName = regexp.MustCompile(`\A[a-zA-Z0-9-]{1,63}\z`)
	// foreign are services that speak otherwise, by the hosts of their endpoints.
	foreign = map[string]string{
		"googleapis.com": "Google Cloud Storage", "blob.core.windows.net": "Azure Blob Storage", "blob.core.chinacloudapi.cn": "Azure Blob Storage",
		"blob.core.usgovcloudapi.net": "Azure Blob Storage", "dfs.core.windows.net": "Azure Data Lake Storage",
	}
)

// maxPrefix is the longest key of S3.
const maxPrefix = 1024

// URL is the form that [ParseBucket] reads.
func (b Bucket) URL() string {
	u := url.URL{Scheme: schemeBucket, Host: b.Endpoint, Path: "/" + b.Name, RawQuery: url.Values{"region": {b.Region}, "prefix": {b.Prefix}}.Encode()}
	if b.Clear {
		u.Scheme = schemeBucketClear
	}
	return u.String()
}

// ParseBucket reads what [Bucket.URL] writes. Errors are *fault.Error without
// credentials: Invalid, Refused, Unsupported.
func ParseBucket(raw string) (Bucket, error) {
	u, err := parsePlace(raw)
	if err != nil {
		return Bucket{}, err
	}
	q := u.Query()
	b := Bucket{Endpoint: u.Host, Name: strings.Trim(u.Path, "/"), Region: q.Get("region"), Prefix: q.Get("prefix"), Clear: strings.HasSuffix(u.Scheme, "+http")}
	if !IsBucket(raw) {
		return Bucket{}, fault.New(fault.Unsupported, "it is no bucket")
	}
	return b, b.Check()
}

// Check refuses what is no bucket of S3's, or of a server's that speaks like it. Errors
// are *fault.Error: Invalid, Unsupported.
func (b Bucket) Check() error {
	host := strings.ToLower((&url.URL{Host: b.Endpoint}).Hostname())
	for domain, service := range foreign {
		if host == domain || strings.HasSuffix(host, "."+domain) {
			return fault.New(fault.Unsupported, "buckets of %s are not supported", service).WithHint("keep policies in a bucket of S3, in a registry or in Git")
		}
	}
	u, err := url.Parse("https://" + b.Endpoint)
	switch {
	case err != nil || u.Host != b.Endpoint || checkHost(u) != nil:
		return fault.New(fault.Invalid, "the endpoint is no host").WithHint("write a host, with a port where it has one: s3.eu-central-1.amazonaws.com")
	case !bucketName.MatchString(b.Name) || strings.Contains(b.Name, ".."):
		return fault.New(fault.Invalid, "%q is not the name of a bucket", b.Name)
	case !regionName.MatchString(b.Region):
		return fault.New(fault.Invalid, "%q is not the name of a region", b.Region)
	case len(b.Prefix) > maxPrefix:
		return fault.New(fault.Invalid, "the prefix is longer than %d bytes", maxPrefix)
	}
	return nil
}

// parsePlace parses the URL of an artifact or a bucket, as far as they are alike.
func parsePlace(raw string) (*url.URL, error) {
	if len(raw) > maxURL+3*maxPrefix || strings.ContainsFunc(raw, unfit) {
		return nil, fault.New(fault.Invalid, "the URL is too long or holds characters that have no place in one")
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil: // its text repeats the URL
		return nil, fault.New(fault.Invalid, "the URL cannot be parsed")
	case u.User != nil:
		return nil, errCredentials()
	case strays(u.Path):
		return nil, errStrays()
	case u.Hostname() == "" || strings.HasPrefix(u.Hostname(), "-") || u.Fragment != "" || u.Opaque != "":
		return nil, fault.New(fault.Invalid, "the URL names no host, or has a fragment")
	}
	return u, nil
}
