// Package process starts programs that cannot outlive this one.
//
// Two ties hold a child to us. Its standard input is a pipe whose other end only we hold: the kernel closes it when we end, by
// whatever signal, and the child's program ends itself on that. On Linux the kernel also kills the child outright, which covers
// one that is stopped, or not yet reading.
package process

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"time"
)

// tailSize is how much of a log file Tail reads.
const tailSize = 16 << 10

// Spec says what to start.
type Spec struct {
	// Name is what messages call the process.
	Name string
	// Path is the program, and Args its arguments without the program's name.
	Path string
	Args []string
	// Dir is the working directory, and Env the whole environment.
	Dir string
	Env []string
	// Log is the file that standard output and standard error are appended to.
	Log string
}

// Process is a started program.
type Process struct {
	spec    Spec
	started time.Time
	command *exec.Cmd
	alive   *os.File // our end of the child's standard input
	done    chan struct{}
	err     error // set before done is closed
}

// Start starts the program.
func Start(spec Spec) (*Process, error) {
	log, err := os.OpenFile(spec.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", spec.Name, err)
	}
	defer ours(log)
	input, alive, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for %s: %w", spec.Name, err)
	}
	defer ours(input)

	command := exec.Command(spec.Path, spec.Args...)
	command.Dir, command.Env = spec.Dir, spec.Env
	command.Stdin, command.Stdout, command.Stderr = input, log, log
	command.SysProcAttr = attributes()
	p := &Process{spec: spec, started: time.Now(), command: command, alive: alive, done: make(chan struct{})}

	begun := make(chan error)
	go p.run(begun)
	if err := <-begun; err != nil {
		_ = alive.Close() // nobody reads it
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	return p, nil
}

// ours closes our copy of a file that we wrote nothing to.
func ours(file *os.File) { _ = file.Close() }

// run starts the program and waits for its end on one thread that does nothing else and lives as long: Linux sends the
// parent-death signal when the thread that forked ends, not when the process does, and Go ends idle threads.
func (p *Process) run(begun chan<- error) {
	runtime.LockOSThread()
	err := p.command.Start()
	begun <- err
	if err != nil {
		return
	}
	p.err = p.command.Wait()
	_ = p.alive.Close() // the reader is gone
	close(p.done)
}

// Name is the name the process was started under.
func (p *Process) Name() string { return p.spec.Name }

// PID is its process id.
func (p *Process) PID() int { return p.command.Process.Pid }

// Started is when it was started.
func (p *Process) Started() time.Time { return p.started }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how the process ended, once Done is closed: nil for exit code 0.
func (p *Process) Err() error { return p.err }

// Kill ends the process at once and waits until it has ended.
func (p *Process) Kill() {
	_ = p.command.Process.Kill() // the only error is that it has ended
	<-p.done
}

// Tail returns the last lines of the process's log, for a message.
func (p *Process) Tail(lines int) string {
	file, err := os.Open(p.spec.Log)
	if err != nil {
		return err.Error()
	}
	defer ours(file)
	if info, err := file.Stat(); err == nil && info.Size() > tailSize {
		if _, err := file.Seek(-tailSize, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}
