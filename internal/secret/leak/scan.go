package leak

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/worker"
)

const (
	maxFiles   = 200_000 // in one search
	batch      = 256     // files offered to one job, which takes as many as it manages
	perWorker  = 512     // files from which on a second worker is worth its start
	maxKept    = 50_000  // results in memory
	maxWorkers = 2
)

// Scanner searches files in workers and remembers what it found. It is safe for
// concurrent use.
type Scanner struct {
	pool *worker.Pool

	mu   sync.Mutex
	kept map[key]*list.Element
	used *list.List // of *result, the one used last in front
}

// key is what a result depends on, beside the rules, which are those of this process.
type key struct {
	path   string
	digest tree.Digest
	role   Role
	salt   [sha256.Size]byte
}

type result struct {
	key   key
	found found
}

// New returns a scanner that works in pool's workers, which must have been given
// [Handlers]. The rules take 25 MiB of a worker for as long as it lives: the pool should
// keep idle workers for seconds only.
func New(pool *worker.Pool) *Scanner {
	return &Scanner{pool: pool, kept: map[key]*list.Element{}, used: list.New()}
}

// Search returns what is open in files, sorted. What a kustomization in them makes a
// Secret of is found by look, which may be nil. salt keys the fingerprints, see [Finding]. A file that is too large is a
// finding of its own. Errors are *fault.Error: those of reading; Limit for too many
// files, and where a worker takes too long or too much; Internal.
func (s *Scanner) Search(ctx context.Context, files []File, look Look, salt []byte) ([]Finding, error) {
	if len(files) > maxFiles {
		return nil, fault.New(fault.Limit, "there are %d files, %d are searched at most", len(files), maxFiles)
	}
	asked := make([]task, len(files))
	for i, f := range files {
		asked[i] = task{File: f, role: asFile}
	}
	first, err := s.search(ctx, asked, salt)
	if err != nil {
		return nil, err
	}
	made := follow(first, look)
	second, err := s.search(ctx, made, salt)
	if err != nil {
		return nil, err
	}
	var all []Finding
	told := map[Finding]bool{}
	tasks := slices.Concat(asked, made)
	for i, f := range slices.Concat(first, second) {
		for _, finding := range f.Findings {
			finding.Blob = tasks[i].Digest
			if !told[finding] {
				told[finding] = true
				all = append(all, finding)
			}
		}
	}
	Sort(all)
	return all, nil
}

// task is a file to be searched as something.
type task struct {
	File

	role Role
}

// follow lists the files that secretGenerators read, each once.
func follow(all []found, look Look) []task {
	if look == nil {
		return nil
	}
	var tasks []task
	type made struct {
		madeOf

		digest tree.Digest
	}
	seen := map[made]bool{}
	for i, f := range all {
		for _, ref := range f.Refs {
			file, ok := look(i, ref.Path)
			if !ok || seen[made{ref, file.Digest}] {
				continue
			}
			seen[made{ref, file.Digest}] = true
			tasks = append(tasks, task{File: file, role: ref.Role})
		}
	}
	return tasks
}

// search returns what was found in each file, in their order.
func (s *Scanner) search(ctx context.Context, tasks []task, salt []byte) ([]found, error) {
	salted := sha256.Sum256(salt)
	out := make([]found, len(tasks))
	var open []int
	for i, t := range tasks {
		var ok bool
		if out[i], ok = s.known(t.key(salted)); !ok {
			open = append(open, i)
		}
	}
	share := len(open)
	if len(open) >= perWorker {
		share = (len(open) + maxWorkers - 1) / maxWorkers
	}
	group, ctx := errgroup.WithContext(ctx)
	for start := 0; start < len(open); start += share {
		part := open[start:min(start+share, len(open))]
		group.Go(func() error {
			for len(part) > 0 {
				done, err := s.job(ctx, tasks, part[:min(len(part), batch)], salt)
				if err != nil {
					return err
				}
				for i, f := range done {
					out[part[i]] = f
					s.keep(tasks[part[i]].key(salted), f)
				}
				part = part[len(done):]
			}
			return nil
		})
	}
	return out, group.Wait()
}

func (t task) key(salted [sha256.Size]byte) key { return key{t.Path, t.Digest, t.role, salted} }

// job has a worker search some of the tasks, and returns what it found in the first of
// them: as many as it managed.
func (s *Scanner) job(ctx context.Context, tasks []task, which []int, salt []byte) ([]found, error) {
	o := order{Salt: salt}
	for _, i := range which {
		o.Files = append(o.Files, item{Path: tasks[i].Path, Role: tasks[i].role})
	}
	payload, err := json.Marshal(o)
	if err != nil {
		return nil, fault.New(fault.Internal, "the order cannot be written: %s", err)
	}
	body, err := s.pool.Do(ctx, jobKind, payload, &door{tasks: tasks, which: which})
	if err != nil {
		return nil, err
	}
	var done []found
	if err := json.Unmarshal(body, &done); err != nil || len(done) == 0 || len(done) > len(which) {
		return nil, fault.New(fault.Internal, "the result of a search cannot be read")
	}
	for i := range done {
		for _, f := range done[i].Findings {
			if f.File != o.Files[i].Path {
				return nil, fault.New(fault.Internal, "a search found what it was not asked for")
			}
		}
	}
	return done, nil
}

// door is a job's way to its files: by their index.
type door struct {
	tasks []task
	which []int
}

// ReadFile implements worker.Files.
func (d *door) ReadFile(name string) ([]byte, error) {
	i, err := strconv.Atoi(name)
	if err != nil || i < 0 || i >= len(d.which) {
		return nil, tree.NotExist(name)
	}
	return d.tasks[d.which[i]].Read(maxFile)
}

// ReadDir implements worker.Files: there is no directory.
func (d *door) ReadDir(name string) ([]tree.Entry, error) { return nil, tree.NotExist(name) }

// Resolve implements worker.Files: nothing is a link.
func (d *door) Resolve(name string) (string, tree.Entry, error) {
	return "", tree.Entry{}, tree.NotExist(name)
}

func (s *Scanner) known(k key) (found, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.kept[k]
	if !ok {
		return found{}, false
	}
	s.used.MoveToFront(e)
	return e.Value.(*result).found, true //nolint:forcetypeassert // nothing else is in it
}

func (s *Scanner) keep(k key, f found) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.kept[k]; ok || k.digest == "" {
		return
	}
	s.kept[k] = s.used.PushFront(&result{k, f})
	if s.used.Len() > maxKept {
		oldest := s.used.Back()
		s.used.Remove(oldest)
		delete(s.kept, oldest.Value.(*result).key) //nolint:forcetypeassert // nothing else is in it
	}
}
