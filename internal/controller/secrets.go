package controller

import (
	"cmp"
	"net/http"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret/sealed"
	"github.com/holdfastcd/holdfast/internal/secret/sops"
)

// openSeals makes what opens SealedSecrets. Its keys are read when it runs. Who only
// observes makes none: that is a write.
func (p *process) openSeals() error {
	clients, err := kubernetes.NewForConfig(p.Config)
	if err != nil {
		return fault.New(fault.Unreachable, "cannot set up the connection to the cluster: %s", err).Because(err)
	}
	namespaces := p.SealingNamespaces
	if len(namespaces) == 0 {
		namespaces = []string{sealed.StockNamespace, cmp.Or(p.Namespace, deploy.DefaultNamespace)}
	}
	renew := p.SealingRenewal
	if p.Observe {
		renew = 0
	}
	p.sealing, err = sealed.New(sealed.Options{
		Client: clients, Namespaces: namespaces, Renew: renew, Create: !p.Observe, Changed: p.askAll, Clock: time.Now, Log: p.Log,
	})
	return err
}

// decryption makes what finds the keys for files that SOPS sealed.
func (p *process) decryption(router dialect.Router) (*dialect.Decryption, error) {
	watch, err := dialect.WatchSecrets(p.Config)
	if err != nil {
		return nil, err
	}
	d := dialect.NewDecryption(dialect.DecryptionOptions{
		Reader: p.manager.GetAPIReader(), Default: p.DecryptionSecret, Watch: watch, Notify: router.Notify,
		Keys:  sops.Options{AllowLinkLocal: p.AllowLinkLocal, Proxy: http.ProxyFromEnvironment},
		Clock: time.Now, Log: p.Log,
	})
	return d, p.manager.Add(d)
}
