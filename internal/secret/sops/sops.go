// Package sops opens and seals files in the format of SOPS, through its library and
// with nothing but the keys that it is given: no process, no file, no variable of the
// environment. The library's own key services read all three, so that this package
// brings one of its own (see [service]); docs/design/sops.md says which paths of the
// library are not taken, and why.
package sops

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/getsops/sops/v3/logging"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
)

// Options say how key services are reached. The zero value is the safe one.
type Options struct {
	// AllowLinkLocal lets key services be at link-local addresses, where clouds keep
	// the credentials of their machines.
	AllowLinkLocal bool
	// AllowLoopback lets key services be on this machine.
	AllowLoopback bool
	// Shared says that deliveries of more than one tenant use the Secret: a Vault token
	// in it must then come with the addresses that it is for, because a file names the
	// address, and whoever writes one would be sent the token.
	Shared bool
	// Proxy is asked for the proxy of a request; nil: there is none.
	Proxy func(*http.Request) (*url.URL, error)
	// RootCAs vouch for key services; nil: the system's.
	RootCAs *x509.CertPool
	// Transport reaches the key services; nil: one that checks addresses as above.
	Transport http.RoundTripper
	// Timeout bounds what the key services may take for one file; 0: 30 seconds.
	Timeout time.Duration
	// Clock tells the time; nil: time.Now.
	Clock func() time.Time
}

func (o Options) clock() time.Time {
	if o.Clock == nil {
		return time.Now()
	}
	return o.Clock()
}

const defaultTimeout = 30 * time.Second

// Keys are what the files of a delivery may be opened with. They implement
// [secret.Opener], are never changed, and hold nothing that a file or a variable of
// the environment could replace. A nil *Keys, like an empty one, opens nothing.
type Keys struct {
	age    []identity
	pgp    []entity
	vault  []vaultToken
	aws    []awsCredentials
	azure  []azureCredentials
	gcp    []gcpCredentials
	public []entity // OpenPGP keys that came without their private half: files can be sealed for them
	limit  time.Duration
}

// identity is an age key, with the recipient or SSH fingerprint that it answers to.
type identity struct {
	fingerprint string
	age.Identity
}

// entity is an OpenPGP key.
type entity struct {
	fingerprint string
	*openpgp.Entity
}

var _ secret.Opener = (*Keys)(nil)

// Join returns what opens every file that one of keys opens; nil for none.
func Join(keys ...*Keys) *Keys {
	var all *Keys
	for _, k := range keys {
		if k == nil {
			continue
		}
		if all == nil {
			all = &Keys{}
		}
		all.age = append(all.age, k.age...)
		all.pgp = append(all.pgp, k.pgp...)
		all.vault = append(all.vault, k.vault...)
		all.aws = append(all.aws, k.aws...)
		all.azure = append(all.azure, k.azure...)
		all.gcp = append(all.gcp, k.gcp...)
		all.public = append(all.public, k.public...)
		all.limit = max(all.limit, k.limit)
	}
	return all
}

// ID identifies the keys, in whatever order they were given: a digest of their
// fingerprints. It tells nothing of a key.
func (k *Keys) ID() string {
	all := k.fingerprints()
	if len(all) == 0 {
		return ""
	}
	sum := sha256.New()
	for _, f := range all {
		// A fingerprint has no zero byte, so that no two lists are written the same.
		_, _ = io.WriteString(sum, f+"\x00") // a hash does not fail
	}
	return "sops:" + hex.EncodeToString(sum.Sum(nil))[:32]
}

// Recipients returns what files are to be sealed for so that these keys open them,
// sorted: age recipients, fingerprints of SSH and OpenPGP keys, and the kinds of key
// services for which there are credentials.
func (k *Keys) Recipients() []string {
	if k == nil {
		return nil
	}
	var all []string
	for _, i := range k.age {
		all = append(all, i.fingerprint)
	}
	for _, e := range k.pgp {
		all = append(all, "PGP "+e.fingerprint)
	}
	for name, n := range map[string]int{
		"Vault transit": len(k.vault), "AWS KMS": len(k.aws), "Azure Key Vault": len(k.azure), "GCP KMS": len(k.gcp),
	} {
		if n > 0 {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// fingerprints are those of every key, sorted, each once.
func (k *Keys) fingerprints() []string {
	if k == nil {
		return nil
	}
	var all []string
	for _, i := range k.age {
		all = append(all, "age "+i.fingerprint)
	}
	for _, e := range k.pgp {
		all = append(all, "pgp "+e.fingerprint)
	}
	for _, v := range k.vault {
		all = append(all, "vault "+v.fingerprint())
	}
	for _, a := range k.aws {
		all = append(all, "aws "+a.fingerprint())
	}
	for _, a := range k.azure {
		all = append(all, "azure "+a.fingerprint())
	}
	for _, g := range k.gcp {
		all = append(all, "gcp "+g.fingerprint())
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// digest stands in a fingerprint for what must not be told.
func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}

// quiet has the library's loggers say nothing: they write to the error output of the
// process, and quote comments of the files that they open.
var quiet = sync.OnceFunc(func() {
	for _, l := range logging.Loggers {
		l.SetOutput(io.Discard)
	}
})

// Open implements [secret.Opener].
func (k *Keys) Open(ctx context.Context, file string, content []byte) (opened secret.Opened, sealed bool, err error) {
	if !Sealed(file, content) {
		return secret.Opened{}, false, nil
	}
	quiet()
	if k == nil {
		k = &Keys{}
	}
	if len(content) > maxFile {
		return secret.Opened{}, true, fault.New(fault.Limit, "the sealed file has %d bytes, more than %d", len(content), maxFile).At(file, 0)
	}
	limit := k.limit
	if limit == 0 {
		limit = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	opened, sealed, err = k.open(ctx, file, content)
	if err != nil {
		return secret.Opened{}, true, fault.From(err).At(file, 0)
	}
	return opened, sealed, nil
}
