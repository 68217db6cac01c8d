package trust

import "log/slog"

// Credential authenticates at a registry. It formats and marshals as its ID only.
type Credential struct {
	ID     string // stable and without secrets, e.g. "ns/secret@uid:resourceVersion"
	secret *hidden
}

// hidden keeps the values in a function, so that no formatting reaches them.
type hidden struct {
	get func() (username, password string)
}

// NewCredential returns a credential; id must differ wherever its values differ.
func NewCredential(id, username, password string) Credential {
	return Credential{ID: id, secret: &hidden{func() (string, string) { return username, password }}}
}

// Basic returns what it hides; "" for anonymous. Only registry clients call it.
func (c Credential) Basic() (username, password string) {
	if c.secret == nil {
		return "", ""
	}
	return c.secret.get()
}

// String returns the ID, never the secret.
func (c Credential) String() string { return "credential(" + c.ID + ")" }

// GoString is String, so that %#v is as discreet as %v.
func (c Credential) GoString() string { return c.String() }

// MarshalText returns String, for encoders of every kind.
func (c Credential) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// LogValue returns String to log/slog.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }
