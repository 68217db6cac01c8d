// Package stores starts what an audit log of a fleet lies on, for tests: MariaDB, which
// Debian has, and servers of buckets, which the module test/buckets builds. What a test
// starts ends with it. Where mariadbd is missing, tests fail; make audit-tools installs it.
package stores

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // the driver
)

// ready is how long something may take to answer, on a busy machine.
const ready = 2 * time.Minute

// Credentials of the servers of buckets.
const (
	AccessKey = "test"
	SecretKey = "test-secret"
)

// Process is something that runs until it is stopped, and can be started again with
// what it had.
type Process struct {
	command func() (*exec.Cmd, error)
	probe   func() error

	mu    sync.Mutex
	cmd   *exec.Cmd
	input io.Closer
}

// Start starts it, and waits until it answers.
func (p *Process) Start(tb testing.TB) {
	tb.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	cmd, err := p.command()
	if err != nil {
		tb.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if p.input, err = cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	var told bytes.Buffer
	cmd.Stderr = &told
	started, ended := make(chan error), make(chan struct{})
	go func() { // the thread that starts it must not end before it (Pdeathsig)
		runtime.LockOSThread()
		started <- cmd.Start()
		_ = cmd.Wait() // whatever ended it
		close(ended)
	}()
	if err := <-started; err != nil {
		tb.Fatal(err)
	}
	p.cmd = cmd
	var last error
	for end := time.Now().Add(ready); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if last = p.probe(); last == nil {
			return
		}
		select {
		case <-ended:
			tb.Fatalf("%s ended: %s", cmd.Path, told.String())
		default:
		}
	}
	tb.Fatalf("%s does not answer: %v", cmd.Path, last)
}

// Stop kills it.
func (p *Process) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		_ = p.input.Close()
		for p.probe() == nil { // until its port is closed
			time.Sleep(5 * time.Millisecond)
		}
		p.cmd = nil
	}
}

// port is a free port of this machine.
func port(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	at, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		tb.Fatalf("%s is no address of TCP", l.Addr())
	}
	return at.Port
}

// Database is a MariaDB of its own.
type Database struct {
	Process

	address string
	serial  atomic.Int32
}

// MariaDB starts one, with an empty directory.
func MariaDB(tb testing.TB) *Database {
	tb.Helper()
	server, err := exec.LookPath("mariadbd")
	if err != nil {
		server = "/usr/sbin/mariadbd"
	}
	dir := tb.TempDir()
	install := exec.Command("mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db",
		"--skip-name-resolve", "--user=root", "--datadir="+filepath.Join(dir, "data"))
	if out, err := install.CombinedOutput(); err != nil {
		tb.Fatalf("MariaDB is needed (make audit-tools): %v\n%s", err, out)
	}
	number := port(tb)
	d := &Database{address: fmt.Sprintf("127.0.0.1:%d", number)}
	d.command = func() (*exec.Cmd, error) {
		return exec.Command(server, "--no-defaults", "--user=root", "--datadir="+filepath.Join(dir, "data"), "--bind-address=127.0.0.1",
			fmt.Sprintf("--port=%d", number), "--socket="+filepath.Join(dir, "s"), "--skip-name-resolve", "--innodb-buffer-pool-size=32M",
			"--pid-file="+filepath.Join(dir, "pid"), "--log-error="+filepath.Join(dir, "log")), nil
	}
	d.probe = func() error {
		connection, err := net.Dial("tcp", d.address)
		if err != nil {
			return err
		}
		return connection.Close()
	}
	d.Start(tb)
	tb.Cleanup(d.Stop)
	return d
}

func (d *Database) dsn(name, user string) string {
	return fmt.Sprintf("%s@tcp(%s)/%s?timeout=2s", user, d.address, name)
}

// Address is where it listens.
func (d *Database) Address() string { return d.address }

// DSN makes a database, with a user who has all rights in it, and returns how it is reached.
func (d *Database) DSN(tb testing.TB) string {
	tb.Helper()
	db, err := sql.Open("mysql", d.dsn("", "root"))
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	name := fmt.Sprintf("log%d", d.serial.Add(1))
	for _, s := range []string{
		"CREATE DATABASE " + name,
		"CREATE USER " + name + "@'%' IDENTIFIED BY 'secret-" + name + "'",
		"GRANT ALL ON " + name + ".* TO " + name + "@'%'",
	} {
		if _, err := db.Exec(s); err != nil {
			tb.Fatal(err)
		}
	}
	return d.dsn(name, name+":secret-"+name)
}

// Root returns how a database is reached by who may do everything.
func (d *Database) Root(dsn string) string {
	_, name, _ := strings.Cut(dsn, "/")
	name, _, _ = strings.Cut(name, "?")
	return d.dsn(name, "root")
}

// Buckets is a server of buckets.
type Buckets struct {
	Process

	// Endpoint is its URL.
	Endpoint string
	dir      string
	serial   atomic.Int32
}

// S3 starts a server that speaks S3: versitygw, on files.
func S3(tb testing.TB) *Buckets {
	tb.Helper()
	return serve(tb, "s3")
}

// GCS starts a server that speaks as Google Cloud Storage does.
func GCS(tb testing.TB) *Buckets {
	tb.Helper()
	return serve(tb, "gcs")
}

func serve(tb testing.TB, kind string) *Buckets {
	tb.Helper()
	program, err := build()
	if err != nil {
		tb.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port(tb))
	b := &Buckets{Endpoint: "http://" + address, dir: tb.TempDir()}
	if err := os.Mkdir(filepath.Join(b.dir, "buckets"), 0o755); err != nil {
		tb.Fatal(err)
	}
	b.command = func() (*exec.Cmd, error) { return exec.Command(program, kind, address, b.dir), nil }
	b.probe = func() error {
		res, err := http.Get(b.Endpoint + "/")
		if err == nil {
			err = res.Body.Close()
		}
		return err
	}
	b.Start(tb)
	tb.Cleanup(b.Stop)
	return b
}

// Bucket makes a bucket and returns its name.
func (b *Buckets) Bucket(tb testing.TB) string {
	tb.Helper()
	name := fmt.Sprintf("bucket-%d", b.serial.Add(1))
	if err := os.MkdirAll(b.Dir(name), 0o755); err != nil {
		tb.Fatal(err)
	}
	return name
}

// Dir is where the files of a bucket are.
func (b *Buckets) Dir(bucket string) string { return filepath.Join(b.dir, "buckets", bucket) }

// build builds the program, once for a test binary; what it builds is cached. Test
// binaries that run side by side build it one after the other: the first one's is the others'.
var build = sync.OnceValues(func() (program string, err error) {
	_, here, _, _ := runtime.Caller(0)
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "holdfast")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.Create(filepath.Join(dir, "test-buckets.lock"))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	program = filepath.Join(dir, "test-buckets")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", program, ".")
	cmd.Dir = filepath.Join(filepath.Dir(here), "..", "buckets")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build test/buckets: %w\n%s", err, out)
	}
	return program, nil
})
