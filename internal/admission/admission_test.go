package admission

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
)

// law finds fault with objects whose data hold "bad", and warns of "odd"; the value "boom"
// cannot be judged.
type law struct{ cases []*policy.Case }

func (l *law) Judge(_ context.Context, sets []policy.Set, c *policy.Case, now time.Time) ([]policy.Decision, error) {
	l.cases = append(l.cases, c)
	data, _ := c.Subjects[0].Object["data"].(map[string]any)
	var found policy.Findings
	for key, v := range data {
		switch v {
		case "bad", "odd":
			found.List = append(found.List, policy.Finding{Policy: "p", Rule: "r", Path: "data." + key, Message: key + " is " + v.(string), Warn: v == "odd"})
		case "boom":
			return nil, fault.New(fault.Internal, "the worker is gone")
		}
	}
	return []policy.Decision{sets[0].Decide(c, found, nil, now)}, nil
}

const (
	web  = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"web","namespace":"shop","labels":{"by":"shop"}},"data":{`
	free = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"web","namespace":"shop"},"data":{`
)

func request(op admissionv1.Operation, user, old, next string) *admissionv1.AdmissionRequest {
	r := &admissionv1.AdmissionRequest{
		UID: "1", Operation: op, Namespace: "shop", Name: "web", UserInfo: authenticationv1.UserInfo{Username: user},
		Kind: metav1.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, Resource: metav1.GroupVersionResource{Version: "v1", Resource: "configmaps"},
	}
	if old != "" {
		r.OldObject = runtime.RawExtension{Raw: []byte(old + "}}")}
	}
	if next != "" {
		r.Object = runtime.RawExtension{Raw: []byte(next + "}}")}
	}
	return r
}

func gate(l *law, label string) *Gate {
	return New(Options{
		Sets:  func(string) ([]policy.Set, error) { return []policy.Set{{Name: "s"}}, nil },
		Judge: l,
		Held: func(id object.ID, labels, _ map[string]string) (Holder, bool) {
			by := labels["by"]
			if id.Kind == "Deployment" { // known by what is watched
				by = "shop"
			}
			return Holder{Delivery: "Kustomization/apps/" + by, Users: []string{"system:serviceaccount:apps:deployer"}}, by != ""
		},
		Labels: func(namespace string) (map[string]string, bool) {
			return map[string]string{Label: label}, namespace == "shop"
		},
		Self:   []string{"system:serviceaccount:holdfast-system:holdfast"},
		Groups: []string{"system:masters"},
	})
}

func TestReview(t *testing.T) {
	const ann = "ann"
	scale := request(admissionv1.Update, ann, "", "")
	scale.SubResource, scale.Kind.Kind, scale.Resource = "scale", "Scale", metav1.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	scale.OldObject.Raw = []byte(`{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"web"}}`)
	elsewhere := request(admissionv1.Create, ann, "", free+`"a":"good"`)
	elsewhere.Namespace = "new"
	broken := request(admissionv1.Create, ann, "", "{")
	masters := request(admissionv1.Update, ann, web, web+`"a":"bad"`)
	masters.UserInfo.Groups = []string{"system:masters"}
	const deployer, self, kube = "system:serviceaccount:apps:deployer", "system:serviceaccount:holdfast-system:holdfast", "system:serviceaccount:kube-system:deployment-controller"
	tests := []struct {
		reason, label  string
		r              *admissionv1.AdmissionRequest
		refused, warns string // "" for none
	}{
		{"what holds", Policies, request(admissionv1.Create, ann, "", free+`"a":"good"`), "", ""},
		{"what breaks a rule", Policies, request(admissionv1.Create, ann, "", free+`"a":"bad"`), "a is bad", ""},
		{"what a rule warns of", Policies, request(admissionv1.Create, ann, "", free+`"a":"odd"`), "", "a is odd"},
		{"what cannot be judged", Policies, request(admissionv1.Create, ann, "", free+`"a":"boom"`), "the worker is gone", ""},
		{"what cannot be read", Policies, broken, "cannot be read", ""},
		{"an update that leaves as wrong what was wrong", Policies, request(admissionv1.Update, ann, free+`"a":"bad"`, free+`"a":"bad","b":"good"`), "", "as before: "},
		{"an update that adds a wrong", Policies, request(admissionv1.Update, ann, free+`"a":"bad"`, free+`"a":"bad","b":"bad"`), "b is bad", "as before: "},
		{"a delete is nothing to judge", Policies, request(admissionv1.Delete, ann, free+`"a":"bad"`, ""), "", ""},
		{"a controller of Kubernetes that updates", Policies, request(admissionv1.Update, kube, free, free+`"a":"bad"`), "", ""},
		{"a controller of Kubernetes that creates", Policies, request(admissionv1.Create, kube, "", free+`"a":"bad"`), "a is bad", ""},
		{"a namespace that is not known yet", Policies, elsewhere, "does not know the namespace", ""},
		{"a held object where only policies count", Policies, request(admissionv1.Update, ann, web, web+`"a":"good"`), "", ""},
		{"a held object in a locked namespace", Locked, request(admissionv1.Update, ann, web, web+`"a":"good"`), "is held by Kustomization/apps/shop", ""},
		{"and its end", Locked, request(admissionv1.Delete, ann, web, ""), "is held by", ""},
		{"its marks taken away", Locked, request(admissionv1.Update, ann, web, free), "is held by", ""},
		{"a new object with the marks of a delivery", Locked, request(admissionv1.Create, ann, "", web), "is held by", ""},
		{"its size", Locked, scale, "Deployment.apps/shop/web is held by", ""},
		{"the account of the delivery", Locked, request(admissionv1.Update, deployer, web, web), "", ""},
		{"but the policies hold for it", Locked, request(admissionv1.Update, deployer, web, web+`"a":"bad"`), "a is bad", ""},
		{"Holdfast itself", Locked, request(admissionv1.Update, self, web, web+`"a":"bad"`), "", ""},
		{"Kubernetes itself", Locked, request(admissionv1.Update, kube, web, web), "", ""},
		{"whoever may break the glass", Locked, masters, "", ""},
		{"what nobody holds", Locked, request(admissionv1.Update, ann, free, free+`"a":"good"`), "", ""},
		{"a slip in the label is no open door", "lockd", request(admissionv1.Update, ann, web, web), "is held by", ""},
	}
	for _, tt := range tests {
		got := gate(&law{}, tt.label).Review(t.Context(), tt.r)
		if !strings.Contains(got.Refused, tt.refused) || (got.Refused == "") != (tt.refused == "") {
			t.Errorf("%s: %q, want %q", tt.reason, got.Refused, tt.refused)
		}
		if warned := strings.Join(got.Warnings, "\n"); !strings.Contains(warned, tt.warns) || (warned == "") != (tt.warns == "") {
			t.Errorf("%s: warnings %q, want %q", tt.reason, warned, tt.warns)
		}
	}
}

// A case says that it is not the whole of a delivery, and whose it is.
func TestCase(t *testing.T) {
	l := &law{}
	gate(l, Policies).Review(t.Context(), request(admissionv1.Update, "ann", free+`"a":"x"`, free+`"a":"y"`))
	if len(l.cases) != 1 {
		t.Fatalf("%d cases", len(l.cases))
	}
	c := l.cases[0]
	if !c.Alone || c.Delivery.Account != "ann" || c.Subjects[0].Old == nil || c.Subjects[0].Resource != "configmaps" || c.Namespaces["shop"][Label] != Policies {
		t.Errorf("%+v", c)
	}
}

func TestHandler(t *testing.T) {
	h := gate(&law{}, Policies).Handler()
	send := func(body []byte) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, Path, bytes.NewReader(body)))
		return w
	}
	review := admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: request(admissionv1.Create, "ann", "", free+`"a":"bad"`),
	}
	body, err := json.Marshal(review)
	if err != nil {
		t.Fatal(err)
	}
	var got admissionv1.AdmissionReview
	if err := json.Unmarshal(send(body).Body.Bytes(), &got); err != nil || got.Response == nil {
		t.Fatalf("%+v %v", got, err)
	}
	if got.Response.Allowed || got.Response.UID != "1" || got.Response.Result.Code != http.StatusForbidden || got.Kind != "AdmissionReview" {
		t.Errorf("%+v", got)
	}
	for reason, bad := range map[string][]byte{"no JSON": []byte("x"), "no request": []byte("{}"), "too large": bytes.Repeat([]byte(" "), maxReview+1)} {
		if w := send(bad); w.Code < 400 {
			t.Errorf("%s: %d", reason, w.Code)
		}
	}
}
