package dialect

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

const (
	application   = `{"apiVersion":"argoproj.io/v1alpha1","kind":"Application","metadata":{"name":"a","namespace":"n","uid":"1"}}`
	kustomization = `{"apiVersion":"kustomize.toolkit.fluxcd.io/v1","kind":"Kustomization","metadata":{"name":"a","namespace":"n","uid":"1"},"spec":{"path":"./"}}`
)

func resource(t *testing.T, text, takeover string, left bool) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	Annotate(u, AnnotationTakeover, takeover)
	if left {
		SetLeftAlone(u, true)
	}
	return u
}

func TestWhoseItIs(t *testing.T) {
	tests := []struct {
		name, reason         string
		takeover             string
		left                 bool
		observing, suspended bool // of a process that observes
		suspendedAlone       bool // of one that does not
	}{
		{name: "nothing said", reason: "the peer delivers, so only look", observing: true},
		{name: "left alone", reason: "suspended is suspended for everybody", left: true, observing: true, suspended: true, suspendedAlone: true},
		{name: "taken over", reason: "both marks: ours", takeover: TakenOver, left: true},
		{name: "half a take-over", reason: "somebody resumed the peer: it is the peer's at once", takeover: TakenOver, observing: true},
		{name: "paused", reason: "suspending what was taken over stops Holdfast too", takeover: TakenPaused, left: true, suspended: true, suspendedAlone: true},
		{name: "going back", reason: "no new pass begins", takeover: TakenBack, left: true, suspended: true, suspendedAlone: true},
		{name: "another word", reason: "what is not known takes nothing over", takeover: "yes", left: true, observing: true, suspended: true, suspendedAlone: true},
	}
	for _, tt := range tests {
		for kind, text := range map[string]string{"argo": application, "flux": kustomization} {
			t.Run(tt.name+" "+kind, func(t *testing.T) {
				u := resource(t, text, tt.takeover, tt.left)
				for _, mode := range []struct {
					observe, observing, suspended bool
				}{
					{true, tt.observing, tt.suspended},
					{false, false, tt.suspendedAlone},
				} {
					env := &Env{Observe: mode.observe}
					if got := env.Observing(u); got != mode.observing {
						t.Errorf("%s: Observing is %t with Observe %t", tt.reason, got, mode.observe)
					}
					if got := Suspended(u); got != mode.suspended {
						t.Errorf("%s: Suspended is %t with Observe %t", tt.reason, got, mode.observe)
					}
				}
			})
		}
	}
}

// Setting and releasing the marks leaves a resource as it was.
func TestReleaseIsTheInverse(t *testing.T) {
	for _, text := range []string{application, kustomization} {
		want, u := resource(t, text, "", false), resource(t, text, TakenOver, true)
		if Taken(u) != TakenOver {
			t.Errorf("%s is not taken over", u.GetKind())
		}
		Release(u)
		want.SetAnnotations(nil)
		u.SetAnnotations(nil)
		if diff := cmp.Diff(want.Object, u.Object); diff != "" {
			t.Errorf("%s differs after its marks were released (-before +after):\n%s", u.GetKind(), diff)
		}
	}
}

func wrote(t *testing.T, u *unstructured.Unstructured, manager, subresource string, at time.Time) {
	t.Helper()
	if err := unstructured.SetNestedSlice(u.Object, []any{map[string]any{
		"manager": manager, "operation": "Update", "subresource": subresource, "time": at.UTC().Format(time.RFC3339),
		"fieldsV1": map[string]any{"f:status": map[string]any{}},
	}}, "metadata", "managedFields"); err != nil {
		t.Fatal(err)
	}
}

func TestAPeerThatStillRuns(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now := start
	var log bytes.Buffer
	events := record.NewFakeRecorder(10)
	env := &Env{
		Peers: &Peers{}, Clock: func() time.Time { return now }, Events: events,
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	u := resource(t, kustomization, TakenOver, true)
	const peer = "gotk-kustomize-controller"
	steps := []struct {
		reason  string
		after   time.Duration
		manager string
		wrote   time.Time
		want    bool
		events  int
	}{
		{"what it wrote before does not count", 0, peer, start.Add(-time.Hour), false, 0},
		{"nothing new", time.Minute, peer, start.Add(-time.Hour), false, 0},
		{"our own writes do not count", time.Minute, StatusManager, start.Add(time.Minute), false, 0},
		{"it writes", time.Minute, peer, start.Add(2 * time.Minute), true, 1},
		{"it goes on, which is no news", time.Minute, peer, start.Add(3 * time.Minute), true, 1},
		{"not quiet for long enough", PeerQuiet - time.Second, peer, start.Add(3 * time.Minute), true, 1},
		{"quiet", 2 * time.Second, peer, start.Add(3 * time.Minute), false, 1},
		{"it comes back", time.Minute, peer, start.Add(20 * time.Minute), true, 2},
	}
	told := 0
	for _, s := range steps {
		now = now.Add(s.after)
		subresource := "status"
		wrote(t, u, s.manager, subresource, s.wrote)
		if got := env.Observing(u); got != s.want {
			t.Errorf("%s: Observing is %t", s.reason, got)
		}
		for len(events.Events) > 0 {
			if e := <-events.Events; !strings.Contains(e, peer) {
				t.Errorf("%s: the event does not name the peer: %s", s.reason, e)
			}
			told++
		}
		if told != s.events || strings.Count(log.String(), peer) != s.events {
			t.Errorf("%s: told %d times, logged:\n%s", s.reason, told, log.String())
		}
	}
}

// While the peer is at its place, its work is no reason to hold back afterwards.
func TestAPeerAtItsPlace(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	env := &Env{Observe: true, Peers: &Peers{}, Clock: func() time.Time { return start }, Log: slog.New(slog.DiscardHandler)}
	theirs, ours := resource(t, application, "", false), resource(t, application, TakenOver, true)
	for i := range 3 {
		wrote(t, theirs, "argocd-application-controller", "", start.Add(time.Duration(i)*time.Minute))
		if !env.Observing(theirs) {
			t.Fatal("not observing what is the peer's")
		}
	}
	wrote(t, ours, "argocd-application-controller", "", start.Add(2*time.Minute))
	if env.Observing(ours) {
		t.Error("the peer's writes from before the take-over hold it back")
	}
	wrote(t, ours, "argocd-application-controller", "", start.Add(3*time.Minute))
	if !env.Observing(ours) {
		t.Error("the peer writes after the take-over, and nothing holds Holdfast back")
	}
}

func TestHandBack(t *testing.T) {
	for _, text := range []string{application, kustomization} {
		going, staying := resource(t, text, TakenBack, true), resource(t, text, TakenOver, true)
		c := fake.NewClientBuilder().WithObjects(going).Build()
		env := &Env{Client: c}
		if done, err := env.HandBack(t.Context(), staying); done || err != nil {
			t.Errorf("%s was handed back unasked: %t, %v", staying.GetKind(), done, err)
		}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(going), going); err != nil {
			t.Fatal(err)
		}
		stale := going.DeepCopy()
		if done, err := env.HandBack(t.Context(), going); !done || err != nil {
			t.Fatalf("%s was not handed back: %t, %v", going.GetKind(), done, err)
		}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(going), going); err != nil {
			t.Fatal(err)
		}
		if LeftAlone(going) || going.GetAnnotations()[AnnotationTakeover] != "" {
			t.Errorf("marks are left: %v", going.Object)
		}
		if _, err := env.HandBack(t.Context(), stale); err == nil {
			t.Errorf("a stale %s was patched", stale.GetKind())
		}
	}
}

func TestSlim(t *testing.T) {
	u := resource(t, application, "", false)
	wrote(t, u, "argocd-application-controller", "", time.Unix(0, 0))
	if _, err := Slim(u); err != nil {
		t.Fatal(err)
	}
	fields := u.GetManagedFields()
	if len(fields) != 1 || fields[0].FieldsV1 != nil || fields[0].Manager == "" || fields[0].Time == nil {
		t.Errorf("managedFields are %v", fields)
	}
}
