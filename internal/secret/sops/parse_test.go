package sops

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ProtonMail/go-crypto/openpgp/s2k"
	"golang.org/x/crypto/ssh"

	"github.com/holdfastcd/holdfast/internal/fault"
)

func TestParse(t *testing.T) {
	a, b, pq, edSSH, p, q := x25519(t), x25519(t), hybrid(t), sshEd25519(t), pgpKey(t), pgpKey(t)
	entries := map[string][]byte{
		"two.agekey":    append(append([]byte{}, a.private...), b.private...),
		"pq.agekey":     pq.private,
		"ssh.agekey":    edSSH.private,
		"both.asc":      append(append(append([]byte{}, p.private...), '\n'), q.private...),
		"other.pub":     []byte("age1..."),
		entryVault:      []byte("hvs.token\n"),
		entryAddresses:  []byte("https://Vault.example.com:8200/\nhttp://vault.vault.svc:8200"),
		entryAWS:        []byte("aws_access_key_id: AKIA\naws_secret_access_key: s\n"),
		entryAzure:      []byte(`{"appId":"a","tenant":"t","password":"p","displayName":"d"}`),
		entryGCP:        []byte(gcpKey(t, "https://oauth2.googleapis.com/token")),
		"project":       []byte("default"),
		"another.agekx": []byte("x"),
	}
	k, err := Parse(entries, Options{Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(k.age) != 4 || len(k.pgp) != 2 || len(k.vault) != 1 || len(k.aws) != 1 || len(k.azure) != 1 || len(k.gcp) != 1 {
		t.Errorf("got %d age, %d pgp, %d vault, %d aws, %d azure, %d gcp", len(k.age), len(k.pgp), len(k.vault), len(k.aws), len(k.azure), len(k.gcp))
	}
	if got := k.vault[0].addresses; len(got) != 2 || got[1] != "https://vault.example.com:8200" {
		t.Errorf("addresses %q", got)
	}
	told := strings.Join(k.Recipients(), "\n")
	for _, r := range []string{a.recipient, b.recipient, pq.recipient, "SHA256:", p.recipient, q.recipient, "Vault transit", "AWS KMS", "Azure Key Vault", "GCP KMS"} {
		if !strings.Contains(told, r) {
			t.Errorf("%s is not told", r)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	locked := pgpKey(t)
	if err := locked.entity.EncryptPrivateKeys([]byte("hunter2"), &packet.Config{S2KConfig: &s2k.Config{S2KMode: s2k.IteratedSaltedS2K, S2KCount: 1024}}); err != nil {
		t.Fatal(err)
	}
	lockedPGP := armored(t, openpgp.PrivateKeyType, func(w *bytes.Buffer) error { return locked.entity.SerializePrivateWithoutSigning(w, nil) })
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	i, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		entry, content string
		shared         bool
		want           fault.Kind
		reason         string
	}{
		"no entry that is read": {"age.key", i.String(), false, fault.Invalid, "a Secret without a key is a mistake"},
		"empty":                 {"a.agekey", "# nothing\n", false, fault.Invalid, "there is no key in it"},
		"recipient":             {"a.agekey", i.Recipient().String(), false, fault.Invalid, "the public half opens nothing"},
		"damaged":               {"a.agekey", i.String()[:40], false, fault.Invalid, "it cannot be read"},
		"plugin":                {"a.agekey", "AGE-PLUGIN-YUBIKEY-1XHUNTER2", false, fault.Unsupported, "a plugin is a program"},
		"locked ssh":            {"a.agekey", string(pem.EncodeToMemory(block)), false, fault.Unsupported, "there is nobody to ask for the passphrase"},
		"age file":              {"a.agekey", "-----BEGIN AGE ENCRYPTED FILE-----\nhunter2\n-----END AGE ENCRYPTED FILE-----\n", false, fault.Invalid, "there is nobody to ask for the passphrase"},
		"no pgp":                {"a.asc", "hunter2", false, fault.Invalid, "it cannot be read"},
		"locked pgp":            {"a.asc", string(lockedPGP), false, fault.Unsupported, "there is nobody to ask for the passphrase"},
		"large":                 {"a.agekey", strings.Repeat("#", maxEntry+1), false, fault.Limit, "bounded before it is read"},
		"token of lines":        {entryVault, "hunter2\nX-Other: 1", false, fault.Invalid, "it would be two headers"},
		"shared token":          {entryVault, "hunter2", true, fault.Refused, "any tenant's file would have it sent anywhere"},
		"aws":                   {entryAWS, "aws_access_key_id: hunter2\n", false, fault.Invalid, "half of it is missing"},
		"aws, more":             {entryAWS, "aws_access_key_id: a\naws_secret_access_key: hunter2\nrole: x\n", false, fault.Invalid, "a field that is not read is refused"},
		"azure, managed":        {entryAzure, "clientId: hunter2\n", false, fault.Unsupported, "the machine's identity is not the tenant's"},
		"azure, both":           {entryAzure, "clientId: a\ntenantId: b\nclientSecret: hunter2\nclientCertificate: c\n", false, fault.Invalid, "which of them?"},
		"azure, path":           {entryAzure, "clientId: a\ntenantId: ../b\nclientSecret: hunter2\n", false, fault.Invalid, "it would be part of an address"},
		"azure, authority":      {entryAzure, "clientId: a\ntenantId: b\nclientSecret: hunter2\nauthorityHost: http://x\n", false, fault.Invalid, "the secret would go in the clear"},
		"gcp, external":         {entryGCP, `{"type":"external_account","credential_source":{"file":"/var/run/secrets/token"},"token_url":"https://x"}`, false, fault.Unsupported, "it would have our own token be sent"},
		"gcp, universe":         {entryGCP, `{"type":"service_account","universe_domain":"x"}`, false, fault.Unsupported, "the endpoint is fixed"},
		"gcp, plain":            {entryGCP, gcpKey(t, "http://x"), false, fault.Invalid, "the assertion would go in the clear"},
		"gcp, no JSON":          {entryGCP, "hunter2", false, fault.Invalid, "it cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(map[string][]byte{c.entry: []byte(c.content)}, Options{Shared: c.shared})
			if fault.KindOf(err) != c.want || err == nil {
				t.Fatalf("%s: %v, want %s", c.reason, err, c.want)
			}
			if !strings.Contains(err.Error(), c.entry) {
				t.Errorf("the entry is not named: %v", err)
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "HUNTER2") || strings.Contains(err.Error(), i.String()[:40]) {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

func TestID(t *testing.T) {
	a, b, p := x25519(t), sshEd25519(t), pgpKey(t)
	v, err := Parse(map[string][]byte{entryVault: []byte("hvs.token")}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := Parse(map[string][]byte{entryVault: []byte("hvs.other")}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	one, two := Join(a.keys(t), b.keys(t), p.keys(t), v), Join(v, p.keys(t), nil, b.keys(t), a.keys(t), a.keys(t))
	if one.ID() != two.ID() || one.ID() == "" {
		t.Errorf("the order counts: %q and %q", one.ID(), two.ID())
	}
	seen := map[string]bool{"": true}
	for _, k := range []*Keys{one, a.keys(t), b.keys(t), p.keys(t), v, w, Join(a.keys(t), b.keys(t))} {
		if seen[k.ID()] || strings.Contains(k.ID(), "hvs") {
			t.Errorf("the ID %q of %v", k.ID(), k.Recipients())
		}
		seen[k.ID()] = true
	}
	if Join(nil, nil) != nil || Join() != nil || (*Keys)(nil).ID() != "" {
		t.Error("nothing has no ID")
	}
}
