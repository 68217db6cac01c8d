package commit

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/holdfastcd/holdfast/internal/trust"
)

// The bounds of what is remembered.
const (
	maxResults  = 20_000
	maxKeyrings = 1_000
	// refusedFor is how long a signature that was refused is not looked at again.
	refusedFor = time.Minute
)

// question is what a result answers: the bytes, the keys, and the time that counts.
type question struct {
	object, authority [sha256.Size]byte
	floor             int64
}

type result struct {
	found []finding
	err   error
	at    time.Time
}

// verify is an authority's, from memory where it was asked the same before.
func (v *Verifier) verify(a *authority, o object, now time.Time) ([]finding, error) {
	q := question{digestOf(o.raw), a.digest, o.floor.Unix()}
	v.mu.Lock()
	known, ok := v.results[q]
	v.mu.Unlock()
	if ok && (known.err == nil || now.Sub(known.at) < refusedFor) {
		return known.found, known.err
	}
	found, err := a.verify(o.signed, times{made: o.made, floor: o.floor, now: now})
	for _, f := range found {
		if err == nil && f.proven.IsZero() && f.at.to.After(now.Add(trust.Skew)) {
			err = fmt.Errorf("its signature is dated %s, and now it is %s: a clock is wrong, theirs or ours", stamp(f.at.to), stamp(now))
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.results) >= maxResults {
		clear(v.results)
	}
	v.results[q] = result{found, err, now}
	return found, err
}

// authority returns an authority with its keys read, from memory if it was before.
func (v *Verifier) authority(a trust.Authority) (*authority, error) {
	digest := digestOfAuthority(a)
	v.mu.Lock()
	known := v.authorities[digest]
	v.mu.Unlock()
	if known != nil {
		return known, nil
	}
	read, err := readAuthority(a)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.authorities) >= maxKeyrings {
		clear(v.authorities)
	}
	v.authorities[digest] = read
	return read, nil
}
