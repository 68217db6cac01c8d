// Command signer makes real signatures for tests: it signs images with cosign's
// and notation's own libraries and commits the way gitsign does, runs a sigstore
// of its own, and a registry. It reads requests from standard input, a JSON
// object a line, and answers each with a line on standard output; it ends with
// its input. Package test/signing drives it.
//
// It is a module of its own because cosign and the registry would bring several
// hundred modules into Holdfast's build.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
)

// request is one line of the input. Which fields count depends on Op.
type request struct {
	Op string `json:"op"` // registry, sigstore, sign, attest, notation or commit

	Image string `json:"image,omitempty"` // registry/repository@sha256:...
	// Attach is where the signature is put; "" is Image. A signature that is put
	// elsewhere is a replayed one.
	Attach string `json:"attach,omitempty"`
	Layout string `json:"layout,omitempty"` // tag or bundle

	Key          []byte   `json:"key,omitempty"`          // PEM, PKCS #8
	Certificates []byte   `json:"certificates,omitempty"` // PEM, leaf first; notation
	Sigstore     string   `json:"sigstore,omitempty"`     // as answered to op sigstore
	Identity     identity `json:"identity,omitzero"`

	At       time.Time `json:"at,omitzero"`        // when the certificate begins; zero: a moment ago
	LogAfter string    `json:"logAfter,omitempty"` // how long after At the log takes the entry in
	NoLog    bool      `json:"noLog,omitempty"`
	Stamp    bool      `json:"stamp,omitempty"` // with an RFC 3161 timestamp
	NoSCT    bool      `json:"noSCT,omitempty"`

	Annotations   map[string]string `json:"annotations,omitempty"`
	PredicateType string            `json:"predicateType,omitempty"`
	Predicate     json.RawMessage   `json:"predicate,omitempty"`

	Format string `json:"format,omitempty"` // jws or cose
	Expiry string `json:"expiry,omitempty"`

	Payload []byte `json:"payload,omitempty"` // of a commit, without its signature
}

// identity is whom a certificate of the sigstore is for.
type identity struct {
	Subject string `json:"subject,omitempty"` // an address or a URL
	Issuer  string `json:"issuer,omitempty"`
}

// answer is one line of the output.
type answer struct {
	Error       string          `json:"error,omitempty"`
	Host        string          `json:"host,omitempty"`
	Sigstore    string          `json:"sigstore,omitempty"`
	TrustedRoot json.RawMessage `json:"trustedRoot,omitempty"`
	Signature   []byte          `json:"signature,omitempty"`
}

// server is what lives as long as the process.
type server struct {
	sigstores map[string]*sigstore
}

func main() {
	if err := serve(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "signer:", err)
		os.Exit(1)
	}
}

// serve answers requests until the input ends.
func serve(ctx context.Context, in io.Reader, out io.Writer) error {
	s := &server{sigstores: map[string]*sigstore{}}
	dec, enc := json.NewDecoder(bufio.NewReader(in)), json.NewEncoder(out)
	for {
		var r request
		if err := dec.Decode(&r); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		a, err := s.do(ctx, r)
		if err != nil {
			a = answer{Error: fmt.Sprintf("%s: %v", r.Op, err)}
		}
		if err := enc.Encode(a); err != nil {
			return fmt.Errorf("write an answer: %w", err)
		}
	}
}

// do carries out one request.
func (s *server) do(ctx context.Context, r request) (answer, error) {
	switch r.Op {
	case "registry":
		host, err := startRegistry(ctx)
		return answer{Host: host}, err
	case "sigstore":
		return s.newSigstore()
	case "sign":
		return answer{}, s.sign(ctx, r)
	case "attest":
		return answer{}, s.attest(ctx, r)
	case "notation":
		return answer{}, signNotation(ctx, r)
	case "commit":
		signature, err := s.signCommit(ctx, r)
		return answer{Signature: signature}, err
	}
	return answer{}, fmt.Errorf("no such operation")
}
