package flux

import (
	"context"
	"net/url"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// The keys of a Secret of a GitRepository, as Flux has them; of two for the same
// thing, the first counts.
var (
	keysCA   = []string{"ca.crt", "caFile"}
	keysCert = []string{"tls.crt", "certFile"}
	keysKey  = []string{"tls.key", "keyFile"}
)

// foreignKeys are what else a Secret for Flux may hold to authenticate by. One of
// them unheeded would mean to connect in another way than was asked for.
var foreignKeys = []string{
	"githubAppID", "githubAppInstallationID", "githubAppInstallationOwner", "githubAppPrivateKey", "githubAppBaseURL",
}

// credential reads the Secrets that a GitRepository names: who asks, and by which
// way. Its ID names each of them, and its state.
func credential(ctx context.Context, reader client.Reader, repo *sourcev1.GitRepository) (source.Credential, *fault.Error) {
	var ids []string
	var all source.Secret
	ssh := isSSH(repo.Spec.URL)
	switch {
	case repo.Spec.SecretRef != nil:
		secret, err := readSecret(ctx, reader, repo.Namespace, repo.Spec.SecretRef.Name)
		if err != nil {
			return source.Credential{}, err
		}
		if all, err = authentication(secret, ssh); err != nil {
			return source.Credential{}, err
		}
		id := secretID(secret)
		if ssh { // what is read from the Secret is for one transport
			id = "ssh " + id
		}
		ids = append(ids, id)
	case ssh:
		return source.Credential{}, fault.New(fault.Unauthorized, "spec.secretRef names no Secret, which a URL with ssh:// needs").
			WithHint("its keys are identity and known_hosts")
	}
	if repo.Spec.ProxySecretRef != nil {
		secret, err := readSecret(ctx, reader, repo.Namespace, repo.Spec.ProxySecretRef.Name)
		if err != nil {
			return source.Credential{}, err
		}
		if all.Proxy, err = proxyOf(secret); err != nil {
			return source.Credential{}, err
		}
		ids = append(ids, "proxy "+secretID(secret))
	}
	if len(ids) == 0 {
		return source.Credential{}, nil
	}
	return source.NewCredential(strings.Join(ids, " "), all), nil
}

// Credential reads a Secret for a Git address, as a GitRepository's is read. Errors are
// *fault.Error: Unauthorized, Unsupported and Invalid for what it holds, and those of
// reading it.
func Credential(ctx context.Context, reader client.Reader, address string, secret types.NamespacedName) (source.Credential, error) {
	repo := &sourcev1.GitRepository{}
	repo.Namespace = secret.Namespace
	repo.Spec.URL, repo.Spec.SecretRef = address, &meta.LocalObjectReference{Name: secret.Name}
	c, err := credential(ctx, reader, repo)
	if err != nil {
		return source.Credential{}, err
	}
	return c, nil
}

func isSSH(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "ssh"
}

// secretID names a state of a Secret.
func secretID(s *corev1.Secret) string {
	return s.Namespace + "/" + s.Name + "@" + string(s.UID) + ":" + s.ResourceVersion
}

// authentication reads from a Secret what authenticates, for one transport: what
// is for the other is not looked at, as with Flux.
func authentication(secret *corev1.Secret, ssh bool) (source.Secret, *fault.Error) {
	for _, key := range foreignKeys {
		if _, ok := secret.Data[key]; ok {
			return source.Secret{}, fault.New(fault.Unsupported, "key %s of Secret %s/%s is not supported yet", key, secret.Namespace, secret.Name).
				WithHint("use username and password, with a token as the password")
		}
	}
	if ssh {
		return forSSH(secret)
	}
	return forHTTP(secret)
}

func forSSH(secret *corev1.Secret) (source.Secret, *fault.Error) {
	s := source.Secret{
		Username:   string(secret.Data["username"]),
		Password:   string(secret.Data["password"]),
		SSHKey:     secret.Data["identity"],
		KnownHosts: secret.Data["known_hosts"],
	}
	switch {
	case len(s.SSHKey) == 0:
		return source.Secret{}, lacks(secret, "identity")
	case len(s.KnownHosts) == 0: // without it, any server would do
		return source.Secret{}, lacks(secret, "known_hosts")
	}
	return s, nil
}

func forHTTP(secret *corev1.Secret) (source.Secret, *fault.Error) {
	s := source.Secret{
		Username:   string(secret.Data["username"]),
		Password:   string(secret.Data["password"]),
		Token:      string(secret.Data["bearerToken"]),
		CA:         firstKey(secret, keysCA),
		ClientCert: firstKey(secret, keysCert),
		ClientKey:  firstKey(secret, keysKey),
	}
	at := secret.Namespace + "/" + secret.Name
	switch {
	case s.Token != "" && s.Username+s.Password != "":
		return source.Secret{}, fault.New(fault.Unauthorized, "Secret %s holds both a bearerToken and username and password", at).WithHint("remove one of the two")
	case (s.Username == "") != (s.Password == ""):
		return source.Secret{}, lacks(secret, "username and password")
	case len(s.ClientCert) == 0 && len(s.ClientKey) > 0:
		return source.Secret{}, lacks(secret, keysCert[0])
	case len(s.ClientCert) > 0 && len(s.ClientKey) == 0:
		return source.Secret{}, lacks(secret, keysKey[0])
	case s.Username+s.Token == "" && len(s.CA) == 0 && len(s.ClientCert) == 0:
		return source.Secret{}, lacks(secret, "username and password, bearerToken, "+keysCA[0]+", "+keysCert[0]+" and "+keysKey[0])
	}
	return s, nil
}

func lacks(secret *corev1.Secret, keys string) *fault.Error {
	return fault.New(fault.Unauthorized, "Secret %s/%s does not hold %s", secret.Namespace, secret.Name, keys)
}

// firstKey returns the value of the first key that a Secret has.
func firstKey(secret *corev1.Secret, keys []string) []byte {
	for _, key := range keys {
		if value := secret.Data[key]; len(value) > 0 {
			return value
		}
	}
	return nil
}

// proxyOf reads the way to a server from a Secret.
func proxyOf(secret *corev1.Secret) (*source.Proxy, *fault.Error) {
	at := secret.Namespace + "/" + secret.Name
	address := strings.TrimSpace(string(secret.Data["address"]))
	if address == "" {
		return nil, lacks(secret, "address")
	}
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
		return nil, fault.New(fault.Invalid, "key address of Secret %s is not the URL of a proxy", at).WithHint("write http://host:port")
	}
	if u.User != nil {
		return nil, fault.New(fault.Invalid, "key address of Secret %s holds credentials", at).WithHint("put them into the keys username and password")
	}
	return &source.Proxy{URL: address, Username: string(secret.Data["username"]), Password: string(secret.Data["password"])}, nil
}
