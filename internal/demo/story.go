package demo

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/overview"
	"github.com/holdfastcd/holdfast/test/gitserver"
)

const (
	// placeholder stands in examples/fleet for the address of the repository.
	placeholder  = "http://git.example/fleet.git"
	bootstrapDir = "clusters/dev/bootstrap"
)

// fleetFiles reads the example, with the address of the Git server in it.
func fleetFiles(dir, url string) (map[string]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(name) //nolint:gosec // below the directory that the caller named
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, name)
		files[filepath.ToSlash(relative)] = strings.ReplaceAll(string(content), placeholder, url)
		return err
	})
	return files, err
}

func (d *demo) install(ctx context.Context) (string, error) {
	install := exec.CommandContext(ctx, d.Holdfast, "install", "--crds-only", "--kubeconfig", d.cluster.Kubeconfig) //nolint:gosec // this program itself
	out, err := install.CombinedOutput()
	if err != nil {
		return "", fault.New(fault.Internal, "install failed: %s\n%s", err, out)
	}
	return "", nil
}

// bootstrap does what an administrator does once.
func (d *demo) bootstrap(ctx context.Context) (string, error) {
	var err error
	if d.client, err = client.NewWithWatch(d.config, client.Options{Scheme: clientscheme.Scheme}); err != nil {
		return "", err
	}
	names, err := d.fleet.Git("ls-tree", "--name-only", "main", bootstrapDir+"/")
	if err != nil {
		return "", err
	}
	files := strings.Fields(names)
	// Namespaces first; the rest in any order.
	slices.SortStableFunc(files, func(a, b string) int { return order(a) - order(b) })
	n := 0
	for _, file := range files {
		if strings.HasSuffix(file, "/kustomization.yaml") {
			continue
		}
		applied, err := d.apply(ctx, file)
		if err != nil {
			return "", err
		}
		n += applied
	}
	d.secret = rand.Text()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "argocd-secret", Namespace: "argocd"},
		StringData: map[string]string{"webhook.github.secret": d.secret},
	}
	return fmt.Sprintf("%d objects", n+1), d.client.Create(ctx, secret)
}

func order(file string) int {
	if strings.HasSuffix(file, "/namespaces.yaml") {
		return 0
	}
	return 1
}

// apply applies a file of the fleet and returns how many objects it holds.
func (d *demo) apply(ctx context.Context, file string) (int, error) {
	content, err := d.fleet.Git("show", "main:"+file)
	if err != nil {
		return 0, err
	}
	documents := yaml.NewYAMLOrJSONDecoder(strings.NewReader(content), 4096)
	for n := 0; ; {
		o := &unstructured.Unstructured{}
		err := documents.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, fault.New(fault.Invalid, "%s", err).At(file, 0)
		}
		if len(o.Object) == 0 {
			continue
		}
		if err := d.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("kubectl"), client.ForceOwnership); err != nil {
			return n, fault.New(fault.Rejected, "%s", err).On(o.GetKind()+"/"+o.GetName()).At(file, 0)
		}
		n++
	}
}

func (d *demo) startController(ctx context.Context) (string, error) {
	var err error
	d.control, err = startController(ctx, d.Holdfast, d.cluster.Kubeconfig, d.dir)
	if err != nil {
		return "", err
	}
	return "http://" + d.control.address, nil
}

// expected are the deliveries of the fleet.
var expected = []string{
	"Application/guestbook", "Application/root", "Application/shop",
	"GitRepository/fleet", "Kustomization/infrastructure", "Kustomization/root",
}

// errAll ends a watch when there is nothing left to wait for.
var errAll = errors.New("all is there")

// deliver applies the roots and shows what they bring as it becomes healthy.
func (d *demo) deliver(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, syncWithin)
	defer cancel()
	reader, err := overview.NewReader(d.config, "", "", "")
	if err != nil {
		return "", err
	}
	before, err := reader.List(ctx)
	if err != nil {
		return "", err
	}
	for _, root := range []string{"clusters/dev/root-argo.yaml", "clusters/dev/root-flux.yaml"} {
		if _, err := d.apply(ctx, root); err != nil {
			return "", err
		}
	}
	objects, last := map[string]int{}, map[string]overview.Row{}
	err = reader.Watch(ctx, before, func(r overview.Row) error {
		name := r.Kind + "/" + r.Name
		last[name] = r
		if _, known := objects[name]; known || !settled(r) {
			return nil
		}
		objects[name] = r.Objects
		d.steps.notef("%s is synced", name)
		if len(objects) == len(expected) {
			return errAll
		}
		return nil
	})
	if errors.Is(err, errAll) {
		d.synced = time.Since(d.begun)
		total := 0
		for _, n := range objects {
			total += n
		}
		return fmt.Sprintf("%d deliveries, %d objects", len(objects)-1, total), nil
	}
	if err == nil {
		err = d.missing(objects, last)
	}
	return "", err
}

func settled(r overview.Row) bool {
	return r.State == overview.Synced && (r.Health == "" || r.Health == "Healthy")
}

// missing says what was not delivered in time, and why.
func (d *demo) missing(objects map[string]int, last map[string]overview.Row) error {
	var late []string
	for _, name := range expected {
		if _, ok := objects[name]; ok {
			continue
		}
		r := last[name]
		late = append(late, strings.TrimSpace(fmt.Sprintf("%s: %s %s %s", name, r.State, r.Health, r.Message)))
	}
	return fault.New(fault.Internal, "not delivered within %s: %s", syncWithin, strings.Join(late, "; "))
}

var storefront = client.ObjectKey{Namespace: "shop-dev", Name: "storefront"}

// drift scales a Deployment as a person would, and times its way back.
func (d *demo) drift(ctx context.Context) (string, error) {
	return d.time(ctx, 2, func(o *appsv1.Deployment) error {
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"replicas":7}}`))
		return d.client.Patch(ctx, o, patch, client.FieldOwner("kubectl"))
	}, "back to 2 after %s")
}

// commit changes the repository, as a push does, and times the change's way to
// the cluster.
func (d *demo) commit(ctx context.Context) (string, error) {
	const file = "apps/shop/overlays/dev/kustomization.yaml"
	content, err := d.fleet.Git("show", "main:"+file)
	if err != nil {
		return "", err
	}
	return d.time(ctx, 3, func(*appsv1.Deployment) error {
		_, err := d.fleet.Commit("Three storefronts", gitserver.Put(file, strings.Replace(content, "count: 2", "count: 3", 1)+"\n"))
		if err != nil {
			return err
		}
		return d.webhook(ctx, "main")
	}, "live %s after the push")
}

// time does something that must end with so many replicas, and returns how long
// that took from when it was done.
func (d *demo) time(ctx context.Context, replicas int32, do func(*appsv1.Deployment) error, format string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	w, err := d.client.Watch(ctx, &appsv1.DeploymentList{}, client.InNamespace(storefront.Namespace), client.MatchingFields{"metadata.name": storefront.Name})
	if err != nil {
		return "", err
	}
	defer w.Stop()
	begun := time.Now()
	o := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: storefront.Namespace, Name: storefront.Name}}
	if err := do(o); err != nil {
		return "", err
	}
	from, edited := o.Generation, time.Now()
	if from == 0 { // not edited here: all after now counts
		edited = begun
	}
	for event := range w.ResultChan() {
		seen, ok := event.Object.(*appsv1.Deployment)
		if ok && seen.Generation > from && seen.Spec.Replicas != nil && *seen.Spec.Replicas == replicas {
			return fmt.Sprintf(format, time.Since(edited).Round(time.Millisecond)), nil
		}
	}
	return "", fault.New(fault.Internal, "Deployment storefront did not come to %d replicas in time", replicas)
}

// pushed tells the controller of a push that a person made.
func (d *demo) pushed(p gitserver.Push) {
	if d.control == nil || p.After == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := d.webhook(ctx, p.Branch); err != nil {
		d.steps.notef("the webhook failed: %v", err)
		return
	}
	d.steps.notef("%s was pushed to %s; the controller was told", p.After[:min(8, len(p.After))], p.Branch)
}

// webhook sends what GitHub sends for a push.
func (d *demo) webhook(ctx context.Context, branch string) error {
	body, err := json.Marshal(map[string]any{
		"ref":        "refs/heads/" + branch,
		"repository": map[string]any{"clone_url": d.fleet.URL()},
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+d.control.address+"/api/webhook", bytes.NewReader(body))
	if err != nil {
		return err
	}
	mac := hmac.New(sha256.New, []byte(d.secret))
	mac.Write(body)
	req.Header.Set("X-Github-Event", "push")
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(res.Body, 1024))
		return fmt.Errorf("the controller answered %s: %s", res.Status, bytes.TrimSpace(said))
	}
	return nil
}
