package gitserver

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Repo is one bare repository, seen from one of its branches.
type Repo struct {
	server *Server
	name   string
	branch string
}

// Create makes an empty repository whose HEAD is main. It fails if it exists.
func (s *Server) Create(name string) (*Repo, error) {
	r := s.Repo(name)
	if _, err := os.Stat(r.Dir()); err == nil {
		return nil, fmt.Errorf("repository %s exists", name)
	}
	if err := os.MkdirAll(r.Dir(), 0o755); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--bare", "."},
		{"symbolic-ref", "HEAD", "refs/heads/main"},
		{"config", "http.receivepack", "true"},
		{"config", "gc.auto", "0"}, // nothing may run on after a request
		{"config", "receive.autogc", "false"},
	} {
		if _, err := s.git(r.Dir(), nil, args...); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Repo returns a repository by its name, at branch main; it need not exist.
func (s *Server) Repo(name string) *Repo { return &Repo{server: s, name: name, branch: "main"} }

// Branch returns the same repository seen from another branch, which the next
// commit creates if need be, without a parent.
func (r *Repo) Branch(name string) *Repo { return &Repo{server: r.server, name: r.name, branch: name} }

// URL returns the repository's address.
func (r *Repo) URL() string { return r.server.URL(r.name) }

// Dir returns where the bare repository lies on disk.
func (r *Repo) Dir() string { return filepath.Join(r.server.dir, r.name+".git") }

// Git runs git in the bare repository and returns what it printed.
func (r *Repo) Git(args ...string) (string, error) { return r.server.git(r.Dir(), nil, args...) }

// A Change is one part of a commit.
type Change struct {
	path, mode, content string
	object              string // of an existing blob, instead of content
}

// Put writes a regular file.
func Put(path, content string) Change { return Change{path: path, mode: "100644", content: content} }

// PutExecutable writes an executable file.
func PutExecutable(path, content string) Change {
	return Change{path: path, mode: "100755", content: content}
}

// Link writes a symlink.
func Link(path, target string) Change { return Change{path: path, mode: "120000", content: target} }

// Delete removes a file or a directory with all that is in it.
func Delete(path string) Change { return Change{path: path} }

// Clear removes every file; give it first.
func Clear() Change { return Change{mode: "clear"} }

// Files writes regular files, in the order of their names.
func Files(files map[string]string) []Change {
	var changes []Change
	for path, content := range files {
		changes = append(changes, Put(path, content))
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.path, b.path) })
	return changes
}

// Commit adds a commit to the branch and returns its id.
func (r *Repo) Commit(message string, changes ...Change) (string, error) {
	parent, err := r.Head()
	if err != nil {
		parent = ""
	}
	return r.commit(message, parent, changes)
}

// Amend replaces the branch's last commit by another with the same parent, as a
// forced push does, and returns its id. The changes apply to the parent.
func (r *Repo) Amend(message string, changes ...Change) (string, error) {
	parent, err := r.Git("rev-parse", "--verify", "--quiet", "refs/heads/"+r.branch+"^")
	if err != nil {
		parent = ""
	}
	return r.commit(message, parent, changes)
}

func (r *Repo) commit(message, parent string, changes []Change) (string, error) {
	var in bytes.Buffer
	ref := "refs/heads/" + r.branch
	if parent == "" {
		fmt.Fprintf(&in, "reset %s\n\n", ref)
	}
	fmt.Fprintf(&in, "commit %s\nmark :1\ncommitter Holdfast Test <test@example.com> %d +0000\ndata %d\n%s\n",
		ref, r.server.opts.Now().Unix(), len(message), message)
	if parent != "" {
		fmt.Fprintf(&in, "from %s\n", parent)
	}
	for _, c := range changes {
		writeChange(&in, c)
	}
	in.WriteString("\nget-mark :1\ndone\n")
	return r.server.git(r.Dir(), in.Bytes(), "fast-import", "--quiet", "--force", "--done", "--date-format=raw")
}

func writeChange(in *bytes.Buffer, c Change) {
	path := quote(c.path)
	switch {
	case c.mode == "clear":
		in.WriteString("deleteall\n")
	case c.mode == "":
		fmt.Fprintf(in, "D %s\n", path)
	case c.object != "":
		fmt.Fprintf(in, "M %s %s %s\n", c.mode, c.object, path)
	default:
		fmt.Fprintf(in, "M %s inline %s\ndata %d\n%s\n", c.mode, path, len(c.content), c.content)
	}
}

// quote writes a path so that fast-import takes any character.
func quote(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(path) + `"`
}

// Revert adds a commit that undoes what commit id changed, and returns its id.
// It fails for a commit without a parent.
func (r *Repo) Revert(id string) (string, error) {
	out, err := r.Git("diff-tree", "-r", "-z", "--no-renames", "--no-commit-id", id, id+"^")
	if err != nil {
		return "", err
	}
	var changes []Change
	fields := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
	for ; len(fields) >= 2; fields = fields[2:] {
		// ":oldmode newmode oldid newid status", then the path.
		f := strings.Fields(fields[0])
		c := Change{path: fields[1], mode: f[1], object: f[3]}
		if f[4] == "D" {
			c = Delete(fields[1])
		}
		changes = append(changes, c)
	}
	if len(changes) == 0 {
		return "", errNoChange
	}
	return r.Commit("Revert "+strconv.Quote(id[:min(12, len(id))]), changes...)
}

// Head returns the branch's commit; it fails when there is no such branch.
func (r *Repo) Head() (string, error) {
	return r.Git("rev-parse", "--verify", "--quiet", "refs/heads/"+r.branch)
}

// Set moves the branch to any commit, creating it if need be.
func (r *Repo) Set(id string) error {
	_, err := r.Git("update-ref", "refs/heads/"+r.branch, id)
	return err
}

// Remove deletes the branch.
func (r *Repo) Remove() error {
	_, err := r.Git("update-ref", "-d", "refs/heads/"+r.branch)
	return err
}

// SetRef moves any ref to any object, creating it if need be. name is a full
// one: refs/tags/v1, refs/pull/1/head.
func (r *Repo) SetRef(name, id string) error {
	_, err := r.Git("update-ref", name, id)
	return err
}

// RemoveRef deletes any ref by its full name.
func (r *Repo) RemoveRef(name string) error {
	_, err := r.Git("update-ref", "-d", name)
	return err
}

// Tag makes or moves a tag: an annotated one if there is a message.
func (r *Repo) Tag(name, id, message string) error {
	if message == "" {
		return r.SetRef("refs/tags/"+name, id)
	}
	_, err := r.Git("-c", "user.name=Holdfast Test", "-c", "user.email=test@example.com", "tag", "-f", "-a", "-m", message, name, id)
	return err
}

// Branches returns all branches with their commits.
func (r *Repo) Branches() (map[string]string, error) {
	out, err := r.Git("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads")
	if err != nil {
		return nil, err
	}
	branches := map[string]string{}
	for line := range strings.Lines(out) {
		if name, id, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			branches[name] = id
		}
	}
	return branches, nil
}
