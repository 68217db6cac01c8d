package own

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// images compiles what is demanded of images.
func (c *compiler) images(in *api.Images) *trust.Images {
	if in == nil {
		return nil
	}
	const at = "spec.images"
	out := &trust.Images{
		Match:       c.imagePatterns(at+".match", in.Match),
		Allowed:     c.imagePatterns(at+".allowed", in.Allowed),
		Pinned:      c.choice(at+".pinned", in.Pinned, api.PinnedResolve, api.PinnedRequired),
		Authorities: imageAuthorities(c, at+".authorities", in.Authorities),
	}
	if p := in.Provenance; p != nil {
		out.Provenance = &trust.Provenance{
			Attested:     c.attested(at+".provenance", &p.Attested, in),
			Builders:     c.addresses(at+".provenance.builders", p.Builders),
			Repositories: c.addresses(at+".provenance.repositories", p.Repositories),
		}
	}
	out.Scan = c.scan(at+".scan", in)
	if in.SBOM != nil {
		sbom := c.attested(at+".sbom", in.SBOM, in)
		out.SBOM = &sbom
	}
	for i := range in.Registries {
		out.Registries = append(out.Registries, c.registry(fmt.Sprintf("%s.registries[%d]", at, i), &in.Registries[i]))
	}
	for i, p := range in.Paths {
		if p.Kind == "" || p.Path == "" || strings.HasPrefix(p.Path, ".") {
			c.problemf(ReasonInvalid, "%s.paths[%d]: kind and path are both needed, the path as spec.image", at, i)
		}
		out.Paths = append(out.Paths, object.ImagePath{Group: p.Group, Kind: p.Kind, Path: p.Path})
	}
	return out
}

func (c *compiler) attested(field string, in *api.Attested, images *api.Images) trust.Attested {
	if len(in.Authorities)+len(images.Authorities) == 0 {
		c.problemf(ReasonInvalid, "%s: nobody is named who may sign it; set authorities, here or in spec.images", field)
	}
	return trust.Attested{Authorities: imageAuthorities(c, field+".authorities", in.Authorities)}
}

func (c *compiler) scan(field string, images *api.Images) *trust.Scan {
	in := images.Scan
	if in == nil {
		return nil
	}
	out := &trust.Scan{Attested: c.attested(field, &in.Attested, images), Below: in.Below}
	switch in.Below {
	case "LOW", "MEDIUM", "HIGH", "CRITICAL":
	default:
		c.problemf(ReasonInvalid, "%s.below: %q is no severity; write LOW, MEDIUM, HIGH or CRITICAL", field, in.Below)
	}
	if in.MaxAge != nil {
		if out.MaxAge = in.MaxAge.Duration; out.MaxAge <= 0 {
			c.problemf(ReasonInvalid, "%s.maxAge: no scan is younger than that", field)
		}
	}
	return out
}

func (c *compiler) registry(field string, in *api.Registry) trust.Registry {
	out := trust.Registry{Host: strings.ToLower(in.Host), Insecure: in.Insecure}
	if in.Host == "" || strings.ContainsAny(in.Host, "/@ ") {
		c.problemf(ReasonInvalid, "%s.host: %q is no name of a registry", field, in.Host)
	}
	if out.CA = c.keys(field+".ca", in.CA); out.CA != nil {
		if _, err := trust.Certificates(out.CA); err != nil {
			c.problemf(ReasonKey, "%s.ca: %s", field, fault.From(err).Msg)
		}
	}
	if in.PullSecretRef == nil {
		return out
	}
	at := field + ".pullSecretRef"
	r := Ref{Kind: "Secret", Namespace: in.PullSecretRef.Namespace, Name: in.PullSecretRef.Name}
	content, ok := c.content(at, r)
	if !ok {
		return out
	}
	username, password, ok := login(content.Data, out.Host)
	if !ok {
		c.problemf(ReasonMissing, "%s: %s has no user and password for %s; make it with kubectl create secret docker-registry --docker-server=%s", at, r, out.Host, out.Host)
		return out
	}
	out.Credential = trust.NewCredential(r.Namespace+"/"+r.Name+"@"+content.Version, username, password)
	return out
}

// login finds user and password for a host in a Secret of type
// kubernetes.io/dockerconfigjson or kubernetes.io/basic-auth
// (https://kubernetes.io/docs/concepts/configuration/secret/#secret-types).
func login(data map[string][]byte, host string) (username, password string, ok bool) {
	if len(data["username"]) > 0 && len(data["password"]) > 0 {
		return string(data["username"]), string(data["password"]), true
	}
	var config struct {
		Auths map[string]struct {
			Username string `json:"username"`
			Password string `json:"password"`
			Auth     string `json:"auth"`
		} `json:"auths"`
	}
	if len(data[".dockerconfigjson"]) > maxKeys || json.Unmarshal(data[".dockerconfigjson"], &config) != nil {
		return "", "", false
	}
	for server, entry := range config.Auths {
		if registryHost(server) != registryHost(host) {
			continue
		}
		if entry.Username != "" && entry.Password != "" {
			return entry.Username, entry.Password, true
		}
		plain, err := base64.StdEncoding.DecodeString(entry.Auth)
		if err != nil {
			continue
		}
		if username, password, ok = strings.Cut(string(plain), ":"); ok && username != "" {
			return username, password, true
		}
	}
	return "", "", false
}

// registryHost is the host of a server as docker's configuration names it, which
// has an old name for Docker Hub.
func registryHost(server string) string {
	_, after, found := strings.Cut(server, "://")
	if found {
		server = after
	}
	host, _, _ := strings.Cut(strings.ToLower(server), "/")
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		return "docker.io"
	}
	return host
}
