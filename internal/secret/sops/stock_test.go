package sops

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/config"
	"github.com/getsops/sops/v3/pgp"
	"golang.org/x/crypto/ssh"
)

// sealer seals with the library alone, as the sops command does.
type sealer struct {
	groups []sops.KeyGroup
	edit   func(*sops.Metadata)
}

// sealedBy seals content for age recipients, in one group.
func sealedBy(t testing.TB, f format, content string, recipients ...string) []byte {
	t.Helper()
	return sealer{groups: []sops.KeyGroup{ageGroup(t, recipients...)}}.seal(t, f, content)
}

func ageGroup(t testing.TB, recipients ...string) sops.KeyGroup {
	t.Helper()
	var g sops.KeyGroup
	for _, r := range recipients {
		k, err := sopsage.MasterKeyFromRecipient(r)
		if err != nil {
			t.Fatal(err)
		}
		g = append(g, k)
	}
	return g
}

func (s sealer) seal(t testing.TB, f format, content string) []byte {
	t.Helper()
	quiet()
	store := f.store(config.NewStoresConfig())
	branches, err := store.LoadPlainFile([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	tree := sops.Tree{Branches: branches, Metadata: sops.Metadata{KeyGroups: s.groups, UnencryptedSuffix: sops.DefaultUnencryptedSuffix, Version: "3.13.3"}}
	if s.edit != nil {
		s.edit(&tree.Metadata)
	}
	key, errs := tree.GenerateDataKey()
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	cipher := aes.NewCipher()
	mac, err := tree.Encrypt(key, cipher)
	if err != nil {
		t.Fatal(err)
	}
	tree.Metadata.LastModified = time.Now().UTC()
	if tree.Metadata.MessageAuthenticationCode, err = cipher.Encrypt(mac, key, tree.Metadata.LastModified.Format(time.RFC3339)); err != nil {
		t.Fatal(err)
	}
	out, err := store.EmitEncryptedFile(tree)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// pair is a key of some kind: what files are sealed for, and the Secret that opens them.
type pair struct {
	recipient string
	entry     string
	private   []byte
	public    []byte // armored, of OpenPGP keys
	entity    *openpgp.Entity
}

func (p pair) keys(t testing.TB) *Keys {
	t.Helper()
	k, err := Parse(map[string][]byte{p.entry: p.private}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func x25519(t testing.TB) pair {
	t.Helper()
	i, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return pair{recipient: i.Recipient().String(), entry: "age.agekey", private: []byte("# created: today\n# public key: x\n" + i.String() + "\n")}
}

func hybrid(t testing.TB) pair {
	t.Helper()
	i, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return pair{recipient: i.Recipient().String(), entry: "pq.agekey", private: []byte(i.String())}
}

func sshPair(t testing.TB, key any, public any) pair {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "comment")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return pair{recipient: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))), entry: "id.agekey", private: pem.EncodeToMemory(block)}
}

func sshEd25519(t testing.TB) pair {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return sshPair(t, key, pub)
}

var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func sshRSA(t testing.TB) pair {
	t.Helper()
	key, err := rsaKey()
	if err != nil {
		t.Fatal(err)
	}
	return sshPair(t, key, &key.PublicKey)
}

func pgpKey(t testing.TB) pair {
	t.Helper()
	e, err := openpgp.NewEntity("Flux", "", "flux@example.com", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		recipient: hexUpper(e.PrimaryKey.Fingerprint), entry: "sops.asc", entity: e,
		private: armored(t, openpgp.PrivateKeyType, func(w *bytes.Buffer) error { return e.SerializePrivate(w, nil) }),
		public:  armored(t, openpgp.PublicKeyType, func(w *bytes.Buffer) error { return e.Serialize(w) }),
	}
}

func armored(t testing.TB, kind string, write func(*bytes.Buffer) error) []byte {
	t.Helper()
	var body, out bytes.Buffer
	if err := write(&body); err != nil {
		t.Fatal(err)
	}
	w, err := armor.Encode(&out, kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// home gives the library a GnuPG home with an OpenPGP key ring of its old format,
// which it reads without the gpg program.
func home(t testing.TB, pairs ...pair) {
	t.Helper()
	dir := t.TempDir()
	var public, private bytes.Buffer
	for _, p := range pairs {
		if err := p.entity.Serialize(&public); err != nil {
			t.Fatal(err)
		}
		if err := p.entity.SerializePrivate(&private, nil); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string][]byte{"pubring.gpg": public.Bytes(), "secring.gpg": private.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	setenv(t, "GNUPGHOME", dir)
	setenv(t, "SOPS_GPG_EXEC", filepath.Join(dir, "no-gpg"))
}

func setenv(t testing.TB, name, value string) {
	t.Helper()
	t.Setenv(name, value)
}

func pgpGroup(pairs ...pair) sops.KeyGroup {
	var g sops.KeyGroup
	for _, p := range pairs {
		g = append(g, pgp.NewMasterKeyFromFingerprint(p.recipient))
	}
	return g
}

func writeFile(path string, content []byte) error { return os.WriteFile(path, content, 0o600) }
