package flux

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // senders choose the hash; as a MAC, SHA-1 holds
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"net/http"
	"slices"
	"strings"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// proof checks that a request comes from who knows a Receiver's token. The body is
// written to it piece by piece.
type proof struct {
	receiver *notificationv1.Receiver
	mac      hash.Hash // of the body; nil where nothing signs it
	given    []byte
}

// Write takes a piece of the body.
func (p *proof) Write(b []byte) (int, error) {
	if p.mac != nil {
		p.mac.Write(b) // a hash cannot fail
	}
	return len(b), nil
}

// check is to be called when the body is written. Errors are *fault.Error of kind
// Unauthorized.
func (p *proof) check() error {
	if p.mac != nil && !hmac.Equal(p.given, p.mac.Sum(nil)) {
		return fault.New(fault.Unauthorized, "the signature does not fit")
	}
	return nil
}

// prove reads from the headers of a request how it proves where it comes from, as
// its Receiver's type demands. Errors are *fault.Error of kind Unauthorized, and
// Unsupported for another type.
func prove(receiver *notificationv1.Receiver, token string, h http.Header) (*proof, error) {
	switch receiver.Spec.Type {
	case notificationv1.GenericReceiver: // the path is the proof: it is made of the token
		return &proof{receiver: receiver}, nil
	case notificationv1.GenericHMACReceiver:
		return signed(receiver, token, h, "X-Signature")
	case notificationv1.GitHubReceiver:
		if h.Get("X-Hub-Signature-256") != "" {
			return signed(receiver, token, h, "X-Hub-Signature-256")
		}
		return signed(receiver, token, h, "X-Hub-Signature")
	case notificationv1.GitLabReceiver:
		// Both sides are hashed: what is compared has one length, whatever is sent.
		given, want := sha256.Sum256([]byte(h.Get("X-Gitlab-Token"))), sha256.Sum256([]byte(token))
		if !hmac.Equal(given[:], want[:]) {
			return nil, fault.New(fault.Unauthorized, "the header X-Gitlab-Token does not fit")
		}
		return &proof{receiver: receiver}, nil
	}
	return nil, fault.New(fault.Unsupported, "spec.type %s is not supported yet", receiver.Spec.Type)
}

// hashes are those that a sender may sign with.
var hashes = map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha512": sha512.New}

// signed reads a header "sha256=<hex>".
func signed(receiver *notificationv1.Receiver, token string, h http.Header, header string) (*proof, error) {
	name, digits, ok := strings.Cut(h.Get(header), "=")
	newHash, found := hashes[name]
	given, err := hex.DecodeString(digits)
	if !ok || !found || err != nil {
		return nil, fault.New(fault.Unauthorized, "the header %s is missing or malformed", header).
			WithHint("send sha256=<hexadecimal HMAC of the body>")
	}
	return &proof{receiver: receiver, mac: hmac.New(newHash, []byte(token)), given: given}, nil
}

// eventHeaders say which event a request tells of, where its sender has several.
var eventHeaders = map[string]string{
	notificationv1.GitHubReceiver: "X-Github-Event",
	notificationv1.GitLabReceiver: "X-Gitlab-Event",
}

// listed reports whether a Receiver asks for the event that a request tells of.
func listed(receiver *notificationv1.Receiver, h http.Header) bool {
	header, ok := eventHeaders[receiver.Spec.Type]
	if !ok || len(receiver.Spec.Events) == 0 {
		return true
	}
	event := h.Get(header)
	return slices.ContainsFunc(receiver.Spec.Events, func(name string) bool { return strings.EqualFold(name, event) })
}
