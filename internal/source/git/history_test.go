package git

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/test/gitserver"
)

// historyEnv has TestLongHistory measure the whole size: HOLDFAST_HISTORY=full.
const historyEnv = "HOLDFAST_HISTORY"

// maxResident is what a fetch may need, in MiB, whatever the size of the history.
const maxResident = 300

// errand is what a child process is to fetch, and how it went.
type errand struct {
	Way    string // store, gogit-full, gogit-shallow, hostile, hostile-unbounded
	URL    string
	Commit string
	Since  string // list the commits since this one, too
	Dir    string

	Took     time.Duration
	Resident int // MiB at its peak
}

// TestLongHistory fetches a repository with a long history, each time in a
// process of its own, whose time and memory it measures.
func TestLongHistory(t *testing.T) {
	commits, files := 300, 100
	if os.Getenv(historyEnv) == "full" {
		commits, files = 50_000, 20_000
	}
	_, repo := newServer(t, gitserver.Options{})
	writeHistory(t, repo, commits, files)
	at := func(back int) string {
		id, err := repo.Git("rev-parse", fmt.Sprintf("main~%d", back))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	for _, test := range []struct {
		reason string
		errand errand
		ours   bool
		filter bool // the server can leave out trees and files
	}{
		{"first fetch of the head", errand{Way: "store"}, true, false},
		{"and the commits of last week listed", errand{Way: "store", Since: at(commits / 100)}, true, false},
		{"the same from a server that filters", errand{Way: "store", Since: at(commits / 100)}, true, true},
		{"and all commits listed", errand{Way: "store", Since: at(commits - 1)}, true, false},
		{"the same from a server that filters", errand{Way: "store", Since: at(commits - 1)}, true, true},
		{"a commit of last week is proven", errand{Way: "store", Commit: at(commits / 100)}, true, false},
		{"the first commit is proven", errand{Way: "store", Commit: at(commits - 1)}, true, false},
		{"the first commit, by its beginning", errand{Way: "store", Commit: at(commits - 1)[:12]}, true, false},
		{"go-git, without history", errand{Way: "gogit-shallow"}, false, false},
		{"go-git, whole", errand{Way: "gogit-full"}, false, false},
	} {
		if _, err := repo.Git("config", "uploadpack.allowFilter", strconv.FormatBool(test.filter)); err != nil {
			t.Fatal(err)
		}
		test.errand.URL, test.errand.Dir = repo.URL(), t.TempDir()
		got := sendOut(t, test.errand)
		t.Logf("%d commits, %d files: %s: %s, %d MiB resident", commits, files, test.reason, got.Took.Round(time.Millisecond), got.Resident)
		if test.ours && got.Resident > maxResident {
			t.Errorf("%s: %d MiB resident, want %d at most", test.reason, got.Resident, maxResident)
		}
	}
}

// writeHistory gives the repository many files, and then many commits that change
// one of them each, packed as servers keep it.
func writeHistory(t *testing.T, repo *gitserver.Repo, commits, files int) {
	t.Helper()
	cmd := exec.Command("git", "fast-import", "--quiet", "--date-format=raw")
	cmd.Dir = repo.Dir()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewWriter(in)
	for i := range commits {
		fmt.Fprintf(out, "commit refs/heads/main\ncommitter T <t@example.com> %d +0000\ndata 9\ncommit %d\n", 1_700_000_000+i*60, i%10)
		if i == 0 {
			for f := range files {
				writeFile(out, f, 0)
			}
			continue
		}
		writeFile(out, i*7919%files, i)
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("git fast-import: %v\n%s", err, stderr.Bytes())
	}
	if _, err := repo.Git("repack", "-a", "-d", "-q"); err != nil {
		t.Fatal(err)
	}
}

func writeFile(out io.Writer, f, version int) {
	content := fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: object-%d\n  namespace: team-%d\n  labels:\n    app: app-%d\ndata:\n  version: \"%d\"\n  checksum: %x\n",
		f, f/1000, f/5, version, uint64(f*31+version)*0x9e3779b97f4a7c15)
	fmt.Fprintf(out, "M 100644 inline team-%02d/app-%03d/object-%d.yaml\ndata %d\n%s\n", f/1000, f/5%200, f%5, len(content), content)
}

const errandEnv = "HOLDFAST_TEST_ERRAND"

func sendOut(t *testing.T, e errand) errand {
	t.Helper()
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestErrand$", "-test.timeout=30m")
	cmd.Env = append(os.Environ(), errandEnv+"="+string(raw))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", e.Way, err, out)
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	if err := json.Unmarshal(line, &e); err != nil {
		t.Fatalf("%s: %v\n%s", e.Way, err, out)
	}
	return e
}

// TestErrand is what the child processes of TestLongHistory and TestHostileMemory run.
func TestErrand(t *testing.T) {
	raw := os.Getenv(errandEnv)
	if raw == "" {
		t.Skip("this is for child processes")
	}
	var e errand
	if err := json.Unmarshal([]byte(raw), &e); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	switch e.Way {
	case "store":
		rev := fetch(t, newStore(t, e.Dir, Options{}), source.Request{URL: e.URL, Ref: source.Ref{Target: e.Commit}})
		if e.Since != "" {
			if _, err := rev.History.Since(t.Context(), e.Since, true); err != nil {
				t.Fatal(err)
			}
		}
	case "hostile", "hostile-unbounded":
		hostileFetches(t, e)
	default:
		goGit(t, e)
	}
	e.Took, e.Resident = time.Since(start), resident(t)
	out, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(out))
}

// goGit fetches as go-git's own clone does, into its own store.
func goGit(t *testing.T, e errand) {
	endpoint, err := transport.NewEndpoint(e.URL)
	if err != nil {
		t.Fatal(err)
	}
	session, err := githttp.DefaultClient.NewUploadPackSession(endpoint, nil)
	if err != nil {
		t.Fatal(err)
	}
	refs, err := session.AdvertisedReferencesContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	req := packp.NewUploadPackRequestFromCapabilities(refs.Capabilities)
	req.Wants = []plumbing.Hash{*refs.Head}
	if e.Way == "gogit-shallow" {
		req.Depth = packp.DepthCommits(1)
		if err := req.Capabilities.Set("shallow"); err != nil {
			t.Fatal(err)
		}
	}
	res, err := session.UploadPack(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Close()
	storage := filesystem.NewStorage(osfs.New(e.Dir), cache.NewObjectLRUDefault())
	if err := packfile.UpdateObjectStorage(storage, demultiplex(req, res)); err != nil {
		t.Fatal(err)
	}
}

// resident is the peak resident memory of this process, as Linux counts it. (The
// figure that a parent gets includes the parent's own at the time of the fork.)
func resident(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("memory is measured on Linux only")
	}
	_, rest, _ := strings.Cut(string(raw), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}
