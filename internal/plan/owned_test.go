package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/secret"
)

func TestWhatIsMadeFromAnObjectFollowsIt(t *testing.T) {
	owner, made := configMap("owner"), configMap("made")
	tests := []struct {
		reason string
		owner  Observed
		loose  bool
		only   func(object.ID) bool
		want   Op
	}{
		{"nothing is sent", Observed{Sight: AsApplied, Digest: v1, Owner: me}, false, nil, Keep},
		{"the owner is another object by now", Observed{Sight: Absent, Digest: v1}, false, nil, Confirm},
		{"the owner is changed", Observed{Sight: AsApplied, Digest: v2, Owner: me}, false, nil, Confirm},
		{"what is left alone stays so", Observed{Sight: Absent}, true, nil, Keep},
		{"nobody asked for it", Observed{Sight: Absent}, false, func(id object.ID) bool { return id == owner }, Leave},
	}
	for _, tt := range tests {
		p, err := Make(Input{
			Owner: me, Revert: true, Only: tt.only,
			Desired: []Desired{{ID: owner, Digest: v1}, {ID: made, Digest: v1, Owner: owner, Loose: tt.loose}},
			Observe: func(id object.ID) Observed {
				if id == owner {
					return tt.owner
				}
				return Observed{Sight: AsApplied, Digest: v1, Owner: me}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range p.Actions() {
			if a.ID == made && a.Op != tt.want {
				t.Errorf("%s: %s, want %s", tt.reason, a.Op, tt.want)
			}
		}
	}
}

func TestFieldsHideSecrets(t *testing.T) {
	mask := &secret.Mask{}
	mask.Add("hunter2-hunter2")
	p := Plan{Mask: mask}
	tests := []struct {
		reason        string
		live, desired string
		want          []Change
	}{
		{"a value that has one after", "{kind: ConfigMap, data: {a: x}}", "{kind: ConfigMap, data: {a: url=hunter2-hunter2}}", []Change{{Path: "data.a", From: hidden, To: hidden}}},
		{"a value that had one before", "{kind: ConfigMap, data: {a: hunter2-hunter2}}", "{kind: ConfigMap, data: {a: x}}", []Change{{Path: "data.a", From: hidden, To: hidden}}},
		{"in base64, and added", "{kind: ConfigMap}", "{kind: ConfigMap, binaryData: {a: aHVudGVyMi1odW50ZXIy}}", []Change{{Path: "binaryData", To: hidden}}},
		{"what holds none", "{kind: ConfigMap, data: {a: x}}", "{kind: ConfigMap, data: {a: z}}", []Change{{Path: "data.a", From: `"x"`, To: `"z"`}}},
		{"a key", "{kind: ConfigMap, data: {b: x}}", "{kind: ConfigMap, data: {b: x, hunter2-hunter2: z}}", []Change{{Path: "data.***", To: `"z"`}}},
	}
	for _, tt := range tests {
		a := Action{Observed: Observed{Live: parse(t, tt.live), DryRun: parse(t, tt.desired)}}
		if diff := cmp.Diff(tt.want, p.Fields(a)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
		}
	}
	mask.AddSealed("correct-horse")
	for _, tt := range []struct {
		reason        string
		live, desired string
		want          []Change
	}{
		{"what was sealed before is not known", "{kind: ConfigMap, data: {a: x}}", "{kind: ConfigMap, data: {a: z}}", []Change{{Path: "data.a", From: hidden, To: `"z"`}}},
		{"it may be gone altogether", "{kind: Deployment, spec: {x: before}}", "{kind: Deployment}", []Change{{Path: "spec", From: hidden}}},
		{"a variable of a container", "{kind: Pod, spec: {containers: [{env: [{value: x}]}]}}", "{kind: Pod, spec: {containers: [{env: [{value: z}]}]}}", []Change{{Path: "spec.containers[0].env[0].value", From: hidden, To: `"z"`}}},
		{"a field that holds no text of its own", "{kind: Pod, spec: {containers: [{image: a}]}}", "{kind: Pod, spec: {containers: [{image: b}]}}", []Change{{Path: "spec.containers[0].image", From: `"a"`, To: `"b"`}}},
	} {
		a := Action{Observed: Observed{Live: parse(t, tt.live), DryRun: parse(t, tt.desired)}}
		if diff := cmp.Diff(tt.want, p.Fields(a)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
		}
	}
	if p.Fields(Action{}) != nil {
		t.Error("nothing was looked at")
	}
}
