package sops

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/azkv"
	"github.com/getsops/sops/v3/gcpkms"
	"github.com/getsops/sops/v3/hcvault"
	"github.com/getsops/sops/v3/keys"
	"github.com/getsops/sops/v3/kms"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
)

// elsewhere sends requests for the clouds' hosts to a server of the test, and keeps
// which hosts were asked.
type elsewhere struct {
	server *httptest.Server
	hosts  []string
}

func (e *elsewhere) RoundTrip(r *http.Request) (*http.Response, error) {
	e.hosts = append(e.hosts, r.URL.Host)
	to, err := url.Parse(e.server.URL)
	if err != nil {
		return nil, err
	}
	sent := r.Clone(r.Context())
	sent.Host, sent.URL.Scheme, sent.URL.Host = r.URL.Host, to.Scheme, to.Host
	return http.DefaultTransport.RoundTrip(sent)
}

// cloud answers as the three clouds do, "sealing" by putting a word in front.
func cloudServer(t *testing.T) *httptest.Server {
	t.Helper()
	reply := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		var q map[string]any
		_ = json.Unmarshal(body, &q) // forms are none
		text := func(name string) []byte {
			s, _ := q[name].(string)
			raw, err := base64.StdEncoding.DecodeString(s)
			if err != nil {
				raw, _ = base64.RawURLEncoding.DecodeString(s)
			}
			return raw
		}
		switch target := r.Header.Get("X-Amz-Target"); {
		case strings.HasPrefix(r.Host, "sts."):
			_, _ = io.WriteString(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>x</SecretAccessKey><SessionToken>y</SessionToken><Expiration>2030-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`)
		case target == "TrentService.Encrypt":
			reply(w, map[string]any{"CiphertextBlob": append([]byte("aws:"), text("Plaintext")...)})
		case target == "TrentService.Decrypt":
			if !strings.HasPrefix(string(text("CiphertextBlob")), "aws:") {
				w.WriteHeader(http.StatusBadRequest)
				reply(w, map[string]any{"__type": "InvalidCiphertextException"})
				return
			}
			if strings.Contains(r.Header.Get("Authorization"), "Credential=DENIED") {
				w.WriteHeader(http.StatusBadRequest)
				reply(w, map[string]any{"__type": "AccessDeniedException", "Message": "hunter2"})
				return
			}
			reply(w, map[string]any{"Plaintext": text("CiphertextBlob")[4:]})
		case strings.HasSuffix(r.URL.Path, "/openid-configuration"):
			base := "https://login.microsoftonline.com/t"
			reply(w, map[string]any{"issuer": base + "/v2.0", "authorization_endpoint": base + "/authorize", "token_endpoint": base + "/token"})
		case strings.HasSuffix(r.URL.Path, "/token"):
			if strings.Contains(string(body), "DENIED") {
				w.WriteHeader(http.StatusBadRequest)
				reply(w, map[string]any{"error": "invalid_client", "error_description": "hunter2"})
				return
			}
			reply(w, map[string]any{"access_token": "token-of-" + r.Host, "token_type": "Bearer", "expires_in": 3600})
		case r.Host == "cloudkms.googleapis.com" && r.Header.Get("Authorization") != "Bearer token-of-oauth2.googleapis.com":
			w.WriteHeader(http.StatusUnauthorized)
		case strings.HasSuffix(r.URL.Path, ":encrypt"):
			reply(w, map[string]any{"ciphertext": append([]byte("gcp:"), text("plaintext")...)})
		case strings.HasSuffix(r.URL.Path, ":decrypt"):
			reply(w, map[string]any{"plaintext": text("ciphertext")[4:]})
		case strings.HasSuffix(r.Host, ".vault.azure.net"):
			azureAnswer(w, r, text("value"), reply)
		default:
			t.Errorf("%s %s %s", r.Method, r.Host, r.URL)
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// azureAnswer first names who gives tokens, as the service does.
func azureAnswer(w http.ResponseWriter, r *http.Request, value []byte, reply func(http.ResponseWriter, any)) {
	if r.Header.Get("Authorization") != "Bearer token-of-login.microsoftonline.com" {
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/t", resource="https://vault.azure.net"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	out := append([]byte("azure:"), value...)
	if strings.HasSuffix(r.URL.Path, "/decrypt") {
		out = value[len("azure:"):]
	}
	reply(w, map[string]any{"kid": "https://" + r.Host + "/keys/k/v", "value": base64.RawURLEncoding.EncodeToString(out)})
}

func gcpKey(t testing.TB, tokenURI string) string {
	t.Helper()
	key, err := rsaKey()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "sops@p.iam.gserviceaccount.com", "private_key_id": "1", "token_uri": tokenURI,
		"private_key": string(pemKey(key)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func pemKey(key *rsa.PrivateKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}

const (
	arn      = "arn:aws:kms:eu-central-1:123456789012:key/612d5f0a-0000-45e6-aca6-a5b005693a48"
	role     = "arn:aws:iam::123456789012:role/sops"
	resource = "projects/p/locations/global/keyRings/r/cryptoKeys/k"
)

// services are the clouds: the recipient, credentials for it, and credentials that are refused.
func services(t *testing.T) map[string]struct {
	key           keys.MasterKey
	entry, good   string
	denied        string
	asked, wanted string
} {
	t.Helper()
	return map[string]struct {
		key           keys.MasterKey
		entry, good   string
		denied        string
		asked, wanted string
	}{
		"AWS KMS": {
			kms.NewMasterKey(arn, "", map[string]*string{"app": new("x")}), entryAWS,
			"aws_access_key_id: AKIA\naws_secret_access_key: s\n", "aws_access_key_id: DENIED\naws_secret_access_key: s\n",
			"kms.eu-central-1.amazonaws.com", arn,
		},
		"AWS KMS as a role": {
			kms.NewMasterKeyWithProfile(arn, role, nil, "profile"), entryAWS,
			"aws_access_key_id: AKIA\naws_secret_access_key: s\naws_session_token: t\n", "",
			"sts.eu-central-1.amazonaws.com kms.eu-central-1.amazonaws.com", arn,
		},
		"GCP KMS": {
			gcpkms.NewMasterKeyFromResourceID(resource), entryGCP,
			gcpKey(t, "https://oauth2.googleapis.com/token"), gcpKey(t, "https://elsewhere.googleapis.com/token"),
			"oauth2.googleapis.com cloudkms.googleapis.com", resource,
		},
		"Azure Key Vault": {
			azkv.NewMasterKey("https://mine.vault.azure.net", "k", "v1"), entryAzure,
			"tenantId: t\nclientId: c\nclientSecret: s\n", "tenantId: t\nclientId: DENIED\nclientSecret: s\n",
			"mine.vault.azure.net login.microsoftonline.com mine.vault.azure.net", "https://mine.vault.azure.net k",
		},
	}
}

func TestClouds(t *testing.T) {
	hostile(t)
	server := cloudServer(t)
	for name, c := range services(t) {
		t.Run(name, func(t *testing.T) {
			via := &elsewhere{server: server}
			parse := func(credentials string, rt http.RoundTripper) *Keys {
				k, err := Parse(map[string][]byte{c.entry: []byte(credentials)}, Options{Transport: rt, Timeout: 3 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				return k
			}
			k := parse(c.good, via)
			tree := sops.Tree{Branches: sops.TreeBranches{{{Key: "a", Value: "hunter2-hunter2"}}}, Metadata: sops.Metadata{KeyGroups: []sops.KeyGroup{{c.key}}, Version: libraryVersion, UnencryptedSuffix: "_unencrypted"}}
			if err := k.sealTree(context.Background(), &tree); err != nil {
				t.Fatal(err)
			}
			sealed, err := formatYAML.store(newStores()).EmitEncryptedFile(tree)
			if err != nil {
				t.Fatal(err)
			}
			via.hosts = nil
			if plain, _ := open(t, k, "a.yaml", sealed); plain != "a: hunter2-hunter2\n" {
				t.Errorf("got %q", plain)
			}
			if got := strings.Join(via.hosts, " "); got != c.asked {
				t.Errorf("asked %q, want %q", got, c.asked)
			}
			if c.denied != "" {
				_, _, err = parse(c.denied, via).Open(context.Background(), "a.yaml", sealed)
				mustFail(t, err, fault.Unauthorized)
			}
			_, _, err = parse(c.good, refusing{}).Open(context.Background(), "a.yaml", sealed)
			mustFail(t, err, fault.Unreachable)
			_, _, err = x25519(t).keys(t).Open(context.Background(), "a.yaml", sealed)
			mustFail(t, err, fault.NotFound)
			if !strings.Contains(err.Error(), c.wanted) {
				t.Errorf("the recipient is not named: %v", err)
			}
		})
	}
}

func mustFail(t *testing.T, err error, want fault.Kind) {
	t.Helper()
	if fault.KindOf(err) != want || err == nil {
		t.Fatalf("got %v, want %s", err, want)
	}
	mustTellNothing(t, err, nil)
}

// refusing is a network in which nothing listens.
type refusing struct{}

func (refusing) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, &net.OpError{Op: "dial", Err: fmt.Errorf("connection refused")}
}

// vaultServer is a Vault with a transit engine; status is what it answers if not 0.
type vaultServer struct {
	*httptest.Server

	status atomic.Int64
	paths  []string
	slow   chan struct{}
}

func newVault(t *testing.T) *vaultServer {
	t.Helper()
	v := &vaultServer{slow: make(chan struct{})}
	close(v.slow)
	v.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.paths = append(v.paths, r.URL.Path)
		select {
		case <-v.slow:
		case <-r.Context().Done():
			return
		}
		if code := v.status.Load(); code != 0 {
			w.Header().Set("Location", "https://other.example.com/")
			w.WriteHeader(int(code))
			_, _ = io.WriteString(w, `{"errors":["hunter2"]}`)
			return
		}
		if r.Header.Get("X-Vault-Token") != "hvs.good" || r.Header.Get("X-Vault-Namespace") != "" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		var q map[string]string
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		answer := map[string]string{"ciphertext": "vault:v1:" + q["plaintext"]}
		if strings.Contains(r.URL.Path, "/decrypt/") {
			answer = map[string]string{"plaintext": strings.TrimPrefix(q["ciphertext"], "vault:v1:")}
		}
		if err := json.NewEncoder(w).Encode(map[string]any{"data": answer}); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(v.Close)
	return v
}

func (v *vaultServer) options() Options {
	roots := x509.NewCertPool()
	roots.AddCert(v.Certificate())
	return Options{AllowLoopback: true, RootCAs: roots, Timeout: 5 * time.Second}
}

func (v *vaultServer) keys(t *testing.T, o Options, token string, addresses ...string) *Keys {
	t.Helper()
	entries := map[string][]byte{entryVault: []byte(token)}
	if addresses != nil {
		entries[entryAddresses] = []byte(strings.Join(addresses, "\n"))
	}
	k, err := Parse(entries, o)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestVault(t *testing.T) {
	hostile(t)
	v := newVault(t)
	k := v.keys(t, v.options(), "hvs.good")
	rules := "creation_rules: [{hc_vault_transit_uri: " + v.URL + "/v1/team/transit/keys/sops}]"
	sealed, err := k.Encrypt(context.Background(), "a.yaml", []byte("a: hunter2-hunter2\n"), []byte(rules))
	if err != nil {
		t.Fatal(err)
	}
	if plain, _ := open(t, k, "a.yaml", sealed); plain != "a: hunter2-hunter2\n" {
		t.Errorf("got %q", plain)
	}
	if got := strings.Join(v.paths, " "); got != "/v1/team/transit/encrypt/sops /v1/team/transit/decrypt/sops" {
		t.Errorf("asked %q", got)
	}
	for code, want := range map[int]fault.Kind{
		403: fault.Unauthorized, 404: fault.NotFound, 400: fault.Refused, 500: fault.Unreachable, 503: fault.Unreachable, 307: fault.Refused, 429: fault.Unreachable,
	} {
		v.status.Store(int64(code))
		_, _, err := k.Open(context.Background(), "a.yaml", sealed)
		mustFail(t, err, want)
	}
	v.status.Store(0)
	_, _, err = v.keys(t, v.options(), "hvs.bad").Open(context.Background(), "a.yaml", sealed)
	mustFail(t, err, fault.Unauthorized)

	v.slow = make(chan struct{})
	quick := v.options()
	quick.Timeout = 50 * time.Millisecond
	_, _, err = v.keys(t, quick, "hvs.good").Open(context.Background(), "a.yaml", sealed)
	mustFail(t, err, fault.Unreachable)
	close(v.slow)

	v.Close()
	_, _, err = k.Open(context.Background(), "a.yaml", sealed)
	mustFail(t, err, fault.Unreachable)
}

// TestVaultAddress has files name addresses and paths that are not to be asked.
func TestVaultAddress(t *testing.T) {
	v := newVault(t)
	for name, c := range map[string]struct {
		address, engine, key string
		options              Options
		addresses            []string
		want                 fault.Kind
		says, reason         string
	}{
		"loopback":       {v.URL, "transit", "k", Options{}, nil, fault.Refused, "of the machine itself", "it is ours"},
		"by name":        {strings.Replace(v.URL, "127.0.0.1", "localhost", 1), "transit", "k", Options{}, nil, fault.Refused, "of the machine itself", "names are looked up first"},
		"link-local":     {"https://169.254.169.254", "transit", "k", v.options(), nil, fault.Refused, "link-local", "metadata of clouds"},
		"mapped":         {"https://[::ffff:169.254.169.254]", "transit", "k", v.options(), nil, fault.Refused, "link-local", "metadata of clouds"},
		"IPv6 metadata":  {"https://[fd00:ec2::254]", "transit", "k", v.options(), nil, fault.Refused, "link-local", "metadata of clouds"},
		"unspecified":    {"https://0.0.0.0", "transit", "k", Options{}, nil, fault.Refused, "of the machine itself", "it is ours"},
		"plain":          {"http://vault.example.com", "transit", "k", Options{}, nil, fault.Refused, "in the clear", "the token could be read on the way"},
		"not listed":     {v.URL, "transit", "k", v.options(), []string{"https://vault.example.com"}, fault.Refused, "is not among the addresses", "the token is for others"},
		"a user":         {"https://a:hunter2@vault.example.com", "transit", "k", Options{}, nil, fault.Invalid, "", "nobody writes that"},
		"a path":         {"https://vault.example.com/x", "transit", "k", Options{}, nil, fault.Invalid, "", "nobody writes that"},
		"a query":        {"https://vault.example.com?x", "transit", "k", Options{}, nil, fault.Invalid, "", "nobody writes that"},
		"a file":         {"file:///etc/passwd", "transit", "k", Options{}, nil, fault.Invalid, "", "no Vault"},
		"engine climbs":  {v.URL, "transit/../auth/token/create/x", "k", v.options(), nil, fault.Invalid, "path", "the token would be used for something else"},
		"key climbs":     {v.URL, "transit", "../../sys/seal", v.options(), nil, fault.Invalid, "path", "the token would be used for something else"},
		"key is encoded": {v.URL, "transit", "..%2fx", v.options(), nil, fault.Invalid, "path", "the token would be used for something else"},
		"no engine":      {v.URL, "", "k", v.options(), nil, fault.Invalid, "path", "there is no such path"},
	} {
		t.Run(name, func(t *testing.T) {
			key := hcvault.NewMasterKey(c.address, c.engine, c.key)
			key.SetEncryptedDataKey([]byte("vault:v1:eHh4"))
			k := v.keys(t, c.options, "hvs.good", c.addresses...)
			_, err := k.dataKey(context.Background(), &sops.Metadata{KeyGroups: []sops.KeyGroup{{key}}})
			if fault.KindOf(err) != c.want || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v, want %s", c.reason, err, c.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("shows a password: %v", err)
			}
		})
	}
	if len(v.paths) != 0 {
		t.Errorf("asked %q", v.paths)
	}
}

// TestCloudAddress has files name keys that would be asked for elsewhere.
func TestCloudAddress(t *testing.T) {
	via := &elsewhere{server: cloudServer(t)}
	o := Options{Transport: via}
	all, err := Parse(map[string][]byte{
		entryAWS:   []byte("aws_access_key_id: a\naws_secret_access_key: s\n"),
		entryGCP:   []byte(gcpKey(t, "https://oauth2.googleapis.com/token")),
		entryAzure: []byte("tenantId: t\nclientId: c\nclientSecret: s\n"),
	}, o)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]keys.MasterKey{
		"region":          kms.NewMasterKey("arn:aws:kms:evil.example.com/:123456789012:key/a", "", nil),
		"region and dot":  kms.NewMasterKey("arn:aws:kms:x.y:123456789012:key/a", "", nil),
		"role":            kms.NewMasterKey(arn, "arn:aws:iam::1:role/x y", nil),
		"resource":        gcpkms.NewMasterKeyFromResourceID("projects/../x"),
		"vault":           azkv.NewMasterKey("https://vault.example.com", "k", "v"),
		"vault, suffix":   azkv.NewMasterKey("https://evilvault.azure.net.example.com", "k", "v"),
		"vault, port":     azkv.NewMasterKey("https://mine.vault.azure.net:8443", "k", "v"),
		"vault, name":     azkv.NewMasterKey("https://mine.vault.azure.net", "../k", "v"),
		"vault, in clear": azkv.NewMasterKey("http://mine.vault.azure.net", "k", "v"),
	} {
		t.Run(name, func(t *testing.T) {
			key.SetEncryptedDataKey([]byte("eHh4"))
			_, err := all.dataKey(context.Background(), &sops.Metadata{KeyGroups: []sops.KeyGroup{{key}}})
			if k := fault.KindOf(err); k != fault.Invalid && k != fault.Refused {
				t.Errorf("got %v", err)
			}
		})
	}
	if len(via.hosts) != 0 {
		t.Errorf("asked %q", via.hosts)
	}
}

// TestAzureCertificate has nobody but the authority be asked for a token, even where
// the environment names a region for it.
func TestAzureCertificate(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	pair := server.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	content, err := json.Marshal(map[string]any{"tenantId": "t", "clientId": "c", "clientCertificate": string(both)})
	if err != nil {
		t.Fatal(err)
	}
	via := &elsewhere{server: cloudServer(t)}
	open := func() error {
		k, err := Parse(map[string][]byte{entryAzure: content}, Options{Transport: via})
		if err != nil {
			t.Fatal(err)
		}
		key := azkv.NewMasterKey("https://mine.vault.azure.net", "k", "v1")
		key.SetEncryptedDataKey([]byte(base64.RawURLEncoding.EncodeToString([]byte("azure:" + strings.Repeat("k", dataKeySize)))))
		_, err = k.dataKey(context.Background(), &sops.Metadata{KeyGroups: []sops.KeyGroup{{key}}})
		return err
	}
	if err := open(); err != nil {
		t.Error(err)
	}
	via.hosts = nil
	setenv(t, "AZURE_REGIONAL_AUTHORITY_NAME", "evil.example.com/")
	_ = open() // whether or not it works
	for _, h := range via.hosts {
		if h != "mine.vault.azure.net" && h != "login.microsoftonline.com" {
			t.Errorf("asked %s", h)
		}
	}
}

// What a key service says of its keys may be otherwise tomorrow: it is tried again.
func TestServicesAreAskedAgain(t *testing.T) {
	for code := range 600 {
		if err := status("a service", code); !errors.Is(err, secret.ErrService) {
			t.Errorf("%d: %v", code, err)
		}
	}
	for _, name := range []string{"DisabledException", "KMSInvalidStateException"} {
		if err := status("AWS KMS", awsKinds[name]); err.Kind.Terminal() {
			t.Errorf("%s: %s", name, err.Kind)
		}
	}
}
