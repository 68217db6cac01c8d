package sops

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"

	"github.com/getsops/sops/v3/keyservice"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"golang.org/x/oauth2/jwt"

	"github.com/holdfastcd/holdfast/internal/fault"
)

const (
	gcpScope    = "https://www.googleapis.com/auth/cloudkms"
	gcpEndpoint = "https://cloudkms.googleapis.com/v1/"
	gcpDomain   = "googleapis.com"
)

// gcpCredentials open data keys that Google's KMS sealed, as a service account.
type gcpCredentials struct {
	config *jwt.Config
	client *http.Client
}

func (g gcpCredentials) fingerprint() string {
	return digest(g.config.Email, g.config.PrivateKeyID, string(g.config.PrivateKey))
}

// parseGCP takes the key of a service account. Credentials of other kinds name files,
// programs and addresses from which a token is fetched, which would be ours.
func (k *Keys) parseGCP(content []byte, client *http.Client) error {
	var kind struct {
		Type     string `json:"type"`
		Universe string `json:"universe_domain"`
	}
	if json.Unmarshal(content, &kind) != nil {
		return about(entryGCP, fault.Invalid, "is not the JSON key of a service account")
	}
	if kind.Type != serviceAccount || (kind.Universe != "" && kind.Universe != gcpDomain) {
		return about(entryGCP, fault.Unsupported, "holds credentials of another kind than service_account of googleapis.com").
			WithHint("others have a token fetched from files, programs or addresses that they name")
	}
	config, err := google.JWTConfigFromJSON(content, gcpScope)
	if err != nil {
		return about(entryGCP, fault.Invalid, "is not the JSON key of a service account")
	}
	if u, err := url.Parse(config.TokenURL); err != nil || u.Scheme != "https" || u.User != nil {
		return about(entryGCP, fault.Invalid, "has a token_uri that is no https address")
	}
	k.gcp = append(k.gcp, gcpCredentials{config, client})
	return nil
}

const serviceAccount = "service_account"

var gcpResource = regexp.MustCompile(`^projects/[A-Za-z0-9:._-]+/locations/[a-z0-9-]+/keyRings/[A-Za-z0-9_-]+/cryptoKeys/[A-Za-z0-9_-]+$`)

// question is a request for a key
// (https://cloud.google.com/kms/docs/reference/rest/v1/projects.locations.keyRings.cryptoKeys).
// The library's own key takes endpoint, universe and kind of client from the environment.
func (g gcpCredentials) question(ctx context.Context, resource, verb string, body, out any) error {
	const name = "GCP KMS"
	if !gcpResource.MatchString(resource) {
		return fault.New(fault.Invalid, "the file is sealed by a key of %s whose name cannot be read", name)
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, g.client)
	token, err := g.config.TokenSource(ctx).Token()
	if err != nil {
		if answer, ok := errors.AsType[*oauth2.RetrieveError](err); ok && answer.Response != nil && answer.Response.StatusCode < 500 {
			return status(name, http.StatusUnauthorized)
		}
		return unanswered(name, err)
	}
	header := http.Header{"Authorization": {"Bearer " + token.AccessToken}}
	return post(ctx, g.client, name, gcpEndpoint+resource+":"+verb, header, body, out)
}

// openGCP asks Google's KMS. Errors: errOther, and those of [post].
func (k *Keys) openGCP(ctx context.Context, key *keyservice.GcpKmsKey, sealed []byte) ([]byte, error) {
	return first(k.gcp, func(g gcpCredentials) ([]byte, error) {
		var answer struct {
			Plaintext []byte `json:"plaintext"`
		}
		err := g.question(ctx, key.GetResourceId(), "decrypt", map[string]string{"ciphertext": string(sealed)}, &answer)
		return answer.Plaintext, err
	})
}

func (k *Keys) sealGCP(ctx context.Context, key *keyservice.GcpKmsKey, plain []byte) ([]byte, error) {
	if len(k.gcp) == 0 {
		return nil, noCredentials("GCP KMS")
	}
	return first(k.gcp, func(g gcpCredentials) ([]byte, error) {
		var answer struct {
			Ciphertext string `json:"ciphertext"`
		}
		err := g.question(ctx, key.GetResourceId(), "encrypt", map[string]string{"plaintext": base64.StdEncoding.EncodeToString(plain)}, &answer)
		return []byte(answer.Ciphertext), err
	})
}
