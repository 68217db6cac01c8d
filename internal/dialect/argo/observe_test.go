package argo

import (
	"log/slog"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
)

// nothingKept is a memory of an engine that has none.
type nothingKept struct{ delivery.Memory }

func (nothingKept) Delete(string) error { return nil }

// A deleted Application that was only observed must not be told of for ever.
func TestForgottenIsNotObserved(t *testing.T) {
	for reason, said := range map[string]string{"it was told of": "nothing", "nothing was told": ""} {
		ended := 0
		a := newArgo(&dialect.Env{
			Engine:   &delivery.Engine{Options: delivery.Options{Memory: nothingKept{}}},
			Observed: func(delivery.ID, delivery.Report) { ended++ },
		}, nil)
		name := types.NamespacedName{Namespace: "argocd", Name: "web"}
		a.memories.Of(name).said = said
		a.forget(name)
		if want := len(said) > 0; (ended == 1) != want {
			t.Errorf("%s: ended %d times", reason, ended)
		}
	}
}

// A process that observes leaves a project that is being deleted to Argo CD.
func TestProjectsAreLetGoByWhoServesThem(t *testing.T) {
	for _, tc := range []struct {
		reason  string
		observe bool
		patches int
	}{
		{"nobody else would", false, 1},
		{"Argo CD does", true, 0},
	} {
		now := metav1.Now()
		project := parse(t, "apiVersion: argoproj.io/v1alpha1\nkind: AppProject\nmetadata: {name: shop, namespace: argocd, finalizers: ["+finalizerResources+"]}\n")
		project.SetDeletionTimestamp(&now)
		server, patches := memoryServer(t, project)
		a := newArgo(&dialect.Env{Client: server, ArgoNamespace: "argocd", Observe: tc.observe, Events: &record.FakeRecorder{}}, newDesk(server, server))
		if _, err := a.reconcileProject(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(project)}); err != nil {
			t.Errorf("%s: %v", tc.reason, err)
		}
		if len(*patches) != tc.patches {
			t.Errorf("%s: wrote %v", tc.reason, *patches)
		}
	}
}

// Whoever asks for an Application back does not have to wait until Argo CD, which
// writes it already, has been quiet.
func TestHandBackBesideABusyPeer(t *testing.T) {
	u := parse(t, web)
	dialect.SetLeftAlone(u, true)
	dialect.Annotate(u, dialect.AnnotationTakeover, dialect.TakenBack)
	server, _ := memoryServer(t, u)
	now := time.Now()
	env := &dialect.Env{Client: server, ArgoNamespace: u.GetNamespace(), Peers: &dialect.Peers{}, Clock: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)}
	peerWrote := func(at time.Time) {
		seen := u.DeepCopy()
		seen.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "argocd-application-controller", Operation: metav1.ManagedFieldsOperationUpdate, Time: &metav1.Time{Time: at}}})
		env.Observing(seen)
	}
	peerWrote(now.Add(-time.Minute))
	peerWrote(now)
	if !env.Observing(u) {
		t.Fatal("the peer is not noticed")
	}
	a := newArgo(env, newDesk(server, server))
	if _, err := a.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(u)}); err != nil {
		t.Fatal(err)
	}
	if err := server.Get(t.Context(), client.ObjectKeyFromObject(u), u); err != nil || dialect.Taken(u) != "" || dialect.LeftAlone(u) {
		t.Errorf("it was not given back: %v, %v", u.GetAnnotations(), err)
	}
}
