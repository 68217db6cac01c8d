package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"

	"github.com/holdfastcd/holdfast/internal/fault"
)

var errLocked = errors.New("locked")

// Open opens the log in o.Store, or in o.Dir, or begins one, and closes intents that a
// crash left without an outcome. While another process has it open, it waits until ctx ends:
// Waiting. A log that was damaged, or is signed by another key, is Invalid, and stays
// as it is: nothing is added to what cannot be trusted.
func Open(ctx context.Context, o Options) (*Log, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	l := &Log{o: o, files: o.Store, written: make(chan pending, maxBacklog)}
	l.records = &records{store: o.Store, known: map[string]bool{}}
	if err := makeDir(o.Dir); err != nil {
		return nil, err
	}
	if l.lock, err = lock(ctx, l.path(lockName)); err != nil {
		return nil, err
	}
	if l.lease, err = o.Store.Own(ctx, o.Dir); err != nil {
		return nil, errors.Join(err, l.lock.Close())
	}
	if err := l.prepare(ctx); err != nil {
		return nil, errors.Join(err, l.lease.Close(), l.lock.Close())
	}
	if err := l.begin(ctx); err != nil {
		return nil, errors.Join(err, l.lease.Close(), l.lock.Close())
	}
	if err := l.resume(ctx); err != nil {
		return nil, errors.Join(err, l.Close()) //nolint:contextcheck // what was begun is ended, also if ctx is over
	}
	return l, nil
}

// lock takes the lock of a log, waiting for it.
func lock(ctx context.Context, path string) (io.Closer, error) {
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for {
		held, err := tryLock(path)
		if err == nil {
			return held, nil
		}
		if !errors.Is(err, errLocked) {
			return nil, unusable(path, err)
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return nil, fault.New(fault.Waiting, "another process has the audit log open").At(path, 0).
				WithHint("two controllers cannot share a log; wait for the other one to end")
		}
	}
}

// prepare removes what a crash left, and brings the index up to the log, which it
// checks on the way: the index remembers the tree that it was made from, so that with
// the entries behind it the whole tree's hash comes out, if nothing was changed.
func (l *Log) prepare(ctx context.Context) error {
	for _, dir := range []string{draftsDir, indexDir} {
		if err := makeDir(l.path(dir)); err != nil {
			return err
		}
	}
	if err := empty(l.path(draftsDir)); err != nil {
		return err
	}
	state, signed, err := l.heads(ctx)
	if err != nil {
		return err
	}
	if err := l.files.Tidy(ctx, state.Size, signed.Size); err != nil {
		return err
	}
	if err := l.agree(ctx, state, signed); err != nil {
		return err
	}
	if err := l.loadIndex(ctx, state); err != nil {
		return err
	}
	l.size.Store(state.Size)
	l.tail.begin(state)
	return l.index.sweep()
}

// heads returns how far the log goes, and how far it is signed. A new log goes nowhere.
func (l *Log) heads(ctx context.Context) (state, signed head, err error) {
	state, err = readState(ctx, l.files)
	if errors.Is(err, fs.ErrNotExist) {
		return l.newLog(ctx)
	}
	if err != nil {
		return state, signed, err
	}
	raw, err := l.files.Read(ctx, checkpointName, maxState)
	if errors.Is(err, fs.ErrNotExist) && state.Size == 0 { // a crash in the first moments
		return state, head{}, nil
	}
	if err != nil {
		return state, signed, err
	}
	for _, v := range append([]note.Verifier{l.o.Verifier}, l.o.Former...) {
		if signed, err = openCheckpoint(checkpointName, raw, v); err == nil {
			l.signedBy = v
			return state, signed, nil
		}
	}
	return state, signed, fault.From(err).WithHint("give the key that signed it, or begin a new log in another directory")
}

// newLog makes sure that a log which has no state has nothing else either.
func (l *Log) newLog(ctx context.Context) (state, signed head, err error) {
	_, err = l.files.Read(ctx, checkpointName, maxState)
	if err == nil {
		return state, signed, damaged(stateName, "the state of the tree is missing, but there is a checkpoint").
			WithHint("restore the whole directory, or begin a new log in another one")
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return state, signed, err
	}
	state.Root, err = rootAt(ctx, l.files, 0)
	return state, head{}, err
}

// agree checks that the tiles lead to the state, and to the checkpoint.
func (l *Log) agree(ctx context.Context, state, signed head) error {
	if signed.Size > state.Size {
		return damaged(stateName, "the log ends at entry %d, but is signed up to %d: it was cut, or is an older copy", state.Size, signed.Size).
			WithHint("restore the newest copy of the log, or begin a new one in another directory")
	}
	for name, h := range map[string]head{stateName: state, checkpointName: signed} {
		root, err := rootAt(ctx, l.files, h.Size)
		if err != nil {
			return err
		}
		if h.Root != nil && !bytes.Equal(root, h.Root) {
			return damaged(name, "the tiles do not have the hash of the first %d entries", h.Size).
				WithHint("holdfast audit verify names what was changed")
		}
	}
	return nil
}

// loadIndex loads the index, or makes it anew where it does not fit the log.
func (l *Log) loadIndex(ctx context.Context, state head) error {
	dir, drafts := l.path(indexDir), l.path(draftsDir)
	by := seal{signer: l.o.Signer, verifiers: append([]note.Verifier{l.o.Verifier}, l.o.Former...)}
	if l.index = loadIndex(ctx, dir, drafts, by); l.index != nil {
		if l.index.size() <= state.Size && l.fill(ctx, state) == nil {
			return nil
		}
		l.index.forget()
	}
	if state.Size > 0 {
		l.o.Log.Info("the audit log's index is made anew", "entries", state.Size)
	}
	if err := empty(dir); err != nil {
		return err
	}
	l.index = newIndex(dir, drafts, by)
	return l.fill(ctx, state)
}

// fill reads what the index does not have yet, and compares the hash of all.
func (l *Log) fill(ctx context.Context, state head) error {
	if err := replay(ctx, l.files, l.index.size(), state.Size, l.index.note); err != nil {
		return err
	}
	root, err := l.index.root()
	if err == nil && !bytes.Equal(root, state.Root) {
		err = damaged(stateName, "the entries do not have the hash of the tree").WithHint("holdfast audit verify names what was changed")
	}
	return err
}

// begin starts what goes on behind the calls.
func (l *Log) begin(ctx context.Context) error {
	if err := l.run(ctx, l.o.SignEvery); err != nil {
		return err
	}
	err := l.sequenced(ctx)
	if err == nil && l.signedBy == nil {
		err = l.firstCheckpoint(ctx)
	}
	if err != nil {
		l.stop()
		return err
	}
	l.noted.Go(l.follow)
	l.later.start(l) //nolint:contextcheck // it goes on after Open
	return nil
}

// sequenced waits until the tree has every entry that was acknowledged: a database may
// have taken some whose process ended before the tree had them.
func (l *Log) sequenced(ctx context.Context) error {
	next, err := l.reader.NextIndex(ctx)
	if err != nil {
		return unusable(l.files.Where(), err)
	}
	if next <= l.Size() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := l.readableUpTo(ctx, next); err != nil {
		return err
	}
	state, err := readState(ctx, l.files)
	if err == nil {
		err = l.fill(ctx, state)
	}
	if err != nil {
		return err
	}
	l.size.Store(state.Size)
	l.tail.begin(state)
	return nil
}

// firstCheckpoint signs a new log while it is empty: tessera may do so only some time after
// the first entry, and one that has entries and no checkpoint is not opened, since somebody
// may have taken that away.
func (l *Log) firstCheckpoint(ctx context.Context) error {
	root := base64.StdEncoding.EncodeToString(rfc6962.DefaultHasher.EmptyRoot())
	raw, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n0\n%s\n", l.o.Signer.Name(), root)}, l.o.Signer)
	if err != nil {
		return fault.From(err)
	}
	_, err = l.files.Put(ctx, checkpointName, raw, false)
	return err
}

// openTimeout is how long what a database took is waited for.
const openTimeout = time.Minute

// run starts tessera, until stop is called.
func (l *Log) run(ctx context.Context, signEvery time.Duration) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	driver, err := l.files.Driver(running)
	if err != nil {
		stop()
		return fault.From(err)
	}
	appender, reader, err := driver.Appender(running, tessera.NewAppendOptions().
		WithCheckpointSigner(l.o.Signer).
		WithBatching(batchSize, l.o.BatchAge).
		WithCheckpointInterval(signEvery).
		WithCheckpointRepublishInterval(0).
		WithGarbageCollectionInterval(tidyEvery))
	if err != nil {
		stop()
		return unusable(l.files.Where(), err)
	}
	l.add, l.reader, l.stop = appender.Add, reader, stop
	return nil
}

// resume writes what has to be told of the time before: that another key signed, and
// the outcome of intents whose process ended before it could tell.
func (l *Log) resume(ctx context.Context) error {
	if by := l.signedBy; by != nil && by != l.o.Verifier {
		_, err := l.Append(ctx, Entry{
			Action: Rekey, Reason: fmt.Sprintf("checkpoints are signed by key %08x of %s from here on, by key %08x of %s before",
				l.o.Verifier.KeyHash(), l.o.Verifier.Name(), by.KeyHash(), by.Name()),
		}, nil)
		if err != nil {
			return err
		}
	}
	for _, i := range l.index.intents() {
		e, err := l.entry(ctx, i)
		if err != nil {
			return err
		}
		_, err = l.Append(ctx, Entry{
			Action: Outcome, Of: &i, Delivery: e.Delivery, UID: e.UID, Source: e.Source, Result: ResultInterrupted,
			Reason: "the process ended before it could tell what came of it",
		}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// empty removes what is in a directory.
func empty(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return unusable(dir, err)
	}
	for _, f := range files {
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
			return unusable(dir, err)
		}
	}
	return nil
}

// superfluous reports whether a log of this size, signed so far, does not need a file.
func superfluous(name string, size, signed uint64) bool {
	if !strings.HasPrefix(name, "tile/") {
		return draft.MatchString(name)
	}
	t, ok := parseTile(name)
	if !ok {
		return true
	}
	return t.end() > t.most(size) || t.partial > 0 && t.full().end() <= t.most(signed)
}

// draft is what tessera calls a file before it has its name.
var draft = regexp.MustCompile(`^(\.state/[A-Za-z]+|checkpoint)[0-9]+$`)

// tileFile is what the name of a tile's or a bundle's file says.
type tileFile struct {
	entries      bool
	level, index uint64
	partial      uint8
}

// parseTile reads the name of a tile or bundle.
func parseTile(name string) (tileFile, bool) {
	kind, rest, ok := strings.Cut(strings.TrimPrefix(name, "tile/"), "/")
	if !ok {
		return tileFile{}, false
	}
	t := tileFile{entries: kind == "entries"}
	var err error
	if !t.entries {
		t.level, err = strconv.ParseUint(kind, 10, 6)
	}
	if err == nil {
		t.index, t.partial, err = layout.ParseTileIndexPartial(rest)
	}
	return t, err == nil && t.name() == name
}

// name is the inverse of parseTile.
func (t tileFile) name() string {
	if t.entries {
		return layout.EntriesPath(t.index, t.partial)
	}
	return layout.TilePath(t.level, t.index, t.partial)
}

func (t tileFile) full() tileFile {
	t.partial = 0
	return t
}

// end is how many hashes of its level there are at least, if it exists.
func (t tileFile) end() uint64 { return t.index*width + uint64(count(t.partial)) }

// most is how many hashes its level has in a tree of this size.
func (t tileFile) most(size uint64) uint64 { return size >> (8 * t.level) }
