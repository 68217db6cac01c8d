// Package demo shows Holdfast at work: it starts a throw-away cluster, a Git
// server and a real controller, delivers examples/fleet, and tells what happens.
// It is the one place of the product that uses what tests use, and it works in a
// checkout of the repository only.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/test/gitserver"
)

// Options say how to show it.
type Options struct {
	// Repo is the root of a checkout; see [FindRepo].
	Repo string
	// Holdfast is the binary that is shown.
	Holdfast string
	// Once ends the demo when everything was shown.
	Once bool
	Out  io.Writer
	// Live lets steps be shown while they run: Out is a terminal.
	Live bool
}

// syncWithin is how long the fleet may take to be delivered.
const syncWithin = 2 * time.Minute

// demo is one run.
type demo struct {
	Options

	steps   *steps
	begun   time.Time
	synced  time.Duration // from the beginning until the fleet was delivered
	cluster *devcluster
	config  *rest.Config
	client  client.WithWatch
	dir     string // inside the cluster's directory, which goes with it, whatever ends us
	git     *gitserver.Server
	fleet   *gitserver.Repo
	control *controller
	secret  string // that webhooks are signed with
}

// FindRepo returns the root of the checkout that dir lies in. It fails with
// NotFound, saying what to do.
func FindRepo(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fault.New(fault.Invalid, "cannot find the current directory: %s", err)
	}
	for at := dir; ; at = filepath.Dir(at) {
		if isFile(filepath.Join(at, "devcluster", "go.mod")) && isFile(filepath.Join(at, "examples", "fleet", "README.md")) {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fault.New(fault.NotFound, "%s is not in a checkout of Holdfast's repository, whose parts the demo runs", dir).
				WithHint("git clone https://github.com/holdfastcd/holdfast && cd holdfast && make demo, or name a checkout with --repo DIR")
		}
	}
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// Run shows the demo until ctx ends, or, with Once, until all was shown. It
// leaves no process and no file behind. Errors say which step failed.
func Run(ctx context.Context, o Options) error {
	d := &demo{Options: o, steps: &steps{out: o.Out, live: o.Live}, begun: time.Now()}
	failed := d.run(ctx)
	if ctx.Err() != nil {
		failed = nil // it ended because it was asked to
	}
	if err := d.close(); err != nil {
		fmt.Fprintf(o.Out, "Not everything could be cleaned up: %v\n", err)
	} else {
		fmt.Fprintln(o.Out, "Everything is stopped and removed.")
	}
	return failed
}

func (d *demo) run(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"Start a Kubernetes control plane (built on first use, which takes some minutes)", d.startCluster},
		{"Serve examples/fleet from a Git server", d.startGit},
		{"Install the kinds of Flux and Argo CD", d.install},
		{"Make the namespaces, accounts and projects of clusters/dev/bootstrap", d.bootstrap},
		{"Start the controller", d.startController},
		{"Deliver the two roots, and what they deliver", d.deliver},
		{"Revert a manual edit: kubectl scale deployment storefront -n shop-dev --replicas=7", d.drift},
		{"Deliver a commit: three storefronts instead of two", d.commit},
	} {
		if err := d.steps.run(ctx, step.name, step.do); err != nil {
			return d.explain(ctx, err)
		}
	}
	d.tell()
	if d.Once {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-d.control.ended:
		return d.explain(ctx, fault.New(fault.Internal, "the controller has ended: %v", d.control.how))
	}
}

// explain adds what the controller logged last to an error that nobody asked for.
func (d *demo) explain(ctx context.Context, err error) error {
	if d.control == nil || ctx.Err() != nil {
		return err
	}
	if said := d.control.log.last(); said != "" {
		fmt.Fprintf(d.Out, "\nThe controller said last:\n%s\n", said)
	}
	return err
}

func (d *demo) startCluster(ctx context.Context) (string, error) {
	var err error
	if d.cluster, err = startCluster(ctx, d.Repo, d.steps); err != nil {
		return "", err
	}
	if d.config, err = clientcmd.BuildConfigFromFlags("", d.cluster.Kubeconfig); err != nil {
		return "", err
	}
	d.config.QPS, d.config.UserAgent = -1, "kubectl-demo"
	d.config.WarningHandler = rest.NoWarnings{}
	d.dir = filepath.Join(d.cluster.Dir, "demo")
	return "", os.MkdirAll(d.dir, 0o700)
}

func (d *demo) startGit(context.Context) (string, error) {
	var err error
	d.git, err = gitserver.Start(filepath.Join(d.dir, "git"), gitserver.Options{OnPush: d.pushed}) //nolint:contextcheck // it serves until it is closed
	if err != nil {
		return "", err
	}
	if d.fleet, err = d.git.Create("fleet"); err != nil {
		return "", err
	}
	files, err := fleetFiles(filepath.Join(d.Repo, "examples", "fleet"), d.fleet.URL())
	if err != nil {
		return "", err
	}
	if _, err := d.fleet.Commit("The fleet", gitserver.Files(files)...); err != nil {
		return "", err
	}
	return d.fleet.URL(), nil
}

// close ends everything, last started first.
func (d *demo) close() error {
	var problems []error
	if d.control != nil {
		problems = append(problems, d.control.stop())
	}
	if d.git != nil {
		problems = append(problems, d.git.Close())
	}
	if d.cluster != nil {
		problems = append(problems, d.cluster.stop())
	}
	return errors.Join(problems...)
}

// tell prints what to try.
func (d *demo) tell() {
	fmt.Fprintf(d.Out, `
Synced %s after the start. The cluster is held to %s.
Try it, in another terminal:

  export KUBECONFIG=%s
  %s get

  # an edit that gets reverted
  kubectl scale deployment storefront -n shop-dev --replicas=9
  kubectl get deployment storefront -n shop-dev

  # a commit that gets delivered
  git clone %s fleet && cd fleet
  perl -pi -e 's/count: 3/count: 4/' apps/shop/overlays/dev/kustomization.yaml
  git commit -am "Four storefronts" && git push

The controller's log: %s
`, d.synced.Round(100*time.Millisecond), d.fleet.URL(), d.cluster.Kubeconfig, d.Holdfast, d.fleet.URL(), d.control.logFile)
	if !d.Once {
		fmt.Fprintln(d.Out, "\nCtrl-C ends everything and leaves nothing behind.")
	}
}
