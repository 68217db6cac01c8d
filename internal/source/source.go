// Package source fetches revisions: immutable trees with an identity. What is
// asked is a [Request]; who may ask is part of it, so that one tenant's
// credential never resolves, or moves, what another tenant delivers.
package source

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/holdfastcd/holdfast/internal/tree"
)

// Ref chooses a revision of a Git repository. The first field set of Commit,
// Name, SemVer, Tag, Target, Branch counts; a Commit beside a Branch must be
// reachable from it. All empty: the branch that the remote's HEAD names.
type Ref struct {
	Branch string
	Tag    string
	// SemVer is a range of versions; the highest tag within it counts.
	SemVer string
	// Name is the full name of a ref: refs/heads/main, refs/pull/1/head.
	Name string
	// Target is whatever the remote has of that name, as Argo CD looks for it: a
	// commit id, HEAD, a range of versions that a tag is in, a branch, a tag, any
	// other ref, or the beginning of a commit id.
	Target string
	Commit string // full hexadecimal object id
}

// Credential is who asks a remote, and how: what authenticates, and what is
// trusted on the way. Its fields are secret, all but ID; it formats and marshals
// as its ID only.
type Credential struct {
	// ID is who asks: a stable name without secrets, e.g. "ns/secret@uid:resourceVersion",
	// or "" for anonymous with the system's trust and proxy. It names everything
	// that the Secret below holds: refs and trees are kept apart by it.
	ID     string
	secret *hidden
}

// Secret is what a Credential hides. All fields are optional.
type Secret struct {
	Username, Password string // HTTP basic authentication; the user of SSH
	Token              string // HTTP bearer token, sent instead of the two above
	SSHKey             []byte // PEM; Password is its passphrase
	KnownHosts         []byte // lines of known_hosts; SSH without it is refused
	ClientCert         []byte // PEM
	ClientKey          []byte // PEM
	CA                 []byte // PEM; trusted instead of the system's
	Proxy              *Proxy
}

// Proxy is the way to a remote. A nil one is the process's own.
type Proxy struct {
	URL                string // http, https or socks5, without credentials
	Username, Password string
	NoProxy            string // hosts that are asked directly, comma-separated
}

// hidden keeps its values in a function: also where a Credential is printed from
// an unexported field, and none of the methods below is called, an address is
// all that shows. The pointer keeps Credential comparable.
type hidden struct{ get func() Secret }

// NewCredential returns a credential; id must differ wherever secret differs.
func NewCredential(id string, secret Secret) Credential {
	return Credential{ID: id, secret: &hidden{func() Secret { return secret }}}
}

// Secret returns what c hides, the zero value for anonymous; only fetchers call it.
func (c Credential) Secret() Secret {
	if c.secret == nil {
		return Secret{}
	}
	return c.secret.get()
}

// String returns the credential's ID, never its secret.
func (c Credential) String() string { return "credential(" + c.ID + ")" }

// GoString is String, so that %#v is as discreet as %v.
func (c Credential) GoString() string { return c.String() }

// MarshalText returns String, for encoders of every kind.
func (c Credential) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// LogValue returns String to log/slog.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Request asks for a revision.
type Request struct {
	URL        string // http, https or ssh (git@host:path too); file only where the process owner allowed it
	Ref        Ref
	Credential Credential
	// Tenant is for whom this is fetched: a namespace, or a project. What it costs is
	// charged to it, and shared fairly among tenants; it decides nothing about what
	// may be read. "" is nobody in particular.
	Tenant string
}

// Key is a Request without its secret: what identifies the answer.
type Key struct {
	URL          string
	Ref          Ref
	CredentialID string
	Tenant       string // one tenant's turn, or refusal, is not another's
}

// Key returns the identity of r.
func (r Request) Key() Key {
	return Key{URL: r.URL, Ref: r.Ref, CredentialID: r.Credential.ID, Tenant: r.Tenant}
}

// Revision is one immutable state of a source. At most one of Branch, Tag and
// Name is set: what the commit was found by. None is, if that was its id alone.
type Revision struct {
	Commit string // full hexadecimal object id; of an artifact or a bucket: digits of a digest
	Branch string // without refs/heads/
	Tag    string // without refs/tags/
	Name   string // the full name of a ref, as it was asked for
	Tree   tree.Tree
	// History reads the commits behind; nil where the source has none.
	History History
	// URL is the repository's, normalised and without credentials.
	URL string
	// Artifact is registry/repository:tag of what was fetched from a registry, or
	// registry/repository@sha256:…, where no tag was asked for; "" for everything else.
	Artifact string

	Author    string    // of the commit: name and address
	Committer string    // of the commit, likewise
	Date      time.Time // of the commit: when it was made
	Message   string    // of the commit; its beginning, if it is long
}

// Ref returns what the commit was found by, in the short form that people read,
// "" if that was its id alone.
func (r Revision) Ref() string { return cmp.Or(r.Name, r.Tag, r.Branch) }

// Fragile is a tree that can turn out to be damaged while it is read. The next
// [Hub.Get] then fetches anew, however young the answer is.
type Fragile interface {
	Damaged() bool
}

// Fetcher gets revisions from a remote. Errors are *fault.Error: Invalid (URL,
// ref, or what the credential holds), Refused (scheme, missing known_hosts),
// Unsupported (scheme), NotFound (repository, ref), Unauthorized, Unreachable
// (also: not trusted), Limit.
type Fetcher interface {
	Fetch(ctx context.Context, req Request) (Revision, error)
}
