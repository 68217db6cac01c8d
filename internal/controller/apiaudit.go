package controller

import (
	"bytes"
	"io"
	"os"
	"time"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/server"
	"github.com/holdfastcd/holdfast/internal/writes"
)

// maxToken bounds the file of a token.
const maxToken = 4096

// openWrites makes the memory of who wrote what, where the API server tells it. A token
// that cannot be used is told at once.
func (p *process) openWrites() error {
	if p.APIAuditToken == "" {
		return nil
	}
	token, err := readToken(p.APIAuditToken)
	if err != nil {
		return err
	}
	if len(token) < server.MinAPIAuditToken {
		return fault.New(fault.Invalid, "the token in %s has %d bytes, and must have %d or more", p.APIAuditToken, len(token), server.MinAPIAuditToken).
			WithHint("make one: openssl rand -hex 32")
	}
	p.writes = writes.New(time.Now)
	return nil
}

// readToken reads a token from its file.
func readToken(path string) (string, error) {
	f, err := os.Open(path) //nolint:gosec // the owner of the process names it
	if err != nil {
		return "", fault.New(fault.Invalid, "the token of the API server's audit webhook cannot be read: %s", err).
			WithHint("see --api-audit-token-file").Because(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxToken))
	if err != nil {
		return "", fault.New(fault.Invalid, "the token of the API server's audit webhook cannot be read: %s", err).Because(err)
	}
	return string(bytes.TrimSpace(text)), nil
}

// editors is what tells users from field managers; nil without the API server's word.
func (p *process) editors() delivery.Editors {
	if p.writes == nil {
		return nil
	}
	return p.writes
}

// apiAudit takes the API server's word; nil where nobody asks for it. The token is read
// for each list of events, so that it can be changed.
func (p *process) apiAudit() *server.APIAudit {
	if p.writes == nil {
		return nil
	}
	return &server.APIAudit{
		Token: func() (string, error) { return readToken(p.APIAuditToken) },
		Note:  p.writes.Note,
	}
}
