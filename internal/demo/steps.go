package demo

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// steps shows what is done: on a terminal while it runs, elsewhere one line when
// it is done.
type steps struct {
	out  io.Writer
	live bool

	mu      sync.Mutex
	current string
}

// run does one step and shows its name, what it found, and how long it took.
func (s *steps) run(ctx context.Context, name string, do func(context.Context) (string, error)) error {
	begun := time.Now()
	s.set(name)
	found, err := do(ctx)
	took := time.Since(begun).Round(10 * time.Millisecond)
	s.set("")
	if err != nil {
		if ctx.Err() == nil {
			fmt.Fprintf(s.out, "✗ %s (%s)\n", name, took)
		}
		return err
	}
	if found != "" {
		found = ": " + found
	}
	fmt.Fprintf(s.out, "✓ %s%s (%s)\n", name, found, took)
	return nil
}

func (s *steps) set(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	s.current = name
	s.draw()
}

func (s *steps) clear() {
	if s.live && s.current != "" {
		fmt.Fprint(s.out, "\r\x1b[K")
	}
}

func (s *steps) draw() {
	if s.live && s.current != "" {
		fmt.Fprint(s.out, "… "+s.current)
	}
}

// notef prints a line below the step that runs.
func (s *steps) notef(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	fmt.Fprintf(s.out, "    "+format+"\n", args...)
	s.draw()
}

// Write passes lines of a child process on as notes.
func (s *steps) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(strings.TrimPrefix(line, "devcluster: "))
		if line != "" && !strings.HasPrefix(line, "ready in") {
			s.notef("%s", line)
		}
	}
	return len(b), nil
}
