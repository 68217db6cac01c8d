package harness_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/holdfastcd/holdfast/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// client is a client of the cluster's that calls itself name and acts as user, unless user is empty.
func client(t *testing.T, cluster *harness.Cluster, name, user string) dynamic.Interface {
	t.Helper()
	config := cluster.Config()
	config.UserAgent = name
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	made, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func configMap(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name}, "data": map[string]any{"a": "b"},
	}}
}

// deployment is a Deployment of Pods that behave as mode says; see devcluster's README.
func deployment(name, mode string, replicas int64) *unstructured.Unstructured {
	labels := map[string]any{"app": name}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": name},
		"spec": map[string]any{
			"replicas": replicas,
			"selector": map[string]any{"matchLabels": labels},
			"template": map[string]any{
				"metadata": map[string]any{"labels": labels, "annotations": map[string]any{"devcluster.holdfast.dev/pod": mode}},
				"spec":     map[string]any{"containers": []any{map[string]any{"name": "main", "image": "example.com/app:1"}}},
			},
		},
	}}
}

func TestOneClusterForAll(t *testing.T) {
	first, second := harness.Shared(t), harness.Shared(t)
	if first != second {
		t.Error("two tests got two clusters")
	}
}

func TestNamespacesDiffer(t *testing.T) {
	cluster := harness.Shared(t)
	first, second := cluster.Namespace(t), cluster.Namespace(t)
	if first == second {
		t.Errorf("got namespace %s twice", first)
	}
	if _, err := os.Stat(cluster.Kubeconfig()); err != nil {
		t.Error(err)
	}
}

func TestAwait(t *testing.T) {
	cluster := harness.Shared(t)
	namespace := cluster.Namespace(t)
	deployments := cluster.Dynamic().Resource(harness.Deployments).Namespace(namespace)
	begun := time.Now()
	if _, err := deployments.Create(t.Context(), deployment("web", "ready", 3), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	web := cluster.Await(t, harness.Deployments, namespace, "web", "to be ready", harness.Ready(3))
	if web.GetName() != "web" {
		t.Errorf("awaited %s", web.GetName())
	}
	t.Logf("3 of 3 ready after %s", time.Since(begun))
	if err := deployments.Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if gone := cluster.Await(t, harness.Deployments, namespace, "web", "to be gone", harness.Gone); gone != nil {
		t.Errorf("awaited that it is gone, and got %v", gone)
	}
}

func TestRequestsAreCountedExactly(t *testing.T) {
	cluster := harness.Shared(t)
	namespace := cluster.Namespace(t)
	const agent, applies = "counted-client/1.0", 50
	maps := client(t, cluster, agent, "").Resource(harness.ConfigMaps).Namespace(namespace)
	apply := func(name string, options metav1.ApplyOptions) {
		t.Helper()
		if _, err := maps.Apply(t.Context(), name, configMap(name), options); err != nil {
			t.Fatal(err)
		}
	}
	for i := range applies {
		apply(fmt.Sprint("map-", i), metav1.ApplyOptions{FieldManager: "counter", Force: true})
	}
	mark := cluster.Mark(t)
	apply("map-0", metav1.ApplyOptions{FieldManager: "counter", DryRun: []string{metav1.DryRunAll}})
	if _, err := maps.Get(t.Context(), "absent", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}

	writes := cluster.Requests(t, harness.ByUserAgent(agent), harness.Writes)
	if len(writes) != applies {
		t.Errorf("%d writes are in the log; want %d", len(writes), applies)
	}
	first := writes[0]
	if first.Verb != "patch" || first.Resource != "configmaps" || first.Namespace != namespace || first.Name != "map-0" ||
		first.FieldManager != "counter" || first.Code != 201 || first.User != "devcluster-admin" {
		t.Errorf("the first write is %+v", first)
	}
	since := cluster.RequestsSince(t, mark, harness.ByUserAgent(agent), harness.InNamespace(namespace))
	if len(since) != 2 || !since[0].DryRun || since[1].Verb != "get" || since[1].Code != 404 {
		t.Errorf("since the mark: %+v; want a dry run and a get of nothing", since)
	}
}

func TestImpersonatedUserHasNoRights(t *testing.T) {
	cluster := harness.Shared(t)
	namespace := cluster.Namespace(t)
	const user = "system:serviceaccount:default:nobody"
	maps := client(t, cluster, "impersonator/1.0", user).Resource(harness.ConfigMaps).Namespace(namespace)
	if _, err := maps.List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Fatalf("listing as %s: %v; want it to be forbidden", user, err)
	}
	requests := cluster.Requests(t, harness.ByUser(user))
	if len(requests) != 1 || requests[0].As != user || requests[0].Code != 403 {
		t.Errorf("the log has %+v; want one request, forbidden", requests)
	}
}

// TestGivenUpStart gives up while the launcher starts the cluster, which takes seconds.
func TestGivenUpStart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if cluster, err := harness.Start(ctx, harness.Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, %v; want that the time was over", cluster, err)
	}
}
