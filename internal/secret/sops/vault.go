package sops

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/getsops/sops/v3/keyservice"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// vaultToken opens data keys that the transit engine of Vault or OpenBao sealed.
type vaultToken struct {
	token     string
	addresses []string // where it may be sent; nil: wherever a file says, by https
	client    *http.Client
}

func (v vaultToken) fingerprint() string {
	return digest(append([]string{v.token}, v.addresses...)...)
}

func (k *Keys) parseVault(content []byte, entries map[string][]byte, o Options, client *http.Client) error {
	v := vaultToken{token: strings.TrimSpace(string(content)), client: client}
	if v.token == "" || strings.ContainsFunc(v.token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return about(entryVault, fault.Invalid, "holds no Vault token")
	}
	for field := range strings.FieldsFuncSeq(string(entries[entryAddresses]), func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }) {
		address, err := vaultAddress(field)
		if err != nil {
			return about(entryAddresses, fault.Invalid, "holds something that is no address of a Vault").
				WithHint("one a line, as https://vault.example.com:8200")
		}
		v.addresses = append(v.addresses, address)
	}
	if v.addresses == nil && o.Shared {
		return about(entryVault, fault.Refused, "is a Vault token that files of several tenants would send wherever they say").
			WithHint("name the addresses that it is for in the entry %s", entryAddresses)
	}
	slices.Sort(v.addresses)
	k.vault = append(k.vault, v)
	return nil
}

// vaultAddress is an address in one form: scheme and host, and nothing behind it.
func vaultAddress(address string) (string, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return "", fault.New(fault.Invalid, "the file is sealed by a Vault whose address cannot be read")
	case u.Scheme != "https" && u.Scheme != "http":
		return "", fault.New(fault.Invalid, "the file is sealed by a Vault whose address is neither https nor http")
	}
	return u.Scheme + "://" + strings.ToLower(u.Host), nil
}

// segment is a part of a path in Vault. Nothing that leads elsewhere is one: whoever
// writes a file would have the token used for other requests than to open a data key.
var segment = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*$`)

// question is a request to a transit engine.
func (v vaultToken) question(ctx context.Context, key *keyservice.VaultKey, verb string, body, out any) error {
	address, err := vaultAddress(key.GetVaultAddress())
	if err != nil {
		return err
	}
	name := "Vault at " + shown(address)
	switch {
	case v.addresses != nil && !slices.Contains(v.addresses, address):
		return fault.New(fault.Refused, "%s is not among the addresses that the Vault token is for", name).
			WithHint("entry %s of the key Secret lists them", entryAddresses)
	case v.addresses == nil && !strings.HasPrefix(address, "https://"):
		return fault.New(fault.Refused, "%s is asked by http, and the token would be sent in the clear", name).
			WithHint("give it a certificate, or name the address in the entry %s of the key Secret", entryAddresses)
	}
	path := append(strings.Split(strings.Trim(key.GetEnginePath(), "/"), "/"), verb, key.GetKeyName())
	for _, s := range path {
		if !segment.MatchString(s) {
			return fault.New(fault.Invalid, "the file is sealed by a key of Vault whose path cannot be read")
		}
	}
	header := http.Header{"X-Vault-Token": {v.token}, "X-Vault-Request": {"true"}}
	return post(ctx, v.client, name, address+"/v1/"+strings.Join(path, "/"), header, body, out)
}

// openVault asks the Vault that a file names (https://developer.hashicorp.com/vault/api-docs/secret/transit).
// The library's own client takes address, proxy, certificates, namespace and token from
// the environment. Errors: errOther, and those of [post].
func (k *Keys) openVault(ctx context.Context, key *keyservice.VaultKey, sealed []byte) ([]byte, error) {
	return first(k.vault, func(v vaultToken) ([]byte, error) {
		var answer struct {
			Data struct {
				Plaintext []byte `json:"plaintext"`
			} `json:"data"`
		}
		err := v.question(ctx, key, "decrypt", map[string]string{"ciphertext": string(sealed)}, &answer)
		return answer.Data.Plaintext, err
	})
}

func (k *Keys) sealVault(ctx context.Context, key *keyservice.VaultKey, plain []byte) ([]byte, error) {
	if len(k.vault) == 0 {
		return nil, noCredentials("Vault")
	}
	return first(k.vault, func(v vaultToken) ([]byte, error) {
		var answer struct {
			Data struct {
				Ciphertext string `json:"ciphertext"`
			} `json:"data"`
		}
		err := v.question(ctx, key, "encrypt", map[string]string{"plaintext": base64.StdEncoding.EncodeToString(plain)}, &answer)
		return []byte(answer.Data.Ciphertext), err
	})
}

func noCredentials(service string) *fault.Error {
	return fault.New(fault.NotFound, "the file is to be sealed by %s, and there are no credentials for it", service)
}
