package sops

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/getsops/sops/v3/config"

	"github.com/holdfastcd/holdfast/internal/fault"
)

func TestEncryptRules(t *testing.T) {
	a, b, pq := x25519(t), x25519(t), hybrid(t)
	rules := strings.NewReplacer("A", a.recipient, "B", b.recipient, "Q", pq.recipient).Replace(`
creation_rules:
  - path_regex: .*.secret.yaml$
    age: >-
      A
  - path_regex: .*.enc.yaml$
    age: [A, B]
    encrypted_regex: ^(data|stringData)$
    mac_only_encrypted: true
  - path_regex: ^prod/.*\.json$
    shamir_threshold: 2
    key_groups:
      - age: [A]
      - merge:
          - age: ["B"]
        age: [Q]
  - path_regex: ^clear/
    unencrypted_regex: ^(kind|metadata)$
    age: B
  - age: A
destination_rules:
  - s3_bucket: elsewhere
stores:
  yaml:
    indent: 2
`)
	for name, c := range map[string]struct {
		file, content string
		opens         []*Keys
		shut          []*Keys
		clear         []string
	}{
		"as the guides print it": {"apps/db.secret.yaml", secretYAML, []*Keys{a.keys(t)}, []*Keys{b.keys(t)}, []string{"apiVersion: ENC["}},
		"in part, for two":       {"apps/db.enc.yaml", secretYAML, []*Keys{a.keys(t), b.keys(t)}, []*Keys{pq.keys(t)}, []string{"kind: Secret", "mac_only_encrypted: true"}},
		"groups":                 {"prod/x.json", `{"a":"hunter2"}`, []*Keys{Join(a.keys(t), b.keys(t)), Join(pq.keys(t), a.keys(t))}, []*Keys{a.keys(t), Join(pq.keys(t), b.keys(t))}, nil},
		"all but":                {"clear/x.yaml", secretYAML, []*Keys{b.keys(t)}, []*Keys{a.keys(t)}, []string{"kind: Secret", "  name: db"}},
		"any other":              {"id_rsa", "hunter2\n", []*Keys{a.keys(t)}, []*Keys{b.keys(t)}, nil},
		"dotenv":                 {"x.env", "A=hunter2\n", []*Keys{a.keys(t)}, nil, []string{"A=ENC["}},
		"INI":                    {"x.ini", "[a]\nb = hunter2\n", []*Keys{a.keys(t)}, nil, nil},
		"documents":              {"x.yaml", "a: hunter2\n---\nb: hunter3\n", []*Keys{a.keys(t)}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			sealed, err := Encrypt(c.file, []byte(c.content), []byte(rules))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(sealed, []byte("hunter")) {
				t.Errorf("shows the value:\n%s", sealed)
			}
			for _, s := range c.clear {
				if !bytes.Contains(sealed, []byte(s)) {
					t.Errorf("lacks %q:\n%s", s, sealed)
				}
			}
			for _, k := range c.opens {
				plain, values := open(t, k, c.file, sealed)
				if !strings.Contains(plain, "hunter2") || len(values) == 0 {
					t.Errorf("got %s", plain)
				}
			}
			for _, k := range c.shut {
				if _, _, err := k.Open(context.Background(), c.file, sealed); fault.KindOf(err) != fault.NotFound {
					t.Errorf("opens with a key that it is not for: %v", err)
				}
			}
			if _, err := Encrypt(c.file, sealed, []byte(rules)); fault.KindOf(err) != fault.Invalid {
				t.Errorf("sealed twice: %v", err)
			}
		})
	}
}

// TestRulesAsTheLibrary has the library choose recipients by the same rules, from a file.
func TestRulesAsTheLibrary(t *testing.T) {
	a, b := x25519(t), sshEd25519(t)
	rules := "creation_rules:\n- path_regex: secret\n  key_groups:\n  - age: ['" + a.recipient + "']\n    kms: [{arn: '" + arn + "', role: '" + role + "', context: {a: b}}]\n    pgp: [ABCD]\n    hc_vault: ['https://v.example.com/v1/transit/keys/k']\n    gcp_kms: [{resource_id: " + resource + "}]\n    azure_keyvault: [{vaultUrl: 'https://mine.vault.azure.net', key: k, version: v}]\n" +
		"- age: '" + a.recipient + ", " + b.recipient + ",'\n  pgp: A,B\n  kms: '" + arn + "+" + role + "'\n  gcp_kms: " + resource + "\n  azure_keyvault: https://mine.vault.azure.net/keys/k/v\n  hc_vault_transit_uri: https://v.example.com/v1/a/b/keys/k\n"
	path := filepath.Join(t.TempDir(), ".sops.yaml")
	if err := os.WriteFile(path, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"secret.yaml", "other.yaml"} {
		theirs, err := config.LoadCreationRuleForFile(path, file, nil)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parseRules([]byte(rules))
		if err != nil {
			t.Fatal(err)
		}
		r, err := parsed.find(file)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := r.groups()
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, k := range theirs.KeyGroups[0] {
			count[k.TypeToIdentifier()+k.ToString()]++
		}
		for _, k := range ours[0] {
			count[k.TypeToIdentifier()+k.ToString()]--
		}
		for key, n := range count {
			if n != 0 {
				t.Errorf("%s: %s is named %d times more by the library", file, key, n)
			}
		}
	}
}

func TestEncryptRefuses(t *testing.T) {
	a := x25519(t)
	good := "creation_rules: [{age: " + a.recipient + "}]"
	for name, c := range map[string]struct {
		file, content, rules string
		want                 fault.Kind
		reason               string
	}{
		"no rules":         {"a.yaml", "a: b", "", fault.NotFound, "nobody to seal for"},
		"no rule fits":     {"a.yaml", "a: b", "creation_rules: [{path_regex: x, age: " + a.recipient + "}]", fault.NotFound, "nobody to seal for"},
		"no recipient":     {"a.yaml", "a: b", "creation_rules: [{path_regex: a}]", fault.Invalid, "nobody to seal for"},
		"an empty group":   {"a.yaml", "a: b", "creation_rules: [{key_groups: [{}]}]", fault.Invalid, "nobody to seal for"},
		"a misspelt field": {"a.yaml", "a: b", "creation_rules: [{encrypted_regx: x, age: " + a.recipient + "}]", fault.Invalid, "it would seal other values than meant"},
		"a bad regex":      {"a.yaml", "a: b", "creation_rules: [{encrypted_regex: '(', age: " + a.recipient + "}]", fault.Invalid, "the library would take it for one that fits nothing"},
		"a bad path":       {"a.yaml", "a: b", "creation_rules: [{path_regex: '(', age: " + a.recipient + "}]", fault.Invalid, "which file?"},
		"two ways":         {"a.yaml", "a: b", "creation_rules: [{encrypted_regex: a, encrypted_suffix: b, age: " + a.recipient + "}]", fault.Invalid, "which of them?"},
		"a plugin":         {"a.yaml", "a: b", "creation_rules: [{age: age1yubikey1qxxxx}]", fault.Unsupported, "a plugin is a program"},
		"a private key":    {"a.yaml", "a: b", "creation_rules: [{age: AGE-SECRET-KEY-1HUNTER2}]", fault.Invalid, "it should not be there"},
		"pgp, unknown":     {"a.yaml", "a: b", "creation_rules: [{pgp: ABCDEF}]", fault.NotFound, "its public key is not at hand"},
		"kms":              {"a.yaml", "a: b", "creation_rules: [{kms: '" + arn + "'}]", fault.NotFound, "there are no credentials"},
		"huawei":           {"a.yaml", "a: b", "creation_rules: [{hckms: ['x:y']}]", fault.Unsupported, "nobody else reads it"},
		"azure, latest":    {"a.yaml", "a: b", "creation_rules: [{azure_keyvault: 'https://x.vault.azure.net/keys/k'}]", fault.Invalid, "the library would ask as whoever the environment says"},
		"threshold":        {"a.yaml", "a: b", "creation_rules: [{shamir_threshold: 9, key_groups: [{age: [" + a.recipient + "]}, {age: [" + a.recipient + "]}]}]", fault.Invalid, "nobody could open it"},
		"a list":           {"a.yaml", "- a", good, fault.Invalid, "SOPS seals mappings"},
		"a JSON list":      {"a.json", "[1]", good, fault.Invalid, "SOPS seals mappings"},
		"no YAML":          {"a.yaml", "a: [", good, fault.Invalid, "it cannot be read"},
		"nothing":          {"a.yaml", "", good, fault.Invalid, "there is nothing to seal"},
		"a key sops":       {"a.yaml", "sops: x", good, fault.Invalid, "the metadata are there"},
		"an endless alias": {"a.yaml", "a: 1\n---\nb: &b [*b]\n", good, fault.Invalid, "the library would follow it for ever"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Encrypt(c.file, []byte(c.content), []byte(c.rules))
			if err == nil || fault.KindOf(err) != c.want {
				t.Fatalf("%s: %v, want %s", c.reason, err, c.want)
			}
			if strings.Contains(err.Error(), "HUNTER2") && !strings.Contains(err.Error(), "stays secret") {
				t.Errorf("%v", err)
			}
			if fault.From(err).File == "" {
				t.Errorf("no file: %v", err)
			}
		})
	}
}
