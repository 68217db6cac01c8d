package sops

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// manyFiles are 1,000 sealed values in 100 files of the kind that most are: a Secret,
// sealed in part.
func manyFiles(t testing.TB, recipients ...string) [][]byte {
	t.Helper()
	var files [][]byte
	rules := "creation_rules: [{encrypted_regex: '^(data|stringData)$', age: '" + strings.Join(recipients, ",") + "'}]"
	for i := range 100 {
		var b strings.Builder
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s%d\nstringData:\n", i)
		for j := range 10 {
			fmt.Fprintf(&b, "  key%d: value-of-a-secret-%d-%d\n", j, i, j)
		}
		sealed, err := Encrypt("secret.yaml", []byte(b.String()), []byte(rules))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, sealed)
	}
	return files
}

func openAll(t testing.TB, k *Keys, files [][]byte) {
	t.Helper()
	for _, f := range files {
		if _, sealed, err := k.Open(context.Background(), "secret.yaml", f); err != nil || !sealed {
			t.Fatal(err)
		}
	}
}

// TestCost holds the bar: 1,000 values cost at most a second of CPU.
func TestCost(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("measures")
	}
	p := x25519(t)
	files, k := manyFiles(t, p.recipient), p.keys(t)
	before := cpu(t)
	openAll(t, k, files)
	spent := cpu(t) - before
	t.Logf("1,000 values in 100 files: %s", spent)
	if spent > time.Second {
		t.Errorf("1,000 values cost %s of CPU", spent)
	}
}

func cpu(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkOpen opens 100 files of ten values.
func BenchmarkOpen(b *testing.B) {
	for name, kind := range map[string]func(testing.TB) pair{"age": x25519, "age-pq": hybrid, "ssh-ed25519": sshEd25519, "ssh-rsa": sshRSA} {
		b.Run(name, func(b *testing.B) {
			p := kind(b)
			files, k := manyFiles(b, p.recipient), p.keys(b)
			b.ReportAllocs()
			for b.Loop() {
				openAll(b, k, files)
			}
		})
	}
}

// BenchmarkSealed asks of a file of 1 MiB that is not sealed whether it is.
func BenchmarkSealed(b *testing.B) {
	content := []byte(strings.Repeat("key: some value that is not sealed\n", 30_000))
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if Sealed("a.yaml", content) {
			b.Fatal("sealed")
		}
	}
}
