// Package component says how each program of the control plane is run: its flags, and the files it reads. It starts nothing.
//
// The flags make a cluster that behaves as a real one where a client can see it (TLS, RBAC, admission, server-side apply and the
// watch cache as they come), and costs little where it cannot: nothing survives, nobody elects a leader, nodes send no
// heartbeats, and only the API server listens on a port.
package component

import (
	_ "embed"
	"fmt"
	"time"

	"github.com/holdfastcd/holdfast/devcluster/internal/pki"
)

// AuditLog is the name of the audit log in a cluster's directory.
const AuditLog = "audit.log"

// Names of the components, as the control plane binary knows them.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Kwok              = "kwok"
)

// Admin and Launcher are the users that are not components: whoever holds the kubeconfig, and the devcluster command itself.
const (
	Admin    = "devcluster-admin"
	Launcher = "devcluster:launcher"
)

// masters is the group that RBAC lets do everything.
const masters = "system:masters"

// noProfiling turns off a server's profiling pages.
const noProfiling = "--profiling=false"

// serviceIP is the address of the Service default/kubernetes: the first of serviceRange.
const (
	serviceRange = "10.96.0.0/16"
	serviceIP    = "10.96.0.1"
	podRange     = "10.244.0.0/16"
)

//go:embed stages.yaml
var stages []byte

//go:embed audit-policy.yaml
var auditPolicy []byte

// Component is one program and its arguments, relative to the cluster's directory, in which it runs.
type Component struct {
	Name string
	Args []string
}

// Settings are what differs between clusters.
type Settings struct {
	// Port is where the API server listens on the loopback address.
	Port int
	// Audit turns the audit log on.
	Audit bool
	// AuditWebhook is the path of a kubeconfig that says where audit events are sent. Empty means nowhere.
	AuditWebhook string
}

// Server is the URL of the API server.
func (s Settings) Server() string {
	return fmt.Sprintf("https://127.0.0.1:%d", s.Port)
}

// Storage is etcd. It listens on sockets in its directory only: no port can clash, and no other user can reach it.
func Storage() Component {
	return Component{Name: Etcd, Args: []string{
		"--name=devcluster",
		"--data-dir=etcd",
		"--listen-client-urls=unix://etcd.sock",
		"--listen-peer-urls=unix://peer.sock",
		// Addresses for other members, which there never are. etcd wants a port in them, even for a socket.
		"--advertise-client-urls=unix://etcd.sock:0",
		"--initial-advertise-peer-urls=unix://peer.sock:0",
		"--initial-cluster=devcluster=unix://peer.sock:0",
		"--unsafe-no-fsync",
		"--log-level=warn",
	}}
}

// API is the API server. The launcher has bound its port beforehand and keeps it, so nobody else can get it; hence
// --permit-port-sharing.
func API(s Settings) Component {
	args := []string{
		"--etcd-servers=unix://etcd.sock",
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", s.Port),
		"--permit-port-sharing=true",
		"--cert-dir=.",
		"--tls-cert-file=server.crt",
		"--tls-private-key-file=server.key",
		"--client-ca-file=ca.crt",
		"--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-signing-key-file=service-account.key",
		"--service-account-key-file=service-account.pub",
		"--service-cluster-ip-range=" + serviceRange,
		"--allow-privileged=true",
		// Nodes have no heartbeats, so nothing would take this plugin's taint away.
		"--disable-admission-plugins=TaintNodesByCondition",
		// Nothing routes to the Service default/kubernetes, so its endpoints need no refreshing.
		"--endpoint-reconciler-type=none",
		noProfiling,
	}
	if s.Audit || s.AuditWebhook != "" {
		args = append(args, "--audit-policy-file=audit-policy.yaml")
	}
	if s.AuditWebhook != "" {
		args = append(args,
			"--audit-webhook-config-file="+s.AuditWebhook,
			// The default waits half a minute for more.
			"--audit-webhook-batch-max-wait=100ms",
		)
	}
	if s.Audit {
		args = append(args,
			"--audit-log-path="+AuditLog,
			// Blocking: a request goes on only when its event is in the file, so that counts are exact.
			"--audit-log-mode=blocking",
			"--audit-log-maxsize=0",
		)
	}
	return Component{Name: APIServer, Args: args}
}

// Workers are the programs that talk to the API server: controllers, scheduler and nodes.
func Workers() []Component {
	return []Component{
		{Name: ControllerManager, Args: []string{
			"--kubeconfig=" + ControllerManager + ".kubeconfig",
			"--leader-elect=false",
			"--secure-port=0",
			"--service-account-private-key-file=service-account.key",
			"--root-ca-file=ca.crt",
			// Nodes have no heartbeats to watch, no routes, and no disks to attach.
			"--controllers=*,-node-lifecycle-controller,-node-ipam-controller,-node-route-controller,-cloud-node-lifecycle-controller," +
				"-persistentvolume-attach-detach-controller,-taint-eviction-controller",
			noProfiling,
		}},
		{Name: Scheduler, Args: []string{
			"--kubeconfig=" + Scheduler + ".kubeconfig",
			"--leader-elect=false",
			"--secure-port=0",
			noProfiling,
		}},
		{Name: Kwok, Args: []string{
			"--kubeconfig=" + Kwok + ".kubeconfig",
			"--config=stages.yaml",
			"--manage-all-nodes=true",
			"--node-lease-duration-seconds=0",
			"--node-ip=127.0.0.1",
			"--cidr=" + podRange,
		}},
	}
}

// Credentials are what the launcher itself and the cluster's users need to reach the API server.
type Credentials struct {
	// Authority is the certificate (PEM) that the API server's is signed by.
	Authority []byte
	// Launcher is the devcluster command's own identity.
	Launcher pki.Pair
	// Kubeconfig is an administrator's kubeconfig file.
	Kubeconfig []byte
}

// Files makes every file that the components read, by name, and the credentials to reach the cluster with.
func Files(s Settings, now time.Time) (map[string][]byte, Credentials, error) {
	authority, err := pki.NewAuthority(now)
	if err != nil {
		return nil, Credentials{}, err
	}
	files := map[string][]byte{
		"ca.crt":            authority.Certificate(),
		"stages.yaml":       stages,
		"audit-policy.yaml": auditPolicy,
	}
	server, err := authority.Server("127.0.0.1", "localhost", serviceIP, "kubernetes", "kubernetes.default",
		"kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
	if err != nil {
		return nil, Credentials{}, err
	}
	files["server.crt"], files["server.key"] = server.Certificate, server.Key
	files["service-account.key"], files["service-account.pub"], err = pki.SigningKey()
	if err != nil {
		return nil, Credentials{}, err
	}
	credentials, err := addIdentities(files, authority, s.Server())
	return files, credentials, err
}

// addIdentities makes a client certificate for each user of the cluster, and adds the components' kubeconfigs to files.
func addIdentities(files map[string][]byte, authority *pki.Authority, server string) (Credentials, error) {
	users := map[string]string{
		ControllerManager: "system:kube-controller-manager",
		Scheduler:         "system:kube-scheduler",
		Kwok:              "devcluster:kwok",
	}
	for name, user := range users {
		pair, err := authority.Client(user, masters)
		if err != nil {
			return Credentials{}, err
		}
		files[name+".kubeconfig"] = pki.Kubeconfig(server, user, authority.Certificate(), pair)
	}
	launcher, err := authority.Client(Launcher, masters)
	if err != nil {
		return Credentials{}, err
	}
	admin, err := authority.Client(Admin, masters)
	if err != nil {
		return Credentials{}, err
	}
	return Credentials{
		Authority:  authority.Certificate(),
		Launcher:   launcher,
		Kubeconfig: pki.Kubeconfig(server, Admin, authority.Certificate(), admin),
	}, nil
}
