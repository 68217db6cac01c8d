package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"

	"golang.org/x/mod/sumdb/note"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// seal signs what lies beside the log and is believed when the log is opened.
type seal struct {
	signer    note.Signer
	verifiers []note.Verifier
}

// sealed is what is signed: no checkpoint, nor anything else that the key signs, begins
// like it.
func sealed(text []byte) []byte {
	sum := sha256.Sum256(text)
	return append([]byte("holdfast audit index\n"), sum[:]...)
}

// close returns a text, which has no line breaks, with its signature in another line.
func (s seal) close(text []byte) ([]byte, error) {
	signature, err := s.signer.Sign(sealed(text))
	if err != nil {
		return nil, fault.New(fault.Internal, "cannot sign the audit log's index: %s", err).Because(err)
	}
	out := append(bytes.Clone(text), '\n')
	return base64.StdEncoding.AppendEncode(out, signature), nil
}

// open returns the text that close signed; false if it is not one.
func (s seal) open(raw []byte) ([]byte, bool) {
	text, encoded, found := bytes.Cut(raw, []byte("\n"))
	signature, err := base64.StdEncoding.AppendDecode(nil, encoded)
	if !found || err != nil {
		return nil, false
	}
	message := sealed(text)
	for _, v := range s.verifiers {
		if v.Verify(message, signature) {
			return text, true
		}
	}
	return nil, false
}
