package image

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// fingerprint is how keys and certificates are named: the SHA-256 of their DER.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// counts holds a verified signature to the times, revocations and identities of
// the authority. What has no proven time is judged by now: nobody can say that it
// was made before a key was lost. Errors: Refused.
func (a authority) counts(who signer, now time.Time) error {
	if who.at.After(now.Add(trust.Skew)) {
		return fault.New(fault.Refused, "signed at %s, which is yet to come", stamp(who.at)).
			WithHint("the clock of this machine, or the one of the log that proves the time, is off")
	}
	if !who.expires.IsZero() && !now.Before(who.expires) {
		return fault.New(fault.Refused, "the signature expired at %s", stamp(who.expires)).WithHint("sign the image again")
	}
	at, when := who.at, "signed at "
	if at.IsZero() {
		at, when = now, "the signature proves no time, and now is "
	}
	if !a.NotBefore.IsZero() && at.Before(a.NotBefore) {
		return fault.New(fault.Refused, "%s%s, before the authority counts (%s)", when, stamp(at), stamp(a.NotBefore))
	}
	if !a.NotAfter.IsZero() && at.After(a.NotAfter) {
		return fault.New(fault.Refused, "%s%s, after the authority ceased to count (%s)", when, stamp(at), stamp(a.NotAfter)).
			WithHint("sign the image again with a key that counts")
	}
	if err := a.revoked(who); err != nil {
		return err
	}
	if len(a.Identities) > 0 && !slices.ContainsFunc(a.Identities, func(pattern string) bool {
		ok, err := path.Match(pattern, who.identity)
		return ok && err == nil
	}) {
		return fault.New(fault.Refused, "signed by %q, who is not one of its identities", who.identity)
	}
	return nil
}

// revoked returns an error if one of the signer's keys was lost before it is known
// to have signed.
func (a authority) revoked(who signer) error {
	for _, r := range a.Revoked {
		named := func(f string) bool { return trust.SameFingerprint(r.Fingerprint, f) }
		if !named(who.fingerprint) && !slices.ContainsFunc(who.chain, named) {
			continue
		}
		if r.Since.IsZero() || who.at.IsZero() || !who.at.Before(r.Since) {
			return fault.New(fault.Refused, "its key %s is revoked", r.Fingerprint).
				WithHint("sign the image again with another key")
		}
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
