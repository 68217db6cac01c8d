package apply_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/apply"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/secret"
)

func TestOwnerIsNamedWhenItIsKnown(t *testing.T) {
	fake := api(t)
	owner, made := do(fake, plan.Create, "owner"), do(fake, plan.Create, "made")
	made.Desired.Owner = owner.ID
	lone := do(fake, plan.Create, "lone")
	lone.Desired.Owner = id("nobody")
	res := apply.Execute(t.Context(), plan.Plan{Stages: []plan.Stage{
		{Name: "first", Actions: []plan.Action{owner}}, {Name: "then", Actions: []plan.Action{made, lone}},
	}}, fake, apply.Options{Manager: "holdfast"})
	if res.Objects[0].Outcome != apply.Created || res.Objects[1].Outcome != apply.Created {
		t.Fatalf("%+v", res.Objects)
	}
	now, err := fake.Get(t.Context(), made.Kind, made.ID)
	if err != nil {
		t.Fatal(err)
	}
	refs := now.GetOwnerReferences()
	if len(refs) != 1 || refs[0].UID != res.Objects[0].Record.UID || refs[0].Name != "owner" || refs[0].APIVersion != "v1" || !*refs[0].Controller {
		t.Errorf("owners: %+v", refs)
	}
	if last := res.Objects[2]; last.Outcome != apply.Waiting || fault.KindOf(last.Err) != fault.Waiting || !strings.Contains(last.Err.Error(), "waits for ConfigMap/apps/nobody") {
		t.Errorf("without its owner: %+v", last)
	}
}

func TestOwnedWithoutOwner(t *testing.T) {
	d := do(api(t), plan.Create, "a").Desired
	got, err := apply.Owned(*d, schema.GroupVersion{Version: "v1"}, "")
	if err != nil || string(got) != string(d.Body.Reveal()) {
		t.Errorf("%s, %v", got, err)
	}
	d.Owner = id("o")
	o := &unstructured.Unstructured{}
	if got, err = apply.Owned(*d, schema.GroupVersion{Version: "v1"}, "u"); err != nil || o.UnmarshalJSON(got) != nil || o.GetOwnerReferences()[0].UID != "u" {
		t.Errorf("%s, %v", got, err)
	}
	d.Body = secret.Hide([]byte(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a","annotations":{"sealedsecrets.bitnami.com/skip-set-owner-references":"true"}}}`))
	if got, err = apply.Owned(*d, schema.GroupVersion{Version: "v1"}, "u"); err != nil || string(got) != string(d.Body.Reveal()) {
		t.Errorf("it asks for no owner: %s, %v", got, err)
	}
}
