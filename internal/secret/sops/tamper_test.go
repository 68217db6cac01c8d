package sops

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/getsops/sops/v3"
	"gopkg.in/ini.v1"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// tampered is a file of each format, with what stands in it in the clear where the
// format allows, and how to read what matters of what came out.
var tampered = []struct {
	format        format
	file, content string
	edit          func(*sops.Metadata)
	// leaves are the values of what was opened by their names.
	leaves func(testing.TB, string) map[string]string
}{
	{
		formatYAML, "secret.yaml",
		"# a comment\nkind: Secret\nmetadata:\n    name: db # inline\n    labels:\n        n: 3\nstringData:\n    password: hunter2-hunter2\n    list:\n        - one-one-one\n        - two-two\n        - 12345\n",
		func(m *sops.Metadata) { m.UnencryptedSuffix, m.EncryptedRegex = "", "^(data|stringData)$" },
		tree,
	},
	{
		formatYAML, "all.yaml", "a: hunter2-hunter2\nb_unencrypted: clear\n---\nc:\n    - hunter3\n---\nd: 12.5\n", nil,
		func(t testing.TB, s string) map[string]string {
			all := map[string]string{}
			for i, part := range split([]byte(s)) {
				for k, v := range tree(t, string(part)) {
					all[fmt.Sprintf("%d/%s", i, k)] = v
				}
			}
			return all
		},
	},
	{
		formatYAML, "only.yaml", "clear: value\nsecret: hunter2-hunter2\nother: 1\n",
		func(m *sops.Metadata) {
			m.UnencryptedSuffix, m.EncryptedRegex, m.MACOnlyEncrypted = "", "^secret$", true
		},
		func(t testing.TB, s string) map[string]string {
			// Nothing but the sealed value is protected, by what this is for.
			return map[string]string{"secret": tree(t, s)["/secret"]}
		},
	},
	{formatJSON, "values.json", samples[formatJSON].content, nil, object},
	{formatDotenv, "app.env", samples[formatDotenv].content + "PORT_unencrypted=99\n", nil, lines},
	{formatINI, "app.ini", samples[formatINI].content + "port_unencrypted = 99\n", nil, sections},
	{formatBinary, "id_rsa", samples[formatBinary].content, nil, func(_ testing.TB, s string) map[string]string { return map[string]string{"": s} }},
}

func tree(t testing.TB, s string) map[string]string {
	t.Helper()
	all := map[string]string{}
	flatten("", parsed(t, s), all)
	return all
}

// object reads JSON as JSON: a name may hold what YAML forbids, such as DEL.
func object(t testing.TB, s string) map[string]string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	flatten("", v, all)
	return all
}

func flatten(at string, v any, into map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		for k, item := range v {
			flatten(at+"/"+k, item, into)
		}
	case []any:
		for i, item := range v {
			flatten(fmt.Sprintf("%s/%d", at, i), item, into)
		}
	default:
		into[at] = fmt.Sprintf("%T %v", v, v)
	}
}

func lines(_ testing.TB, s string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(s) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(k, "#") {
			all[k] = v
		}
	}
	return all
}

func sections(t testing.TB, s string) map[string]string {
	t.Helper()
	f, err := ini.Load([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, section := range f.Sections() {
		for _, k := range section.Keys() {
			all[section.Name()+"/"+k.Name()] = k.Value()
		}
	}
	return all
}

// TestEveryByte changes each byte of sealed files. What comes out is an error, or what
// was sealed. The one thing else that the format lets through is another name for a
// value that is not sealed.
func TestEveryByte(t *testing.T) {
	changes := []byte{0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x03, 0x55}
	p := x25519(t)
	k := p.keys(t)
	for _, c := range tampered {
		t.Run(c.file, func(t *testing.T) {
			t.Parallel()
			sealed := sealer{groups: []sops.KeyGroup{ageGroup(t, p.recipient)}, edit: c.edit}.seal(t, c.format, c.content)
			plain, _ := open(t, k, c.file, sealed)
			want := c.leaves(t, plain)
			unnoticed := map[string]int{}
			for i := range sealed {
				for j, change := range changes {
					if !long() && skipped(sealed, i, j) {
						continue
					}
					changed := bytes.Clone(sealed)
					changed[i] ^= change
					opened, isSealed, err := k.Open(context.Background(), c.file, changed)
					if err != nil {
						mustTellNothing(t, err, changed)
						continue
					}
					if !isSealed {
						t.Fatalf("byte %d (%q): the file counts as not sealed", i, sealed[i])
					}
					got := c.leaves(t, string(opened.Content.Reveal()))
					if maps.Equal(got, want) {
						unnoticed["the same"]++
						continue
					}
					if renamed(want, got) {
						unnoticed["another name"]++
						continue
					}
					t.Fatalf("byte %d (%q to %q) changes what comes out:\n got %v\nwant %v", i, sealed[i], changed[i], got, want)
				}
			}
			t.Logf("%d bytes: %v", len(sealed), unnoticed)
		})
	}
}

// long is the long form: every byte in ten ways, which takes minutes.
func long() bool { return os.Getenv("HOLDFAST_LONG") != "" }

// skipped has the short form change each byte in one way, and of long runs of base64,
// in which one is like the other, every thirty-seventh. The race detector, which changes
// nothing about bytes, sees one in forty-one (a prime, so that each way has its turn).
func skipped(sealed []byte, i, change int) bool {
	if change != i%3*2 {
		return true
	}
	if raceEnabled {
		return i%41 != 0
	}
	return i%37 != 0 && i > 8 && i+8 < len(sealed) && !bytes.ContainsFunc(sealed[i-8:i+8], func(r rune) bool {
		return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", r)
	})
}

// renamed reports whether two files differ in what the format does not protect: names
// above values that are not sealed, where there is nothing (null), and whether a
// value stands alone or in a list.
func renamed(want, got map[string]string) bool {
	values := func(m map[string]string) []string {
		return slices.DeleteFunc(slices.Sorted(maps.Values(m)), func(v string) bool { return v == "<nil> <nil>" })
	}
	if !slices.Equal(values(want), values(got)) {
		return false
	}
	for k, v := range want {
		if strings.Contains(v, "hunter") && got[k] != v && got[strings.TrimSuffix(k, "/0")] != v {
			return false
		}
	}
	return true
}

// mustTellNothing fails if an error shows a value, sealed or not.
func mustTellNothing(t testing.TB, err error, sealed []byte) {
	t.Helper()
	f := fault.From(err)
	if f.Kind == fault.Internal || f.File == "" {
		t.Errorf("an error that nobody classified: %v", err)
	}
	for _, value := range []string{"hunter", "one-one", "two-two", "ENC[", "data:"} {
		if strings.Contains(err.Error(), value) {
			t.Errorf("the error shows a value: %v", err)
		}
	}
}
