package sops

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/getsops/sops/v3/azkv"
	"github.com/getsops/sops/v3/keyservice"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/holdfastcd/holdfast/internal/fault"
)

const azureName = "Azure Key Vault"

// azureCredentials open data keys that Azure Key Vault sealed, as a service principal.
type azureCredentials struct {
	id     string // fingerprint
	token  azcore.TokenCredential
	client *http.Client
}

func (a azureCredentials) fingerprint() string { return a.id }

// azureFields are the forms in which Flux reads a service principal: with a secret,
// with a certificate, and as `az ad sp create-for-rbac` prints it.
type azureFields struct {
	TenantID            string `yaml:"tenantId"`
	ClientID            string `yaml:"clientId"`
	ClientSecret        string `yaml:"clientSecret"`
	Certificate         string `yaml:"clientCertificate"`
	CertificatePassword string `yaml:"clientCertificatePassword"`
	SendChain           bool   `yaml:"clientCertificateSendChain"`
	AuthorityHost       string `yaml:"authorityHost"`

	AppID       string `yaml:"appId"`
	Tenant      string `yaml:"tenant"`
	Password    string `yaml:"password"`
	DisplayName string `yaml:"displayName"`
	Name        string `yaml:"name"`
}

func (k *Keys) parseAzure(content []byte, client *http.Client) error {
	var f azureFields
	if !strict(content, &f) {
		return about(entryAzure, fault.Invalid, "is not YAML or JSON of a service principal")
	}
	if f.AppID != "" {
		f.ClientID, f.TenantID, f.ClientSecret = f.AppID, f.Tenant, f.Password
	}
	switch {
	case f.ClientID != "" && f.TenantID == "":
		return about(entryAzure, fault.Unsupported, "names a managed identity, which is that of the machine").
			WithHint("give a service principal: tenantId, clientId and clientSecret")
	case f.ClientID == "" || (f.ClientSecret == "") == (f.Certificate == ""):
		return about(entryAzure, fault.Invalid, "names no service principal: tenantId, clientId, and clientSecret or clientCertificate")
	case !segment.MatchString(f.TenantID):
		return about(entryAzure, fault.Invalid, "has a tenantId that cannot be read")
	}
	if f.AuthorityHost == "" {
		f.AuthorityHost = cloud.AzurePublic.ActiveDirectoryAuthorityHost
	}
	authority, err := url.Parse(f.AuthorityHost)
	if err != nil || authority.Scheme != "https" || authority.User != nil || authority.Host == "" {
		return about(entryAzure, fault.Invalid, "has an authorityHost that is no https address")
	}
	token, err := f.credential(authority, client)
	if err != nil {
		return err
	}
	k.azure = append(k.azure, azureCredentials{
		digest(authority.Host, f.TenantID, f.ClientID, f.ClientSecret, f.Certificate), token, client,
	})
	return nil
}

// credential asks the authority for tokens, and nobody else.
func (f azureFields) credential(authority *url.URL, client *http.Client) (azcore.TokenCredential, error) {
	if f.ClientSecret != "" {
		return azureSecret{clientcredentials.Config{
			ClientID: f.ClientID, ClientSecret: f.ClientSecret, AuthStyle: oauth2.AuthStyleInParams,
			TokenURL: "https://" + authority.Host + "/" + f.TenantID + "/oauth2/v2.0/token",
		}, client}, nil
	}
	certs, key, err := azidentity.ParseCertificates([]byte(f.Certificate), []byte(f.CertificatePassword))
	if err != nil {
		return nil, about(entryAzure, fault.Invalid, "has a clientCertificate that cannot be read")
	}
	c, err := azidentity.NewClientCertificateCredential(f.TenantID, f.ClientID, certs, key, &azidentity.ClientCertificateCredentialOptions{
		ClientOptions: azcore.ClientOptions{
			Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: "https://" + authority.Host + "/"},
			Transport: hosts{client, []string{authority.Host}},
			Retry:     noRetry(),
		},
		SendCertificateChain: f.SendChain,
		// Otherwise Microsoft is asked whether the authority is one of its own.
		DisableInstanceDiscovery: true,
	})
	if err != nil {
		return nil, about(entryAzure, fault.Invalid, "has a clientCertificate that cannot be used")
	}
	return c, nil
}

func noRetry() policy.RetryOptions { return policy.RetryOptions{MaxRetries: -1} }

// azureSecret fetches tokens for a secret (RFC 6749, 4.4). Azure's library would
// take the region of the authority from the environment.
type azureSecret struct {
	config clientcredentials.Config
	client *http.Client
}

// GetToken implements azcore.TokenCredential.
func (a azureSecret) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	config := a.config
	config.Scopes = o.Scopes
	token, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, a.client))
	if err != nil {
		return azcore.AccessToken{}, azureError(err)
	}
	expires := token.Expiry
	if expires.IsZero() {
		expires = time.Now().Add(time.Minute)
	}
	return azcore.AccessToken{Token: token.AccessToken, ExpiresOn: expires}, nil
}

// azureDomains are those of the clouds' key vaults and HSMs: an address elsewhere is
// not asked, whatever a file says.
var azureDomains = []string{".vault.azure.net", ".managedhsm.azure.net", ".vault.azure.cn", ".managedhsm.azure.cn", ".vault.usgovcloudapi.net", ".managedhsm.usgovcloudapi.net"}

// key returns the library's key, with the credentials in it.
func (a azureCredentials) key(k *keyservice.AzureKeyVaultKey) (*azkv.MasterKey, error) {
	u, err := url.Parse(k.GetVaultUrl())
	if err != nil || u.Scheme != "https" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.Port() != "" {
		return nil, fault.New(fault.Invalid, "the file is sealed by a key of %s whose address cannot be read", azureName)
	}
	known := false
	for _, domain := range azureDomains {
		known = known || strings.HasSuffix(strings.ToLower(u.Host), domain)
	}
	switch {
	case !known:
		return nil, fault.New(fault.Refused, "%s is not the address of an %s", shown(u.Host), azureName)
	case !segment.MatchString(k.GetName()) || !segment.MatchString(k.GetVersion()):
		return nil, fault.New(fault.Invalid, "the file is sealed by a key of %s whose name cannot be read", azureName)
	}
	key := azkv.NewMasterKey("https://"+u.Host, k.GetName(), k.GetVersion())
	azkv.NewTokenCredential(a.token).ApplyToMasterKey(key)
	azkv.NewClientOptions(&azkeys.ClientOptions{ClientOptions: azcore.ClientOptions{
		Transport: hosts{a.client, []string{u.Host}}, Retry: noRetry(),
	}}).ApplyToMasterKey(key)
	return key, nil
}

// azureError keeps what kind of failure it was, and nothing of its text.
func azureError(err error) *fault.Error {
	if answer, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return status(azureName, answer.StatusCode)
	}
	if failed, ok := errors.AsType[*azidentity.AuthenticationFailedError](err); ok && failed.RawResponse != nil {
		return status(azureName, http.StatusUnauthorized)
	}
	if answer, ok := errors.AsType[*oauth2.RetrieveError](err); ok && answer.Response != nil && answer.Response.StatusCode < 500 {
		return status(azureName, http.StatusUnauthorized)
	}
	return unanswered(azureName, err)
}

// openAzure asks Azure Key Vault. Errors: errOther, and those of [status].
func (k *Keys) openAzure(ctx context.Context, key *keyservice.AzureKeyVaultKey, sealed []byte) ([]byte, error) {
	return first(k.azure, func(a azureCredentials) ([]byte, error) {
		master, err := a.key(key)
		if err != nil {
			return nil, err
		}
		master.SetEncryptedDataKey(sealed)
		plain, err := master.DecryptContext(ctx)
		if err != nil {
			return nil, azureError(err)
		}
		return plain, nil
	})
}

func (k *Keys) sealAzure(ctx context.Context, key *keyservice.AzureKeyVaultKey, plain []byte) ([]byte, error) {
	if len(k.azure) == 0 {
		return nil, noCredentials(azureName)
	}
	return first(k.azure, func(a azureCredentials) ([]byte, error) {
		master, err := a.key(key)
		if err != nil {
			return nil, err
		}
		if err := master.EncryptContext(ctx, plain); err != nil {
			return nil, azureError(err)
		}
		return master.EncryptedDataKey(), nil
	})
}
