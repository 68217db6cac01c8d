package sops

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/getsops/sops/v3"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// metadata are those of a file that nobody can open, with some of them replaced.
func metadata(replace ...string) string {
	m := `sops:
    kms: []
    age:
        - recipient: age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
          enc: |
            -----BEGIN AGE ENCRYPTED FILE-----
            YWdlLWVuY3J5cHRpb24ub3JnL3Yx
            -----END AGE ENCRYPTED FILE-----
    lastmodified: "2026-01-02T03:04:05Z"
    mac: ENC[AES256_GCM,data:YWFh,iv:YWFh,tag:YWFh,type:str]
    unencrypted_suffix: _unencrypted
    version: 3.13.3
`
	return strings.NewReplacer(replace...).Replace(m)
}

func TestBounds(t *testing.T) {
	k := x25519(t).keys(t)
	const value = "a: ENC[AES256_GCM,data:YWFh,iv:YWFh,tag:YWFh,type:str]\n"
	for name, c := range map[string]struct {
		file, content string
		want          fault.Kind
		reason        string
	}{
		"large": {
			"a.yaml", value + metadata() + strings.Repeat("#\n", maxFile/2), fault.Limit, "a file is bounded before it is read",
		},
		"an alias that holds itself": {
			"a.yaml", value + metadata() + "---\nb: &b [*b]\n" + metadata(), fault.Invalid,
			"the library would follow it until the stack ends, which takes the process along",
		},
		"aliases of aliases": {
			"a.yaml", value + metadata() + "---\n" + laughs() + metadata(), fault.Invalid, "the library would unfold them to gigabytes",
		},
		"deep YAML":           {"a.yaml", value + "b: " + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "\n" + metadata(), fault.Limit, "recursion"},
		"deep JSON":           {"a.json", `{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `,"sops":{"mac":"ENC[AES256_GCM,data:YQ==,iv:YQ==,tag:YQ==,type:str]"}}`, fault.Limit, "recursion"},
		"deeper JSON":         {"a.json", `{"a":` + strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20) + `,"sops":{"mac":"ENC[AES256_GCM,data:YQ==,iv:YQ==,tag:YQ==,type:str]"}}`, fault.Invalid, "what the standard library refuses, this does"},
		"many JSON values":    {"a.json", `{"a":[` + strings.Repeat("1,", maxItems) + `1],"sops":{"mac":"ENC[AES256_GCM,data:YQ==,iv:YQ==,tag:YQ==,type:str]"}}`, fault.Limit, "work is bounded"},
		"many YAML values":    {"a.yaml", value + "b: [" + strings.Repeat("1,", maxItems) + "1]\n" + metadata(), fault.Limit, "work is bounded"},
		"many documents":      {"a.yaml", strings.Repeat("---\n", 2*maxDocuments) + value + metadata(), fault.Limit, "work is bounded"},
		"many lines":          {"a.env", strings.Repeat("sops_a=1\n", maxItems) + "sops_mac=ENC[AES256_GCM,data:YQ==,iv:YQ==,tag:YQ==,type:str]\n", fault.Limit, "the library deletes metadata one by one"},
		"a deep name":         {"a.env", "sops" + strings.Repeat("__map_a", 1<<16) + "=1\nsops_mac=ENC[AES256_GCM,data:YQ==,iv:YQ==,tag:YQ==,type:str]\n", fault.Limit, "names unfold to maps within maps"},
		"many recipients":     {"a.yaml", value + metadata("    age:\n", "    age:\n"+strings.Repeat("        - {recipient: age1a, enc: x}\n", 200)), fault.Limit, "each takes a computation or a request"},
		"many groups":         {"a.yaml", value + metadata("    age:\n", "    key_groups:\n"+strings.Repeat("        - age: [{recipient: age1a, enc: x}]\n", 40)+"    unused:\n"), fault.Limit, "each takes a computation or a request"},
		"a long data key":     {"a.yaml", value + metadata("YWdl", strings.Repeat("YWdl", 8000)), fault.Limit, "a header of age may hold any number of stanzas"},
		"an expensive rule":   {"a.yaml", value + strings.Repeat("a", 1) + "b:\n" + manyNames(3900) + metadata("unencrypted_suffix: _unencrypted", "encrypted_regex: (x{1000}|y{1000}|z{1000})"), fault.Limit, "the library compiles it for each name"},
		"many names":          {"a.yaml", value + "b:\n" + manyNames(2*maxKeyNames) + metadata(), fault.Limit, "the reader of YAML compares each with all others"},
		"a broken rule":       {"a.yaml", value + metadata("unencrypted_suffix: _unencrypted", "encrypted_regex: '('"), fault.Invalid, "the library would take it for one that fits nothing"},
		"a null in a context": {"a.yaml", value + metadata("kms: []", "kms: [{arn: x, created_at: '2026-01-02T03:04:05Z', enc: x, context: {a: null}}]"), fault.Invalid, "the library panics"},
		"no keys":             {"a.yaml", value + "sops: {mac: 'ENC[AES256_GCM,data:YQ==,iv:YQ==,tag:YQ==,type:str]'}\n", fault.Invalid, "nobody could open it"},
		"no metadata":         {"a.yaml", value, fault.Refused, "a sealed value is nobody's value"},
		"no metadata, JSON":   {"a.json", `{"a":"ENC[AES256_GCM,data:YWFh,iv:YWFh,tag:YWFh,type:str]"}`, fault.Refused, "a sealed value is nobody's value"},
		"no metadata, dotenv": {"a.env", "A=ENC[AES256_GCM,data:YWFh,iv:YWFh,tag:YWFh,type:str]\n", fault.Refused, "a sealed value is nobody's value"},
		"a second document":   {"a.yaml", value + metadata() + "---\nb: ENC[AES256_GCM,data:YWFh,iv:YWFh,tag:YWFh,type:str]\n", fault.Refused, "its metadata were taken off"},
		"no YAML":             {"a.yaml", value + metadata() + "\t]", fault.Invalid, "it cannot be read"},
		"a document end":      {"a.yaml", value + metadata() + "...\nb: 1\n", fault.Invalid, "what is read here is what the library reads"},
	} {
		t.Run(name, func(t *testing.T) {
			_, sealed, err := k.Open(context.Background(), c.file, []byte(c.content))
			if !sealed || fault.KindOf(err) != c.want {
				t.Fatalf("%s: sealed %t, %v, want %s", c.reason, sealed, err, c.want)
			}
			mustTellNothing(t, err, nil)
			if len(err.Error()) > 600 {
				t.Errorf("a message of %d bytes", len(err.Error()))
			}
		})
	}
}

func laughs() string {
	s := "a0: &a0 [x,x]\n"
	for i := range 30 {
		s += fmt.Sprintf("a%d: &a%d [*a%d,*a%d]\n", i+1, i+1, i, i)
	}
	return s
}

func manyNames(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "    k%d: 1\n", i)
	}
	return b.String()
}

// TestKindOfValue has a value say that it is of another kind, which is not protected.
func TestKindOfValue(t *testing.T) {
	p := x25519(t)
	sealed := string(sealedBy(t, formatYAML, "a: hunter2-hunter2\n", p.recipient))
	for kind, want := range map[string]fault.Kind{
		"bytes":   fault.Refused, // the library panics
		"comment": fault.Refused,
		"time":    fault.Refused,
		"int":     fault.Refused,
		"else":    fault.Refused,
	} {
		changed := strings.Replace(sealed, "type:str]", "type:"+kind+"]", 1)
		_, _, err := p.keys(t).Open(context.Background(), "a.yaml", []byte(changed))
		if fault.KindOf(err) != want {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestManyGroupsMessage(t *testing.T) {
	var groups []sops.KeyGroup
	for range 8 {
		groups = append(groups, ageGroup(t, x25519(t).recipient))
	}
	s := sealer{groups: groups, edit: func(m *sops.Metadata) { m.ShamirThreshold = 5 }}
	_, _, err := x25519(t).keys(t).Open(context.Background(), "a.yaml", s.seal(t, formatYAML, "a: b\n"))
	if fault.KindOf(err) != fault.NotFound || !strings.Contains(err.Error(), "and 3 more, in 8 groups of which 5 are needed") {
		t.Error(err)
	}
}
