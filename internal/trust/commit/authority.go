package commit

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/internal/trust/keyless"
)

// maxAuthority bounds the keys and identities of one authority.
const maxAuthority = 4 << 20

var (
	errWrong    = errors.New("the signature is wrong: it was made for something else, or by another key")
	errUnsigned = errors.New("it is not signed")
)

// unknownError says that a key is none of an authority's.
type unknownError struct{ what string }

func (e unknownError) Error() string {
	return e.what + " belongs to no authority of the policy"
}

func unknownKey(what string) error { return unknownError{what} }

// times are when a commit can have been made.
type times struct {
	made  time.Time // as its committer says
	floor time.Time // of its ancestors: it is not older
	now   time.Time
}

// interval is between the earliest and the latest of what is claimed.
type interval struct{ from, to time.Time }

// at returns the interval of a signature that says when it was made. Whatever is
// claimed, a commit is no older than its parents: who holds a key that is no longer
// trusted cannot make commits of the past on top of what is there.
func (t times) at(claimed time.Time) interval {
	to := t.made
	for _, other := range []time.Time{claimed, t.floor} {
		if other.After(to) {
			to = other
		}
	}
	return interval{claimed, to}
}

// finding is a signature that is right, and whose it is.
type finding struct {
	kind         string
	fingerprints []string // of the key; and of what it belongs to
	names        []string // addresses, principals or subjects
	issuer       string
	owns         func(address string) bool
	at           interval
	proven       time.Time // when it was signed, zero if only the commit says
}

// authority is a [trust.Authority] with its keys read.
type authority struct {
	trust.Authority

	digest [sha256.Size]byte
	gpg    []gpgKey
	ssh    []allowed
	x509   []*x509.Certificate

	keyless *keyless.Verifier
}

// Check reports what is wrong with an authority for commits: its keys cannot be read,
// are too weak, or of a kind that is not supported. Errors: Invalid.
func Check(a trust.Authority) error {
	_, err := readAuthority(a)
	return err
}

// digestOfAuthority stands for an authority with all of its keys.
func digestOfAuthority(a trust.Authority) [sha256.Size]byte {
	raw, _ := json.Marshal(a) //nolint:errchkjson,musttag // plain data, of which only equality matters
	return sha256.Sum256(raw)
}

// readAuthority reads the keys of an authority. Errors: Invalid.
func readAuthority(a trust.Authority) (*authority, error) {
	out := &authority{Authority: a, digest: digestOfAuthority(a)}
	if err := out.read(); err != nil {
		return nil, fault.New(fault.Invalid, "authority %q: %s", a.Name, fault.From(err).Msg).WithHint("correct the keys that the policy names")
	}
	return out, nil
}

func (a *authority) read() (err error) {
	kinds := 0
	for _, keys := range [][]byte{a.GPG, a.SSH, a.X509, a.Key, a.Notation} {
		if kinds += min(1, len(keys)); len(keys) > maxAuthority {
			return fmt.Errorf("its keys have more than %d bytes", maxAuthority)
		}
	}
	if a.Sigstore != nil {
		kinds++
	}
	if kinds != 1 || len(a.Key) > 0 || len(a.Notation) > 0 {
		return errors.New("it needs exactly one of gpg, ssh, x509 and sigstore, with something in it")
	}
	for _, pattern := range a.Identities {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("the identity %.80q is no pattern", pattern)
		}
	}
	switch {
	case len(a.GPG) > 0:
		a.gpg, err = parseGPG(a.GPG)
	case len(a.SSH) > 0:
		a.ssh, err = parseAllowed(a.SSH)
	case len(a.X509) > 0:
		a.x509, err = trust.Certificates(a.X509)
	case a.Sigstore != nil:
		a.keyless, err = keyless.New(*a.Sigstore)
	}
	return err
}

// kindOf names the kind of an armoured signature: gpg, ssh, cms, or "" for others.
func kindOf(signature []byte) string {
	for begin, kind := range map[string]string{
		sigBegin: "gpg", "-----BEGIN SSH SIGNATURE-----": "ssh", "-----BEGIN SIGNED MESSAGE-----": "cms",
	} {
		if bytes.HasPrefix(signature, []byte(begin+"\n")) {
			return kind
		}
	}
	return ""
}

// takes reports whether signatures of a kind can be the authority's.
func (a *authority) takes(kind string) bool {
	switch kind {
	case "gpg":
		return a.gpg != nil
	case "ssh":
		return a.ssh != nil
	case "cms":
		return a.x509 != nil || a.keyless != nil
	}
	return false
}

// verify returns what is found about a signature that is right, one finding or more;
// whether it counts is for accept to say.
func (a *authority) verify(s signed, t times) ([]finding, error) {
	kind := kindOf(s.signature)
	switch {
	case !a.takes(kind):
		return nil, unknownKey("a signature of kind " + orUnknown(kind))
	case kind == "gpg":
		f, err := verifyGPG(a.gpg, s.payload, s.signature, t)
		return []finding{f}, err
	case kind == "ssh":
		return verifySSH(a.ssh, s.payload, s.signature, t)
	}
	f, err := verifyCMS(a, s.payload, s.signature, t)
	return []finding{f}, err
}

func orUnknown(kind string) string {
	if kind == "" {
		return "unknown"
	}
	return kind
}

// accept says why a finding does not count for the authority; author is an address
// that must be the signer's, "" for any.
func (a *authority) accept(f finding, author string) error {
	key := "key " + f.fingerprints[0]
	if f.kind == "x509" || f.kind == "sigstore" {
		key = "certificate " + f.fingerprints[0]
	}
	switch {
	case !a.NotBefore.IsZero() && f.at.from.Before(a.NotBefore):
		return fmt.Errorf("%s counts from %s on, and the signature is of %s", key, stamp(a.NotBefore), stamp(f.at.from))
	case !a.NotAfter.IsZero() && f.at.to.After(a.NotAfter):
		return fmt.Errorf("%s counted until %s, and the signature is of %s", key, stamp(a.NotAfter), stamp(f.at.to))
	}
	for _, r := range a.Revoked {
		if !slices.ContainsFunc(f.fingerprints, func(fp string) bool { return sameKey(r.Fingerprint, fp) }) {
			continue
		}
		if r.Since.IsZero() {
			return fmt.Errorf("%s is revoked", key)
		}
		if !f.at.to.Before(r.Since) {
			return fmt.Errorf("%s is revoked since %s, and the signature is of %s", key, stamp(r.Since), stamp(f.at.to))
		}
	}
	if len(a.Identities) > 0 && !slices.ContainsFunc(f.names, a.identifies) {
		return fmt.Errorf("%s is of %s, who is not among the identities that may sign", key, listed(f.names))
	}
	if author != "" && !f.owns(author) {
		return fmt.Errorf("%s is of %s, and the author is <%s>", key, listed(f.names), author)
	}
	return nil
}

func (a *authority) identifies(name string) bool {
	return slices.ContainsFunc(a.Identities, func(pattern string) bool {
		ok, err := path.Match(lower(pattern), lower(name))
		return ok && err == nil
	})
}

func listed(names []string) string {
	if len(names) == 0 {
		return "nobody that it names"
	}
	return strings.Join(names[:min(len(names), 5)], ", ")
}

// signer tells of a finding; author is preferred among its names.
func (a *authority) signer(policy string, f finding, author string) *trust.Signer {
	s := &trust.Signer{Policy: policy, Authority: a.Name, Kind: f.kind, Fingerprint: f.fingerprints[0], Issuer: f.issuer}
	for _, name := range f.names {
		if s.Identity == "" || sameAddress(name, author) {
			s.Identity = name
		}
	}
	return s
}

// sameKey compares a fingerprint of a key as people write it, with blanks or colons,
// to one of a finding.
func sameKey(written, found string) bool {
	if text, ok := strings.CutPrefix(found, "SHA256:"); ok { // of SSH, in base64
		return strings.TrimRight(strings.TrimPrefix(written, "SHA256:"), "=") == text
	}
	strip := strings.NewReplacer(" ", "", ":", "")
	return trust.SameFingerprint(written, found) || lower(strip.Replace(written)) == lower(found)
}

// sameAddress compares without regard to the case of ASCII letters alone: wider
// folding has letters of other alphabets stand for them.
func sameAddress(a, b string) bool { return a != "" && lower(a) == lower(b) }

func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func sorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}
