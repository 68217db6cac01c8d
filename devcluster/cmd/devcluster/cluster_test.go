package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

type object = map[string]any

// podTemplate is a Pod template whose Pods behave as mode says.
func podTemplate(app, mode string) object {
	return object{
		"metadata": object{
			"labels":      object{"app": app},
			"annotations": object{"devcluster.holdfast.dev/pod": mode, "devcluster.holdfast.dev/delay": "1s"},
		},
		"spec": object{
			"initContainers": []object{{"name": "init", "image": "example.com/init:1"}},
			"containers":     []object{{"name": "main", "image": "example.com/app:1"}},
		},
	}
}

// deployment is a Deployment of Pods that behave as mode says.
func deployment(name, mode string, replicas int) object {
	return object{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": object{"name": name},
		"spec": object{
			"replicas": replicas,
			"selector": object{"matchLabels": object{"app": name}},
			"template": podTemplate(name, mode),
		},
	}
}

// job is a Job named after mode, of a Pod that behaves as mode says.
func job(mode string) object {
	template := podTemplate("job-"+mode, mode)
	template["spec"].(object)["restartPolicy"] = "Never"
	return object{
		"apiVersion": "batch/v1", "kind": "Job",
		"metadata": object{"name": mode},
		"spec":     object{"backoffLimit": 0, "template": template},
	}
}

// TestCluster checks on one cluster what tests build on.
func TestCluster(t *testing.T) {
	ctx := needsCluster(t)
	l := launch(t, "--audit")
	t.Run("Version", func(t *testing.T) { testVersion(ctx, t, l) })
	t.Run("ReadyPods", func(t *testing.T) { testReadyPods(ctx, t, l) })
	t.Run("Modes", func(t *testing.T) { testModes(ctx, t, l) })
	t.Run("Jobs", func(t *testing.T) { testJobs(ctx, t, l) })
	t.Run("Volumes", func(t *testing.T) { testVolumes(ctx, t, l) })
	t.Run("RBAC", func(t *testing.T) { testRBAC(ctx, t, l) })
	t.Run("Audit", func(t *testing.T) { testAudit(ctx, t, l) })
	t.Run("RestartsWhatWasKilled", func(t *testing.T) { testRestart(ctx, t, l) })
}

// create posts an object to the list at path.
func create(ctx context.Context, t *testing.T, l *launched, path string, body object) {
	t.Helper()
	if err := l.client.Do(ctx, "POST", path, body, nil); err != nil {
		t.Fatal(err)
	}
}

// workload is what the tests look at of Deployments, Jobs, claims and Pods.
type workload struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Status struct {
		Phase             string `json:"phase"`
		ReadyReplicas     int    `json:"readyReplicas"`
		Succeeded         int    `json:"succeeded"`
		Failed            int    `json:"failed"`
		ContainerStatuses []struct {
			State struct {
				Waiting struct {
					Reason string `json:"reason"`
				} `json:"waiting"`
			} `json:"state"`
		} `json:"containerStatuses"`
	} `json:"status"`
}

// reason is why a Pod's container waits.
func (w workload) reason() string {
	if len(w.Status.ContainerStatuses) == 0 {
		return ""
	}
	return w.Status.ContainerStatuses[0].State.Waiting.Reason
}

// await waits for an object of the list at path that is as wanted.
func await(ctx context.Context, t *testing.T, l *launched, path string, wanted func(workload) bool) {
	t.Helper()
	last := "none"
	err := l.client.Await(ctx, path, func(raw json.RawMessage) bool {
		last = string(raw)
		var w workload
		return json.Unmarshal(raw, &w) == nil && wanted(w)
	})
	if err != nil {
		t.Fatalf("wait at %s: %v; the last object was %s", path, err, last)
	}
}

const (
	deployments = "/apis/apps/v1/namespaces/default/deployments"
	pods        = "/api/v1/namespaces/default/pods"
	jobs        = "/apis/batch/v1/namespaces/default/jobs"
	claims      = "/api/v1/namespaces/default/persistentvolumeclaims"
)

func named(name string) string   { return "?fieldSelector=metadata.name%3D" + name }
func labelled(app string) string { return "?labelSelector=app%3D" + app }

func testVersion(ctx context.Context, t *testing.T, l *launched) {
	var version struct{ Major, Minor, GitVersion string }
	if err := l.client.Do(ctx, "GET", "/version", nil, &version); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(version.GitVersion, fmt.Sprintf("v%s.%s.", version.Major, version.Minor)) {
		t.Errorf("the server says it is %+v", version)
	}
}

func testReadyPods(ctx context.Context, t *testing.T, l *launched) {
	create(ctx, t, l, deployments, deployment("ready", "ready", 3))
	await(ctx, t, l, deployments+named("ready"), func(w workload) bool { return w.Status.ReadyReplicas == 3 })

	var list struct{ Items []workload }
	if err := l.client.Do(ctx, "GET", pods+labelled("ready"), nil, &list); err != nil {
		t.Fatal(err)
	}
	first := list.Items[0].Metadata.Name
	if err := l.client.Do(ctx, "DELETE", pods+"/"+first, nil, nil); err != nil {
		t.Fatal(err)
	}
	await(ctx, t, l, pods+labelled("ready"), func(w workload) bool {
		for _, item := range list.Items {
			if item.Metadata.Name == w.Metadata.Name {
				return false
			}
		}
		return w.Status.Phase == "Running"
	})
	if err := l.client.Do(ctx, "GET", pods+"/"+first, nil, nil); err == nil {
		t.Errorf("Pod %s is still there after its replacement runs", first)
	}
}

func testModes(ctx context.Context, t *testing.T, l *launched) {
	reasons := map[string]string{
		"crash":    "CrashLoopBackOff",
		"pending":  "ContainerCreating",
		"image":    "ImagePullBackOff",
		"fail":     "CrashLoopBackOff", // in a Deployment, whose containers restart always
		"misspelt": "UnknownDevclusterMode",
	}
	for mode := range reasons {
		create(ctx, t, l, deployments, deployment(mode, mode, 1))
	}
	create(ctx, t, l, deployments, deployment("slow", "slow", 1))
	for mode, reason := range reasons {
		await(ctx, t, l, pods+labelled(mode), func(w workload) bool { return w.reason() == reason })
	}
	await(ctx, t, l, deployments+named("slow"), func(w workload) bool { return w.Status.ReadyReplicas == 1 })
	// By now the others have had as long as a slow Pod takes, and have stayed as they were.
	for mode, reason := range reasons {
		await(ctx, t, l, pods+labelled(mode), func(w workload) bool { return w.reason() == reason })
		await(ctx, t, l, deployments+named(mode), func(w workload) bool { return w.Status.ReadyReplicas == 0 })
	}
}

func testJobs(ctx context.Context, t *testing.T, l *launched) {
	create(ctx, t, l, jobs, job("ready"))
	create(ctx, t, l, jobs, job("fail"))
	await(ctx, t, l, jobs+named("ready"), func(w workload) bool { return w.Status.Succeeded == 1 })
	await(ctx, t, l, jobs+named("fail"), func(w workload) bool { return w.Status.Failed == 1 })
}

func testVolumes(ctx context.Context, t *testing.T, l *launched) {
	create(ctx, t, l, claims, object{
		"apiVersion": "v1", "kind": "PersistentVolumeClaim",
		"metadata": object{"name": "data"},
		"spec":     object{"accessModes": []string{"ReadWriteOnce"}, "resources": object{"requests": object{"storage": "1Gi"}}},
	})
	await(ctx, t, l, claims+named("data"), func(w workload) bool { return w.Status.Phase == "Bound" })
}

func testRBAC(ctx context.Context, t *testing.T, l *launched) {
	for user, want := range map[string]bool{"nobody-in-particular": false, "system:kube-scheduler": true} {
		var review struct{ Status struct{ Allowed bool } }
		err := l.client.Do(ctx, "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", object{
			"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
			"spec": object{
				"user":               user,
				"resourceAttributes": object{"verb": "list", "resource": "pods", "namespace": "default"},
			},
		}, &review)
		if err != nil {
			t.Fatal(err)
		}
		if review.Status.Allowed != want {
			t.Errorf("%s may list Pods: %t; want %t", user, review.Status.Allowed, want)
		}
	}
}

func testAudit(ctx context.Context, t *testing.T, l *launched) {
	const requests = 25
	path := "/api/v1/namespaces/default/configmaps/counted"
	for range requests {
		_ = l.client.Do(ctx, "GET", path, nil, nil) // not found, which is an answer like any other
	}
	content, err := os.ReadFile(l.AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for line := range strings.Lines(string(content)) {
		var event struct {
			Stage      string `json:"stage"`
			RequestURI string `json:"requestURI"`
			UserAgent  string `json:"userAgent"`
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if event.Stage == "RequestReceived" && event.RequestURI == path && event.UserAgent == "devcluster-test" {
			got++
		}
	}
	if got != requests {
		t.Errorf("the log has %d requests; want %d", got, requests)
	}
}

// testRestart kills the API server, which comes back at the same address.
func testRestart(ctx context.Context, t *testing.T, l *launched) {
	killed := l.Processes["kube-apiserver"]
	if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, []int{killed})
	if err := l.client.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	create(ctx, t, l, deployments, deployment("after", "ready", 2))
	await(ctx, t, l, deployments+named("after"), func(w workload) bool { return w.Status.ReadyReplicas == 2 })
}
