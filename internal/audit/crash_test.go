package audit

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The test program starts itself again as the process that is killed.
const (
	childEnv = "HOLDFAST_AUDIT_CHILD" // the log's directory
	keyEnv   = "HOLDFAST_AUDIT_KEY"   // the key's file
	killsEnv = "HOLDFAST_AUDIT_KILLS"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := child(dir, os.Getenv(keyEnv)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// child appends until it is killed, from several goroutines, and tells each entry when
// it was acknowledged: its index, its name, and the index of the intent that it closes.
func child(dir, keyFile string) error {
	key, err := LoadOrCreateKey(keyFile, "", nil)
	if err != nil {
		return err
	}
	o := options(dir)
	o.Signer, o.Verifier = key.Signer, key.Verifier
	l, err := Open(context.Background(), o)
	if err != nil {
		return err
	}
	start := l.Size()
	fails := make(chan error)
	for w := range 8 {
		go func() {
			for n := 0; ; n++ {
				name := fmt.Sprintf("%d-%d-%d", start, w, n)
				src := Source{URL: "u", Commit: name}
				at, err := l.Append(context.Background(), Entry{Action: Sync, Delivery: name, Source: &src}, objects(name))
				if err != nil {
					fails <- err
					return
				}
				fmt.Fprintln(os.Stdout, at, name)
				switch n % 3 {
				case 0: // the outcome is acknowledged
					to, err := l.Append(context.Background(), Entry{Action: Outcome, Delivery: name, Of: &at, Result: ResultDelivered}, nil)
					if err != nil {
						fails <- err
						return
					}
					fmt.Fprintln(os.Stdout, to, name)
				case 1:
					l.Later(Entry{Action: Outcome, Delivery: name, Of: &at, Result: ResultDelivered}, nil)
				}
				l.Untouched(Source{URL: "u", Commit: strconv.Itoa(n / 10)}, nil, name)
			}
		}()
	}
	return <-fails
}

// TestKilled kills a process at random moments while it appends, and looks at the log
// after each: it opens and verifies, no entry that was acknowledged is lost, and every
// intent has one outcome. HOLDFAST_AUDIT_KILLS is how often (make audit-kill: 200).
func TestKilled(t *testing.T) {
	kills := 4
	if n, err := strconv.Atoi(os.Getenv(killsEnv)); err == nil {
		kills = n
	}
	dir, keyFile := t.TempDir()+"/log", t.TempDir()+"/key"
	key, err := LoadOrCreateKey(keyFile, "test.example/killed", rand.NewChaCha8([32]byte{}))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	var acknowledged, interrupted uint64
	var kept []byte
	for range kills {
		told := killOne(t, dir, keyFile, random)
		acknowledged += uint64(len(told))
		o := options(dir)
		o.Signer, o.Verifier = key.Signer, key.Verifier
		l, err := Open(t.Context(), o)
		if err != nil {
			t.Fatalf("after a kill: %v", err)
		}
		for at, name := range told {
			if e, err := l.Entry(at); err != nil || e.Delivery != name {
				t.Fatalf("entry %d was acknowledged to be of %s: %+v %v", at, name, e, err)
			}
			if last, ok, _ := l.Last(name); ok && last.Source.Commit != name && last.Source.URL != "u" {
				t.Fatalf("%s: last %+v", name, last)
			}
		}
		if open := l.index.intents(); len(open) != 0 {
			t.Fatalf("intents are open: %v", open)
		}
		closeLog(t, l)
		v, err := Verify(t.Context(), Dir(dir), VerifyOptions{Verifier: key.Verifier, Against: kept})
		if err != nil || v.Unsigned != 0 || len(v.Strange) != 0 {
			t.Fatalf("after a kill: %+v %v", v, err)
		}
		kept = v.Checkpoint
		interrupted = outcomes(t, dir, v.Size)
	}
	t.Logf("%d kills: %d entries acknowledged, %d intents interrupted", kills, acknowledged, interrupted)
	if acknowledged == 0 {
		t.Error("nothing was acknowledged: the test proves nothing")
	}
}

// killOne starts a child, kills it at some moment after its first entry, and returns
// what it had told.
func killOne(t *testing.T, dir, keyFile string, random *rand.Rand) map[uint64]string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir, keyEnv+"="+keyFile)
	var trouble strings.Builder
	cmd.Stderr = &trouble
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told := map[uint64]string{}
	lines := bufio.NewReader(out)
	var kill sync.Once
	for {
		line, err := lines.ReadString('\n')
		if err != nil { // a line that was cut off was not told
			break
		}
		at, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		i, err := strconv.ParseUint(at, 10, 64)
		if err != nil {
			t.Fatalf("%q", line)
		}
		told[i] = name
		kill.Do(func() {
			time.AfterFunc(time.Duration(random.IntN(150_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
		})
	}
	_, _ = io.Copy(io.Discard, lines)
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the child ended by itself: %v %s", err, trouble.String())
	}
	return told
}

// outcomes checks that every intent has one outcome, and counts the interrupted ones.
func outcomes(t *testing.T, dir string, size uint64) (interrupted uint64) {
	t.Helper()
	closed := map[uint64]int{}
	var i uint64
	for e, err := range Entries(t.Context(), Dir(dir), 0, size) {
		switch {
		case err != nil:
			t.Fatal(err)
		case e.Action.intends():
			closed[i] += 0
		case e.Action == Outcome:
			closed[*e.Of]++
			if e.Result == ResultInterrupted {
				interrupted++
			}
		}
		i++
	}
	for i, n := range closed {
		if n != 1 {
			t.Errorf("intent %d has %d outcomes", i, n)
		}
	}
	return interrupted
}
