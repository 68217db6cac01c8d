package cli

import (
	"errors"
	"io"
	"net"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// userAgent is how Holdfast names itself to API servers.
const userAgent = "holdfast"

// Connection says which cluster a command of a person talks to, as kubectl
// does it.
type Connection struct {
	Kubeconfig string
	Context    string
}

func (c *Connection) bind(s settings) {
	s.text(&c.Kubeconfig, "kubeconfig", "", "path of the kubeconfig `FILE` (default: $KUBECONFIG, then ~/.kube/config, then the Pod's own account)")
	s.text(&c.Context, "context", "", "`NAME` of the context in the kubeconfig (default: its current one)")
}

// config returns how to reach the cluster. Errors are Invalid, and say where the
// kubeconfig was looked for.
func (c *Connection) config() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.Context})
	cfg, err := loader.ClientConfig()
	if err != nil {
		return nil, badKubeconfig(err)
	}
	return tune(cfg), nil
}

// contextNamespace returns the namespace of the context, "default" if it has none.
func (c *Connection) contextNamespace() string {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.Context})
	namespace, _, err := loader.Namespace()
	if err != nil || namespace == "" {
		return "default"
	}
	return namespace
}

// controllerConfig returns how the controller reaches its cluster: by the file,
// or as the Pod it runs in. It never guesses: a controller that takes whatever
// cluster a person was last looking at does harm.
func controllerConfig(file string) (*rest.Config, error) {
	if file == "" {
		cfg, err := rest.InClusterConfig()
		if err != nil {
			return nil, fault.New(fault.Invalid, "this is no Pod of a cluster, and no kubeconfig is given").
				WithHint("name one with --kubeconfig FILE or $HOLDFAST_KUBECONFIG")
		}
		return tune(cfg), nil
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return nil, badKubeconfig(err)
	}
	return tune(cfg), nil
}

func badKubeconfig(err error) error {
	if clientcmd.IsEmptyConfig(err) || errors.Is(err, rest.ErrNotInCluster) {
		return fault.New(fault.Invalid, "there is no kubeconfig").
			WithHint("name one with --kubeconfig FILE or $KUBECONFIG")
	}
	return fault.New(fault.Invalid, "the kubeconfig cannot be used: %s", err).
		WithHint("name another with --kubeconfig FILE, or another context of it with --context")
}

// tune leaves the pace to the API server's own priority and fairness.
func tune(cfg *rest.Config) *rest.Config {
	cfg.QPS = -1
	cfg.UserAgent = userAgent
	cfg.WarningHandler = rest.NoWarnings{}
	return cfg
}

// kubeFault turns an error of a Kubernetes client into a fault.
func kubeFault(err error, doing string) error {
	var f *fault.Error
	switch {
	case errors.As(err, &f):
		return err
	case meta.IsNoMatchError(err):
		return fault.New(fault.NotFound, "%s: the cluster does not know the kind: %s", doing, err).
			WithHint("run 'holdfast install --crds-only' first")
	}
	return classify(err, doing)
}

func classify(err error, doing string) error {
	kind := fault.Internal
	switch {
	case apierrors.IsUnauthorized(err):
		kind = fault.Unauthorized
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsConflict(err):
		kind = fault.Rejected
	case apierrors.IsNotFound(err):
		kind = fault.NotFound
	case unreachable(err):
		kind = fault.Unreachable
	}
	return fault.New(kind, "%s: %s", doing, err).Because(err)
}

func unreachable(err error) bool {
	var network net.Error
	return errors.As(err, &network) || apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err) ||
		apierrors.IsServerTimeout(err) || errors.Is(err, io.EOF)
}
