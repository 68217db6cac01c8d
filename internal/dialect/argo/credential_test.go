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
)

func secret(name string, data ...string) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: name, UID: "u-" + "1", Labels: map[string]string{labelSecretType: secretRepository}},
		Data:       map[string][]byte{},
	}
	for i := 0; i < len(data); i += 2 {
		s.Data[data[i]] = []byte(data[i+1])
	}
	return s
}

func TestCredentials(t *testing.T) {
	elsewhere := secret("elsewhere", "url", "https://git.example.com/else", "password", "never")
	elsewhere.Namespace = "other"
	unlabelled := secret("unlabelled", "url", "https://git.example.com/else", "password", "never")
	unlabelled.Labels = nil
	c, _ := memoryServer(t,
		secret("a", "url", "https://git.example.com/a.git", "username", "u", "password", "hunter2", "type", "git"),
		secret("plain", "url", "https://git.example.com/plain"),
		secret("key", "url", "https://git.example.com/key", "sshPrivateKey", "hunter2", "insecure", "false"),
		secret("ssh", "url", "git@git.example.com:a.git", "sshPrivateKey", "hunter2"),
		secret("helm", "url", "https://git.example.com/charts", "type", "helm", "password", "never"),
		secret("scoped", "url", "https://git.example.com/b", "project", "shop", "username", "shop", "password", "p"),
		secret("shared", "url", "https://git.example.com/b", "username", "all", "password", "p"),
		elsewhere, unlabelled,
	)
	tests := []struct{ reason, url, project, user, err string }{
		{"however it is written", "https://Git.example.com:443/a/", "shop", "u", ""},
		{"never over another scheme", "http://git.example.com:443/a", "shop", "", ""},
		{"anonymous on purpose", "https://git.example.com/plain", "shop", "", ""},
		{"no Secret", "https://git.example.com/none", "shop", "", ""},
		{"another key", "https://git.example.com/key", "shop", "", "Unsupported: Secret argocd/key: sshPrivateKey is not supported yet"},
		{"a Helm repository", "https://git.example.com/charts", "shop", "", ""},
		{"a project's own", "https://git.example.com/b", "shop", "shop", ""},
		{"for everybody", "https://git.example.com/b", "other", "all", ""},
		{"another namespace, no label", "https://git.example.com/else", "shop", "", ""},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			creds := &credentials{reader: c, namespace: "argocd", clock: func() time.Time { return noon }}
			got, err := creds.find(t.Context(), tc.url, tc.project)
			if msg := text(t, err); tc.err == "" && msg != "" || !strings.Contains(msg, tc.err) || strings.Contains(msg, "hunter2") {
				t.Errorf("got error %q, want %q", msg, tc.err)
			}
			if user, _ := got.Basic(); user != tc.user {
				t.Errorf("got user %q, want %q", user, tc.user)
			}
			if (got.ID != "") != (tc.user != "") {
				t.Errorf("got ID %q", got.ID)
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
	if c.lists++; c.err != nil {
		return c.err
	}
	return c.Reader.List(ctx, l, opts...)
}

func TestCredentialsAreKept(t *testing.T) {
	c, _ := memoryServer(t, secret("a", "url", "https://git.example.com/a", "password", "p"))
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
