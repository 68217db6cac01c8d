package sops

import (
	"context"
	"testing"

	"github.com/getsops/sops/v3"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// FuzzOpen has anything be opened: it ends with an error of a known kind, or with
// what a file that says it is not sealed cannot hold.
func FuzzOpen(f *testing.F) {
	p, other := x25519(f), pgpKey(f)
	k := Join(p.keys(f), other.keys(f))
	for _, c := range tampered {
		f.Add(c.file, sealer{groups: []sops.KeyGroup{ageGroup(f, p.recipient)}, edit: c.edit}.seal(f, c.format, c.content))
	}
	f.Add("a.yaml", []byte("a: 1\n"+metadata()))
	f.Add("a.json", []byte(`{"data":"ENC[AES256_GCM,data:YQ==,iv:YQ==,tag:YQ==,type:str]","sops":{"lastmodified":"x","mac":""}}`))
	f.Add("a.env", []byte("sops_mac=ENC[AES256_GCM,data:YQ==,iv:YQ==,tag:YQ==,type:str]\nsops_age__list_0__map_enc=x\n"))
	f.Fuzz(func(t *testing.T, file string, content []byte) {
		opened, sealed, err := k.Open(context.Background(), file, content)
		if err != nil && (!sealed || fault.From(err).Kind == fault.Internal) {
			t.Errorf("sealed %t: %v", sealed, err)
		}
		if !opened.Content.IsZero() && (!sealed || err != nil) {
			t.Errorf("content of a file that did not open")
		}
		if sealed != Sealed(file, content) && err != nil {
			t.Errorf("Sealed says otherwise: %v", err)
		}
	})
}

// FuzzParse has anything be a key Secret.
func FuzzParse(f *testing.F) {
	for _, p := range []pair{x25519(f), hybrid(f), sshEd25519(f), pgpKey(f)} {
		f.Add(p.entry, p.private)
	}
	f.Add(entryAzure, []byte("tenantId: t\nclientId: c\nclientSecret: s\n"))
	f.Add(entryGCP, []byte(gcpKey(f, "https://oauth2.googleapis.com/token")))
	f.Fuzz(func(t *testing.T, entry string, content []byte) {
		k, err := Parse(map[string][]byte{entry: content}, Options{})
		if err != nil && fault.From(err).Kind == fault.Internal {
			t.Error(err)
		}
		if err == nil && k.ID() == "" && len(k.public) == 0 {
			t.Error("keys without an ID")
		}
	})
}
