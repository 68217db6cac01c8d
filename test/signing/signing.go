// Package signing makes images, signatures and attestations for tests with the
// libraries of cosign and notation, on real registries. They live in a module of
// their own, test/signer, whose program this package builds and talks to; the
// first build on a machine takes a minute or two, later ones are cached.
package signing

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Layout is where signatures are put.
type Layout string

const (
	// Tags is cosign's older layout: sha256-….sig and .att beside the image.
	Tags Layout = "tag"
	// Bundles is cosign's newer layout: sigstore bundles that refer to the image.
	Bundles Layout = "bundle"
)

// By is who signs, when, and what is left out. One of Key and Sigstore is set;
// with both, the key signs and the log has it.
type By struct {
	Key      *Key
	Sigstore *Sigstore
	// Subject, an address or URL, and Issuer are whom the sigstore's certificate is for.
	Subject, Issuer string

	// At is when the certificate begins to be valid, for ten minutes; zero: just now.
	At time.Time
	// LogAfter is how long after that the log, and the timestamp authority, sees
	// the signature; zero: a second.
	LogAfter time.Duration
	NoLog    bool // no entry of the transparency log
	NoSCT    bool // no proof that a certificate transparency log has the certificate
	Stamp    bool // a timestamp of the sigstore's timestamp authority
}

// Options say how an image is signed.
type Options struct {
	By
	Layout Layout // "": Tags
	// Attach puts the signature beside another image, "registry/repository@sha256:…":
	// a replay. "" is the image itself.
	Attach      string
	Annotations map[string]string
}

// Sigstore is a sigstore of the tests' own.
type Sigstore struct {
	// TrustedRoot is its trusted_root.json.
	TrustedRoot []byte
	name        string
}

// NewSigstore makes a sigstore: a certificate authority with certificate
// transparency, a transparency log and a timestamp authority.
func NewSigstore(tb testing.TB) *Sigstore {
	tb.Helper()
	a := ask(tb, map[string]any{"op": "sigstore"})
	return &Sigstore{TrustedRoot: a.TrustedRoot, name: a.Sigstore}
}

// Cosign signs an image, "registry/repository@sha256:…", as "cosign sign" does.
func Cosign(tb testing.TB, image string, o Options) {
	tb.Helper()
	r := o.request("sign", image)
	r["annotations"] = o.Annotations
	ask(tb, r)
}

// Attest attests a predicate about an image as "cosign attest" does.
func Attest(tb testing.TB, image string, p Predicate, o Options) {
	tb.Helper()
	r := o.request("attest", image)
	r["predicateType"], r["predicate"] = p.Type, p.Content
	ask(tb, r)
}

// Commit signs a commit or tag as gitsign does, with a certificate of the
// sigstore and the log's entry inside the signature. Content is the raw object
// without its signature; the signature that comes back is armoured.
func Commit(tb testing.TB, content []byte, by By) []byte {
	tb.Helper()
	r := by.request("commit")
	r["payload"] = content
	return ask(tb, r).Signature
}

// request is what the signer program is asked.
func (o Options) request(op, image string) map[string]any {
	r := o.By.request(op)
	r["image"], r["attach"], r["layout"] = image, o.Attach, o.Layout
	return r
}

// request is the part of it that says who signs.
func (by By) request(op string) map[string]any {
	r := map[string]any{
		"op": op, "noLog": by.NoLog, "noSCT": by.NoSCT, "stamp": by.Stamp,
		"identity": map[string]string{"subject": by.Subject, "issuer": by.Issuer},
	}
	if !by.At.IsZero() {
		r["at"] = by.At
	}
	if by.LogAfter != 0 {
		r["logAfter"] = by.LogAfter.String()
	}
	if by.Key != nil {
		r["key"] = by.Key.Private
	}
	if by.Sigstore != nil {
		r["sigstore"] = by.Sigstore.name
	}
	return r
}

// answer is what the signer program answers.
type answer struct {
	Error       string          `json:"error"`
	Host        string          `json:"host"`
	Sigstore    string          `json:"sigstore"`
	TrustedRoot json.RawMessage `json:"trustedRoot"`
	Signature   []byte          `json:"signature"`
}

// program is the signer program, which lives until this process ends: its input
// is a pipe that ends with it.
type program struct {
	mu  sync.Mutex
	in  *json.Encoder
	out *json.Decoder
}

// start starts the program, once for a test binary.
var start = sync.OnceValues(func() (*program, error) {
	module, err := findModule()
	if err != nil {
		return nil, err
	}
	// "go run" caches what it builds.
	command := exec.CommandContext(context.Background(), "go", "run", "-ldflags=-s -w", ".")
	command.Dir, command.Stderr = module, os.Stderr
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	in, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start the signer: %w", err)
	}
	return &program{in: json.NewEncoder(in), out: json.NewDecoder(bufio.NewReader(out))}, nil
})

// ask asks the program for something, and fails the test if it does not do it.
func ask(tb testing.TB, request map[string]any) answer {
	tb.Helper()
	p, err := start()
	if err != nil {
		tb.Fatal(err)
	}
	a, err := p.ask(request)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// ask sends one request and awaits its answer.
func (p *program) ask(request map[string]any) (answer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.in.Encode(request); err != nil {
		return answer{}, fmt.Errorf("ask the signer: %w", err)
	}
	var a answer
	switch err := p.out.Decode(&a); {
	case errors.Is(err, io.EOF):
		return a, errors.New("the signer ended; what it or its build said is above")
	case err != nil:
		return a, fmt.Errorf("read the signer's answer: %w", err)
	case a.Error != "":
		return a, errors.New("signer: " + a.Error)
	}
	return a, nil
}

// findModule returns the directory of the signer's module, in the repository that
// the current directory lies in.
func findModule() (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := here; ; dir = filepath.Dir(dir) {
		module := filepath.Join(dir, "test", "signer")
		if _, err := os.Stat(filepath.Join(module, "go.mod")); err == nil {
			return module, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no directory above %s has test/signer: run the test inside the Holdfast repository", here)
		}
	}
}
