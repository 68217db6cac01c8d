package cli

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/depot"
	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/why"
)

// logAccess says in the help of commands how they read the log.
const logAccess = `The audit log is read from the controller, by way of the API server and with a token
of ServiceAccount holdfast-audit-reader: that beside the controller, or else the one
of the namespace. --server asks the controller directly, --dir reads a log's files,
--store those in a bucket, with the credentials that the cloud's own tools would find.`

// LogAccess says where the audit log is read.
type LogAccess struct {
	Connection

	Dir       string
	Store     string
	Server    string
	Service   string
	Account   string
	TokenFile string
}

func (o *LogAccess) bindLog(s settings) {
	o.bind(s)
	s.text(&o.Dir, "dir", "", "`DIR` of a log that is read instead of a controller's")
	s.text(&o.Store, "store", "", "`ADDRESS` of a log in a bucket that is read instead of a controller's, as --audit-store of the controller has it; without its database, only what is signed is read")
	s.text(&o.Server, "server", "", "`URL` of the controller, to ask it directly")
	s.text(&o.Service, "service", deploy.DefaultNamespace+"/holdfast", "`NAMESPACE/NAME` of the controller's Service")
	s.text(&o.Account, "account", "", "`NAMESPACE/NAME` of the ServiceAccount whose token is shown (default: "+remote.Account+")")
	s.text(&o.TokenFile, "token-file", "", "`FILE` with a token to show, instead of asking for one")
}

// auditLog is what commands do with a log, wherever it lies.
type auditLog interface {
	why.Log
	audit.Reader
}

// openLog returns the log that the flags name. The namespace is where an account of
// one's own is looked for; it may be empty. cfg may be nil where no cluster is asked.
func (o *LogAccess) openLog(ctx context.Context, cfg *rest.Config, namespace string) (auditLog, error) {
	if o.Dir != "" && o.Store != "" {
		return nil, fault.New(fault.Invalid, "--dir and --store do not go together")
	}
	if o.Dir != "" {
		if _, err := os.Stat(o.Dir); err != nil {
			return nil, fault.New(fault.NotFound, "the log cannot be read: %s", errors.Unwrap(err)).At(o.Dir, 0).
				WithHint("--dir names the directory that holds the file checkpoint")
		}
		return remote.Stored(audit.Dir(o.Dir), "the directory "+o.Dir), nil
	}
	if o.Store != "" {
		store, err := depot.Open(ctx, o.Store, os.LookupEnv)
		if err != nil {
			return nil, err
		}
		return remote.Stored(store.Reader(), store.Where()), nil // the process ends what it holds
	}
	token, err := o.tokens(cfg, namespace)
	if err != nil {
		return nil, err
	}
	if o.Server != "" {
		return remote.Direct(o.Server, token)
	}
	service, err := namespaced(o.Service, "--service")
	if err != nil {
		return nil, err
	}
	return remote.Proxied(cfg, service, token)
}

// tokens says where tokens come from.
func (o *LogAccess) tokens(cfg *rest.Config, namespace string) (remote.Token, error) {
	if o.TokenFile != "" {
		b, err := os.ReadFile(o.TokenFile)
		if err != nil {
			return nil, fault.New(fault.NotFound, "the token cannot be read: %s", err)
		}
		return remote.Fixed(strings.TrimSpace(string(b))), nil
	}
	if o.Account != "" {
		account, err := namespaced(o.Account, "--account")
		return remote.TokenOf(cfg, time.Now, account), err
	}
	service, err := namespaced(o.Service, "--service")
	if err != nil {
		return nil, err
	}
	accounts := []types.NamespacedName{{Namespace: service.Namespace, Name: remote.Account}}
	if namespace != "" && namespace != service.Namespace {
		accounts = append(accounts, types.NamespacedName{Namespace: namespace, Name: remote.Account})
	}
	return remote.TokenOf(cfg, time.Now, accounts...), nil
}

func namespaced(s, flag string) (types.NamespacedName, error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return types.NamespacedName{}, fault.New(fault.Invalid, "%s takes NAMESPACE/NAME, not %q", flag, s)
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, nil
}
