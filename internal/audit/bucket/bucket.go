// Package bucket keeps an audit log in a bucket, with a database that gives entries
// their places: what S3 with MySQL and Google Cloud Storage with Spanner have in common.
// The database takes an entry and makes it durable; tessera moves it to the bucket, into
// the tree, within a second or so.
package bucket

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"iter"
	"time"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// Objects are the files of a log in a bucket. Errors are *fault.Error.
type Objects interface {
	audit.Lister
	// Put writes an object; one that is there already stays (false), unless it is to be replaced.
	Put(ctx context.Context, name string, data []byte, replace bool) (written bool, err error)
}

// Database orders the entries of one log, and knows who writes it. Errors are *fault.Error.
type Database interface {
	// Tree returns how far the tree goes, and its hash: fs.ErrNotExist before the first start.
	Tree(ctx context.Context) (size uint64, root []byte, err error)
	// Claim returns who may write to the log; the zero Claim for nobody.
	Claim(ctx context.Context) (Claim, error)
	// Swap puts a claim in the place of an old one, and reports whether it was that one.
	Swap(ctx context.Context, old, next Claim) (bool, error)
	// Undate forgets when the newest checkpoint was signed, if that is after now: tessera
	// dates it by the writer's clock, and signs none until it has a certain age. A successor
	// whose clock is behind would sign none until its clock has caught up.
	Undate(ctx context.Context, now time.Time) error
	// Close ends its connections.
	Close() error
}

// Claim says who may write to a log, and that it lives: the beat goes up.
type Claim struct {
	Holder string
	Beat   int64
}

// Options make a Store.
type Options struct {
	Where    string // for people, without credentials
	Objects  Objects
	Database Database // nil: the log can only be read
	// Driver makes tessera's.
	Driver  func(ctx context.Context) (audit.Driver, error)
	MinSign time.Duration // tessera's least, for this driver
	// Takeover is how long the one who writes must be silent before another takes the
	// log; 0: 10 s.
	Takeover time.Duration
}

// Store implements [audit.Store].
type Store struct{ o Options }

var _ audit.Store = (*Store)(nil)

// New returns a Store.
func New(o Options) *Store {
	if o.Takeover <= 0 {
		o.Takeover = 10 * time.Second
	}
	return &Store{o}
}

// state is the file that tells how far the tree goes; it is in the database.
const state = ".state/treeState"

// Where implements [audit.Store].
func (s *Store) Where() string { return s.o.Where }

// Read implements [audit.Reader].
func (s *Store) Read(ctx context.Context, name string, limit int64) ([]byte, error) {
	if name != state {
		return s.o.Objects.Read(ctx, name, limit)
	}
	if s.o.Database == nil {
		return nil, Missing(name)
	}
	size, root, err := s.o.Database.Tree(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, Missing(name)
	}
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(struct {
		Size uint64 `json:"size"`
		Root []byte `json:"root"`
	}{size, root})
	if err != nil {
		return nil, fault.From(err)
	}
	return text, nil
}

// ReadAll reads all of r, the content of the file name, refusing more than limit bytes.
// What goes wrong while it reads is an error of trouble.
func ReadAll(r io.Reader, name string, limit int64, trouble func(name string, err error) error) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, trouble(name, err)
	}
	if int64(len(data)) > limit {
		return nil, fault.New(fault.Limit, "the file is longer than %d bytes", limit).At(name, 0)
	}
	return data, nil
}

// Missing is a file that does not exist.
func Missing(name string) error {
	return fault.New(fault.NotFound, "the file is missing").At(name, 0).Because(fs.ErrNotExist)
}

// List implements [audit.Lister].
func (s *Store) List(ctx context.Context) iter.Seq2[string, error] { return s.o.Objects.List(ctx) }

// Reader returns the log as it can be read: without a database, nobody tells how far
// the tree goes beyond the checkpoint, and files are not listed.
func (s *Store) Reader() audit.Reader {
	if s.o.Database == nil {
		return plain{s.o.Objects}
	}
	return s
}

// plain is a Reader that is no Lister.
type plain struct{ audit.Reader }

// Put implements [audit.Store].
func (s *Store) Put(ctx context.Context, name string, data []byte, replace bool) (bool, error) {
	return s.o.Objects.Put(ctx, name, data, replace)
}

// Tidy implements [audit.Store]. There is nothing to tidy: what a crash leaves in the
// bucket is written again, the same, and tessera removes what others have taken the
// place of.
func (s *Store) Tidy(context.Context, uint64, uint64) error { return nil }

// Driver implements [audit.Store].
func (s *Store) Driver(ctx context.Context) (audit.Driver, error) {
	if err := s.o.Database.Undate(ctx, time.Now()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return s.o.Driver(ctx)
}

// MinSign implements [audit.Store].
func (s *Store) MinSign() time.Duration { return s.o.MinSign }

// Close ends the connections to the database.
func (s *Store) Close() error {
	if s.o.Database == nil {
		return nil
	}
	return s.o.Database.Close()
}
