package sops

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/decrypt"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/fault"
)

const secretYAML = `apiVersion: v1
kind: Secret
metadata:
    name: db
stringData:
    user: admin-of-all
    password: hunter2-hunter2
    port: 54321
    tls: true
`

// samples are a file of each format, with a value that is sealed.
var samples = map[format]struct{ file, content string }{
	formatYAML:   {"secret.yaml", secretYAML},
	formatJSON:   {"values.json", "{\n\t\"db\": {\n\t\t\"password\": \"hunter2-hunter2\",\n\t\t\"ports\": [\n\t\t\t1234567890123,\n\t\t\t2.5\n\t\t],\n\t\t\"on\": true,\n\t\t\"none\": null\n\t}\n}\n"},
	formatDotenv: {"app.env", "# about\nUSER=admin\nPASSWORD=hunter2=hunter2\nLINES=a\\nb\n"},
	formatINI:    {"app.ini", "[db]\nuser     = admin\npassword = hunter2-hunter2\n"},
	formatBinary: {"id_rsa", "-----BEGIN\x00\xc3\xa4\nhunter2-hunter2\n"},
}

// open opens a file that must open.
func open(t testing.TB, k *Keys, file string, content []byte) (plain string, values []string) {
	t.Helper()
	opened, sealed, err := k.Open(context.Background(), file, content)
	if err != nil || !sealed {
		t.Fatalf("%s: sealed %t, %v", file, sealed, err)
	}
	for _, v := range opened.Values {
		values = append(values, string(v.Reveal()))
	}
	return string(opened.Content.Reveal()), values
}

func TestOpenEveryFormat(t *testing.T) {
	p := x25519(t)
	k := p.keys(t)
	for f, s := range samples {
		t.Run(string(f), func(t *testing.T) {
			sealed := sealedBy(t, f, s.content, p.recipient)
			if strings.Contains(string(sealed), "hunter2") {
				t.Fatal("the sealed file shows the value")
			}
			plain, values := open(t, k, s.file, sealed)
			if diff := cmp.Diff(s.content, plain); diff != "" {
				t.Error(diff)
			}
			if !strings.Contains(strings.Join(values, "\n"), "hunter2") {
				t.Errorf("the sealed value is not told: %q", values)
			}
			// A name that says nothing, as in the data of a Secret, is no obstacle.
			if plain, _ := open(t, k, "config", sealed); plain != s.content {
				t.Errorf("by its content: %q", plain)
			}
		})
	}
}

// kinds are the kinds of key that need no service.
func kinds(t *testing.T) map[string]pair {
	t.Helper()
	return map[string]pair{
		"age": x25519(t), "age post-quantum": hybrid(t), "age ssh ed25519": sshEd25519(t), "age ssh rsa": sshRSA(t), "pgp": pgpKey(t),
	}
}

func TestStockFilesOpen(t *testing.T) {
	for name, p := range kinds(t) {
		t.Run(name, func(t *testing.T) {
			var group sops.KeyGroup
			if p.entity != nil {
				home(t, p)
				group = pgpGroup(p)
			} else {
				group = ageGroup(t, p.recipient)
			}
			sealed := sealer{groups: []sops.KeyGroup{group}}.seal(t, formatYAML, secretYAML)
			plain, values := open(t, p.keys(t), "secret.yaml", sealed)
			if diff := cmp.Diff(secretYAML, plain); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{"v1", "Secret", "db", "admin-of-all", "hunter2-hunter2", "54321"}, values); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOursOpenWithTheStockLibrary(t *testing.T) {
	for name, p := range kinds(t) {
		t.Run(name, func(t *testing.T) {
			rules := "creation_rules:\n  - path_regex: .*\\.yaml$\n    encrypted_regex: ^(data|stringData)$\n    "
			k := &Keys{}
			switch {
			case p.entity != nil:
				home(t, p)
				rules += "pgp: " + p.recipient
				public, err := Parse(map[string][]byte{"a.asc": p.public}, Options{})
				if err != nil {
					t.Fatal(err)
				}
				k = public
			case strings.HasPrefix(p.recipient, "ssh-"):
				rules += "age: " + p.recipient
				dir := t.TempDir()
				setenv(t, "SOPS_AGE_SSH_PRIVATE_KEY_FILE", write(t, dir, "key", p.private))
			default:
				rules += "age: " + p.recipient
				setenv(t, "SOPS_AGE_KEY", lastLine(p.private))
			}
			sealed, err := k.Encrypt(context.Background(), "a/secret.yaml", []byte(secretYAML), []byte(rules))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(sealed), "hunter2") || !strings.Contains(string(sealed), "kind: Secret") {
				t.Fatalf("not sealed by the rule:\n%s", sealed)
			}
			plain, err := decrypt.Data(sealed, "yaml")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(secretYAML, string(plain)); diff != "" {
				t.Error(diff)
			}
			if ours, _ := open(t, p.keys(t), "secret.yaml", sealed); ours != secretYAML {
				t.Errorf("ours: %s", ours)
			}
		})
	}
}

func TestShamirGroups(t *testing.T) {
	a, b, c, d := x25519(t), hybrid(t), pgpKey(t), x25519(t)
	home(t, c)
	s := sealer{
		groups: []sops.KeyGroup{ageGroup(t, a.recipient, d.recipient), ageGroup(t, b.recipient), pgpGroup(c)},
		edit:   func(m *sops.Metadata) { m.ShamirThreshold = 2 },
	}
	sealed := s.seal(t, formatYAML, secretYAML)
	for _, keys := range []*Keys{Join(a.keys(t), b.keys(t)), Join(c.keys(t), nil, d.keys(t)), Join(b.keys(t), c.keys(t), a.keys(t))} {
		if plain, _ := open(t, keys, "secret.yaml", sealed); plain != secretYAML {
			t.Errorf("got %s", plain)
		}
	}
	for _, keys := range []*Keys{a.keys(t), Join(a.keys(t), d.keys(t))} {
		_, _, err := keys.Open(context.Background(), "secret.yaml", sealed)
		if fault.KindOf(err) != fault.NotFound || !strings.Contains(err.Error(), "in 3 groups of which 2 are needed") {
			t.Errorf("one group of two: %v", err)
		}
	}
}

func TestNotSealed(t *testing.T) {
	for name, c := range map[string]struct{ file, content, reason string }{
		"plain":       {"a.yaml", secretYAML, "there is nothing sealed in it"},
		"empty":       {"a.yaml", "", "an empty file is not sealed"},
		"page":        {"README.md", "Sealed values look like `ENC[AES256_GCM,data:Tr7o=,iv:1=,tag:k=,type:str]`.", "a page about SOPS is no sealed file"},
		"payload":     {"cm.yaml", "kind: ConfigMap\ndata:\n  f.yaml: |\n    a: ENC[AES256_GCM,data:Tr7o,iv:YWFh,tag:YWFh,type:str]\n    sops:\n      mac: ENC[AES256_GCM,data:Tr7o,iv:YWFh,tag:YWFh,type:str]\n", "a sealed file within a document is looked at by itself"},
		"named sops":  {"values.yaml", "sops:\n  enabled: true\n", "a key of that name is no metadata"},
		"a template":  {"t.yaml", "{{ if .x }}\na: {{ .b }}\n{{ end }}\n", "a template is no YAML, and holds nothing sealed"},
		"many braces": {"a", "{", "not JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			opened, sealed, err := (*Keys)(nil).Open(context.Background(), c.file, []byte(c.content))
			if sealed || err != nil || !opened.Content.IsZero() {
				t.Errorf("%s: sealed %t, %v", c.reason, sealed, err)
			}
		})
	}
}

func write(t testing.TB, dir, name string, content []byte) string {
	t.Helper()
	path := dir + "/" + name
	if err := writeFile(path, content); err != nil {
		t.Fatal(err)
	}
	return path
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// parsed is a file as what it means.
func parsed(t testing.TB, content string) any {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
