// Package trust holds what deliveries must prove before anything of them is
// applied, and what was proven: who signed their commits and their images. It
// gathers evidence; whether that suffices for a delivery's images is judged by
// package policy, which may import this one, never the reverse.
package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/source"
)

// Demands are what one delivery must prove: the policies that select it. All of
// them must hold. The zero value demands nothing.
type Demands struct {
	Policies []Policy // by name
	// Version identifies the policies with all keys they name; "" for none. What
	// was judged under another version is judged again.
	Version string
}

// NewDemands returns the demands that policies add up to, in the order of their names.
func NewDemands(policies ...Policy) Demands {
	if len(policies) == 0 {
		return Demands{}
	}
	sorted := slices.Clone(policies)
	slices.SortFunc(sorted, func(a, b Policy) int {
		switch {
		case a.Name < b.Name:
			return -1
		case a.Name > b.Name:
			return 1
		}
		return 0
	})
	digest := sha256.New()
	enc := json.NewEncoder(digest)
	for _, p := range sorted {
		_ = enc.Encode(p) //nolint:errchkjson,musttag // plain data; a hash takes every byte
	}
	return Demands{Policies: sorted, Version: hex.EncodeToString(digest.Sum(nil)[:16])}
}

// RefusedError is the cause of an error by which policies refuse: their names, in order;
// none where it says nothing of one of them, and all that enforce refuse.
type RefusedError []string

// Error implements error. People read it of the error whose cause it is.
func (r RefusedError) Error() string { return "refused by " + strings.Join(r, ", ") }

// Refusing names the policies of d that refuse by err: those of its [RefusedError], or all
// that enforce if it names none.
func (d Demands) Refusing(err error) []string {
	if by, _ := errors.AsType[RefusedError](err); len(by) > 0 {
		return by
	}
	var all []string
	for _, p := range d.Policies {
		if !p.Audit {
			all = append(all, p.Name)
		}
	}
	return all
}

// Subject is what policies select deliveries by.
type Subject struct {
	Kind, Namespace, Name string
	Project               string // AppProject; "" where there is none
	Labels                map[string]string
	Repository            string // URL, as the delivery names it
}

// Policy is a TrustPolicy, with the keys that it names. It is plain data, and
// holds no secret but [Registry.Credential].
type Policy struct {
	Name string
	// Audit: what is not proven is told and recorded, and delivered.
	Audit bool
	// Broken says why the policy cannot be judged (a missing key, an unknown
	// algorithm); "" if it can. A broken policy that enforces proves nothing.
	Broken    string
	Commits   *Commits
	Images    *Images
	Plaintext *Plaintext
	// Rewind permits a branch whose new head does not contain the commit that was
	// delivered last. It is told either way.
	Rewind bool
	// Strict removes from managed objects the fields that others added.
	Strict bool
}

// Commits demands signatures of commits.
type Commits struct {
	// Range: every commit since the last one that was delivered and verified; else
	// the delivered commit or its tag alone.
	Range bool
	// All judges every commit of the range; else those on the first-parent line.
	All bool
	// From are the first commits to trust, by normalised repository URL: full ids.
	// They and what is behind them are not judged.
	From map[string]string
	// Authorities are those of whom one must have signed.
	Authorities []Authority
	// Forge are those who may sign merge commits (two parents and more), whoever
	// their author is.
	Forge []Authority
	// AuthorMatches demands that the author's address is one of the signer's.
	AuthorMatches bool
}

// Authority is somebody who may sign, and by what that is known. Exactly one of
// GPG, SSH, X509, Sigstore, Key, Notation is set.
type Authority struct {
	Name string

	GPG  []byte // OpenPGP public keys, armoured; commits only
	SSH  []byte // lines of allowed_signers; commits only
	X509 []byte // PEM certificates that a signer's chain must end in; commits only
	// Key is a PEM public key; images only.
	Key []byte
	// Notation are PEM certificates: the roots of notation's trust store, images only.
	Notation []byte
	Sigstore *Sigstore

	// NotBefore and NotAfter bound when a signature counts, zero: unbounded. It is
	// the time that is proven (a timestamp, a transparency log) where there is one,
	// else the commit's own.
	NotBefore, NotAfter time.Time
	Revoked             []Revocation
	// Identities are the addresses or subjects of which a signer's must be one,
	// path.Match patterns; none: anybody's whom the authority's keys know.
	Identities []string
}

// Revocation ends the trust in one key or certificate.
type Revocation struct {
	Fingerprint string // as evidence and messages name it
	// Since is when it was compromised; zero: it was never trustworthy.
	Since time.Time
}

// SameFingerprint compares the SHA-256 fingerprint of a key or certificate as people
// write it, to one as evidence names it ("sha256:" and hexadecimal digits): case and
// colons do not count, nor what openssl x509 -fingerprint prints before it.
func SameFingerprint(written, found string) bool {
	written = strings.ToLower(strings.TrimSpace(written))
	if _, after, ok := strings.Cut(written, "="); ok {
		written = after
	}
	written = strings.ReplaceAll(strings.TrimPrefix(written, "sha256:"), ":", "")
	return written == strings.TrimPrefix(found, "sha256:")
}

// Skew is by how much the clocks of signers and logs may differ from ours.
const Skew = 5 * time.Minute

// Sigstore is keyless signing: a certificate for an identity, proven by a log.
type Sigstore struct {
	// TrustedRoot is sigstore's trusted_root.json: certificate authorities and logs.
	TrustedRoot []byte
	// Identities: one must match.
	Identities []Identity
	// IgnoreLog accepts signatures without a transparency log's entry, where a
	// timestamp proves when they were made.
	IgnoreLog bool
}

// Identity is who a Fulcio certificate was given to. Of each pair one is set; an
// expression matches the whole of a value.
type Identity struct {
	Issuer, IssuerRegexp   string
	Subject, SubjectRegexp string
}

// Images demands proof about the images that rendered objects run.
type Images struct {
	// Match are patterns on the image's name (registry/repository) that the demand
	// is for; none: all images.
	Match []string
	// Pinned: images must be given by digest; else a tag is resolved when the
	// delivery is admitted, and pinned where it is applied.
	Pinned bool
	// Allowed are patterns on registry/repository; none: any. ** crosses slashes.
	Allowed []string
	// Authorities: one must have signed each image; none: signatures are not asked for.
	Authorities []Authority
	Provenance  *Provenance
	Scan        *Scan
	SBOM        *Attested
	Registries  []Registry
	// Paths find images in custom resources.
	Paths []object.ImagePath
}

// Attested is an attestation that must exist, signed by one of Authorities (those
// of the images where it names none).
type Attested struct {
	Authorities []Authority
}

// Provenance demands SLSA provenance.
type Provenance struct {
	Attested
	Builders     []string // patterns on the builder's id; none: any
	Repositories []string // patterns on the source repository; none: any
}

// Scan demands a vulnerability scan.
type Scan struct {
	Attested
	// Below: no finding of this severity or above: LOW, MEDIUM, HIGH or CRITICAL.
	Below string
	// MaxAge bounds the age of the scan; 0: any age.
	MaxAge time.Duration
}

// Registry is how one registry is asked.
type Registry struct {
	Host       string     // with a port where it has one
	Credential Credential // zero: anonymous
	CA         []byte     // PEM, trusted instead of the system's
	// Insecure speaks HTTP to it; loopback is spoken to so by itself.
	Insecure bool
}

// Plaintext demands that no secret stands open in what a delivery reads.
type Plaintext struct {
	Allow []Allowance
	// Repository: what the repository's own list excuses is excused, too.
	Repository bool
}

// Allowance excuses what was found, as entries of a repository's own list do.
type Allowance struct {
	Path        string // pattern on the file; ** crosses slashes
	Rule        string // "*" for any
	Fingerprint string // of the finding; "" for any
	Reason      string
	Expires     time.Time // the last day on which it counts
}

// Signer is who a signature proves.
type Signer struct {
	Policy      string `json:"policy"`
	Authority   string `json:"authority"`
	Kind        string `json:"kind"`               // gpg, ssh, x509, sigstore, key, notation
	Fingerprint string `json:"fingerprint"`        // of the key or the certificate
	Identity    string `json:"identity,omitempty"` // address, principal or subject; "" for a bare key
	Issuer      string `json:"issuer,omitempty"`   // of a keyless identity
}

// Commit is what was proven of one commit or tag.
type Commit struct {
	ID     string  `json:"id"`
	Tag    bool    `json:"tag,omitempty"`
	Author string  `json:"author"`
	Signer *Signer `json:"signer,omitempty"` // nil: unproven
	// SignedAt is when, as far as that is proven; zero: only the commit says.
	SignedAt time.Time `json:"signedAt,omitzero"`
	// Problem is why nothing is proven.
	Problem string `json:"problem,omitempty"`
}

// Evidence is what was found about a revision.
type Evidence struct {
	// Commits that were judged, newest first; bounded, see Judged.
	Commits []Commit
	// Judged counts the commits of the range.
	Judged int
	// Base is the commit that the range began behind.
	Base string `json:",omitempty"`
	// Rewound: the branch does not contain the commit that was delivered last.
	Rewound bool `json:",omitempty"`
	// Unproven are the demands of policies that only audit, and did not hold.
	Unproven []string `json:",omitempty"`
	// UnprovenTo are the names of these policies.
	UnprovenTo []string `json:",omitempty"`
}

// Verified is a revision that proved what was demanded of it. Only a verifier of
// this package's children makes one, by [Vouch].
type Verified struct {
	revision source.Revision
	evidence Evidence
	demands  Demands
}

// Vouch returns a verified revision. Whoever calls it has judged.
func Vouch(r source.Revision, e Evidence, d Demands) Verified {
	return Verified{revision: r, evidence: e, demands: d}
}

// Revision returns the revision.
func (v Verified) Revision() source.Revision { return v.revision }

// Evidence returns what was proven about it.
func (v Verified) Evidence() Evidence { return v.evidence }

// Demands returns what was demanded of it.
func (v Verified) Demands() Demands { return v.demands }

// The claims that an image's evidence proves.
const (
	ClaimSignature  = "signature"
	ClaimProvenance = "provenance"
	ClaimScan       = "scan"
	ClaimSBOM       = "sbom"
)

// Image is what was found about one image.
type Image struct {
	Name   string  `json:"name"`   // as the objects have it
	Pinned string  `json:"pinned"` // registry/repository@sha256:...; with the tag where Name has one
	Digest string  `json:"digest"` // sha256:...
	Proofs []Proof `json:"proofs"`
	// Problems are why nothing else was proven, a line each.
	Problems []string `json:"problems,omitempty"`
	// Unreachable: a registry did not answer, or had not what may come to it yet;
	// asked again, it may prove more.
	Unreachable bool `json:"unreachable,omitempty"`
}

// Proof is one statement about an image that verified.
type Proof struct {
	Claim      string    `json:"claim"` // one of the constants above
	Signer     Signer    `json:"signer"`
	SignedAt   time.Time `json:"signedAt,omitzero"`
	Layout     string    `json:"layout"`               // tag, referrer or bundle: where it was found
	Artifact   string    `json:"artifact"`             // digest of the manifest that held it
	Builder    string    `json:"builder,omitempty"`    // of a provenance
	Repository string    `json:"repository,omitempty"` // of a provenance
	Worst      string    `json:"worst,omitempty"`      // severity of a scan's worst finding
	ScannedAt  time.Time `json:"scannedAt,omitzero"`
}
