// Package source fetches revisions: immutable trees with an identity. What is
// asked is a [Request]; who may ask is part of it, so that one tenant's
// credential never resolves, or moves, what another tenant delivers.
package source

import (
	"context"
	"log/slog"

	"github.com/holdfastcd/holdfast/internal/tree"
)

// Ref chooses a revision of a Git repository. The first field set of Commit,
// Branch counts; with both, Commit must be reachable from Branch. All empty: the
// branch that the remote's HEAD names.
type Ref struct {
	Branch string
	Commit string // full hexadecimal object id
}

// Credential authenticates to the remote. Its fields are secret, all but ID;
// it formats and marshals as its ID only.
type Credential struct {
	// ID is who asks: a stable name without secrets, e.g. "ns/secret@uid:resourceVersion"
	// or "" for anonymous. Refs and trees are kept apart by it.
	ID     string
	secret *basic
}

// basic hides its values in a function: also where a Credential is printed from
// an unexported field, and none of the methods below is called, an address is
// all that shows. The pointer keeps Credential comparable.
type basic struct {
	get func() (username, password string)
}

// BasicAuth returns a credential for HTTP basic authentication.
func BasicAuth(id, username, password string) Credential {
	return Credential{ID: id, secret: &basic{func() (string, string) { return username, password }}}
}

// Basic returns user name and password, empty for anonymous; only fetchers call it.
func (c Credential) Basic() (username, password string) {
	if c.secret == nil {
		return "", ""
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
	URL        string // http or https; file only where the process owner allowed it
	Ref        Ref
	Credential Credential
}

// Key is a Request without its secret: what identifies the answer.
type Key struct {
	URL          string
	Ref          Ref
	CredentialID string
}

// Key returns the identity of r.
func (r Request) Key() Key {
	return Key{URL: r.URL, Ref: r.Ref, CredentialID: r.Credential.ID}
}

// Revision is one immutable state of a source.
type Revision struct {
	Commit string // full hexadecimal object id
	Branch string // the branch it was resolved from; empty if asked by commit alone
	Tree   tree.Tree
}

// Fetcher gets revisions from a remote. Errors are *fault.Error: Invalid (URL),
// Refused (scheme), NotFound (ref), Unauthorized, Unreachable, Limit.
type Fetcher interface {
	Fetch(ctx context.Context, req Request) (Revision, error)
}
