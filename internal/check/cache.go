package check

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/holdfastcd/holdfast/internal/secret/leak"
)

// Cache keeps reports, in a directory of the user's: that of an unchanged tree, judged by
// the same program with the same flags on the same day, is known. A report holds no secret
// value.
type Cache struct {
	Dir string
	// Version is that of everything that judges: this program, and what it starts.
	Version string
}

const (
	maxKept   = 64
	maxReport = 16 << 20 // bytes
)

// key identifies a check by all that it depends on; "" where it cannot be known.
func (c *Cache) key(r *repository, o Options, now *state) string {
	if c == nil || o.History {
		return ""
	}
	list, err := r.read(leak.AllowFile, maxReport)
	if err != nil {
		list = nil // there is none, or the check fails
	}
	return c.keyOf(r, o, list, now)
}

// keyOf is key, with the list of what is allowed.
func (c *Cache) keyOf(r *repository, o Options, list []byte, now *state) string {
	h := sha256.New()
	enc := json.NewEncoder(h)
	day := o.Now.UTC().Format(time.DateOnly)
	o.Now = time.Time{}
	documents := make([]any, 0, len(o.Sets))
	for _, s := range o.Sets {
		documents = append(documents, s.Set)
	}
	o.Sets = nil
	if enc.Encode([]any{c.Version, day, o, documents, r.dir, r.below, r.remotes()}) != nil { //nolint:errchkjson // documents are plain data
		return ""
	}
	fmt.Fprintf(h, "%q\n", list)
	if !c.git(h.Write, r, o) {
		return ""
	}
	if now != nil {
		for _, name := range slices.Sorted(maps.Keys(now.leaves)) {
			l := now.leaves[name]
			fmt.Fprintf(h, "%q %d %x\n", name, l.kind, string(l.digest))
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// git adds what Git says, as far as it counts: HEAD, a base, what is staged.
func (c *Cache) git(write func([]byte) (int, error), r *repository, o Options) bool {
	if r.git == nil || o.Base == "" && !o.Staged {
		return true
	}
	text := ""
	if head, err := r.commitAt(plumbing.HEAD); err == nil && head != nil {
		text = head.Hash.String()
	}
	if o.Base != "" {
		base, err := r.revision(o.Base)
		if err != nil {
			return false
		}
		text += " " + base.Hash.String()
	}
	if o.Staged {
		entries, err := r.entries(o.Index)
		if err != nil {
			return false
		}
		for _, e := range entries {
			text += fmt.Sprintf("\n%q %s %s %t", e.Name, e.Mode, e.Hash, e.IntentToAdd)
		}
	}
	_, err := write([]byte(text))
	return err == nil
}

// look returns a report that is kept.
func (c *Cache) look(key string) (Report, bool) {
	if c == nil || key == "" {
		return Report{}, false
	}
	name := filepath.Join(c.Dir, key+".json")
	info, err := os.Stat(name)
	if err != nil || info.Size() > maxReport {
		return Report{}, false
	}
	content, err := os.ReadFile(name) //nolint:gosec // the name is a digest
	var r Report
	if err != nil || json.Unmarshal(content, &r) != nil {
		return Report{}, false
	}
	now := time.Now()
	_ = os.Chtimes(name, now, now) // when it was used last; it may go earlier otherwise
	return r, true
}

// keep keeps a report. That it cannot is no failure: the next check takes longer.
func (c *Cache) keep(key string, r Report) {
	if c == nil || key == "" || r.uncachable || len(r.Undecided) > 0 {
		return
	}
	content, err := json.Marshal(r)
	if err != nil || len(content) > maxReport || os.MkdirAll(c.Dir, 0o700) != nil {
		return
	}
	f, err := os.CreateTemp(c.Dir, "new-*")
	if err != nil {
		return
	}
	_, err = f.Write(content)
	if closed := f.Close(); err != nil || closed != nil || os.Rename(f.Name(), filepath.Join(c.Dir, key+".json")) != nil {
		_ = os.Remove(f.Name())
		return
	}
	c.prune()
}

// prune removes what was not used for the longest time.
func (c *Cache) prune() {
	entries, err := os.ReadDir(c.Dir)
	if err != nil || len(entries) <= maxKept {
		return
	}
	used := func(e fs.DirEntry) time.Time {
		info, err := e.Info()
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return used(b).Compare(used(a)) })
	for _, e := range entries[maxKept:] {
		_ = os.Remove(filepath.Join(c.Dir, e.Name()))
	}
}
