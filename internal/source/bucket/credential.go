package bucket

import (
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// foreignKeys are what else Secrets for Flux's buckets hold. One of them unheeded would
// mean to connect in another way than was asked for.
var foreignKeys = []string{
	"serviceaccount", "accountKey", "sasKey", "tenantId", "clientId", "clientSecret", "clientCertificate", "managedIdentity", "sessiontoken", "tls.crt", "tls.key",
}

// Credential makes a credential of what a Secret holds: accesskey and secretkey, and
// ca.crt. id names the Secret and its state. Errors are *fault.Error that tell no value:
// Unauthorized, Unsupported.
func Credential(id string, data map[string][]byte) (source.Credential, error) {
	for _, key := range foreignKeys {
		if _, ok := data[key]; ok {
			return source.Credential{}, fault.New(fault.Unsupported, "key %s of the Secret is not supported for buckets", key).
				WithHint("use accesskey and secretkey, and ca.crt")
		}
	}
	s := source.Secret{Username: string(data["accesskey"]), Password: string(data["secretkey"]), CA: data["ca.crt"]}
	switch {
	case (s.Username == "") != (s.Password == ""):
		return source.Credential{}, fault.New(fault.Unauthorized, "the Secret has one of accesskey and secretkey, and not the other")
	case s.Username == "" && len(s.CA) == 0:
		return source.Credential{}, fault.New(fault.Unauthorized, "the Secret has none of accesskey and secretkey, and ca.crt")
	}
	return source.NewCredential("bucket "+id, s), nil
}
