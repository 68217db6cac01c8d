package controller

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/server"
)

func TestWebhookSecrets(t *testing.T) {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "argocd", Name: "argocd-secret"},
		Data: map[string][]byte{
			"webhook.github.secret": []byte("s3cret"), "webhook.gitlab.secret": []byte("t0ken"), "webhook.gogs.secret": []byte("k3y"),
		},
	}
	forbidden := errors.New("forbidden")
	tests := []struct {
		name, reason string
		reader       client.Reader
		want         server.Secrets
		fails        bool
	}{
		{name: "there", reason: "where Argo CD keeps it", reader: fake.NewClientBuilder().WithObjects(secret).Build(), want: server.Secrets{GitHub: "s3cret", GitLab: "t0ken", Gogs: "k3y"}},
		{name: "none", reason: "nobody has configured one", reader: fake.NewClientBuilder().Build()},
		{name: "unreadable", reason: "an error is no permission to go without", fails: true, reader: fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
			Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
				return forbidden
			},
		}).Build()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := webhookSecrets(tt.reader, "argocd")(t.Context())
			if got != tt.want || (err != nil) != tt.fails {
				t.Errorf("%s: got %v, %v", tt.reason, got, err)
			}
		})
	}
}

// The libraries' chatter stays out of the log, what they warn of does not.
func TestLibraryLog(t *testing.T) {
	for _, level := range []slog.Level{slog.LevelInfo, slog.LevelDebug} {
		var b bytes.Buffer
		l := libraryLog(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: level}))).WithName("x").WithValues("a", 1)
		l.Info("chatter")
		l.Error(errors.New("bad"), "trouble")
		if got, want := strings.Contains(b.String(), "chatter"), level == slog.LevelDebug; got != want {
			t.Errorf("level %s: chatter is shown: %t", level, got)
		}
		if !strings.Contains(b.String(), "trouble") {
			t.Errorf("level %s: trouble is not shown", level)
		}
	}
}

func TestReadiness(t *testing.T) {
	var r readiness
	if r.err() == nil {
		t.Error("ready before anything is known")
	}
	r.set()
	if err := r.err(); err != nil {
		t.Error(err)
	}
}

// Both dialects' marks say whose an object is.
func TestOwnerAndKept(t *testing.T) {
	o := clusterOptions("argocd", slog.New(slog.DiscardHandler))
	flux := map[string]string{"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
	argo := map[string]string{"argocd.argoproj.io/tracking-id": "shop:/Service:shop/web"}
	if got := o.Owner(object.ID{}, flux, nil); got != "Kustomization/flux-system/apps" {
		t.Errorf("Flux's: %q", got)
	}
	if got := o.Owner(object.ID{Kind: "Service", Namespace: "shop", Name: "web"}, nil, argo); got != "Application/argocd/shop" {
		t.Errorf("Argo CD's: %q", got)
	}
	if got := o.Owner(object.ID{}, nil, nil); got != "" {
		t.Errorf("nobody's: %q", got)
	}
	if inPrune, inDelete := o.Kept(nil, map[string]string{"argocd.argoproj.io/sync-options": "Prune=false"}); !inPrune || inDelete {
		t.Error("an object that must stay would be pruned")
	}
}
