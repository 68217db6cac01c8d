package defaults

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRules holds the table to the rules: whatever it leaves open has one, and
// nothing else has.
func TestRules(t *testing.T) {
	open := map[string]bool{}
	current := ""
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case !strings.HasPrefix(line, " "):
			current = strings.TrimSpace(line)
		case strings.Contains(line, " ? "):
			open[current+" "+strings.TrimRight(name, "~[]{}")] = true
		}
	}
	for name := range open {
		if rules[name] == nil {
			t.Errorf("the table says of %s that it depends, and no rule says on what", name)
		}
	}
	for name := range rules {
		if !open[name] {
			t.Errorf("the rule for %s has nothing to do by the table", name)
		}
	}
}

// samples is where the objects are that "defaults samples" in the devcluster module
// prints; "make schemas" sets it.
const samples = "HOLDFAST_DEFAULTS_SAMPLES"

// apart are the fields that Complete leaves, or sets otherwise, with the reason.
var apart = map[string]string{
	"metadata.creationTimestamp":                                    "the time of the request",
	"spec.taint.timeAdded":                                          "the time of the request",
	"spec.devices[].taints[].timeAdded":                             "the time of the request",
	"spec.devices[].basic.taints[].timeAdded":                       "the time of the request",
	"spec.resources":                                                "summed up over a Pod's containers",
	"spec.resources.requests":                                       "summed up over a Pod's containers",
	"spec.resources.requests.cpu":                                   "summed up over a Pod's containers",
	"spec.resources.requests.memory":                                "summed up over a Pod's containers",
	"spec.serviceAccount":                                           "set by admission, which the samples have not gone through",
	"spec.serviceAccountName":                                       "set by admission, which the samples have not gone through",
	"stringData.k":                                                  "what a Secret holds is moved, and not made up",
	"data.k":                                                        "what a Secret holds is moved, and not made up",
	"spec.sessionAffinityConfig.clientIP.timeoutSeconds":            "dropped where the affinity is None",
	"spec.conversion.strategy":                                      "conversion: {} is refused",
	"spec.updateStrategy.rollingUpdate.maxUnavailable":              "a rolling update beside OnDelete is refused",
	"spec.strategy.rollingUpdate.maxSurge":                          "a rolling update beside Recreate is refused",
	"spec.strategy.rollingUpdate.maxUnavailable":                    "a rolling update beside Recreate is refused",
	"metadata.annotations.deprecated.daemonset.template.generation": "written by a conversion, for clients of ten years ago",
	"spec.volumeClaimTemplates[].apiVersion":                        "says what a claim is anyway",
	"spec.volumeClaimTemplates[].kind":                              "says what a claim is anyway",
}

func TestSamples(t *testing.T) {
	path := os.Getenv(samples)
	if path == "" {
		t.Skip("make schemas compares with the server's own functions")
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 16<<20)
	count, bad := 0, map[string]int{}
	for lines.Scan() {
		var pair [2]map[string]any
		if err := json.Unmarshal(lines.Bytes(), &pair); err != nil {
			t.Fatal(err)
		}
		count++
		for _, f := range changed(pair[0], pair[1]) {
			if bad[f]++; bad[f] == 1 {
				t.Errorf("%s %s: %s", pair[0]["kind"], f, lines.Bytes())
			}
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d objects", count)
	if count < 1000 {
		t.Errorf("only %d samples", count)
	}
}

// changed completes sent and returns in which fields it then differs from stored.
func changed(sent, stored map[string]any) []string {
	whole(sent)
	whole(stored)
	Complete(sent)
	var all []string
	compare(sent, stored, "", func(path string) {
		if apart[path] == "" {
			all = append(all, path)
		}
	})
	return all
}

// compare names the fields in which two values differ, where that says something:
// nothing and an empty value are the same, as are two that mean the same.
func compare(a, b any, path string, differs func(string)) {
	am, aIs := a.(map[string]any)
	bm, bIs := b.(map[string]any)
	al, aList := a.([]any)
	bl, bList := b.([]any)
	switch {
	case path == "status" || strings.HasSuffix(path, "[].status"): // the server's own
	case aIs && (bIs || b == nil) || bIs && a == nil:
		for key := range union(am, bm) {
			compare(am[key], bm[key], strings.TrimPrefix(path+"."+key, "."), differs)
		}
	case aList && bList && len(al) == len(bl):
		for i := range al {
			compare(al[i], bl[i], path+"[]", differs)
		}
	case a == nil && empty(b), b == nil && empty(a):
	case !reflect.DeepEqual(a, b):
		differs(path)
	}
}

func union(a, b map[string]any) map[string]bool {
	all := map[string]bool{}
	for key := range a {
		all[key] = true
	}
	for key := range b {
		all[key] = true
	}
	return all
}

func TestComplete(t *testing.T) {
	tests := []struct {
		name, in, want, reason string
	}{
		{"unknown kind", `{"apiVersion":"example.com/v1","kind":"Thing","spec":{}}`, `{"apiVersion":"example.com/v1","kind":"Thing","spec":{}}`, "nothing is known of it"},
		{"unknown version", `{"apiVersion":"apps/v7","kind":"Deployment"}`, `{"apiVersion":"apps/v7","kind":"Deployment"}`, "nor of this one"},
		{"secret", `{"apiVersion":"v1","kind":"Secret"}`, `{"apiVersion":"v1","kind":"Secret","type":"Opaque"}`, "a value"},
		{"explicit zero", `{"apiVersion":"apps/v1","kind":"ReplicaSet","spec":{"replicas":0,"template":null}}`, `{"apiVersion":"apps/v1","kind":"ReplicaSet","spec":{"replicas":0,"template":{"spec":{"dnsPolicy":"ClusterFirst","restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}}}}`, "zero is a number, null is none"},
		{"namespace", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a","labels":{"b":"c"}}}`, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a","labels":{"b":"c","kubernetes.io/metadata.name":"a"}},"spec":{}}`, "its own label"},
		{"egress", `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","spec":{"podSelector":{},"egress":[{"ports":[{"port":53}]}]}}`, `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","spec":{"podSelector":{},"egress":[{"ports":[{"port":53,"protocol":"TCP"}]}],"policyTypes":["Ingress","Egress"]}}`, "by what is there"},
		{"service", `{"apiVersion":"v1","kind":"Service","spec":{"ports":[{"port":80}]}}`, `{"apiVersion":"v1","kind":"Service","spec":{"type":"ClusterIP","sessionAffinity":"None","internalTrafficPolicy":"Cluster","ports":[{"port":80,"protocol":"TCP","targetPort":80}]}}`, "a default that rests on another"},
		{"malformed", `{"apiVersion":"v1","kind":"Service","metadata":3,"spec":[1,{"ports":4}]}`, `{"apiVersion":"v1","kind":"Service","metadata":3,"spec":[1,{"ports":4}]}`, "others say that this is wrong"},
		{"malformed deeper", `{"apiVersion":"v1","kind":"Pod","spec":{"containers":[null,"x",{"ports":{"a":1},"resources":{"limits":"x"}}],"volumes":{"a":"b"}}}`, `{"apiVersion":"v1","kind":"Pod","spec":{"containers":[null,"x",{"imagePullPolicy":"IfNotPresent","ports":{"a":1},"resources":{"limits":"x"},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","enableServiceLinks":true,"restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"serviceAccount":"default","serviceAccountName":"default","terminationGracePeriodSeconds":30,"volumes":{"a":"b"}}}`, "and what is right beside it is completed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, want := decode(t, tt.in), decode(t, tt.want)
			Complete(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
			Complete(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("twice is not once (-want +got):\n%s", diff)
			}
		})
	}
}

func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	whole(o)
	return o
}

func TestImagePullPolicy(t *testing.T) {
	tests := []struct{ image, want string }{
		{"nginx", "Always"},
		{"nginx:latest", "Always"},
		{"nginx:1.29", "IfNotPresent"},
		{"registry.example.com:5000/nginx", "Always"},
		{"registry.example.com:5000/nginx:1", "IfNotPresent"},
		{"nginx@sha256:0000000000000000000000000000000000000000000000000000000000000000", "IfNotPresent"},
		{"nginx:latest@sha256:0000000000000000000000000000000000000000000000000000000000000000", "Always"},
		{"", "IfNotPresent"},
	}
	for _, tt := range tests {
		o := map[string]any{"apiVersion": "v1", "kind": "Pod", "spec": map[string]any{"containers": []any{map[string]any{"image": tt.image}}}}
		Complete(o)
		got := (&node{o: o}).in("spec", "containers").([]any)[0].(map[string]any)["imagePullPolicy"]
		if got != tt.want {
			t.Errorf("%q: %v, want %s", tt.image, got, tt.want)
		}
	}
}

// TestNothingIsShared changes a completed object; another one must not see that.
func TestNothingIsShared(t *testing.T) {
	first := map[string]any{"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
	Complete(first)
	metrics, _ := (&node{o: first}).in("spec", "metrics").([]any)
	if len(metrics) != 1 {
		t.Fatalf("metrics are %v", metrics)
	}
	metrics[0] = "changed"
	second := map[string]any{"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
	Complete(second)
	if metrics, _ := (&node{o: second}).in("spec", "metrics").([]any); len(metrics) != 1 || metrics[0] == "changed" {
		t.Errorf("metrics are %v", metrics)
	}
}

func TestParse(t *testing.T) {
	for _, bad := range []string{"kind v1 Pod core/v1.Pod\n", "kind v1\n", "core/v1.Pod\n  spec = {\n"} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// FuzzComplete completes whatever is an object: without a panic, and twice the same
// as once.
func FuzzComplete(f *testing.F) {
	for _, kind := range []string{"Pod", "Service", "LimitRange", "Namespace", "ReplicationController"} {
		f.Add([]byte(`{"apiVersion":"v1","kind":"` + kind + `","metadata":{"labels":1},"spec":{"containers":[{"ports":[{}]}],"limits":[{"type":"Container","max":{"a":1}}]}}`))
	}
	f.Add([]byte(`{"apiVersion":"batch/v1","kind":"Job","metadata":{},"spec":{"template":{"metadata":{"labels":{"a":"b"}}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var o map[string]any
		if json.Unmarshal(data, &o) != nil {
			return
		}
		Complete(o)
		once, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		Complete(o)
		if twice, err := json.Marshal(o); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("once:  %s\ntwice: %s (%v)", once, twice, err)
		}
	})
}

func BenchmarkComplete(b *testing.B) {
	pod := []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":{"template":{"spec":{"containers":[{"name":"a","image":"b","ports":[{"containerPort":80}],"readinessProbe":{"httpGet":{"port":80}}}],"volumes":[{"name":"c","secret":{"secretName":"d"}}]}}}}`)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		var o map[string]any
		if err := json.Unmarshal(pod, &o); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		Complete(o)
	}
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parse(text); err != nil {
			b.Fatal(err)
		}
	}
}
