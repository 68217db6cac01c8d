// Package sopsfile makes sealed files for tests, with SOPS's own library and age keys:
// what Holdfast opens is what others sealed.
package sopsfile

import (
	"crypto/rand"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/config"
	"github.com/getsops/sops/v3/stores/yaml"
	"github.com/getsops/sops/v3/version"
)

// Key returns a new age key: its text, as age-keygen writes it, and its recipient.
func Key(tb testing.TB) (key, recipient string) {
	tb.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		tb.Fatal(err)
	}
	return identity.String() + "\n", identity.Recipient().String()
}

// Secret is a document, not sealed yet, of a Secret named db with a password.
func Secret(password string) string {
	return "apiVersion: v1\nkind: Secret\nmetadata:\n    name: db\nstringData:\n    password: " + password + "\n"
}

// YAML seals the values of a YAML document below data and stringData, as the guides
// have it, for age recipients.
func YAML(tb testing.TB, document string, recipients ...string) string {
	tb.Helper()
	store := yaml.NewStore(&config.YAMLStoreConfig{})
	branches, err := store.LoadPlainFile([]byte(document))
	if err != nil {
		tb.Fatal(err)
	}
	var group sops.KeyGroup
	dataKey := make([]byte, 32)
	if _, err := rand.Read(dataKey); err != nil {
		tb.Fatal(err)
	}
	for _, r := range recipients {
		key, err := sopsage.MasterKeyFromRecipient(r)
		if err != nil {
			tb.Fatal(err)
		}
		if err := key.Encrypt(dataKey); err != nil {
			tb.Fatal(err)
		}
		group = append(group, key)
	}
	tree := sops.Tree{Branches: branches, Metadata: sops.Metadata{
		KeyGroups: []sops.KeyGroup{group}, EncryptedRegex: "^(data|stringData)$", Version: version.Version, LastModified: time.Now().UTC(),
	}}
	mac, err := tree.Encrypt(dataKey, aes.NewCipher())
	if err != nil {
		tb.Fatal(err)
	}
	tree.Metadata.MessageAuthenticationCode, err = aes.NewCipher().Encrypt(mac, dataKey, tree.Metadata.LastModified.Format(time.RFC3339))
	if err != nil {
		tb.Fatal(err)
	}
	sealed, err := store.EmitEncryptedFile(tree)
	if err != nil {
		tb.Fatal(err)
	}
	return string(sealed)
}
