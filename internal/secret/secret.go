// Package secret is the door through which sealed values come in: [Text] carries what
// was opened, [Opener] and [Unsealer] open it, [Tree] hands it to a renderer, and
// [Mask] keeps it out of whatever is said afterwards. What opens (package sops,
// package sealed) and what finds values that nobody sealed (package leak) lies below.
package secret

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// SOPS begins every value that SOPS sealed.
const SOPS = "ENC[AES256_GCM,"

// Text is a value that was opened, or is about to be sent. It prints as "[secret]",
// is an error to marshal, and cannot be compared: [Text.Reveal] is the only way to
// what it holds, and a test names the packages that may go it. The zero value holds nothing.
type Text struct{ get func() []byte }

// Hide returns a Text that holds b, which is the Text's from now on.
func Hide(b []byte) Text {
	if b == nil {
		return Text{}
	}
	return Text{func() []byte { return b }}
}

// Reveal returns what t holds, nil for nothing. It must not be changed.
func (t Text) Reveal() []byte {
	if t.get == nil {
		return nil
	}
	return t.get()
}

// IsZero reports whether t holds nothing.
func (t Text) IsZero() bool { return t.get == nil }

const shown = "[secret]"

// String returns "[secret]".
func (t Text) String() string { return shown }

// GoString returns "[secret]", so that %#v is as discreet as %v.
func (t Text) GoString() string { return shown }

// Format writes "[secret]" for every verb, %x and %q among them.
func (t Text) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(shown)) } // there is nobody to tell

// LogValue returns "[secret]" to log/slog.
func (t Text) LogValue() slog.Value { return slog.StringValue(shown) }

// MarshalText fails: encoders of every kind (JSON, YAML, XML) ask it. Errors are
// *fault.Error: Internal.
func (t Text) MarshalText() ([]byte, error) {
	return nil, fault.New(fault.Internal, "a secret value was about to be written out; this is a defect")
}

// Opened is what a sealed file comes to.
type Opened struct {
	Content Text
	// Values are what was sealed in it, each by itself: a file may be sealed in part.
	Values []Text
}

// ErrService is the cause of errors of which a key service says that they are so: it may
// say otherwise without a change of file or keys, as when a key of it is enabled again.
var ErrService = errors.New("a key service says so")

// Opener opens sealed files of one delivery with the keys that the delivery may use.
// It is safe for concurrent use.
type Opener interface {
	// Open returns what is in a file of the tree; sealed is false for a file that is
	// not sealed. Errors are *fault.Error with the file, and
	// never a value: NotFound (no key of the delivery fits; the recipients are named),
	// Refused (damaged, or changed since it was sealed), Invalid (not readable as its
	// format), Unreachable or Unauthorized (a key service).
	Open(ctx context.Context, file string, content []byte) (opened Opened, sealed bool, err error)
	// ID identifies the keys, by fingerprints: what was opened under one ID may fail,
	// or come out differently, under another.
	ID() string
}

// Unsealer opens SealedSecrets (bitnami.com/v1alpha1) with the keys of the cluster. It
// is safe for concurrent use.
type Unsealer interface {
	// Unseal returns the Secret that o, in its namespace, is for. It has no owner
	// reference yet. Errors are *fault.Error on the object, and never a value: NotFound (no key
	// fits), Refused (damaged, or sealed for another name or namespace), Invalid, and
	// those of turn, which is asked before each operation with a private key; nil: nobody is.
	Unseal(o *unstructured.Unstructured, turn func() error) (*unstructured.Unstructured, error)
	// ID identifies the keys at hand, by fingerprints.
	ID() string
	// Elsewhere names another controller that opens SealedSecrets in this cluster; ""
	// where there is none, and Holdfast does.
	Elsewhere() string
}

// Left leaves sealed files as they are. It stands where they are looked at, and not
// delivered.
type Left struct {
	// Sealed reports whether a file is sealed.
	Sealed func(file string, content []byte) bool
	// Note is told of each sealed file; it must be safe for concurrent use.
	Note func(file string)
}

// Open opens nothing; see [Opener].
func (l *Left) Open(_ context.Context, file string, content []byte) (Opened, bool, error) {
	if l.Sealed(file, content) {
		l.Note(file)
	}
	return Opened{}, false, nil
}

// ID tells what is left from what is opened.
func (*Left) ID() string { return "left sealed" }

// None opens nothing: every sealed file is refused, and told how to be opened. It
// stands where a delivery names no keys.
type None struct {
	// Sealed reports whether a file is sealed.
	Sealed func(file string, content []byte) bool
	// Hint says how a delivery of this kind is given keys.
	Hint string
}

// Open fails for a sealed file; see [Opener].
func (n None) Open(_ context.Context, file string, content []byte) (Opened, bool, error) {
	if n.Sealed == nil || !n.Sealed(file, content) {
		return Opened{}, false, nil
	}
	return Opened{}, true, fault.New(fault.NotFound, "the file is sealed, and the delivery names no keys to open it with").
		At(file, 0).WithHint("%s", n.Hint)
}

// ID is empty: there are no keys.
func (n None) ID() string { return "" }
