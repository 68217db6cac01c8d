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
	// Store holds the log instead, and Dir the index alone; nil: Dir holds it.
	Store Store
	// Signer signs checkpoints, Verifier verifies those found; see [Key]. Former
	// verify the checkpoint that is found when the key was changed.
	Signer   note.Signer
	Verifier note.Verifier
	Former   []note.Verifier
	// BatchAge is how long an entry waits for others to be written with; 0: 2 ms, and
	// 5 ms at most.
	BatchAge time.Duration
	// SignEvery is how often a checkpoint is signed while the log grows; 0: 1 s; not more
	// often than the store can.
	SignEvery time.Duration
	// Gather is how long an entry of [Log.Untouched] waits for further deliveries; 0: 1 s.
	Gather time.Duration
	Clock  func() time.Time // nil: time.Now
	Log    *slog.Logger     // nil: nobody is told
}

// Defaults and bounds.
const (
	defaultBatchAge  = 2 * time.Millisecond
	maxBatchAge      = 5 * time.Millisecond
	defaultSignEvery = time.Second
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
	if o.Store == nil {
		o.Store = folder{Dir(o.Dir)}
	}
	o.SignEvery = max(o.SignEvery, o.Store.MinSign())
	if o.Gather <= 0 {
		o.Gather = defaultGather
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// Log is an open log. One process at a time has it open. All methods may be called at
// the same time.
type Log struct {
	o       Options
	files   Store
	lock    io.Closer
	lease   Lease
	records *records
	bundles bundles
	prover  prover
	index   *index
	tail    tail
	size    atomic.Uint64 // entries that are durable
	// signedBy verified the checkpoint that was found; nil: there was none.
	signedBy note.Verifier

	add    tessera.AddFn
	reader tessera.LogReader  // tells how far tessera has come
	stop   context.CancelFunc // of tessera

	mu      sync.Mutex // orders entries, and guards closed and held
	closed  bool
	held    []*held      // to be written before the next entry
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
	index   uint64
	durable bool // it is in the log, whatever err says
	err     error
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

// submit writes the record, and puts the entry on its way, behind those that were held
// back for it.
func (l *Log) submit(ctx context.Context, e Entry, r *Record) (pending, error) {
	p, err := l.encode(ctx, e, r)
	if err != nil {
		return pending{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return pending{}, errClosed
	}
	if err := l.lease.Err(); err != nil {
		return pending{}, err
	}
	if len(l.held) > 0 {
		l.sendHeld() //nolint:contextcheck // others gave them
		select {
		case l.later.released <- struct{}{}:
		default: // it was told already
		}
	}
	l.send(ctx, &p)
	return p, nil
}

// send puts an entry on its way; l.mu is held.
func (l *Log) send(ctx context.Context, p *pending) {
	p.future = l.add(ctx, tessera.NewEntry(p.data))
	l.written <- *p
}

// Bounds of an entry: what is longer goes to its record, or is cut.
const (
	roomyEntry = 32 << 10
	maxReason  = 8 << 10
	maxName    = 1 << 10
	firstFew   = 20
)

// encode returns an entry as it is hashed, its record stored.
func (l *Log) encode(ctx context.Context, e Entry, r *Record) (pending, error) {
	if e.Time.IsZero() {
		e.Time = l.o.Clock().UTC()
	}
	e = bounded(e)
	data, err := toJSON(e)
	whole := e
	if err == nil && len(data) > roomyEntry {
		r = spill(whole, r)
		e = few(whole, firstFew)
	}
	if err == nil && r != nil {
		if e.Record, err = l.records.put(ctx, r); err != nil {
			return pending{}, err
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
		return pending{}, err
	}
	if len(data) > maxEntry {
		return pending{}, fault.New(fault.Limit, "an entry of the audit log would have %d bytes; %d are possible", len(data), maxEntry)
	}
	return pending{data: data, entry: e, record: r, done: make(chan result, 1)}, nil
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
	var unnoted []noted
	for p := range l.written {
		at, err := p.future()
		if err != nil {
			p.done <- result{err: fault.New(fault.Internal, "the audit log cannot be written: %s", fault.From(err).Msg).
				Because(err).WithHint("see to what the audit log lies on: %s", l.files.Where())}
			continue
		}
		if unnoted = l.note(append(unnoted, noted{at.Index, p})); len(unnoted) == 0 {
			l.size.Store(at.Index + 1)
		}
		// Who lost the log in the meantime must not go on as if it had been told.
		p.done <- result{index: at.Index, durable: true, err: l.lease.Err()}
	}
}

// noted is an entry with its place in the log.
type noted struct {
	index uint64
	pending
}

// note takes entries in, and returns those that it cannot take in yet: entries before
// them, whose writing was reported to have failed, are in the log all the same, and
// cannot be read.
func (l *Log) note(list []noted) []noted {
	for i, n := range list {
		err := l.catchUp(n.index)
		if err == nil {
			err = l.noteOne(n.index, n.data, &n.entry, n.record)
		}
		if err != nil {
			l.o.Log.Error("the audit log's index cannot follow the log yet", "entries", len(list)-i, "err", err)
			return list[i:]
		}
	}
	return nil
}

// noteOne takes the next entry in.
func (l *Log) noteOne(i uint64, data []byte, e *Entry, r *Record) error {
	if err := l.index.note(i, data, e, r); err != nil {
		if l.index.size() == i { // it was not taken in
			return err
		}
		l.o.Log.Error("the audit log's index cannot be written; it is made anew when the log is opened again", "err", err)
	}
	root, err := l.index.root()
	if err != nil {
		return fault.From(err)
	}
	if l.tail.add(data, root) {
		if err := l.tail.cut(context.Background(), l.files); err != nil {
			l.o.Log.Warn("how far the audit log can be read cannot be told", "err", err)
		}
	}
	return nil
}

// catchUp takes in what the log has before an entry and this process does not know of.
func (l *Log) catchUp(to uint64) error {
	if l.index.size() >= to {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), gapTimeout)
	defer cancel()
	if err := l.readableUpTo(ctx, to); err != nil {
		return err
	}
	return replay(ctx, l.files, l.index.size(), to, l.noteOne)
}

// gapTimeout is how long entries are waited for that others wrote, or nobody.
const gapTimeout = 3 * time.Second

// readableUpTo waits until the files of the log tell so many entries.
func (l *Log) readableUpTo(ctx context.Context, size uint64) error {
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for {
		state, err := readState(ctx, l.files)
		if err == nil && state.Size >= size {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			if err == nil {
				err = fault.New(fault.Unreachable, "%d entries of the audit log can be read, of %d", state.Size, size).Because(ctx.Err())
			}
			return err
		}
	}
}

// replay reads entries from the log, with their records, and has them noted.
func replay(ctx context.Context, r Reader, from, to uint64, note func(i uint64, data []byte, e *Entry, r *Record) error) error {
	for i, found := range leaves(ctx, r, from, to) {
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
		if err := note(i, found.data, &e, record); err != nil {
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
	data, base := l.tail.at(i)
	if data == nil {
		list, err := l.bundle(ctx, i, base)
		if err != nil {
			return Entry{}, err
		}
		data = list[i%width]
	}
	return leaf{data: data}.entry(i, size)
}

// bundle returns the entries beside the i-th, of a log of which base can be read.
func (l *Log) bundle(ctx context.Context, i uint64, base head) ([][]byte, error) {
	if i >= base.Size {
		return nil, fault.New(fault.Waiting, "entry %d of the audit log cannot be read yet", i)
	}
	return l.bundles.read(ctx, l.files, i/width, base.Size)
}

// Readable returns how many entries the files of the log tell: as many as [Log.Size], or
// less, where the store takes a while.
func (l *Log) Readable(ctx context.Context) (uint64, error) {
	state, err := readState(ctx, l.files)
	return state.Size, err
}

// Lost is closed when another process has taken the log: nothing can be appended any more.
func (l *Log) Lost() <-chan struct{} { return l.lease.Lost() }

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
	return errors.Join(lost, err, l.index.close(), l.lease.Close(), l.lock.Close())
}

// awaitSignature stops tessera once a checkpoint covers every entry. It is started
// anew for that where one that signs more often is done sooner.
func (l *Log) awaitSignature() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	often := l.files.MinSign()
	if often < l.o.SignEvery {
		l.stop()
		if _, signed, err := readCheckpoint(ctx, l.files, l.o.Verifier); err == nil && signed.Size >= l.Size() {
			return nil
		}
		if err := l.run(ctx, often); err != nil {
			return err
		}
	}
	defer func() { l.stop() }()
	poll := time.NewTicker(often / 10)
	defer poll.Stop()
	for {
		_, signed, err := readCheckpoint(ctx, l.files, l.o.Verifier)
		if err == nil && signed.Size >= l.Size() {
			return nil
		}
		select {
		case <-poll.C:
		case <-l.lease.Lost():
			return l.lease.Err()
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
