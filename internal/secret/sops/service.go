package sops

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/getsops/sops/v3"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/azkv"
	"github.com/getsops/sops/v3/gcpkms"
	"github.com/getsops/sops/v3/hcvault"
	"github.com/getsops/sops/v3/keys"
	"github.com/getsops/sops/v3/keyservice"
	"github.com/getsops/sops/v3/kms"
	"github.com/getsops/sops/v3/pgp"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// service answers the library's requests to open or seal the data key of one file,
// with the keys at hand and no others. It stands in the place of the library's own,
// whose keys look into the environment, the home directory and for agents.
type service struct {
	keyservice.UnimplementedKeyServiceServer

	ctx    context.Context //nolint:containedctx // the library asks with a context of its own, which never ends
	keys   *Keys
	failed []*fault.Error // why keys that might have fitted did not open
}

// errOther is the answer for a recipient that none of the keys is for.
var errOther = errors.New("no key for this recipient")

// Decrypt implements keyservice.KeyServiceServer.
func (s *service) Decrypt(_ context.Context, r *keyservice.DecryptRequest) (*keyservice.DecryptResponse, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, s.note(fault.New(fault.Unreachable, "the key services did not answer in time").Because(err))
	}
	plain, err := s.decrypt(r.GetKey(), r.GetCiphertext())
	if err != nil {
		return nil, s.note(err)
	}
	return &keyservice.DecryptResponse{Plaintext: plain}, nil
}

func (s *service) note(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		s.failed = append(s.failed, f)
	}
	return err
}

func (s *service) decrypt(key *keyservice.Key, sealed []byte) ([]byte, error) {
	switch key := key.GetKeyType().(type) {
	case *keyservice.Key_AgeKey:
		return s.keys.openAge(key.AgeKey.GetRecipient(), sealed)
	case *keyservice.Key_PgpKey:
		return s.keys.openPGP(key.PgpKey.GetFingerprint(), sealed)
	case *keyservice.Key_VaultKey:
		return s.keys.openVault(s.ctx, key.VaultKey, sealed)
	case *keyservice.Key_KmsKey:
		return s.keys.openAWS(s.ctx, key.KmsKey, sealed)
	case *keyservice.Key_AzureKeyvaultKey:
		return s.keys.openAzure(s.ctx, key.AzureKeyvaultKey, sealed)
	case *keyservice.Key_GcpKmsKey:
		return s.keys.openGCP(s.ctx, key.GcpKmsKey, sealed)
	}
	return nil, errOther // HuaweiCloud KMS
}

// failure is the error for a file whose data key did not open: what a key that
// seemed to fit ran into, or else who the file is sealed for.
func (s *service) failure(m *sops.Metadata) *fault.Error {
	if len(s.failed) > 0 {
		// What another attempt may mend comes first.
		rank := []fault.Kind{fault.Unreachable, fault.Unauthorized, fault.Refused}
		return slices.MinFunc(s.failed, func(a, b *fault.Error) int {
			return place(rank, a.Kind) - place(rank, b.Kind)
		})
	}
	var wanted []string
	for _, group := range m.KeyGroups {
		for _, key := range group {
			wanted = append(wanted, recipient(key))
		}
	}
	missing := fault.New(fault.NotFound, "no key of the delivery opens the file, which is sealed for %s%s", listed(wanted), groups(m))
	return missing.WithHint("%s", s.keys.remedy())
}

func place(rank []fault.Kind, k fault.Kind) int {
	if i := slices.Index(rank, k); i >= 0 {
		return i
	}
	return len(rank)
}

func groups(m *sops.Metadata) string {
	if len(m.KeyGroups) < 2 {
		return ""
	}
	return fmt.Sprintf(", in %d groups of which %d are needed", len(m.KeyGroups), max(m.ShamirThreshold, 2))
}

// remedy says what to do where no key fits.
func (k *Keys) remedy() string {
	have := k.Recipients()
	switch {
	case len(have) == 0 && len(k.public) > 0:
		return "the key Secret holds only the public half of PGP " + k.public[0].fingerprint + ": export it with gpg --export-secret-keys --armor"
	case len(have) == 0:
		return "give the delivery a key Secret with the private key"
	}
	return "the delivery has keys for " + listed(have) + ": add the missing one to its key Secret, or seal the file for one of these with `sops updatekeys`"
}

// Bounds of what a file may put into a message.
const (
	maxListed = 5
	maxShown  = 120
)

func listed(all []string) string {
	if len(all) == 0 {
		return "nobody"
	}
	if n := len(all) - maxListed; n > 0 {
		return strings.Join(all[:maxListed], ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(all, ", ")
}

// shown is text from a file as it may stand in a message.
func shown(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > maxShown {
		return strings.ToValidUTF8(s[:maxShown], "") + "…"
	}
	return s
}

// recipient names the key that a file wants.
func recipient(key keys.MasterKey) string {
	switch key := key.(type) {
	case *sopsage.MasterKey:
		return shown(key.Recipient)
	case *pgp.MasterKey:
		return "PGP " + shown(key.Fingerprint)
	case *hcvault.MasterKey:
		return "Vault " + shown(withoutUser(key.VaultAddress)+" "+key.EnginePath+"/"+key.KeyName)
	case *kms.MasterKey:
		return "AWS KMS " + shown(key.Arn)
	case *azkv.MasterKey:
		return "Azure Key Vault " + shown(withoutUser(key.VaultURL)+" "+key.Name)
	case *gcpkms.MasterKey:
		return "GCP KMS " + shown(key.ResourceID)
	}
	return "a key of kind " + shown(key.TypeToIdentifier()) + ", which Holdfast does not have"
}

// withoutUser is an address without user and password.
func withoutUser(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "(an address that cannot be read)"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
