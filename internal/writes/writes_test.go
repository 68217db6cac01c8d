package writes_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/writes"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// event is an audit event as the API server writes it, with what a test replaces.
func event(replace ...string) string {
	text := `{"level":"Metadata","auditID":"1","stage":"ResponseComplete","requestURI":"/apis/apps/v1/namespaces/shop/deployments/web?fieldManager=kubectl-edit",
		"verb":"patch","user":{"username":"alice","groups":["system:authenticated"]},"userAgent":"kubectl/v1.36 (linux/amd64)",
		"objectRef":{"resource":"deployments","namespace":"shop","name":"web","apiGroup":"apps","apiVersion":"v1"},
		"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-11-22T12:00:00.100000Z","stageTimestamp":"2026-11-22T12:00:00.120000Z"}`
	return strings.NewReplacer(replace...).Replace(text)
}

func list(events ...string) []byte {
	return []byte(`{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[` + strings.Join(events, ",") + `]}`)
}

func TestWrote(t *testing.T) {
	deployment := writes.Target{Group: "apps", Resource: "deployments", Namespace: "shop", Name: "web"}
	edit := writes.Query{Target: deployment, Manager: "kubectl-edit", At: noon}
	ofNamespace := event(`"patch"`, `"delete"`, `"resource":"deployments"`, `"resource":"namespaces"`, `"name":"web","apiGroup":"apps"`, `"name":"shop"`)
	tests := []struct {
		name   string
		events []string
		query  writes.Query
		want   []string
		reason string
	}{
		{"an edit", []string{event()}, edit, []string{"alice"}, "object, manager and time fit"},
		{"another manager", []string{event()}, writes.Query{Target: deployment, Manager: "kubectl-scale", At: noon}, nil, "it was another write"},
		{"another second", []string{event()}, writes.Query{Target: deployment, Manager: "kubectl-edit", At: noon.Add(time.Second)}, nil, "it was another write"},
		{"a slow write", []string{event("00.120000Z", "07.000000Z")}, writes.Query{Target: deployment, Manager: "kubectl-edit", At: noon.Add(5 * time.Second)}, []string{"alice"}, "it was under way then"},
		{"another object", []string{event(`"name":"web"`, `"name":"api"`)}, edit, nil, "it was another object"},
		{"no manager named", []string{event("?fieldManager=kubectl-edit", "")}, writes.Query{Target: deployment, Manager: "kubectl", At: noon}, []string{"alice"}, "the API server takes the client's name"},
		{"two users", []string{event(), event("alice", "bob")}, edit, []string{"alice", "bob"}, "either may have done it"},
		{"impersonated", []string{event(`"verb"`, `"impersonatedUser":{"username":"deployer"},"verb"`)}, edit, []string{"deployer, asked for by alice"}, "both are known"},
		{"refused", []string{event(`"code":200`, `"code":403`)}, edit, nil, "nothing was written"},
		{"a dry run", []string{event("?field", "?dryRun=All&field")}, edit, nil, "nothing was written"},
		{"status", []string{event(`"namespace":"shop"`, `"namespace":"shop","subresource":"status"`)}, edit, nil, "status is not delivered"},
		{"a read", []string{event(`"patch"`, `"get"`)}, edit, nil, "nothing was written"},
		{"an earlier stage", []string{event("ResponseComplete", "RequestReceived")}, edit, nil, "what came of it is not known"},
		{"deleted", []string{event(`"patch"`, `"delete"`)}, writes.Query{Target: deployment, Gone: true}, []string{"alice"}, "who deletes needs no manager"},
		{"deleted with all", []string{event(`"patch"`, `"deletecollection"`, `,"name":"web"`, "")}, writes.Query{Target: deployment, Gone: true}, []string{"alice"}, "a collection has no name"},
		{"deleted with its namespace", []string{ofNamespace}, writes.Query{Target: deployment, Gone: true}, []string{"alice"}, "a namespace takes all that is in it"},
		{"a long name", []string{event("alice", strings.Repeat("a", 1000))}, edit, nil, "names are bounded"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := writes.New(func() time.Time { return noon.Add(time.Second) })
			if _, err := m.Note(list(tt.events...)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, m.Wrote(tt.query)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
		})
	}
}

func TestMemoryIsBounded(t *testing.T) {
	now := noon
	m := writes.New(func() time.Time { return now })
	told := 0
	m.OnNote(func() { told++ })
	first := writes.Query{Target: writes.Target{Group: "apps", Resource: "deployments", Namespace: "shop", Name: "web"}}
	for n := range 101 {
		var events []string
		for i := range 200 {
			events = append(events, event(`"name":"web"`, fmt.Sprintf(`"name":"web-%d-%d"`, n, i)))
		}
		if n == 0 {
			events[0] = event()
		}
		if _, err := m.Note(list(events...)); err != nil {
			t.Fatal(err)
		}
	}
	if m.Wrote(first) != nil || told != 101 {
		t.Errorf("the oldest of many is not forgotten, or nobody is told (%d)", told)
	}
	newest := first
	newest.Name = "web-100-199"
	if m.Wrote(newest) == nil {
		t.Error("the newest is forgotten")
	}
	now = noon.Add(time.Hour)
	if _, err := m.Note(list()); err != nil {
		t.Fatal(err)
	}
	if m.Wrote(newest) != nil {
		t.Error("what is old is not forgotten")
	}
}

func TestNoteRefuses(t *testing.T) {
	for _, body := range []string{"", "{}", "[]", `{"kind":"EventList","apiVersion":"audit.k8s.io/v1beta1"}`, `{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{"verb":1}]}`} {
		m := writes.New(time.Now)
		if _, err := m.Note([]byte(body)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: got %v", body, err)
		}
	}
}

func FuzzNote(f *testing.F) {
	f.Add(list(event()))
	f.Add([]byte(`{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{},null]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		m := writes.New(func() time.Time { return noon })
		if _, err := m.Note(body); err != nil && fault.KindOf(err) != fault.Invalid {
			t.Errorf("got %v", err)
		}
	})
}
