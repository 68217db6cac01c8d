package pki

import (
	"encoding/base64"
	"fmt"
)

// Kubeconfig is a kubeconfig file for server, trusted by the authority's certificate (PEM), with identity as the user named
// user. Everything is in the one file, so that it can be copied.
func Kubeconfig(server, user string, authority []byte, identity Pair) []byte {
	encode := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: devcluster
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: %s
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: devcluster
  context:
    cluster: devcluster
    user: %s
current-context: devcluster
`, server, encode(authority), user, encode(identity.Certificate), encode(identity.Key), user)
}
