package oci

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// dockerConfig is the key of a Secret of type kubernetes.io/dockerconfigjson.
const dockerConfig = ".dockerconfigjson"

// maxSecret bounds what is parsed of a Secret; the API server has the same bound.
const maxSecret = 1 << 20

// foreignKeys are what else Flux takes. One of them unheeded would mean to connect in
// another way than was asked for.
var foreignKeys = []string{"tls.crt", "tls.key", "certFile", "keyFile", "bearerToken", "identitytoken"}

// Credential makes a credential of what a Secret holds: .dockerconfigjson, of which the
// entry for the URL's host counts, or username and password; and ca.crt. id names the
// Secret and its state. Errors are *fault.Error that tell no value: Unauthorized where
// nothing is there for the host, Unsupported, Invalid.
func Credential(id, url string, data map[string][]byte) (source.Credential, error) {
	at, err := source.ParseArtifact(url)
	if err != nil {
		return source.Credential{}, err
	}
	for _, key := range foreignKeys {
		if _, ok := data[key]; ok {
			return source.Credential{}, fault.New(fault.Unsupported, "key %s of the Secret is not supported for registries", key).
				WithHint("use .dockerconfigjson, or username and password, and ca.crt")
		}
	}
	s := source.Secret{Username: string(data["username"]), Password: string(data["password"]), CA: data["ca.crt"]}
	if len(s.CA) == 0 {
		s.CA = data["caFile"]
	}
	config, has := data[dockerConfig]
	switch {
	case (s.Username == "") != (s.Password == ""):
		return source.Credential{}, fault.New(fault.Unauthorized, "the Secret has one of username and password, and not the other")
	case has && s.Username != "":
		return source.Credential{}, fault.New(fault.Unauthorized, "the Secret has both %s and a username", dockerConfig).WithHint("remove one of the two")
	case has:
		if s.Username, s.Password, err = entry(config, at); err != nil {
			return source.Credential{}, err
		}
	case s.Username == "" && len(s.CA) == 0:
		return source.Credential{}, fault.New(fault.Unauthorized, "the Secret has none of %s, username and password, and ca.crt", dockerConfig)
	}
	return source.NewCredential("registry "+at.Host+" "+id, s), nil
}

// auth is an entry of Docker's configuration
// (https://github.com/docker/cli/blob/master/cli/config/types/authconfig.go).
type auth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"` // both, encoded
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// entry returns what a Docker configuration has for a repository: the entry for its host,
// or the longest beginning of its name.
func entry(config []byte, at source.Artifact) (username, password string, err error) {
	var c struct {
		Auths map[string]auth `json:"auths"`
	}
	if len(config) > maxSecret || json.Unmarshal(config, &c) != nil { // its error may quote a secret
		return "", "", fault.New(fault.Invalid, "key %s of the Secret is no Docker configuration", dockerConfig)
	}
	best, found := auth{}, -1
	for _, name := range slices.Sorted(maps.Keys(c.Auths)) {
		if n := matches(name, at); n > found {
			best, found = c.Auths[name], n
		}
	}
	switch {
	case best.IdentityToken+best.RegistryToken != "":
		return "", "", fault.New(fault.Unsupported, "key %s of the Secret has a token for %s, and only username and password are supported", dockerConfig, at.Host)
	case best.Auth != "":
		text, err := base64.StdEncoding.DecodeString(best.Auth)
		name, word, ok := strings.Cut(strings.TrimRight(string(text), "\x00"), ":")
		if err != nil || !ok {
			return "", "", fault.New(fault.Invalid, "what key %s of the Secret has for %s cannot be read", dockerConfig, at.Host)
		}
		best.Username, best.Password = name, word
	}
	if best.Username == "" || best.Password == "" {
		return "", "", fault.New(fault.Unauthorized, "key %s of the Secret has nothing for %s", dockerConfig, at.Host)
	}
	return best.Username, best.Password, nil
}

// matches returns how much of a repository's name a key of auths names, which may be a
// URL: -1 if it is for another.
func matches(key string, at source.Artifact) int {
	if _, rest, ok := strings.Cut(key, "://"); ok {
		key = rest
	}
	host, within, _ := strings.Cut(strings.TrimRight(key, "/"), "/")
	if docker(host) != docker(at.Host) {
		return -1
	}
	if within == "v1" || within == "v2" || within == "" { // the versions of a registry's API
		return 0
	}
	if !strings.HasPrefix(at.Repository+"/", within+"/") {
		return -1
	}
	return len(within)
}

// docker is a host, by one name where Docker's own has three.
func docker(host string) string {
	switch host = strings.ToLower(host); host {
	case "docker.io", "registry-1.docker.io":
		return "index.docker.io"
	}
	return host
}
