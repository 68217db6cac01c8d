package cli

import (
	"net/http"
	_ "net/http/pprof" //nolint:gosec // on a server of its own, only where the owner of the process asks for it
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/holdfastcd/holdfast/internal/controller"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret/sealed"
)

// Controller are the settings of the controller.
type Controller struct {
	controller.Options

	Kubeconfig   string
	WorkerMemory memory
	DataLimit    memory
	LogLevel     string
	LogFormat    string
	PProf        string

	decryptionSecret string
}

func (o *Controller) bind(s settings) {
	s.text(&o.Kubeconfig, "kubeconfig", "", "path of the kubeconfig `FILE` (default: the account of the Pod that this runs in)")
	s.text(&o.DataDir, "data-dir", defaultDataDir(), "`DIR` for Git objects and fingerprints; all of it can be made anew, but for the audit log, where --audit-dir does not put it elsewhere")
	o.DataLimit = controller.DefaultDataLimit
	s.value(&o.DataLimit, "data-limit", "how much `DISK` the data may take; beyond it, the largest tenant's repositories make room, or are refused")
	s.text(&o.AuditDir, "audit-dir", "", "`DIR` for the audit log, which cannot be made anew (default: audit in the data directory)")
	s.text(&o.AuditStore, "audit-store", "", "`ADDRESS` of a bucket for the audit log, s3://BUCKET/PREFIX?database=FILE or gs://BUCKET/PREFIX?spanner=DATABASE, without credentials; --audit-dir then holds its index (default: --audit-dir holds the log)")
	s.text(&o.AuditKey, "audit-key", "", "`FILE` of the key that signs the audit log, made if it is not there (default: the Secret "+controller.AuditSecret+" beside the Pod; elsewhere audit.key in the data directory)")
	s.text(&o.APIAuditToken, "api-audit-token-file", "", "`FILE` of a token, of 16 bytes or more, with which the API server may send its audit events to /api/audit: drift then names users (default: none are taken)")
	s.text(&o.Listen, "listen", ":8080", "`ADDRESS` of the one HTTP port: webhooks, artifacts, metrics and health")
	s.text(&o.ArtifactURL, "artifact-url", "", "`URL` by which others reach that port, for the artifacts that GitRepositories offer (default: http://holdfast.holdfast-system.svc)")
	s.toggle(&o.Permissive, "permissive", "UNSAFE: write with Holdfast's own account where a delivery names none; shown on every object that it affects")
	s.text(&o.DefaultServiceAccount, "default-service-account", "", "`NAME` of the account, in their own namespace, of Kustomizations that name none (default: they are refused)")
	s.text(&o.ArgoNamespace, "argocd-namespace", argoNamespace, "`NAMESPACE` of Applications and AppProjects")
	s.text(&o.decryptionSecret, "decryption-secret", "", "`NAMESPACE/NAME` of the Secret with the keys, in Flux's format, for files that SOPS sealed, of Kustomizations whose spec.decryption names no Secret, and of Applications for whose project there is none")
	s.flags.StringSliceVar(&o.SealingNamespaces, "sealing-key-namespace", nil, "`NAMESPACE` with keys of SealedSecrets; repeatable, new ones are made in the last (default: "+sealed.StockNamespace+", and the one that Holdfast runs in)")
	s.bind("sealing-key-namespace")
	s.flags.DurationVar(&o.SealingRenewal, "sealing-key-renewal", 30*24*time.Hour, "`TIME` after which a new key for SealedSecrets is made; the old ones go on opening what they sealed; 0: never")
	s.bind("sealing-key-renewal")
	s.toggle(&o.Observe, "observe", "write nothing, beside Argo CD or Flux, and tell at /observe what would change; but deliver what 'holdfast takeover' took over")
	s.number(&o.Concurrency, "concurrency", 8, "`NUMBER` of deliveries of one kind that are worked on at once")
	s.number(&o.Workers, "workers", 0, "`NUMBER` of workers that render at once (default: one for each processor, 2 at most)")
	o.WorkerMemory = 256 << 20
	s.value(&o.WorkerMemory, "worker-memory", "how much `MEMORY` one worker may use before it is ended")
	s.text(&o.Kyverno, "kyverno", "", "`FILE` of the program holdfast-kyverno, which judges by Kyverno's policies (default: the one beside this program)")
	s.text(&o.AdmissionAddress, "admission-address", "", "`ADDRESS`, such as :9443, at which the API server asks about what others write into namespaces with the label holdfast.dev/admission (default: it does not)")
	s.text(&o.AdmissionURL, "admission-url", "", "`URL` by which the API server reaches --admission-address, for a controller outside of the cluster")
	s.flags.StringSliceVar(&o.AdmissionGroups, "admission-exempt-groups", []string{"system:masters"}, "`GROUPS` whose writes are not judged: who may break the glass")
	s.bind("admission-exempt-groups")
	s.toggle(&o.NoPolicyReports, "no-policy-reports", "write no PolicyReports (wgpolicyk8s.io), also where the cluster serves their kind")
	s.toggle(&o.AllowFileURLs, "allow-file-urls", "UNSAFE: let deliveries read repositories on this machine's disk by file:// URLs")
	s.toggle(&o.AllowLinkLocal, "allow-link-local", "UNSAFE: let Git servers, registries, buckets and proxies be at link-local addresses, where clouds keep the credentials of their machines")
	s.text(&o.LogLevel, "log-level", "info", "`LEVEL`: debug, info, warn or error")
	s.text(&o.LogFormat, "log-format", "text", "`FORMAT`: text or json")
	s.text(&o.PProf, "pprof", "", "`ADDRESS` of an extra port for Go's profiler")
	_ = s.flags.MarkHidden("pprof") // the flag exists
}

// defaultDataDir is where a daemon keeps its data, or, for a person, where the
// user's caches are.
func defaultDataDir() string {
	const daemon = "/var/lib/holdfast"
	if os.Geteuid() == 0 {
		return daemon
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return daemon
	}
	return filepath.Join(cache, "holdfast")
}

// validate checks everything once.
func (o *Controller) validate() error {
	switch {
	case o.DataDir == "":
		return fault.New(fault.Invalid, "--data-dir is empty").WithHint("name a directory that the controller may write to")
	case o.DataLimit < 64<<20:
		return fault.New(fault.Invalid, "--data-limit must be at least 64Mi")
	case o.Concurrency < 1:
		return fault.New(fault.Invalid, "--concurrency must be at least 1")
	case o.Workers < 0:
		return fault.New(fault.Invalid, "--workers must not be negative")
	case o.WorkerMemory < 32<<20:
		return fault.New(fault.Invalid, "--worker-memory must be at least 32Mi")
	case o.ArgoNamespace == "":
		return fault.New(fault.Invalid, "--argocd-namespace is empty")
	case o.SealingRenewal < 0:
		return fault.New(fault.Invalid, "--sealing-key-renewal must not be negative")
	}
	var err error
	o.DecryptionSecret, err = parseDecryptionSecret(o.decryptionSecret)
	return err
}

// parseDecryptionSecret reads NAMESPACE/NAME; the zero value for none.
func parseDecryptionSecret(text string) (types.NamespacedName, error) {
	if text == "" {
		return types.NamespacedName{}, nil
	}
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return types.NamespacedName{}, fault.New(fault.Invalid, "--decryption-secret %q names no Secret", text).WithHint("write NAMESPACE/NAME")
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, nil
}

const controllerExamples = `  # in a cluster, where 'holdfast install' puts it
  holdfast controller --data-dir /data

  # on this machine, against a cluster for development
  holdfast install --crds-only
  holdfast controller --kubeconfig ~/.kube/config --data-dir ./data --listen 127.0.0.1:8080

  # beside Argo CD or Flux, writing nothing
  holdfast controller --observe --data-dir /data

  # settings in the environment
  HOLDFAST_LOG_LEVEL=debug HOLDFAST_DATA_DIR=/data holdfast controller`

// gcPercent keeps the heap of the controller small; what it costs in processor time is
// in docs/performance.md. GOGC in the environment takes its place.
const gcPercent = 75

func newController(p Process) *cobra.Command {
	var o Controller
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Deliver what is in Git, and hold the cluster to it",
		Long: `Deliver what the cluster's Flux and Argo CD resources ask for, and revert what others
change.

With --observe it runs beside Argo CD or Flux: it does everything but the writes, and
reports what it would change, except for what was taken over (holdfast takeover).
Without it, what a peer still writes to is only observed, until the peer is quiet.

Everything is written as the service account that a delivery names; Holdfast's own
account watches, and reads what deliveries refer to. The one HTTP port serves
  /api/webhook     pushes of GitHub, GitLab, Gitea and Gogs, signed as Argo CD's argocd-secret says
  /hook/           Flux Receivers
  /gitrepository/  artifacts of GitRepositories
  /v1/cert.pem     the certificate that kubeseal seals for; /v1/verify and /v1/rotate beside it
  /audit/          the audit log, for those who may read it
  /api/audit       audit events of the API server, if --api-audit-token-file is set
  /observe         what would change of deliveries that are only observed
  /metrics /healthz /readyz

Exit codes: 0 it was asked to end; 2 it cannot start, or go on.`,
		Example: controllerExamples,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return err
			}
			log, err := newLog(p.Err, o.LogLevel, o.LogFormat)
			if err != nil {
				return err
			}
			cfg, err := controllerConfig(o.Kubeconfig)
			if err != nil {
				return err
			}
			o.Config, o.Log, o.WorkerMemoryBytes, o.DataLimitBytes = cfg, log, int64(o.WorkerMemory), int64(o.DataLimit)
			if o.Kubeconfig == "" {
				o.Namespace = podNamespace()
			}
			if o.PProf != "" {
				go profile(o.PProf)
			}
			if _, chosen := p.Lookup("GOGC"); !chosen {
				debug.SetGCPercent(gcPercent)
			}
			return controller.Run(cmd.Context(), o.Options)
		},
	}
	o.bind(settings{cmd.Flags()})
	return cmd
}

// podNamespace is the namespace that this Pod is in; "" if that cannot be told.
func podNamespace() string {
	const file = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
	name, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

// profile serves the profiler until the process ends.
func profile(address string) {
	srv := &http.Server{Addr: address, ReadHeaderTimeout: 5 * time.Second} // the default mux has the profiler only
	_ = srv.ListenAndServe()                                               // an aid for developers: no profile is no failure
}
