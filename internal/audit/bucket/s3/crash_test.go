package s3

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/audittest"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/test/stores"
)

// The test program starts itself again as the process that is killed.
const (
	childEnv = "HOLDFAST_AUDIT_S3_CHILD" // where the log is
	killsEnv = "HOLDFAST_AUDIT_KILLS"
)

// site is what a child has to know.
type site struct {
	Options Options
	Dir     string
	Key     string
}

func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": stores.AccessKey, "AWS_SECRET_ACCESS_KEY": stores.SecretKey} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	if text := os.Getenv(childEnv); text != "" {
		if err := child(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// openSite opens a log as a new process does.
func openSite(ctx context.Context, s site, key audit.Key) (*audit.Log, audit.Store, error) {
	store, err := Open(ctx, s.Options)
	if err != nil {
		return nil, nil, err
	}
	l, err := audit.Open(ctx, audit.Options{Dir: s.Dir, Store: store, Signer: key.Signer, Verifier: key.Verifier})
	return l, store, err
}

// child appends until it is killed, and tells each entry when it was acknowledged.
func child(text string) error {
	var s site
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	key, err := audit.LoadOrCreateKey(s.Key, "", nil)
	if err != nil {
		return err
	}
	l, _, err := openSite(context.Background(), s, key)
	if err != nil {
		return err
	}
	start := l.Size()
	fails := make(chan error)
	for w := range 8 {
		go func() {
			for n := 0; ; n++ {
				name := fmt.Sprintf("%d-%d-%d", start, w, n)
				r := &audit.Record{Objects: []audit.Change{{Object: "apps/v1/Deployment/web/" + name}}}
				at, err := l.Append(context.Background(), audit.Entry{Action: audit.Sync, Delivery: name, Source: &audit.Source{URL: "u", Commit: name}}, r)
				if err != nil {
					fails <- err
					return
				}
				fmt.Fprintln(os.Stdout, at, name)
				l.Later(audit.Entry{Action: audit.Outcome, Delivery: name, Of: &at, Result: audit.ResultDelivered}, nil)
			}
		}()
	}
	return <-fails
}

// killed kills a process at random moments while it appends: the log opens at once
// for who comes with its directory, verifies, has every entry that was acknowledged, and
// one outcome for each intent. HOLDFAST_AUDIT_KILLS is how often (make audit-kill-bucket: 50).
func killed(t *testing.T, w *world) {
	kills := 2
	if n, err := strconv.Atoi(os.Getenv(killsEnv)); err == nil {
		kills = n
	}
	s := site{Options: w.options(t), Dir: filepath.Join(t.TempDir(), "log"), Key: filepath.Join(t.TempDir(), "key")}
	key, err := audit.LoadOrCreateKey(s.Key, "test.example/killed", rand.NewChaCha8([32]byte{}))
	if err != nil {
		t.Fatal(err)
	}
	var kept []byte
	told := map[uint64]string{}
	random := rand.New(rand.NewPCG(5, 6))
	for range kills {
		killOne(t, s, random, told)
		l, store, err := openSite(t.Context(), s, key)
		if err != nil {
			t.Fatalf("after a kill: %v", err)
		}
		for at, name := range told {
			if e, err := l.Entry(at); err != nil || e.Delivery != name {
				t.Fatalf("entry %d was acknowledged to be of %s: %+v %v", at, name, e, err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		v, err := audit.Verify(t.Context(), store, audit.VerifyOptions{Verifier: key.Verifier, Against: kept})
		if err != nil || v.Unsigned != 0 || len(v.Strange) != 0 {
			t.Fatalf("after a kill: %+v %v", v, err)
		}
		kept = v.Checkpoint
		closed(t, store, v.Size)
	}
	t.Logf("%d kills: %d entries acknowledged", kills, len(told))
	if len(told) == 0 {
		t.Error("nothing was acknowledged: the test proves nothing")
	}
}

// killOne starts a child, kills it at some moment after its first entry, and notes what
// it told.
func killOne(t *testing.T, s site, random *rand.Rand, told map[uint64]string) {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	var trouble strings.Builder
	cmd.Stderr = &trouble
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines, first := bufio.NewReader(out), true
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break
		}
		at, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		i, err := strconv.ParseUint(at, 10, 64)
		if err != nil {
			t.Fatalf("%q", line)
		}
		told[i] = name
		if first {
			first = false
			time.AfterFunc(time.Duration(random.IntN(1500))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		}
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the child ended by itself: %v %s", err, trouble.String())
	}
}

// closed checks that every intent has one outcome.
func closed(t *testing.T, r audit.Reader, size uint64) {
	t.Helper()
	outcomes := map[uint64]int{}
	var i uint64
	for e, err := range audit.Entries(t.Context(), r, 0, size) {
		switch {
		case err != nil:
			t.Fatal(err)
		case e.Action == audit.Sync:
			outcomes[i] += 0
		case e.Of != nil:
			outcomes[*e.Of]++
		}
		i++
	}
	for i, n := range outcomes {
		if n != 1 {
			t.Errorf("intent %d has %d outcomes", i, n)
		}
	}
}

// takenOver has a process die without a word, and another come on another machine.
func takenOver(t *testing.T, w *world) {
	s := site{Options: w.options(t), Dir: filepath.Join(t.TempDir(), "log"), Key: filepath.Join(t.TempDir(), "key")}
	key, err := audit.LoadOrCreateKey(s.Key, "test.example/killed", rand.NewChaCha8([32]byte{}))
	if err != nil {
		t.Fatal(err)
	}
	told := map[uint64]string{}
	killOne(t, s, rand.New(rand.NewPCG(1, 2)), told)
	s.Dir = filepath.Join(t.TempDir(), "other")
	start := time.Now()
	l, _, err := openSite(t.Context(), s, key)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if waited := time.Since(start); waited < takeover || l.Size() < uint64(len(told)) {
		t.Errorf("it waited %s, and has %d entries", waited, l.Size())
	}
}

// stolen has another process take the log while the first one cannot reach the
// database: the first acknowledges nothing any more, and learns of it.
func stolen(t *testing.T, w *world) {
	o := w.options(t)
	s := site{Options: o, Dir: filepath.Join(t.TempDir(), "log")}
	key := audittest.Key(t)
	l, _, err := openSite(t.Context(), s, key)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	db, _, err := openDatabase(t.Context(), o.DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.db.ExecContext(t.Context(), "UPDATE HoldfastClaim SET holder = 'other', beat = beat + 1"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-l.Lost():
	case <-time.After(time.Minute):
		t.Fatal("it does not learn of it")
	}
	if _, err := l.Append(t.Context(), audit.Entry{Action: audit.Suspend}, nil); fault.KindOf(err) != fault.Waiting {
		t.Errorf("nothing is acknowledged: %v", err)
	}
}

// troubles has wrong settings told so that one knows what to do, without secrets.
func troubles(t *testing.T, w *world) {
	good := w.options(t)
	for _, tc := range []struct {
		reason string
		change func(o *Options)
		key    string // of the bucket
		kind   fault.Kind
		want   string
	}{
		{reason: "a wrong password", kind: fault.Unauthorized, want: "Access denied", change: func(o *Options) {
			o.DSN = strings.Replace(o.DSN, ":secret-", ":hunter2-", 1)
		}},
		{reason: "no such database", kind: fault.Unauthorized, want: "Access denied", change: func(o *Options) {
			o.DSN = strings.Replace(o.DSN, "/log", "/none", 1)
		}},
		{reason: "nobody there", kind: fault.Unreachable, want: "cannot be used", change: func(o *Options) {
			o.DSN = strings.Replace(o.DSN, w.database.Address(), "127.0.0.1:1", 1)
		}},
		{reason: "no such bucket", kind: fault.NotFound, want: "does not exist", change: func(o *Options) { o.Bucket = "none" }},
		{reason: "a wrong key", kind: fault.Unauthorized, want: "may not be used", key: "hunter2", change: func(*Options) {}},
		{reason: "a wrong region", kind: fault.Invalid, want: "region", change: func(o *Options) { o.Region = "eu-central-1" }},
		{reason: "no bucket's server", kind: fault.Unreachable, want: "cannot be reached", change: func(o *Options) { o.Endpoint = "http://127.0.0.1:1" }},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			o := good
			tc.change(&o)
			if tc.key != "" {
				t.Setenv("AWS_SECRET_ACCESS_KEY", tc.key)
			}
			l, _, err := openSite(t.Context(), site{Options: o, Dir: t.TempDir()}, audittest.Key(t))
			if err == nil {
				t.Fatal(l.Close())
			}
			if fault.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), stores.SecretKey) {
				t.Errorf("%s: %v", fault.KindOf(err), err)
			}
		})
	}
}

// entriesEnv asks the latency test for so many entries.
const entriesEnv = "HOLDFAST_AUDIT_ENTRIES"

// latency measures how long an entry with a record waits, one after the other.
func latency(t *testing.T, w *world) {
	n := 20
	if v, err := strconv.Atoi(os.Getenv(entriesEnv)); err == nil {
		n = v
	}
	l, _, err := openSite(t.Context(), site{Options: w.options(t), Dir: filepath.Join(t.TempDir(), "log")}, audittest.Key(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	audittest.Latency(t, l, n)
}
