package audit

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/sync/singleflight"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// A record's file is named by the SHA-256 of the record's JSON. It holds recordMagic,
// the JSON deflated, and the SHA-256 of all that: deflate has several spellings of
// the same content, and only one of them is what was written.
const recordMagic = "HFR1"

// Bounds of one record: as JSON, and as its file.
const (
	maxRecord     = 64 << 20
	maxRecordFile = maxRecord + maxRecord/8
)

const digestPrefix = "sha256:"

var isDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// recordName is the name of the file of a record, or a fault for what is no digest.
func recordName(digest string) (string, error) {
	if !isDigest.MatchString(digest) {
		return "", fault.New(fault.Invalid, "%.80q is no digest of a record", digest)
	}
	hash := strings.TrimPrefix(digest, digestPrefix)
	return "records/" + hash[:2] + "/" + hash, nil
}

// ReadRecord returns a record of a log, after its digest is checked.
func ReadRecord(ctx context.Context, r Reader, digest string) (Record, error) {
	var record Record
	text, name, err := recordText(ctx, r, digest)
	if err != nil {
		return record, err
	}
	err = fromJSON(name, "the record", text, &record)
	return record, err
}

func recordText(ctx context.Context, r Reader, digest string) (text []byte, name string, err error) {
	if name, err = recordName(digest); err != nil {
		return nil, "", err
	}
	file, err := r.Read(ctx, name, maxRecordFile)
	if err != nil {
		return nil, name, err
	}
	end := len(file) - sha256.Size
	if end < len(recordMagic) || string(file[:len(recordMagic)]) != recordMagic {
		return nil, name, damaged(name, "the file is no record")
	}
	if sum := sha256.Sum256(file[:end]); !bytes.Equal(sum[:], file[end:]) {
		return nil, name, damaged(name, "the record was changed: its checksum does not fit")
	}
	text, err = readBounded(flate.NewReader(bytes.NewReader(file[len(recordMagic):end])), name, maxRecord)
	if err != nil {
		return nil, name, err
	}
	if digestOf(text) != digest {
		return nil, name, damaged(name, "the record was changed: it is not the one of this digest")
	}
	return text, name, nil
}

func digestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return digestPrefix + hex.EncodeToString(sum[:])
}

// records keeps records in a store.
type records struct {
	store  Store
	flight singleflight.Group

	mu    sync.Mutex
	known map[string]bool // digests that are durable for certain, bounded

	press press
}

// maxKnown bounds what records remembers.
const maxKnown = 4096

// put returns the digest of r. When it returns, r is durable. A record that is too
// big is a fault Limit.
func (s *records) put(ctx context.Context, r *Record) (string, error) {
	text, err := toJSON(r)
	if err != nil {
		return "", err
	}
	if len(text) > maxRecord {
		return "", fault.New(fault.Limit, "the audit record of one decision would be longer than %d bytes", maxRecord).
			WithHint("deliver fewer objects at once")
	}
	digest := digestOf(text)
	if s.knows(digest) {
		return digest, nil
	}
	_, err, _ = s.flight.Do(digest, func() (any, error) { return nil, s.write(ctx, digest, text) })
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxKnown {
		clear(s.known)
	}
	s.known[digest] = true
	return digest, nil
}

func (s *records) knows(digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[digest]
}

// write stores a record that is not known to be stored.
func (s *records) write(ctx context.Context, digest string, text []byte) error {
	name, err := recordName(digest)
	if err != nil {
		return err
	}
	file, err := s.press.deflate(text)
	if err != nil {
		return err
	}
	written, err := s.store.Put(ctx, name, file, false)
	if err != nil || written {
		return err
	}
	if found, _, err := recordText(ctx, s.store, digest); err == nil && bytes.Equal(found, text) {
		return nil
	}
	_, err = s.store.Put(ctx, name, file, true) // it is damaged
	return err
}

// press deflates. What it needs for that is 650 KiB, made once: made for each record, it
// was a quarter of all that a controller did when everything changed.
type press struct {
	mu sync.Mutex
	w  *flate.Writer
}

// deflate writes a record's file.
func (p *press) deflate(text []byte) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b bytes.Buffer
	b.WriteString(recordMagic)
	var err error
	if p.w == nil {
		p.w, err = flate.NewWriter(&b, flate.BestSpeed)
	} else {
		p.w.Reset(&b)
	}
	if err == nil {
		_, err = p.w.Write(text)
	}
	if err == nil {
		err = p.w.Close()
	}
	if err != nil {
		return nil, fault.From(err)
	}
	sum := sha256.Sum256(b.Bytes())
	b.Write(sum[:])
	return b.Bytes(), nil
}
