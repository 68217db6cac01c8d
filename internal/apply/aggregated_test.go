package apply_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/apply"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/test/harness"
)

// plainAPI serves one kind, Note in plain.example.com/v1, of which it keeps one
// object, as an aggregated API server may: without managedFields.
type plainAPI struct {
	mu      sync.Mutex
	object  map[string]any
	version int
	moved   chan struct{} // closed, and made anew, when the object changes
}

func (a *plainAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch {
	case strings.HasSuffix(r.URL.Path, "/v1"):
		fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"plain.example.com/v1","resources":[
			{"name":"notes","singularName":"note","namespaced":false,"kind":"Note","verbs":["get","list","watch","patch"]}]}`)
	case r.URL.Query().Get("watch") != "":
		a.watch(w, r)
	case strings.HasSuffix(r.URL.Path, "/notes"):
		a.mu.Lock()
		defer a.mu.Unlock()
		items := []any{}
		if a.object != nil {
			items = append(items, a.object)
		}
		write(w, map[string]any{"kind": "NoteList", "apiVersion": "plain.example.com/v1", "items": items, "metadata": map[string]any{"resourceVersion": strconv.Itoa(a.version)}})
	case r.Method == http.MethodPatch:
		var sent map[string]any
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&sent); err != nil {
			http.Error(w, "not JSON", http.StatusBadRequest)
			return
		}
		write(w, a.put(sent["text"]))
	default:
		http.NotFound(w, r)
	}
}

// put sets the text of the object, and returns it.
func (a *plainAPI) put(text any) map[string]any {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.object == nil || a.object["text"] != text {
		a.version++
		a.object = map[string]any{
			"kind": "Note", "apiVersion": "plain.example.com/v1", "text": text,
			"metadata": map[string]any{"name": "one", "uid": "u", "resourceVersion": strconv.Itoa(a.version), "creationTimestamp": "2024-01-01T00:00:00Z"},
		}
		close(a.moved)
		a.moved = make(chan struct{})
	}
	return a.object
}

func (a *plainAPI) watch(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("sendInitialEvents") != "" {
		w.WriteHeader(http.StatusBadRequest) // as servers do that do not know it
		write(w, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 400, "reason": "BadRequest"})
		return
	}
	since, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	for {
		a.mu.Lock()
		o, version, moved := a.object, a.version, a.moved
		a.mu.Unlock()
		if version > since {
			write(w, map[string]any{"type": "MODIFIED", "object": o})
			since = version
		}
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		select {
		case <-moved:
		case <-r.Context().Done():
			return
		}
	}
}

func write(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

// certificate makes a certificate for a name, and its PEM.
func certificate(t *testing.T, name string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestWithoutManagedFields holds an object of an aggregated API that does not note
// who owns what: it is applied once, and once after each change of somebody else.
func TestWithoutManagedFields(t *testing.T) {
	s := newSite(t)
	api := &plainAPI{moved: make(chan struct{})}
	pair, ca := certificate(t, "plain."+s.ns+".svc")
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: api, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s.as(t, "test", `{apiVersion: v1, kind: Service, metadata: {name: plain}, spec: {type: ExternalName, externalName: localhost}}`)
	service := s.parse(t, fmt.Sprintf(`{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.plain.example.com}, spec: {
		group: plain.example.com, version: v1, groupPriorityMinimum: 1000, versionPriority: 1, caBundle: %s,
		service: {name: plain, namespace: %s, port: %s}}}`, base64.StdEncoding.EncodeToString(ca), s.ns, port))
	s.create(t, "test", service)
	services := s.api(t, service)
	t.Cleanup(func() { _ = services.Delete(context.Background(), service.GetName(), metav1.DeleteOptions{}) })
	harness.Shared(t).Await(t, s.kind(t, service).GVR(), "", service.GetName(), "to be available", func(o *unstructured.Unstructured) bool {
		conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		for _, c := range conditions {
			if m, ok := c.(map[string]any); ok && m["type"] == "Available" && m["status"] == "True" {
				return true
			}
		}
		return false
	})
	s.as(t, "test", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: plain-`+s.ns+`},
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}, subjects: [{kind: ServiceAccount, name: deployer, namespace: `+s.ns+`}]}`)
	later := s.discover(t, kschema.GroupKind{Group: "plain.example.com", Kind: "Note"})
	h := later.hold(t, us, `{apiVersion: plain.example.com/v1, kind: Note, metadata: {name: one}, text: ours}`)
	h.must(t, apply.Created)
	if r := h.pass(t); r.Action.Op != plan.Keep {
		t.Errorf("right after the apply: %s (%s)", r.Action.Op, r.Action.Reason)
	}
	moved := api.put("theirs")
	h.await(t, "changed", func(o plan.Observed) bool {
		return o.Sight == plan.Unsure && o.ResourceVersion == moved["metadata"].(map[string]any)["resourceVersion"]
	})
	h.must(t, apply.Configured)
	if got := api.put("ours"); got["metadata"].(map[string]any)["resourceVersion"] != "3" {
		t.Errorf("it was not put right: %v", got)
	}
	if r := h.pass(t); r.Action.Op != plan.Keep {
		t.Errorf("after the correction: %s", r.Action.Op)
	}
}

// discover connects anew until the API server tells of a kind: no event says when
// its aggregated discovery has asked a server that is available already.
func (s *site) discover(t *testing.T, kind kschema.GroupKind) *site {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		later := s.reconnect(t)
		if _, ok := later.LookupGroupKind(kind); ok {
			return later
		}
		select {
		case <-deadline:
			t.Fatal("the kind is not discovered")
		case <-time.After(250 * time.Millisecond):
		}
	}
}
