package judge

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"time"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// kyvernoProgram is the name of the program that judges by Kyverno's policies. It is a
// program of its own, see docs/design/kyverno.md.
const kyvernoProgram = "holdfast-kyverno"

// EnvKyverno is the environment variable that says where that program is.
const EnvKyverno = "HOLDFAST_KYVERNO"

// kyvernoVersion finds an apiVersion of one of Kyverno's groups, as YAML and JSON write it.
var kyvernoVersion = regexp.MustCompile(`apiVersion["']?\s*:\s*["']?(?:[a-z0-9-]+\.)*kyverno\.io/`)

// IsKyverno says whether a file holds an object of one of Kyverno's groups. It looks for
// the text and parses nothing: what only looks like one is taken for one too, and
// Kyverno's engine then says what it is.
func IsKyverno(d policy.Document) bool {
	return bytes.Contains(d.Content, []byte("kyverno.io/")) && kyvernoVersion.Match(d.Content)
}

// FindKyverno returns where the program is that judges by Kyverno's policies: what the
// environment says, as lookup answers for it (os.Getenv), or beside this program. path is
// "" where it is not, and hint then says what to do.
func FindKyverno(lookup func(string) string) (path, hint string) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		self = ""
	}
	return findKyverno(lookup(EnvKyverno), self)
}

// KyvernoOptions are those of a pool of workers that judge by Kyverno's policies, with the
// program at path. They need more than others: 76 MiB before their first job, and a
// worker that kept nothing would compile its policies for each job.
func KyvernoOptions(path string) worker.Options {
	const memory = 384 << 20
	return worker.Options{Command: []string{path, worker.Arg}, Size: 1, MemoryLimit: memory, KeepMemory: memory, Deadline: time.Minute}
}

func findKyverno(told, self string) (path, hint string) {
	name := kyvernoProgram
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if told != "" {
		if !runs(told) {
			return "", EnvKyverno + " says " + told + ", and there is no program"
		}
		return told, ""
	}
	if self != "" {
		if beside := filepath.Join(filepath.Dir(self), name); runs(beside) {
			return beside, ""
		}
	}
	return "", "put " + kyvernoProgram + " of the same release beside holdfast, or say where it is with " + EnvKyverno
}

// runs says whether a file can be run, as far as one can see.
func runs(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && (runtime.GOOS == "windows" || info.Mode()&0o111 != 0)
}
