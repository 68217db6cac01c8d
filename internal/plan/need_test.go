package plan

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/object"
)

var (
	webID   = object.ID{Group: "apps", Kind: "Deployment", Namespace: "a", Name: "web"}
	makerID = object.ID{Group: "external-secrets.io", Kind: "ExternalSecret", Namespace: "a", Name: "maker"}
	storeID = object.ID{Group: "external-secrets.io", Kind: "SecretStore", Namespace: "a", Name: "store"}
	loginID = object.ID{Kind: "Secret", Namespace: "a", Name: "login"}
)

func TestNewObjectsWaitForTheirSecrets(t *testing.T) {
	known := func(sight Sight, digest [32]byte) Observed { return Observed{Sight: sight, Digest: digest, Owner: me} }
	tests := map[string]struct {
		reason string
		secret Presence
		web    Observed
		maker  Observed
		edit   func(*Input)
		want   string // operation of web
		says   string
	}{
		"missing":        {reason: "what is new waits", secret: Missing, want: "await", says: "waits for Secret/a/login, which ExternalSecret.external-secrets.io/a/maker is to make"},
		"there":          {reason: "until it is there", secret: There, want: "create", says: "it does not exist"},
		"overdue":        {reason: "or was waited for long enough", secret: Overdue, want: "create", says: "it does not exist; sent without Secret/a/login, which ExternalSecret.external-secrets.io/a/maker has not made in time"},
		"change":         {reason: "a change may use a Secret that is new", secret: Missing, web: known(AsApplied, [32]byte{9}), want: "await"},
		"take-over":      {reason: "so may what is seen for the first time", secret: Missing, web: Observed{Sight: Unsure}, want: "await"},
		"drift":          {reason: "drift is put right at once", secret: Missing, web: known(Drifted, v1), want: "revert"},
		"as applied":     {reason: "what is there is not looked at again", secret: Missing, web: known(AsApplied, v1), want: "keep"},
		"maker is there": {reason: "the maker works on it", secret: Missing, maker: known(AsApplied, v1), want: "await"},
		"maker without a kind": {
			reason: "the maker comes when its kind is served", secret: Missing, maker: Observed{Sight: KindUnknown}, want: "await",
		},
		"maker is exempt": {
			reason: "nobody waits for a maker that is not sent", secret: Missing, want: "create",
			edit: func(in *Input) { in.Desired[0].Treatment.Skip = "marked" },
		},
		"maker is not chosen": {
			reason: "nor for one that is not part of this sync", secret: Missing, want: "create",
			edit: func(in *Input) { in.Only = func(id object.ID) bool { return id == webID } },
		},
		"exempt": {reason: "what is left alone does not wait", secret: Missing, want: "skip", edit: func(in *Input) { in.Desired[1].Treatment.Skip = "marked" }},
		"nobody looks": {
			reason: "without a cluster nothing waits", secret: Missing, want: "create", edit: func(in *Input) { in.Needed = nil },
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			in := Input{
				Owner: me, Revert: true,
				Desired: []Desired{
					{ID: makerID, Digest: v1},
					{ID: webID, Digest: v1, Needs: []object.Need{{Secret: loginID, Maker: makerID}}},
				},
				Observe: func(id object.ID) Observed { return map[object.ID]Observed{webID: tt.web, makerID: tt.maker}[id] },
				Needed:  func(object.ID) Presence { return tt.secret },
			}
			if tt.edit != nil {
				tt.edit(&in)
			}
			p, err := Make(in)
			if err != nil {
				t.Fatal(err)
			}
			all := p.Actions()
			web := all[len(all)-1]
			if string(web.Op) != tt.want || tt.says != "" && web.Reason != tt.says || (web.Op == Await) != (web.Lacks == makerID) {
				t.Errorf("%s: %s, %q, lacks %v", tt.reason, web.Op, web.Reason, web.Lacks)
			}
		})
	}
}

// A workload that is held back is news all the same: the wave before it is waited for.
func TestWavesGateWhatIsHeldBack(t *testing.T) {
	in := Input{
		Owner: me, Profile: Profile{GateWaves: true},
		Desired: []Desired{{ID: makerID, Wave: -1}, {ID: webID, Needs: []object.Need{{Secret: loginID, Maker: makerID}}}},
		Observe: func(object.ID) Observed { return Observed{} },
		Needed:  func(object.ID) Presence { return Missing },
	}
	p, err := Make(in)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("-1! create:maker\n0 await:web\n", outline(p)); diff != "" || p.HealthyBefore == nil || *p.HealthyBefore != 0 {
		t.Errorf("(-want +got):\n%s, healthy before %v", diff, p.HealthyBefore)
	}
}

func TestStepsOfAStage(t *testing.T) {
	in := Input{Owner: me, Observe: func(object.ID) Observed { return Observed{} }}
	for _, id := range []object.ID{webID, makerID, storeID, configMap("c"), {Kind: "Secret", Namespace: "a", Name: "token"}} {
		in.Desired = append(in.Desired, Desired{ID: id})
	}
	p, err := Make(in)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range p.Actions() {
		name := a.ID.Name
		if a.After {
			name = "| " + name
		}
		got = append(got, name)
	}
	if diff := cmp.Diff("token c | store | maker | web", strings.Join(got, " ")); diff != "" {
		t.Errorf("stores, what they serve, and workloads go one behind the other (-want +got):\n%s", diff)
	}
}

func TestLeftoversOfSecretsGoInTurn(t *testing.T) {
	cluster := object.ID{Group: "external-secrets.io", Kind: "ClusterSecretStore", Name: "cluster"}
	push := object.ID{Group: "external-secrets.io", Kind: "PushSecret", Namespace: "b", Name: "push"}
	in := func(id object.ID, namespace string) object.ID {
		id.Namespace = namespace
		return id
	}
	tests := map[string]struct {
		reason string
		gone   []Entry
		waves  bool
		want   string
	}{
		"all":               {"workloads, what makes their Secrets, stores", []Entry{{ID: storeID}, {ID: webID}, {ID: makerID}}, false, "prune:web await:maker await:store"},
		"without workloads": {"the store waits for what removes values in it", []Entry{{ID: storeID}, {ID: makerID}}, false, "prune:maker await:store"},
		"the last":          {"what nobody is left to use goes", []Entry{{ID: storeID}}, false, "prune:store"},
		"other namespace":   {"others do not matter", []Entry{{ID: storeID}, {ID: in(webID, "b")}, {ID: makerID}, {ID: push}}, false, "prune:web await:push prune:maker await:store"},
		"cluster":           {"a store of the cluster waits for all", []Entry{{ID: cluster}, {ID: push}}, false, "prune:push await:cluster"},
		"earlier wave":      {"what goes a wave later is not waited for", []Entry{{ID: webID, Wave: 0}, {ID: makerID, Wave: 1}}, true, "prune:maker await:web"},
		"later wave":        {"what goes a wave earlier is", []Entry{{ID: webID, Wave: 1}, {ID: makerID, Wave: 0}}, true, "prune:web await:maker"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := Make(Input{
				Owner: me, Prune: true, Inventory: tt.gone, Profile: Profile{AllowEmpty: true, GateWaves: tt.waves},
				Observe: func(object.ID) Observed { return Observed{Sight: AsApplied, Owner: me} },
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(strings.TrimPrefix(outline(p), "0 ")); got != tt.want {
				t.Errorf("%s: got %q, want %q", tt.reason, got, tt.want)
			}
		})
	}
}
