package sops

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/config"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// hostile sets every variable that the library, or what it is built on, takes keys,
// addresses, programs or files from, to something that would be noticed.
func hostile(t *testing.T) (touched string) {
	t.Helper()
	dir := t.TempDir()
	touched = filepath.Join(dir, "touched")
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho x > "+touched+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing")
	for name, value := range map[string]string{
		"SOPS_AGE_KEY_CMD": program, "SOPS_AGE_SSH_PRIVATE_KEY_CMD": program, "SOPS_GPG_EXEC": program, "SOPS_EDITOR": program,
		"SOPS_AGE_KEY_FILE": missing, "SOPS_AGE_SSH_PRIVATE_KEY_FILE": missing, "SOPS_DECRYPTION_ORDER": "x",
		"HOME": dir, "XDG_CONFIG_HOME": dir, "GNUPGHOME": dir, "GPG_AGENT_INFO": missing, "PATH": dir,
		"SOPS_HC_VAULT_ALLOWLIST": "none", "VAULT_ADDR": "https://evil.example.com", "VAULT_AGENT_ADDR": "https://evil.example.com",
		"VAULT_TOKEN": "evil", "VAULT_NAMESPACE": "evil", "VAULT_SKIP_VERIFY": "maybe", "VAULT_CACERT": missing, "VAULT_MAX_RETRIES": "x",
		"VAULT_PROXY_ADDR": "http://evil.example.com", "VAULT_HTTP_PROXY": "http://evil.example.com", "VAULT_CLIENT_TIMEOUT": "x",
		"AWS_ACCESS_KEY_ID": "evil", "AWS_SECRET_ACCESS_KEY": "evil", "AWS_REGION": "evil", "AWS_PROFILE": "evil", "AWS_CA_BUNDLE": missing,
		"AWS_CONFIG_FILE": missing, "AWS_SHARED_CREDENTIALS_FILE": missing, "AWS_ENDPOINT_URL": "https://evil.example.com",
		"AWS_ENDPOINT_URL_KMS": "https://evil.example.com", "AWS_ENDPOINT_URL_STS": "https://evil.example.com", "AWS_USE_FIPS_ENDPOINT": "true",
		"AWS_WEB_IDENTITY_TOKEN_FILE": missing, "AWS_ROLE_ARN": "evil", "AWS_MAX_ATTEMPTS": "x",
		"GOOGLE_CREDENTIALS": "{}", "GOOGLE_APPLICATION_CREDENTIALS": missing, "GOOGLE_OAUTH_ACCESS_TOKEN": "evil",
		"SOPS_GCP_KMS_ENDPOINT": "https://evil.example.com", "SOPS_GCP_KMS_UNIVERSE_DOMAIN": "evil.example.com", "SOPS_GCP_KMS_CLIENT_TYPE": "rest",
		"AZURE_AUTHORITY_HOST": "https://evil.example.com", "AZURE_CLIENT_ID": "evil", "AZURE_CLIENT_SECRET": "evil", "AZURE_TENANT_ID": "evil",
		"AZURE_REGIONAL_AUTHORITY_NAME": "evil.example.com/",
		"HTTPS_PROXY":                   "http://evil.example.com", "HTTP_PROXY": "http://evil.example.com",
	} {
		setenv(t, name, value)
	}
	return touched
}

// TestEnvironment has keys lie wherever the library looks for them. None is used, and
// no program is started.
func TestEnvironment(t *testing.T) {
	a, s, p := x25519(t), sshEd25519(t), pgpKey(t)
	aged := sealedBy(t, formatYAML, "a: hunter2-hunter2\n", a.recipient, s.recipient)
	home(t, p)
	pgped := sealer{groups: []sops.KeyGroup{pgpGroup(p)}}.seal(t, formatYAML, "a: hunter2-hunter2\n")
	touched := hostile(t)
	home(t, p) // with the key in it, and no program
	setenv(t, "SOPS_GPG_EXEC", filepath.Join(filepath.Dir(touched), "program"))
	dir := os.Getenv("HOME")
	setenv(t, "SOPS_AGE_KEY", lastLine(a.private))
	for _, f := range []struct {
		name    string
		content []byte
	}{{".ssh/id_ed25519", s.private}, {"sops/age/keys.txt", a.private}, {".config/sops/age/keys.txt", a.private}, {".vault-token", []byte("hvs.good")}} {
		path := filepath.Join(dir, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, k := range map[string]*Keys{"none": nil, "another age key": x25519(t).keys(t), "another PGP key": pgpKey(t).keys(t)} {
		for _, sealed := range [][]byte{aged, pgped} {
			_, _, err := k.Open(context.Background(), "a.yaml", sealed)
			if fault.KindOf(err) != fault.NotFound {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// And what is given works as ever.
	for _, k := range []*Keys{a.keys(t), s.keys(t)} {
		open(t, k, "a.yaml", aged)
	}
	open(t, p.keys(t), "a.yaml", pgped)
	if _, err := os.Stat(touched); err == nil {
		t.Error("a program was started")
	}
	var left []string
	for _, e := range must(os.ReadDir(dir)) {
		left = append(left, e.Name())
	}
	if got := strings.Join(left, " "); got != ".config .ssh .vault-token program sops" {
		t.Errorf("files were written: %s", got)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newStores() *config.StoresConfig { return config.NewStoresConfig() }
