package audit

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transparency-dev/tessera"
	"golang.org/x/mod/sumdb/note"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Options say how a log is kept.
type Options struct {
	// Dir holds the log: tiles and checkpoint (https://c2sp.org/tlog-tiles), records,
	// and the index derived from them. It is made if it is missing.
	Dir string
	// Signer signs checkpoints, Verifier verifies those found; see [Key]. Former
	// verify the checkpoint that is found when the key was changed.
	Signer   note.Signer
	Verifier note.Verifier
	Former   []note.Verifier
	// BatchAge is how long an entry waits for others to be written with; 0: 2 ms, and
	// 5 ms at most.
	BatchAge time.Duration
	// SignEvery is how often a checkpoint is signed while the log grows; 0: 1 s, 100 ms
	// at least.
	SignEvery time.Duration
	// Gather is how long an entry of [Log.Untouched] waits for further deliveries; 0: 1 s.
	Gather time.Duration
	Clock  func() time.Time // nil: time.Now
	Log    *slog.Logger     // nil: nobody is told

	// driver keeps the tiles: the seam for S3 and GCS (docs/design/audit-log.md). nil:
	// files in Dir.
	driver func(ctx context.Context, dir string) (tessera.Driver, error)
}

// Defaults and bounds.
const (
	defaultBatchAge  = 2 * time.Millisecond
	maxBatchAge      = 5 * time.Millisecond
	defaultSignEvery = time.Second
	minSignEvery     = 100 * time.Millisecond // tessera's
	defaultGather    = time.Second
	batchSize        = 256
	tidyEvery        = 15 * time.Second
	maxBacklog       = 8192
)

func (o Options) complete() (Options, error) {
	if o.Signer == nil || o.Verifier == nil || o.Signer.Name() != o.Verifier.Name() || o.Signer.KeyHash() != o.Verifier.KeyHash() {
		return o, fault.New(fault.Invalid, "the audit log needs a signer and the verifier that belongs to it")
	}
	if o.BatchAge <= 0 {
		o.BatchAge = defaultBatchAge
	}
	o.BatchAge = min(o.BatchAge, maxBatchAge)
	if o.SignEvery <= 0 {
		o.SignEvery = defaultSignEvery
	}
	o.SignEvery = max(o.SignEvery, minSignEvery)
	if o.Gather <= 0 {
		o.Gather = defaultGather
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.driver == nil {
		o.driver = posixDriver
	}
	return o, nil
}

// Log is an open log. One process at a time has it open. All methods may be called at
// the same time.
type Log struct {
	o       Options
	files   Dir
	lock    io.Closer
	records *records
	bundles bundles
	prover  prover
	index   *index
	size    atomic.Uint64 // entries that are durable
	// signedBy verified the checkpoint that was found; nil: there was none.
	signedBy note.Verifier

	add  tessera.AddFn
	stop context.CancelFunc // of tessera

	mu      sync.Mutex // orders entries, and guards closed
	closed  bool
	written chan pending // entries on their way, in the order of the log
	noted   sync.WaitGroup

	later   later
	sharing sharing
}

// pending is an entry on its way into the log.
type pending struct {
	future tessera.IndexFuture
	data   []byte
	entry  Entry
	record *Record
	done   chan result
}

type result struct {
	index uint64
	err   error
}

// errClosed is why a closed log takes no entries.
var errClosed = fault.New(fault.Waiting, "the audit log is closed")

// Append writes e, and beside the log r if there is one, and returns the entry's
// index. When it returns nil, both are on disk and part of the tree; a checkpoint
// that signs it follows within [Options.SignEvery]. A Time that is zero is set;
// Record is. Internal: the disk fails, and the entry may or may not be in the log;
// Limit: it is too big; Waiting: the log is closed. ctx is looked at before anything
// is written, not after.
func (l *Log) Append(ctx context.Context, e Entry, r *Record) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fault.New(fault.Waiting, "nothing is recorded: %s", err).Because(err)
	}
	p, err := l.submit(ctx, e, r)
	if err != nil {
		return 0, err
	}
	got := <-p.done
	return got.index, got.err
}

// submit writes the record, and puts the entry on its way.
func (l *Log) submit(ctx context.Context, e Entry, r *Record) (pending, error) {
	if e.Time.IsZero() {
		e.Time = l.o.Clock().UTC()
	}
	data, e, r, err := l.encode(ctx, e, r)
	if err != nil {
		return pending{}, err
	}
	p := pending{data: data, entry: e, record: r, done: make(chan result, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return pending{}, errClosed
	}
	p.future = l.add(ctx, tessera.NewEntry(data))
	l.written <- p
	return p, nil
}

// Bounds of an entry: what is longer goes to its record, or is cut.
const (
	roomyEntry = 32 << 10
	maxReason  = 8 << 10
	maxName    = 1 << 10
	firstFew   = 20
)

// encode returns an entry as it is hashed, its record stored.
func (l *Log) encode(ctx context.Context, e Entry, r *Record) ([]byte, Entry, *Record, error) {
	e = bounded(e)
	data, err := toJSON(e)
	whole := e
	if err == nil && len(data) > roomyEntry {
		r = spill(whole, r)
		e = few(whole, firstFew)
	}
	if err == nil && r != nil {
		if e.Record, err = l.records.put(ctx, r); err != nil {
			return nil, e, nil, err
		}
		whole.Record = e.Record
		data, err = toJSON(e)
	}
	// Strangers' texts may be long, and longer still where JSON escapes them.
	for n := firstFew / 2; err == nil && len(data) > maxEntry && n > 0; n /= 2 {
		e = few(whole, n)
		data, err = toJSON(e)
	}
	if err != nil {
		return nil, e, nil, err
	}
	if len(data) > maxEntry {
		return nil, e, nil, fault.New(fault.Limit, "an entry of the audit log would have %d bytes; %d are possible", len(data), maxEntry)
	}
	return data, e, r, nil
}

// bounded cuts what strangers write into an entry.
func bounded(e Entry) Entry {
	e.Reason = cut(e.Reason, maxReason)
	e.Who = slices.Clone(e.Who[:min(firstFew, len(e.Who))])
	for i := range e.Who {
		p := &e.Who[i]
		p.Name, p.By = cut(p.Name, maxName), cut(p.By, maxName)
	}
	if e.Source != nil {
		src := *e.Source
		src.Ref = cut(src.Ref, maxName)
		e.Source = &src
	}
	return e
}

// spill returns a record that also holds what makes an entry big.
func spill(e Entry, r *Record) *Record {
	var record Record
	if r != nil {
		record = *r
	}
	record.Verdicts, record.Commits = e.Verdicts, e.Commits
	return &record
}

// few returns an entry with at most n verdicts and commits, in few words.
func few(e Entry, n int) Entry {
	verdicts, commits := e.Verdicts, e.Commits
	e.Verdicts, e.Commits = nil, nil
	limit := maxReason / firstFew * n / firstFew
	e.Reason = cut(e.Reason, max(maxName, maxReason*n/firstFew))
	for _, v := range verdicts[:min(n, len(verdicts))] {
		v.Rule, v.Object, v.Message = cut(v.Rule, limit), cut(v.Object, limit), cut(v.Message, limit)
		e.Verdicts = append(e.Verdicts, v)
	}
	for _, c := range commits[:min(n, len(commits))] {
		c.Author, c.Problem = cut(c.Author, limit), cut(c.Problem, limit)
		e.Commits = append(e.Commits, c)
	}
	return e
}

// cut shortens a text, and says so.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}

// follow takes entries in, in the order of the log, as they become durable.
func (l *Log) follow() {
	for p := range l.written {
		at, err := p.future()
		if err != nil {
			p.done <- result{err: fault.New(fault.Internal, "the audit log cannot be written: %s", err).
				Because(err).WithHint("see to the volume of the audit log")}
			continue
		}
		// Entries whose writing was reported to have failed may be in the log all the same.
		err = replay(context.Background(), l.files, l.index, at.Index)
		if err == nil {
			err = l.index.note(at.Index, p.data, &p.entry, p.record)
		}
		if err != nil {
			l.o.Log.Error("the audit log's index cannot follow the log; it will when the log is opened again", "err", err)
		}
		l.size.Store(at.Index + 1)
		p.done <- result{index: at.Index}
	}
}

// replay reads entries from the log into the index until it has noted to of them.
func replay(ctx context.Context, r Reader, x *index, to uint64) error {
	for i, found := range leaves(ctx, r, x.size(), to) {
		e, err := found.entry(i, to)
		if err != nil {
			return err
		}
		var record *Record
		if e.Record != "" {
			known, err := ReadRecord(ctx, r, e.Record)
			if err != nil {
				return fault.From(err)
			}
			record = &known
		}
		if err := x.note(i, found.data, &e, record); err != nil {
			return err
		}
	}
	return nil
}

// Size returns how many entries are durable.
func (l *Log) Size() uint64 { return l.size.Load() }

// Entry returns the i-th entry: NotFound if there is none.
func (l *Log) Entry(i uint64) (Entry, error) { return l.entry(context.Background(), i) }

func (l *Log) entry(ctx context.Context, i uint64) (Entry, error) {
	size := l.Size()
	if i >= size {
		return Entry{}, fault.New(fault.NotFound, "the audit log has no entry %d, but %d entries", i, size)
	}
	list, err := l.bundles.read(ctx, l.files, i/width, size)
	if err != nil {
		return Entry{}, err
	}
	return leaf{data: list[i%width]}.entry(i, size)
}

// bundles keeps a few full bundles that were read: an intent and its outcome are
// often in the same one.
type bundles struct {
	mu   sync.Mutex
	kept map[uint64][][]byte
}

// Bounds of what is kept.
const (
	maxBundles    = 8
	maxKeptBundle = 1 << 20
)

func (b *bundles) read(ctx context.Context, r Reader, index, size uint64) ([][]byte, error) {
	b.mu.Lock()
	list := b.kept[index]
	b.mu.Unlock()
	if list != nil {
		return list, nil
	}
	list, err := readBundle(ctx, r, index, size)
	if err != nil || len(list) < width {
		return list, err
	}
	bytes := 0
	for _, e := range list {
		bytes += len(e)
	}
	if bytes > maxKeptBundle {
		return list, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kept == nil || len(b.kept) >= maxBundles {
		b.kept = map[uint64][][]byte{}
	}
	b.kept[index] = list
	return list, nil
}

// Record returns the record of an entry; nil if it has none.
func (l *Log) Record(e Entry) (*Record, error) {
	if e.Record == "" {
		return nil, nil //nolint:nilnil // an entry without a record is common
	}
	r, err := ReadRecord(context.Background(), l.files, e.Record)
	return &r, err
}

// Reader reads the files of the log.
func (l *Log) Reader() Lister { return l.files }

// Checkpoint returns the newest signed checkpoint: what is kept elsewhere, to verify
// the log against. nil if it cannot be read.
func (l *Log) Checkpoint() []byte {
	raw, err := l.files.Read(context.Background(), checkpointName, maxState)
	if err != nil {
		l.o.Log.Error("the audit log's checkpoint cannot be read", "err", err)
		return nil
	}
	return raw
}

// Close writes what waits, has it signed, and closes the log. What could not be
// written is told by the error.
func (l *Log) Close() error {
	l.sharing.stop(l)
	lost := l.later.stop()
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	close(l.written)
	l.noted.Wait()
	err := l.awaitSignature()
	return errors.Join(lost, err, l.index.close(), l.lock.Close())
}

// awaitSignature stops tessera once a checkpoint covers every entry. It is started
// anew for that, since one that signs more often is done sooner.
func (l *Log) awaitSignature() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	l.stop()
	if _, signed, err := readCheckpoint(ctx, l.files, l.o.Verifier); err == nil && signed.Size >= l.Size() {
		return nil
	}
	if err := l.run(ctx, minSignEvery); err != nil {
		return err
	}
	defer l.stop()
	poll := time.NewTicker(minSignEvery / 10)
	defer poll.Stop()
	for {
		_, signed, err := readCheckpoint(ctx, l.files, l.o.Verifier)
		if err == nil && signed.Size >= l.Size() {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fault.New(fault.Internal, "the last entries of the audit log are not signed yet; they will be when it is opened").Because(err)
		}
	}
}

// What is beside the log in its directory.
const (
	lockName  = "lock"
	draftsDir = "drafts"
	indexDir  = "index"
)

func (l *Log) path(name string) string { return filepath.Join(l.o.Dir, name) }
