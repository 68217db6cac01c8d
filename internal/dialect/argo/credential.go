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
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

const (
	labelSecretType  = prefix + "secret-type"
	secretRepository = "repository"
)

// How long a list of repository Secrets is good for: long while a watch tells of
// changes, short where it cannot.
const (
	credentialsWatched   = 10 * time.Minute
	credentialsUnwatched = 30 * time.Second
)

// credentials finds the credentials of repositories in labelled Secrets. Only the
// matching Secret is read for what it is worth; the values go no further than the
// credential that carries them.
type credentials struct {
	reader    client.Reader
	namespace string
	clock     func() time.Time

	mu      sync.Mutex
	known   []corev1.Secret
	at      time.Time // of the list; zero: none
	changes int       // of the Secrets, as the watch tells them
	watched bool
}

// changed has the Secrets read again at the next question.
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
// the zero value, anonymous, if no Secret matches. Errors are *fault.Error:
// Unsupported for a matching Secret that authenticates in another way,
// Unreachable if the Secrets cannot be read.
func (c *credentials) find(ctx context.Context, repo, project string) (source.Credential, error) {
	secrets, err := c.list(ctx)
	if err != nil {
		return source.Credential{}, err
	}
	var best *corev1.Secret
	for i := range secrets {
		s := &secrets[i]
		if !fits(s, repo, project) {
			continue
		}
		// The project's own Secret goes before one for everybody.
		if best == nil || len(best.Data["project"]) == 0 && len(s.Data["project"]) > 0 {
			best = s
		}
	}
	if best == nil {
		return source.Credential{}, nil
	}
	return credential(best)
}

// list returns the Secrets, ordered by name. It does not hold the lock while it
// asks, and does not keep an answer that may be older than the last change.
func (c *credentials) list(ctx context.Context) ([]corev1.Secret, error) {
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
	var l corev1.SecretList
	err := c.reader.List(ctx, &l, client.InNamespace(c.namespace), client.MatchingLabels{labelSecretType: secretRepository})
	if err != nil {
		return nil, fault.New(fault.Unreachable, "the repository Secrets in namespace %s cannot be read", c.namespace).
			WithHint("Holdfast needs the right to list them").Because(err)
	}
	slices.SortFunc(l.Items, func(a, b corev1.Secret) int { return cmp.Compare(a.Name, b.Name) })
	for i := range l.Items {
		l.Items[i].ManagedFields = nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == changes {
		c.known, c.at = l.Items, now
	}
	return l.Items, nil
}

// fits reports whether a Secret is for this repository and project. The scheme
// must be the same: a password given for https is not sent over http.
func fits(s *corev1.Secret, repo, project string) bool {
	address := string(s.Data["url"])
	if kind := string(s.Data["type"]); kind != "" && kind != "git" {
		return false
	}
	if p := string(s.Data["project"]); p != "" && p != project {
		return false
	}
	want := source.NormalizeURL(repo)
	return want != "" && source.NormalizeURL(address) == want && scheme(address) == scheme(repo)
}

func scheme(address string) string {
	u, err := url.Parse(strings.TrimSpace(address))
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Scheme)
}

// credentialKeys are the keys of a repository Secret that are honoured.
var credentialKeys = []string{"url", "type", "name", "project", "username", "password"}

func credential(s *corev1.Secret) (source.Credential, error) {
	var refused []string
	for key, value := range s.Data {
		if !slices.Contains(credentialKeys, key) && len(value) > 0 && string(value) != "false" {
			refused = append(refused, key)
		}
	}
	if len(refused) > 0 {
		return source.Credential{}, notYet(refused).On("Secret " + s.Namespace + "/" + s.Name)
	}
	user, password := string(s.Data["username"]), string(s.Data["password"])
	if user == "" && password == "" {
		return source.Credential{}, nil
	}
	id := s.Namespace + "/" + s.Name + "@" + string(s.UID) + ":" + s.ResourceVersion
	return source.BasicAuth(id, user, password), nil
}
