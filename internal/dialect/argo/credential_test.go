package argo

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

func repoSecret(name string, data ...string) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: name, UID: "u-" + "1", Labels: map[string]string{labelSecretType: secretRepository}},
		Data:       map[string][]byte{},
	}
	for i := 0; i < len(data); i += 2 {
		s.Data[data[i]] = []byte(data[i+1])
	}
	return s
}

func labelled(s *corev1.Secret, kind string) *corev1.Secret {
	s.Labels = map[string]string{labelSecretType: kind}
	return s
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: name, UID: "c-1"}, Data: data}
}

// told is everything that a credential hides, without what is empty.
func told(s source.Secret) string {
	var parts []string
	for _, p := range []struct{ name, value string }{
		{"user", s.Username},
		{"password", s.Password},
		{"token", s.Token},
		{"key", string(s.SSHKey)},
		{"cert", string(s.ClientCert)},
		{"certkey", string(s.ClientKey)},
		{"ca", string(s.CA)},
		{"hosts", string(s.KnownHosts)},
	} {
		if p.value != "" {
			parts = append(parts, p.name+"="+p.value)
		}
	}
	if p := s.Proxy; p != nil {
		parts = append(parts, "proxy="+p.URL+","+p.Username+","+p.Password+","+p.NoProxy)
	}
	return strings.Join(parts, " ")
}

func TestCredentials(t *testing.T) {
	elsewhere := repoSecret("elsewhere", "url", "https://git.example.com/else", "password", "never")
	elsewhere.Namespace = "other"
	unlabelled := repoSecret("unlabelled", "url", "https://git.example.com/else", "password", "never")
	unlabelled.Labels = nil
	template := func(name string, data ...string) *corev1.Secret {
		return labelled(repoSecret(name, data...), secretTemplate)
	}
	c, _ := memoryServer(t,
		repoSecret("a", "url", "https://git.example.com/a.git", "username", "u", "password", "hunter2", "type", "git", "forceHttpBasicAuth", "true", "insecure", "false"),
		repoSecret("plain", "url", "https://git.example.com/plain"),
		repoSecret("token", "url", "https://git.example.com/token", "bearerToken", "hunter2"),
		repoSecret("tls", "url", "https://git.example.com/tls", "tlsClientCertData", "C", "tlsClientCertKey", "K"),
		repoSecret("proxied", "url", "https://git.example.com/proxied", "proxy", "http://me:hunter2@proxy:3128", "noProxy", "a,b"),
		repoSecret("badproxy", "url", "https://git.example.com/badproxy", "proxy", "me:hunter2@proxy"),
		repoSecret("insecure", "url", "https://git.example.com/insecure", "password", "hunter2", "insecure", "true"),
		repoSecret("nohost", "url", "git@git.example.com:nohost", "sshPrivateKey", "hunter2", "insecureIgnoreHostKey", "true"),
		repoSecret("lfs", "url", "https://git.example.com/lfs", "enableLfs", "true", "githubAppID", "1", "githubAppPrivateKey", "hunter2"),
		repoSecret("ssh", "url", "git@git.example.com:a.git", "sshPrivateKey", "S"),
		repoSecret("helm", "url", "https://git.example.com/charts", "type", "helm", "password", "never"),
		repoSecret("scoped", "url", "https://git.example.com/b", "project", "shop", "username", "shop", "password", "p"),
		repoSecret("shared", "url", "https://git.example.com/b", "username", "all", "password", "p"),
		template("t-host", "url", "https://forge.example.com", "username", "host"),
		template("t-team", "url", "https://forge.example.com/team/", "username", "team"),
		template("t-shop", "url", "https://forge.example.com/team", "username", "shop", "project", "shop"),
		template("t-azure", "url", "https://dev.azure.com/x", "azureServicePrincipalClientID", "hunter2"),
		repoSecret("bare", "url", "https://forge.example.com/else/bare", "proxy", "http://proxy"),
		repoSecret("own", "url", "https://forge.example.com/else/own", "username", "own"),
		configMap(knownHosts, map[string]string{knownHostsKey: "H"}),
		configMap(certificates, map[string]string{"private.example.com": "PEM"}),
		elsewhere, unlabelled,
	)
	const ids = "@u-1:999"
	tests := []struct{ reason, url, project, want, id, err string }{
		{"however it is written", "https://Git.example.com:443/a/", "shop", "user=u password=hunter2", "argocd/a" + ids, ""},
		{"never over another scheme", "http://git.example.com:443/a", "shop", "", "", ""},
		{"anonymous on purpose", "https://git.example.com/plain", "shop", "", "", ""},
		{"no Secret", "https://git.example.com/none", "shop", "", "", ""},
		{"a token", "https://git.example.com/token", "shop", "token=hunter2", "argocd/token" + ids, ""},
		{"a client certificate", "https://git.example.com/tls", "shop", "cert=C certkey=K", "argocd/tls" + ids, ""},
		{"a proxy, whose password is taken out of its address", "https://git.example.com/proxied", "shop", "proxy=http://proxy:3128,me,hunter2,a,b", "argocd/proxied" + ids, ""},
		{"a proxy that is none", "https://git.example.com/badproxy", "shop", "", "", "Invalid: Secret argocd/badproxy: proxy is no URL"},
		{"trust in anybody", "https://git.example.com/insecure", "shop", "", "", "Refused: Secret argocd/insecure: insecure: servers are always verified (remove it, and add what to trust to the ConfigMap argocd-tls-certs-cm)"},
		{"trust in any host", "ssh://git.example.com/nohost", "shop", "", "", "ConfigMap argocd-ssh-known-hosts-cm)"},
		{"ways that are not supported, by name", "https://git.example.com/lfs", "shop", "", "", "Unsupported: Secret argocd/lfs: enableLfs, githubAppID, githubAppPrivateKey are not supported yet"},
		{"a key, and the hosts to trust", "ssh://git@git.example.com/a", "shop", "key=S hosts=H", "argocd/ssh" + ids + "+ConfigMap/argocd/" + knownHosts + "@c-1:999", ""},
		{"hosts to trust without a key", "git@git.example.com:none", "shop", "hosts=H", "ConfigMap/argocd/" + knownHosts + "@c-1:999", ""},
		{"an authority to trust", "https://private.example.com/x", "shop", "ca=PEM", "ConfigMap/argocd/" + certificates + "@c-1:999", ""},
		{"a Helm repository", "https://git.example.com/charts", "shop", "", "", ""},
		{"a project's own", "https://git.example.com/b", "shop", "user=shop password=p", "argocd/scoped" + ids, ""},
		{"for everybody", "https://git.example.com/b", "other", "user=all password=p", "argocd/shared" + ids, ""},
		{"another namespace, no label", "https://git.example.com/else", "shop", "", "", ""},
		{"a template", "https://forge.example.com/x/y", "shop", "user=host", "argocd/t-host" + ids, ""},
		{"the longest template", "https://forge.example.com/team/y", "other", "user=team", "argocd/t-team" + ids, ""},
		{"of two, the project's own", "https://forge.example.com/team/y", "shop", "user=shop", "argocd/t-shop" + ids, ""},
		{"half a name is another name", "https://forge.example.com/teammates/y", "other", "user=host", "argocd/t-host" + ids, ""},
		{"half a host is another host", "https://forge.example.com.evil.test/y", "other", "", "", ""},
		{"a template over another scheme", "http://forge.example.com/x", "shop", "", "", ""},
		{"a Secret that a template completes", "https://forge.example.com/else/bare", "shop", "user=host proxy=http://proxy,,,", "argocd/bare" + ids + "+argocd/t-host" + ids, ""},
		{"a Secret that needs no template", "https://forge.example.com/else/own", "shop", "user=own", "argocd/own" + ids, ""},
		{"a template of another way", "https://dev.azure.com/x/y", "shop", "", "", "Secret argocd/t-azure: azureServicePrincipalClientID is not"},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			creds := &credentials{reader: c, namespace: "argocd", clock: func() time.Time { return noon }}
			got, err := creds.find(t.Context(), tc.url, tc.project)
			if msg := text(t, err); tc.err == "" && msg != "" || !strings.Contains(msg, tc.err) || strings.Contains(msg, "hunter2") {
				t.Errorf("got error %q, want %q", msg, tc.err)
			}
			if got := told(got.Secret()); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if got.ID != tc.id {
				t.Errorf("got ID %q, want %q", got.ID, tc.id)
			}
		})
	}
}

// counting counts lists, and fails them if it is told to.
type counting struct {
	client.Reader
	lists int
	err   error
}

func (c *counting) List(ctx context.Context, l client.ObjectList, opts ...client.ListOption) error {
	if c.err != nil {
		return c.err
	}
	if _, secrets := l.(*corev1.SecretList); secrets {
		c.lists++
	}
	return c.Reader.List(ctx, l, opts...)
}

func TestCredentialsAreKept(t *testing.T) {
	c, _ := memoryServer(t, repoSecret("a", "url", "https://git.example.com/a", "password", "p"))
	now := noon
	reader := &counting{Reader: c}
	creds := &credentials{reader: reader, namespace: "argocd", clock: func() time.Time { return now }}
	ask := func(want int) {
		t.Helper()
		if _, err := creds.find(t.Context(), "https://git.example.com/a", "shop"); err != nil {
			t.Fatal(err)
		}
		if reader.lists != want {
			t.Errorf("asked %d times, want %d", reader.lists, want)
		}
	}
	ask(1)
	ask(1)
	now = now.Add(credentialsUnwatched + 1)
	ask(2)
	creds.changed()
	ask(3)
	creds.watching(true)
	now = now.Add(credentialsUnwatched + 1)
	ask(3)
	creds.changed()
	reader.err = context.DeadlineExceeded
	if _, err := creds.find(t.Context(), "https://git.example.com/a", "shop"); fault.KindOf(err) != fault.Unreachable {
		t.Errorf("got %v: without the Secrets, nobody knows that a repository is anonymous", err)
	}
}
