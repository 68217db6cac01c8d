// Package build builds the control plane program on first use and keeps it in the user's cache directory, under a key of
// everything that goes into it. Several first users at once build it once.
package build

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

const (
	modulePath  = "github.com/holdfastcd/holdfast/devcluster"
	programPath = "./cmd/controlplane"
)

// kubernetesVersion finds the release in go.mod that the program is to call itself.
var kubernetesVersion = regexp.MustCompile(`(?m)^\s*(?:require\s+)?k8s\.io/kubernetes v((\d+)\.(\d+)\.\d+\S*)`)

// recipe is everything that decides what the built program is.
type recipe struct {
	module string   // the directory of the devcluster module
	args   []string // of go, without -o
	key    string
}

// newRecipe reads the devcluster module in dir.
func newRecipe(dir string) (recipe, error) {
	goMod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return recipe{}, fmt.Errorf("read the devcluster module: %w", err)
	}
	version := kubernetesVersion.FindSubmatch(goMod)
	if version == nil {
		return recipe{}, fmt.Errorf("%s requires no k8s.io/kubernetes: restore it from version control", filepath.Join(dir, "go.mod"))
	}
	r := recipe{module: dir, args: []string{"build", "-ldflags", linkFlags(string(version[1]), string(version[2]), string(version[3]))}}
	r.key, err = r.digest()
	return r, err
}

// linkFlags drop the symbol tables, and set the version that the server reports. Without it the server says
// v0.0.0-master+$Format:%H$, which clients refuse to parse.
func linkFlags(version, major, minor string) string {
	flags := []string{"-s", "-w"}
	for _, library := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags,
			"-X", library+".gitVersion=v"+version,
			"-X", library+".gitMajor="+major,
			"-X", library+".gitMinor="+minor,
			"-X", library+".gitTreeState=clean",
		)
	}
	return strings.Join(flags, " ")
}

// digest is a key of the recipe: the dependencies, the program's sources, the toolchain and its arguments.
func (r recipe) digest() (string, error) {
	sum := sha256.New()
	_, _ = fmt.Fprintln(sum, runtime.Version(), runtime.GOOS, runtime.GOARCH, r.args) // a hash takes everything
	for _, name := range []string{"go.mod", "go.sum"} {
		if err := addFile(sum, r.module, name); err != nil {
			return "", err
		}
	}
	err := fs.WalkDir(os.DirFS(r.module), "cmd/controlplane", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(name, "_test.go") {
			return err
		}
		return addFile(sum, r.module, name)
	})
	if err != nil {
		return "", fmt.Errorf("read the sources of the control plane: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}

// addFile adds a file's name, length and content to a digest.
func addFile(sum io.Writer, dir, name string) error {
	content, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return fmt.Errorf("read a source of the control plane: %w", err)
	}
	_, err = fmt.Fprintf(sum, "%s %d\n%s", name, len(content), content)
	return err
}

// FindModule returns the directory of the devcluster module that from lies in, or in whose repository from lies.
func FindModule(from string) (string, error) {
	for dir := from; ; dir = filepath.Dir(dir) {
		for _, candidate := range []string{dir, filepath.Join(dir, "devcluster")} {
			content, err := os.ReadFile(filepath.Join(candidate, "go.mod"))
			if err == nil && strings.HasPrefix(string(content), "module "+modulePath+"\n") {
				return candidate, nil
			}
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not in a Holdfast repository: run devcluster inside one, or name its devcluster directory "+
				"with --source", from)
		}
	}
}
