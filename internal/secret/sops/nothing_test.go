package sops

import (
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/holdfastcd/holdfast/internal/fault"
)

func TestARuleThatSealsNothingIsRefused(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	rules := []byte("creation_rules:\n- encrypted_regex: ^(data|stringData)$\n  age: " + id.Recipient().String() + "\n")
	for _, c := range []struct {
		reason, file, content string
		refused               bool
	}{
		{"a value whose name fits is sealed", "a.yaml", "kind: Secret\ndata:\n  x: y\n", false},
		{"an env file has no data of a Secret", "a.env", "TOKEN=hunter2hunter2\n", true},
		{"nor have values of a chart", "values.yaml", "password: hunter2hunter2\n", true},
	} {
		out, err := Encrypt(c.file, []byte(c.content), rules)
		refused := fault.KindOf(err) == fault.Invalid && err != nil && strings.Contains(err.Error(), c.file+": the creation rule seals nothing")
		if refused != c.refused || !refused && err != nil || strings.Contains(string(out), "hunter2") {
			t.Errorf("%s: %v\n%s", c.reason, err, out)
		}
	}
}
