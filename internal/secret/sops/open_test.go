package sops

import (
	"context"
	"strings"
	"testing"

	"github.com/getsops/sops/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/fault"
)

func TestNoKeyFits(t *testing.T) {
	theirs, ours, p := x25519(t), x25519(t), pgpKey(t)
	sealed := sealedBy(t, formatYAML, secretYAML, theirs.recipient)
	for name, c := range map[string]struct {
		keys *Keys
		says []string
	}{
		"none":    {nil, []string{"deploy/secret.yaml", theirs.recipient, "give the delivery a key Secret"}},
		"another": {ours.keys(t), []string{"deploy/secret.yaml", theirs.recipient, ours.recipient, "sops updatekeys"}},
		"public half": {
			(&pair{entry: "a.asc", private: p.public}).keys(t), []string{theirs.recipient, p.recipient, "--export-secret-keys"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, isSealed, err := c.keys.Open(context.Background(), "deploy/secret.yaml", sealed)
			if !isSealed || fault.KindOf(err) != fault.NotFound {
				t.Fatalf("sealed %t, %v", isSealed, err)
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q is not in: %v", s, err)
				}
			}
			mustTellNothing(t, err, sealed)
		})
	}
}

// TestDocuments has files of several documents.
func TestDocuments(t *testing.T) {
	p := x25519(t)
	k := p.keys(t)
	const one, two = "a: hunter2-one\n", "b: hunter2-two\n"
	seal := func(content string) string { return string(sealedBy(t, formatYAML, content, p.recipient)) }
	together := seal(one + "---\n" + two)
	off := func(where string) string {
		return string(sealer{groups: []sops.KeyGroup{ageGroup(t, p.recipient)}, edit: func(m *sops.Metadata) {
			m.UnencryptedSuffix, m.EncryptedRegex = "", "^data$"
		}}.seal(t, formatYAML, "metadata:\n    "+where+":\n        kustomize.toolkit.fluxcd.io/decrypt: Disabled\ndata:\n    a: hunter3\n"))
	}
	label, annotation := off("labels"), off("annotations")
	for name, c := range map[string]struct {
		content, want string
		kind          fault.Kind
		left          bool
		reason        string
	}{
		"sealed together":     {content: together, want: one + "---\n" + two, reason: "one MAC is over all"},
		"sealed apart":        {content: seal(one) + "---\n" + seal(two), want: one + "---\n" + two, reason: "two files in one have two MACs"},
		"with others":         {content: "# first\nclear: 1\n---\n" + seal(one) + "---\n# last\nc: 1\n", want: "# first\nclear: 1\n---\n" + one + "---\n# last\nc: 1\n", reason: "what is not sealed stays as it is"},
		"CRLF and an end":     {content: "---\r\n" + seal(one) + "---\n", want: "---\n" + one + "---\n", reason: "an empty document is none"},
		"left by label":       {content: label, left: true, reason: "Flux's mark"},
		"left by annotation":  {content: annotation, left: true, reason: "Flux's mark"},
		"one of two left":     {content: seal(one) + "---\n" + annotation, want: one + "---\n" + annotation, reason: "the mark is a document's"},
		"one taken away":      {content: together[:strings.Index(together, "\n---\n")+1], kind: fault.Refused, reason: "the MAC is over both"},
		"the other way round": {content: swap(together), kind: fault.Refused, reason: "the MAC is over their order"},
		"one twice":           {content: together + "---\n" + together, kind: fault.Refused, reason: "the MAC is over each once"},
		"metadata of another": {content: strings.Replace(together, macOf(t, together), macOf(t, seal(one)), 1), kind: fault.Refused, reason: "a MAC is sealed with its file's key"},
	} {
		t.Run(name, func(t *testing.T) {
			opened, sealed, err := k.Open(context.Background(), "all.yaml", []byte(c.content))
			if c.want == "" && !c.left {
				if fault.KindOf(err) != c.kind {
					t.Fatalf("%s: %v, want %s", c.reason, err, c.kind)
				}
				return
			}
			if err != nil || sealed == c.left {
				t.Fatalf("%s: sealed %t, %v", c.reason, sealed, err)
			}
			if diff := cmp.Diff(c.want, string(opened.Content.Reveal())); diff != "" {
				t.Error(c.reason + "\n" + diff)
			}
		})
	}
}

func swap(s string) string {
	a, b, _ := strings.Cut(s, "\n---\n")
	return b + "---\n" + a + "\n"
}

func macOf(t *testing.T, s string) string {
	t.Helper()
	_, rest, ok := strings.Cut(s, "mac: ")
	if !ok {
		t.Fatal("no MAC")
	}
	mac, _, _ := strings.Cut(rest, "\n")
	return mac
}

// TestRules has files that are sealed in part, in each way that the library knows.
func TestRules(t *testing.T) {
	p := x25519(t)
	k := p.keys(t)
	const content = "clear: plain text\npassword: hunter2-hunter2\npassword_unencrypted: more\n"
	for name, c := range map[string]struct {
		edit    func(*sops.Metadata)
		sealed  string // a name whose value is sealed
		clear   string // a text that stands in the clear
		content string
	}{
		"unencrypted_suffix": {edit: func(*sops.Metadata) {}, clear: "password_unencrypted: more"},
		"encrypted_suffix":   {edit: func(m *sops.Metadata) { m.UnencryptedSuffix, m.EncryptedSuffix = "", "word" }, clear: "clear: plain text"},
		"encrypted_regex":    {edit: func(m *sops.Metadata) { m.UnencryptedSuffix, m.EncryptedRegex = "", "^password$" }, clear: "clear: plain text"},
		"unencrypted_regex":  {edit: func(m *sops.Metadata) { m.UnencryptedSuffix, m.UnencryptedRegex = "", "^clear$" }, clear: "clear: plain text"},
		"encrypted_comment_regex": {
			edit:  func(m *sops.Metadata) { m.UnencryptedSuffix, m.EncryptedCommentRegex = "", "sops:enc" },
			clear: "clear: plain text", content: "clear: plain text\n# sops:enc\npassword: hunter2-hunter2\n",
		},
		"unencrypted_comment_regex": {
			edit:  func(m *sops.Metadata) { m.UnencryptedSuffix, m.UnencryptedCommentRegex = "", "sops:clear" },
			clear: "clear: plain text", content: "# sops:clear\nclear: plain text\npassword: hunter2-hunter2\n",
		},
	} {
		for _, only := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				if c.content == "" {
					c.content = content
				}
				s := sealer{groups: []sops.KeyGroup{ageGroup(t, p.recipient)}, edit: func(m *sops.Metadata) { c.edit(m); m.MACOnlyEncrypted = only }}
				sealed := string(s.seal(t, formatYAML, c.content))
				if strings.Contains(sealed, "hunter2") || !strings.Contains(sealed, c.clear) {
					t.Fatalf("not what was to be tested:\n%s", sealed)
				}
				plain, _ := open(t, k, "a.yaml", []byte(sealed))
				if diff := cmp.Diff(c.content, plain); diff != "" {
					t.Error(diff)
				}
				changed := strings.Replace(sealed, c.clear, c.clear+" added", 1)
				_, _, err := k.Open(context.Background(), "a.yaml", []byte(changed))
				if only && err != nil {
					t.Errorf("mac_only_encrypted: %v", err)
				}
				if !only && (fault.KindOf(err) != fault.Refused || !strings.Contains(err.Error(), "MAC")) {
					t.Errorf("a value in the clear was changed: %v", err)
				}
			})
		}
	}
}

func TestValuesOfASecret(t *testing.T) {
	p := x25519(t)
	_, values := open(t, p.keys(t), "a.yaml", sealedBy(t, formatYAML, "kind_unencrypted: x\ndata:\n    a: aHVudGVyMi1odW50ZXIy\n    on: true\n", p.recipient))
	if diff := cmp.Diff([]string{"aHVudGVyMi1odW50ZXIy", "hunter2-hunter2"}, values); diff != "" {
		t.Error(diff)
	}
}
