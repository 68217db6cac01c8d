package build

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfastcd/holdfast/devcluster/internal/flock"
)

// unusedFor is how long a cached program may lie unused before a build of another removes it.
const unusedFor = 14 * 24 * time.Hour

// programName is the name of the cached file.
const programName = "controlplane"

// Builder builds the control plane program.
type Builder struct {
	// Source is the directory of the devcluster module.
	Source string
	// Cache is the directory that programs are kept in. Empty means holdfast/devcluster in the user's cache directory.
	Cache string
	// Messages is where progress is told.
	Messages io.Writer
	// Live says that Messages is a terminal, on which one line can be written over and over.
	Live bool
}

// Program returns the path of the built program, building it if need be.
func (b Builder) Program(ctx context.Context) (string, error) {
	recipe, err := newRecipe(b.Source)
	if err != nil {
		return "", err
	}
	cache, err := b.cache()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, recipe.key)
	program := filepath.Join(dir, programName)
	if used(program) {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache directory: %w", err)
	}
	lock, err := b.wait(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer lock.Release()
	if used(program) { // built while we waited
		return program, nil
	}
	if err := b.build(ctx, recipe, program); err != nil {
		return "", err
	}
	return program, prune(cache, recipe.key, time.Now())
}

// cache returns the directory that programs are kept in.
func (b Builder) cache() (string, error) {
	if b.Cache != "" {
		return filepath.Abs(b.Cache)
	}
	user, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the user's cache directory (give one with --cache): %w", err)
	}
	return filepath.Join(user, "holdfast", "devcluster"), nil
}

// used says whether the program is there, and if so marks it as used now.
func used(program string) bool {
	now := time.Now()
	return os.Chtimes(program, now, now) == nil
}

// wait takes the lock, and says so if it must wait for another builder.
func (b Builder) wait(ctx context.Context, path string) (*flock.Lock, error) {
	lock, err := flock.Try(path)
	if !errors.Is(err, flock.ErrHeld) {
		return lock, err
	}
	type result struct {
		lock *flock.Lock
		err  error
	}
	got := make(chan result, 1)
	go func() {
		lock, err := flock.Acquire(path)
		got <- result{lock, err}
	}()
	progress := b.progress("waiting for another process that builds the Kubernetes control plane")
	defer progress.stop()
	for {
		select {
		case r := <-got:
			return r.lock, r.err
		case <-ctx.Done(): // the process is about to end, and the waiting goroutine with it
			return nil, ctx.Err()
		case <-progress.ticker.C:
			progress.tick("")
		}
	}
}

// build builds the program beside its final name and moves it there, so that nobody ever runs half of one.
func (b Builder) build(ctx context.Context, r recipe, program string) error {
	partial := program + ".partial"
	args := append(append([]string{}, r.args...), "-v", "-o", partial, programPath)
	command := exec.CommandContext(ctx, "go", args...)
	command.Dir = r.module
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	output, input := io.Pipe()
	command.Stdout, command.Stderr = input, input
	lines := make(chan string)
	go scan(output, lines)

	progress := b.progress("building the Kubernetes control plane, first time only, about 6 minutes on two cores")
	defer progress.stop()
	if err := command.Start(); err != nil {
		return fmt.Errorf("run go build (is go in the PATH?): %w", err)
	}
	ended := make(chan error, 1)
	go func() {
		err := command.Wait()
		_ = input.Close() // ends the scan
		ended <- err
	}()
	packages, complaints := follow(lines, progress)
	if err := <-ended; err != nil {
		return fmt.Errorf("build the control plane after %d packages: %w\n%s", packages, err, strings.Join(complaints, "\n"))
	}
	if err := os.Rename(partial, program); err != nil {
		return fmt.Errorf("put the built program in the cache: %w", err)
	}
	return nil
}

// scan sends each line of output and closes lines at its end.
func scan(output io.Reader, lines chan<- string) {
	defer close(lines)
	for scanner := bufio.NewScanner(output); scanner.Scan(); {
		lines <- scanner.Text()
	}
}

// follow shows progress until the lines of go build -v end. It returns how many packages were compiled, and the last lines
// that are not package names.
func follow(lines <-chan string, progress *progress) (packages int, complaints []string) {
	const keep = 20
	for {
		select {
		case line, open := <-lines:
			if !open {
				return packages, complaints
			}
			if strings.HasPrefix(line, "go: ") || strings.ContainsAny(line, " \t") || strings.HasPrefix(line, "#") {
				complaints = append(complaints, line)
				complaints = complaints[max(0, len(complaints)-keep):]
				continue
			}
			packages++
		case <-progress.ticker.C:
			progress.tick(fmt.Sprintf("%d packages compiled, ", packages))
		}
	}
}

// prune removes programs other than key that were last used long before now.
func prune(cache, key string, now time.Time) error {
	entries, err := os.ReadDir(cache)
	if err != nil {
		return fmt.Errorf("look for unused programs: %w", err)
	}
	for _, entry := range entries {
		dir := filepath.Join(cache, entry.Name())
		info, err := os.Stat(filepath.Join(dir, programName))
		if err != nil || entry.Name() == key || now.Sub(info.ModTime()) < unusedFor {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove an unused program: %w", err)
		}
	}
	return nil
}

// progress tells a person that something long goes on.
type progress struct {
	ticker *time.Ticker
	what   string
	since  time.Time
	out    io.Writer
	live   bool
}

// progress starts telling about what. On a terminal it renews one line each second; elsewhere it writes one every 20 seconds.
func (b Builder) progress(what string) *progress {
	every := 20 * time.Second
	if b.Live {
		every = time.Second
	}
	p := &progress{ticker: time.NewTicker(every), what: what, since: time.Now(), out: b.Messages, live: b.Live}
	p.tick("")
	return p
}

// tick shows how far it is.
func (p *progress) tick(detail string) {
	format := "devcluster: %s ... %s%s\n"
	if p.live {
		format = "\r\033[Kdevcluster: %s ... %s%s" // over the line before
	}
	p.write(fmt.Sprintf(format, p.what, detail, time.Since(p.since).Round(time.Second)))
}

// stop ends the telling.
func (p *progress) stop() {
	p.ticker.Stop()
	if p.live {
		p.write("\n")
	}
}

// write writes text. Progress that nobody can read is no reason to fail.
func (p *progress) write(text string) { _, _ = io.WriteString(p.out, text) }
