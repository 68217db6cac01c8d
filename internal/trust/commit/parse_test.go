package commit

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

func TestAllowedSigners(t *testing.T) {
	key := shared.line(t, "", "", "alice")
	for _, tc := range []struct{ reason, text, want string }{
		{"one line", "alice@example.com " + key, ""},
		{"comments and empty lines", "# a\n\n \t\nalice@example.com " + key + "#b", ""},
		{"quoted principals", `"alice@example.com,bob@example.com" ` + key, ""},
		{"every option", `a@b cert-authority,namespaces="git,file",valid-after="20260101",valid-before="202701010000Z" ` + key, ""},
		{"options in any case", `a@b Namespaces="git" ` + key, ""},
		{"tabs", "a@b\tnamespaces=\"git\"\t" + key, ""},
		{"nobody", "# a\n", "no signer is allowed"},
		{"no principals", key, "there is no key behind principals"},
		{"an option that is not known", `a@b verify-required ` + key, `the option "verify-required" is not supported`},
		{"an option in the wrong form", `a@b cert-authority="x" ` + key, `the option "cert-authority" is not supported`},
		{"a value without quotes", `a@b namespaces=git ` + key, "needs a value in quotes"},
		{"an empty value", `a@b namespaces="" ` + key, "needs a value in quotes"},
		{"an option twice", `a@b namespaces="git",namespaces="file" ` + key, "given twice"},
		{"an empty option", `a@b cert-authority,,namespaces="git" ` + key, "empty option"},
		{"an empty option at the end", `a@b cert-authority, ` + key, "empty option"},
		{"a quote that does not close", `a@b namespaces="git ` + strings.ReplaceAll(key, "\n", ""), "a quote is not closed"},
		{"no time", `a@b valid-after="tomorrow" ` + key, "is not a time"},
		{"no such day", `a@b valid-after="20260231" ` + key, "is not a time"},
		{"the wrong way round", `a@b valid-after="20270101",valid-before="20260101" ` + key, "not after valid-after"},
		{"no key", "a@b cert-authority\n", "there is no key"},
		{"a key that is cut short", "a@b ssh-ed25519 AAAA\n", "cannot be read"},
		{"a key of another type than it says", "a@b ssh-rsa" + strings.TrimPrefix(strings.TrimSpace(key), "ssh-ed25519"), "cannot be read"},
		{"a key that is too weak", shared.line(t, "a@b", "", "weak"), "too weak"},
		{"DSA", "a@b ssh-dss AAAAB3NzaC1kc3M=\n", `type "ssh-dss" are not supported`},
		{"a certificate", "a@b ssh-ed25519-cert-v01@openssh.com AAAA\n", "are not supported"},
		{"the line is named", "a@b " + key + "c@d what " + key, "line 2"},
		{"a long line", "a@b " + strings.Repeat("x", maxAllowedLine) + key, "longer than"},
	} {
		_, err := parseAllowed([]byte(tc.text))
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: error is %v, want %q", tc.reason, err, tc.want)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, tc := range []struct {
		name, list string
		want       bool
	}{
		{"a@b", "a@b", true},
		{"a@b", "*", true},
		{"a@b", "?@?", true},
		{"a@b", "*@c,*@b", true},
		{"a@b", "*@b,!a@*", false},
		{"a@b", "!a@*,*@b", false},
		{"a@b", "!c@b", false},
		{"a@b", "", false},
		{"a@bc", "a@b", false},
		{"a@b", "A@b", false},
		{strings.Repeat("a", 1000), strings.Repeat("*a", 500) + "b", false}, // soon
	} {
		if got := matchesList(tc.name, tc.list); got != tc.want {
			t.Errorf("%.20s matches %.20s: %v", tc.name, tc.list, got)
		}
	}
}

func TestAuthorities(t *testing.T) {
	gpg := shared.keys(t, "alice")
	for _, tc := range []struct {
		reason string
		a      trust.Authority
		want   string
	}{
		{"one block", trust.Authority{GPG: gpg}, ""},
		{"two blocks", trust.Authority{GPG: append(bytes.Clone(gpg), shared.keys(t, "bob", "carol")...)}, ""},
		{"nothing", trust.Authority{}, "exactly one"},
		{"two kinds", trust.Authority{GPG: gpg, SSH: []byte("x")}, "exactly one"},
		{"a key for images", trust.Authority{GPG: gpg, Key: []byte("x")}, "exactly one"},
		{"no key", trust.Authority{GPG: []byte("\n")}, "there is no key"},
		{"something before", trust.Authority{GPG: append([]byte("hello\n"), gpg...)}, "something else"},
		{"cut short", trust.Authority{GPG: gpg[:len(gpg)/2]}, "does not end"},
		{"damaged", trust.Authority{GPG: bytes.Replace(gpg, []byte("m"), []byte("!"), 4)}, ""},
		{"a private key", trust.Authority{GPG: private(t)}, "there is a private key; revoke it"},
		{"a pattern that is none", trust.Authority{GPG: gpg, Identities: []string{"["}}, "is no pattern"},
	} {
		err := Check(tc.a)
		if tc.reason == "damaged" {
			tc.want = "key" // in whatever way
		}
		if tc.want == "" && err != nil || tc.want != "" && (fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: error is %v, want %q", tc.reason, err, tc.want)
		}
	}
}

func private(t *testing.T) []byte {
	out, err := shared.gpgAt(now, "", "--batch", "--armor", "--export-secret-keys", shared.gpg["alice"])
	if err != nil {
		t.Fatal(err)
	}
	return []byte(out)
}

// TestSubkeys has a subkey sign that the key vouches for, and that does, or does not,
// say itself that it belongs to the key: otherwise anybody could call somebody else's
// key their own, and take credit for what it signs.
func TestSubkeys(t *testing.T) {
	at := day2026(2, 1)
	config := &packet.Config{Time: func() time.Time { return day2026(1, 1) }, Algorithm: packet.PubKeyAlgoEdDSA}
	for _, tc := range []struct {
		reason string
		change func(*packet.Signature)
		want   string
	}{
		{"it says so", func(*packet.Signature) {}, ""},
		{"it does not", func(s *packet.Signature) { s.EmbeddedSignature = nil }, "may not sign"},
		{"the key does not say that it is for signing", func(s *packet.Signature) { s.FlagSign = false }, "may not sign"},
	} {
		entity, err := openpgp.NewEntity("Zoe", "", "zoe@example.com", config)
		if err != nil {
			t.Fatal(err)
		}
		if err := entity.AddSigningSubkey(config); err != nil {
			t.Fatal(err)
		}
		sub := &entity.Subkeys[len(entity.Subkeys)-1]
		payload := []byte("what is signed")
		var signature bytes.Buffer
		if err := openpgp.ArmoredDetachSign(&signature, []*openpgp.Entity{entity}, bytes.NewReader(payload), &openpgp.SignParams{
			Config: &packet.Config{Time: func() time.Time { return at }, SigningKeyId: sub.PublicKey.KeyId},
		}); err != nil {
			t.Fatal(err)
		}
		binding := sub.Bindings[0].Packet
		tc.change(binding)
		if err := binding.SignKey(sub.PublicKey, entity.PrivateKey, config); err != nil {
			t.Fatal(err)
		}
		var public bytes.Buffer
		w, err := armor.Encode(&public, openpgp.PublicKeyType, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := entity.Serialize(w); err != nil {
			t.Fatal(err)
		}
		w.Close()
		keys, err := parseGPG(public.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		f, err := verifyGPG(keys, payload, signature.Bytes(), times{made: at, now: now})
		if tc.want == "" && (err != nil || len(f.fingerprints) != 2) || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.reason, err, tc.want)
		}
	}
}

// FuzzCommit takes commits and tags apart: what is accepted is put together again.
func FuzzCommit(f *testing.F) {
	f.Add([]byte("tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nparent 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\nencoding x\ngpgsig -----BEGIN\n x\n \n y\n\nmessage\n"))
	f.Add([]byte("object 4b825dc642cb6eb9a060e54bf8d69288fbee4904\ntype commit\ntag v1\ntagger a <a@b> 1 +0000\n\nmessage\n-----BEGIN PGP SIGNATURE-----\nx\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		if c, err := parseCommit(raw); err == nil && c.signature != nil {
			lines := bytes.ReplaceAll(bytes.TrimSuffix(c.signature, []byte("\n")), []byte("\n"), []byte("\n "))
			header := append(append([]byte("\ngpgsig "), lines...), '\n', '\n')
			again := bytes.Replace(c.payload, []byte("\n\n"), header, 1)
			if !bytes.Equal(again, raw) {
				t.Errorf("put together again it is another:\n%q\n%q", raw, again)
			}
		}
		if tag, err := parseTag(raw); err == nil && !bytes.Equal(append(bytes.Clone(tag.payload), tag.signature...), raw) {
			t.Errorf("a tag is not its payload and its signature: %q", raw)
		}
		if !bytes.Equal(before, raw) {
			t.Error("the bytes were changed")
		}
	})
}

// FuzzAllowedSigners reads any lines. What is accepted has a key and principals.
func FuzzAllowedSigners(f *testing.F) {
	f.Add([]byte("a@b cert-authority,namespaces=\"git\",valid-after=\"20260101\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDU7u8Qi6sNWsF1Xq2Gc5oOyP2nZb0J7bUe6jXc5ZQ5b c\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		lines, err := parseAllowed(text)
		for _, l := range lines {
			if err == nil && (l.key == nil || l.principals == "" || strings.ContainsAny(l.principals, "\"\n")) {
				t.Errorf("accepted without a key or principals: %+v", l)
			}
		}
	})
}

// FuzzSignature reads any armour with every reader.
func FuzzSignature(f *testing.F) {
	f.Add([]byte("-----BEGIN PGP SIGNATURE-----\n\niHUEABYKAB0=\n-----END PGP SIGNATURE-----\n"))
	f.Add([]byte("-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQ==\n-----END SSH SIGNATURE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if sig, _, err := parseGPGSignature(text); err == nil && sig.IssuerKeyId == nil {
			t.Error("a signature of nobody")
		}
		if sig, err := parseSSH(text); err == nil && sig.Namespace != namespace {
			t.Error("a signature for something else")
		}
		_, _ = parseGPG(text)
	})
}
