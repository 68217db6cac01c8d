package argo

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// The labels of Secrets, and the names of ConfigMaps, that say how repositories
// are reached.
const (
	labelSecretType  = prefix + "secret-type"
	secretRepository = "repository"
	secretTemplate   = "repo-creds" //nolint:gosec // a label, no secret
	knownHosts       = "argocd-ssh-known-hosts-cm"
	knownHostsKey    = "ssh_known_hosts"
	certificates     = "argocd-tls-certs-cm" // by host
)

// How long a list of repository Secrets is good for: long while a watch tells of
// changes, short where it cannot.
const (
	credentialsWatched   = 10 * time.Minute
	credentialsUnwatched = 30 * time.Second
)

// credentials finds how repositories are reached: who asks, in labelled Secrets,
// and whom to trust, in two ConfigMaps. The values go no further than the
// credential that carries them.
type credentials struct {
	reader    client.Reader
	namespace string
	clock     func() time.Time

	mu      sync.Mutex
	known   access
	at      time.Time // of the list; zero: none
	changes int       // of the objects, as the watch tells them
	watched bool
}

// access is what is configured, as it was last read.
type access struct {
	repositories, templates []corev1.Secret // by name
	hosts, certs            *corev1.ConfigMap
}

// secretSelector selects the Secrets that are read.
func secretSelector() labels.Selector {
	is, err := labels.NewRequirement(labelSecretType, selection.In, []string{secretRepository, secretTemplate})
	if err != nil {
		return labels.Nothing() // of constants: a test would show it
	}
	return labels.NewSelector().Add(*is)
}

// changed has everything read again at the next question.
func (c *credentials) changed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = time.Time{}
	c.changes++
}

// watching says whether changes will be told.
func (c *credentials) watching(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watched = yes
}

// find returns the credential for a repository, for Applications of a project;
// the zero value, anonymous, if nothing is configured for it. A repository Secret
// that does not authenticate is completed by the template with the longest prefix
// of its address. The ID of the credential names every object that it comes from.
// Errors are *fault.Error: Unsupported for a matching Secret that authenticates in
// another way, Refused for one that wants to trust anybody, Unreachable if the
// objects cannot be read.
func (c *credentials) find(ctx context.Context, repo, project string) (source.Credential, error) {
	known, err := c.list(ctx)
	if err != nil {
		return source.Credential{}, err
	}
	var secret source.Secret
	var from []string
	for _, s := range []*corev1.Secret{repository(known.repositories, repo, project), template(known.templates, repo, project)} {
		if s == nil || authenticates(secret) {
			continue
		}
		if err := complete(&secret, s); err != nil {
			return source.Credential{}, err
		}
		from = append(from, identity("", s))
	}
	if trusted := known.trust(&secret, repo); trusted != "" {
		from = append(from, trusted)
	}
	if len(from) == 0 || !authenticates(secret) && secret.Proxy == nil && secret.CA == nil && secret.KnownHosts == nil {
		return source.Credential{}, nil
	}
	return source.NewCredential(strings.Join(from, "+"), secret), nil
}

// identity names one state of an object.
func identity(kind string, o metav1.Object) string {
	return kind + o.GetNamespace() + "/" + o.GetName() + "@" + string(o.GetUID()) + ":" + o.GetResourceVersion()
}

// list returns what is configured. It does not hold the lock while it asks, and
// does not keep an answer that may be older than the last change.
func (c *credentials) list(ctx context.Context) (access, error) {
	c.mu.Lock()
	now, life, changes := c.clock(), credentialsUnwatched, c.changes
	if c.watched {
		life = credentialsWatched
	}
	if known := c.known; !c.at.IsZero() && now.Sub(c.at) <= life {
		c.mu.Unlock()
		return known, nil
	}
	c.mu.Unlock()
	known, err := c.read(ctx)
	if err != nil {
		return access{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == changes {
		c.known, c.at = known, now
	}
	return known, nil
}

func (c *credentials) read(ctx context.Context) (access, error) {
	unreadable := func(what string, err error) (access, error) {
		return access{}, fault.New(fault.Unreachable, "the %s in namespace %s cannot be read", what, c.namespace).
			WithHint("Holdfast needs the right to list them").Because(err)
	}
	var known access
	var l corev1.SecretList
	if err := c.reader.List(ctx, &l, client.InNamespace(c.namespace), client.MatchingLabelsSelector{Selector: secretSelector()}); err != nil {
		return unreadable("repository Secrets", err)
	}
	slices.SortFunc(l.Items, func(a, b corev1.Secret) int { return cmp.Compare(a.Name, b.Name) })
	for i := range l.Items {
		s := &l.Items[i]
		s.ManagedFields = nil
		if s.Labels[labelSecretType] == secretTemplate {
			known.templates = append(known.templates, *s)
		} else {
			known.repositories = append(known.repositories, *s)
		}
	}
	for name, into := range map[string]**corev1.ConfigMap{knownHosts: &known.hosts, certificates: &known.certs} {
		var l corev1.ConfigMapList
		// Listed, not got: whoever may see everything need not be able to get it.
		if err := c.reader.List(ctx, &l, client.InNamespace(c.namespace), client.MatchingFields{"metadata.name": name}); err != nil {
			return unreadable("ConfigMap "+name, err)
		}
		if len(l.Items) > 0 {
			*into = &l.Items[0]
		}
	}
	return known, nil
}

// trust adds whom to trust on the way to a repository, and names where that stands.
func (a access) trust(secret *source.Secret, repo string) string {
	u := address(repo)
	switch {
	case u == nil:
		return ""
	case u.Scheme == "ssh" && a.hosts != nil && a.hosts.Data[knownHostsKey] != "":
		secret.KnownHosts = []byte(a.hosts.Data[knownHostsKey])
		return identity("ConfigMap/", a.hosts)
	case u.Scheme == "https" && a.certs != nil && a.certs.Data[u.Hostname()] != "":
		secret.CA = []byte(a.certs.Data[u.Hostname()])
		return identity("ConfigMap/", a.certs)
	}
	return ""
}

// repository returns the Secret of a repository: the project's own before one for
// everybody.
func repository(list []corev1.Secret, repo, project string) *corev1.Secret {
	var best *corev1.Secret
	for i := range list {
		s := &list[i]
		want := source.NormalizeURL(repo)
		if !permits(s, project) || want == "" || source.NormalizeURL(string(s.Data["url"])) != want || !sameScheme(s, repo) {
			continue
		}
		if best == nil || len(best.Data["project"]) == 0 && len(s.Data["project"]) > 0 {
			best = s
		}
	}
	return best
}

// template returns the Secret whose url is the longest beginning of a repository's
// address; of two with the same url, the project's own.
func template(list []corev1.Secret, repo, project string) *corev1.Secret {
	var best *corev1.Secret
	length := -1
	for i := range list {
		s := &list[i]
		begins := source.NormalizeURL(string(s.Data["url"]))
		if !permits(s, project) || !within(begins, source.NormalizeURL(repo)) || !sameScheme(s, repo) {
			continue
		}
		if len(begins) > length || len(begins) == length && len(best.Data["project"]) == 0 && len(s.Data["project"]) > 0 {
			best, length = s, len(begins)
		}
	}
	return best
}

// within reports whether an address lies below another. Names are whole: what is
// given for host/team is not sent to host/teammates, and never to another host.
func within(begins, repo string) bool {
	return begins != "" && (repo == begins || strings.HasPrefix(repo, strings.TrimSuffix(begins, "/")+"/"))
}

// permits reports whether a Secret is for Git, and for Applications of a project.
func permits(s *corev1.Secret, project string) bool {
	kind, of := string(s.Data["type"]), string(s.Data["project"])
	return (kind == "" || kind == "git") && (of == "" || of == project)
}

// sameScheme: a password given for https is not sent over http.
func sameScheme(s *corev1.Secret, repo string) bool {
	a, b := address(string(s.Data["url"])), address(repo)
	return a != nil && b != nil && a.Scheme == b.Scheme
}

// address parses a repository's address; git@host:path is one of ssh.
func address(repo string) *url.URL {
	repo = strings.TrimSpace(repo)
	if !strings.Contains(repo, "://") {
		host, path, ok := strings.Cut(repo, ":")
		if !ok {
			return nil
		}
		repo = "ssh://" + host + "/" + path
	}
	u, err := url.Parse(repo)
	if err != nil {
		return nil
	}
	if u.Scheme = strings.ToLower(u.Scheme); u.Scheme == "git+ssh" {
		u.Scheme = "ssh"
	}
	return u
}

func authenticates(s source.Secret) bool {
	return s.Username != "" || s.Password != "" || s.Token != "" || s.SSHKey != nil || s.ClientCert != nil || s.ClientKey != nil
}

// credentialKeys are the keys of a Secret that are honoured, or say what is done
// anyway: basic authentication is always sent at once, and history fetched as far
// as it is needed.
var credentialKeys = []string{
	"url", "type", "name", "project", "username", "password", "bearerToken", "sshPrivateKey",
	"tlsClientCertData", "tlsClientCertKey", "proxy", "noProxy",
	"forceHttpBasicAuth", "depth", "webhookManifestCacheWarmDisabled",
}

// unsafeKeys are the keys that trust anybody, with where to say whom to trust.
var unsafeKeys = map[string]string{"insecure": certificates, "insecureIgnoreHostKey": knownHosts}

// complete lays what a Secret holds over a credential.
func complete(into *source.Secret, s *corev1.Secret) error {
	name := "Secret " + s.Namespace + "/" + s.Name
	var refused []string
	for key, value := range s.Data {
		if slices.Contains(credentialKeys, key) || len(value) == 0 || string(value) == "false" {
			continue
		}
		if instead, isUnsafe := unsafeKeys[key]; isUnsafe {
			return fault.New(fault.Refused, "%s: servers are always verified", key).On(name).
				WithHint("remove it, and add what to trust to the ConfigMap %s", instead)
		}
		refused = append(refused, key)
	}
	if len(refused) > 0 {
		return notYet(refused).On(name)
	}
	into.Username, into.Password, into.Token = string(s.Data["username"]), string(s.Data["password"]), string(s.Data["bearerToken"])
	into.SSHKey, into.ClientCert, into.ClientKey = s.Data["sshPrivateKey"], s.Data["tlsClientCertData"], s.Data["tlsClientCertKey"]
	return setProxy(into, string(s.Data["proxy"]), string(s.Data["noProxy"]), name)
}

func setProxy(into *source.Secret, proxy, noProxy, name string) error {
	if proxy == "" {
		return nil
	}
	u, err := url.Parse(proxy)
	if err != nil || u.Host == "" {
		return fault.New(fault.Invalid, "proxy is no URL").On(name) // which may hold a password
	}
	into.Proxy = &source.Proxy{NoProxy: noProxy}
	if u.User != nil {
		into.Proxy.Username = u.User.Username()
		into.Proxy.Password, _ = u.User.Password()
		u.User = nil
	}
	into.Proxy.URL = u.String()
	return nil
}
