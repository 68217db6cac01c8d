package render

import (
	"errors"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
	"sigs.k8s.io/json"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// programs evaluates the Jsonnet files of one request. Like Argo CD, it gives
// every file a machine of its own and the same variables.
//
// What the interpreter does not bound (tail calls without end, huge arrays) the
// worker does, by ending; the file is then known from what the worker asked for last (see [watched]).
type programs struct {
	given   Jsonnet
	files   worker.Files
	imports *imports
}

// newPrograms returns what evaluates the files of a request in dir. Errors are
// Refused for a library outside of the tree.
func newPrograms(req Request, dir string, files worker.Files) (*programs, error) {
	p := &programs{files: files}
	if req.Jsonnet != nil {
		p.given = *req.Jsonnet
	}
	p.imports = &imports{files: files, read: map[string]jsonnet.Contents{}, edges: map[string][]string{}}
	for _, lib := range slices.Backward(p.given.Libraries) { // as Argo CD: the last library comes first
		lib = strings.TrimPrefix(lib, "/")
		if leaves("", lib) {
			return nil, fault.New(fault.Refused, "the Jsonnet library %q leaves the source", lib)
		}
		p.imports.dirs = append(p.imports.dirs, lib)
	}
	p.imports.dirs = append(p.imports.dirs, dir)
	return p, nil
}

// evaluate returns the objects that the program in a file gives: its result is
// an object, or a list of them. Errors are Invalid with file and line, Refused
// for an import that leaves the tree, Limit.
func (p *programs) evaluate(name string, content []byte, b *budget) ([]document, error) {
	p.imports.start(name, content)
	if _, _, err := p.files.Resolve(name); err != nil { // tells the parent what runs now
		return nil, err
	}
	text, err := p.run(name)
	if err != nil {
		return nil, p.explain(name, err)
	}
	var result any
	if err := json.UnmarshalCaseSensitivePreserveInts([]byte(text), &result); err != nil {
		return nil, fault.New(fault.Limit, "the result is not accepted: %s", shorten(err.Error())).At(name, 0)
	}
	docs, err := resultObjects(result, b)
	return docs, atFile(err, name)
}

func (p *programs) run(name string) (string, error) {
	vm := jsonnet.MakeVM()
	vm.SetTraceOut(io.Discard)
	vm.Importer(p.imports)
	for _, v := range p.given.ExtVars {
		if v.Code {
			vm.ExtCode(v.Name, v.Value)
		} else {
			vm.ExtVar(v.Name, v.Value)
		}
	}
	for _, v := range p.given.TLAs {
		if v.Code {
			vm.TLACode(v.Name, v.Value)
		} else {
			vm.TLAVar(v.Name, v.Value)
		}
	}
	program, _, err := vm.ImportAST("", name)
	if err != nil {
		return "", err
	}
	return vm.Evaluate(program)
}

// resultObjects takes objects out of a program's result, as Argo CD does: null
// gives nothing, and so does null in a list; lists do not nest.
func resultObjects(result any, b *budget) ([]document, error) {
	value, err := b.jsonable(result, 0)
	if err != nil {
		return nil, err
	}
	list, isList := value.([]any)
	if !isList {
		list = []any{value}
	}
	var docs []document
	for i, item := range list {
		if item == nil {
			continue
		}
		if _, nested := item.([]any); nested {
			return nil, fault.New(fault.Invalid, "item %d of the result is a list, not a Kubernetes object", i).
				WithHint("std.flattenArrays makes one list of many")
		}
		if docs, err = expand(docs, item, 0, nil, b, 0); err != nil {
			return nil, err
		}
	}
	return docs, nil
}

// explain turns the interpreter's error into ours: what an import came to first,
// then the innermost place that is in the tree.
func (p *programs) explain(name string, err error) error {
	at := p.place(name, err)
	if f := p.imports.failed; f != nil {
		if f.File == "" {
			return f.At(at.FileName, at.Begin.Line)
		}
		return f
	}
	text := err.Error()
	if r, ok := errors.AsType[jsonnet.RuntimeError](err); ok {
		text = r.Msg
	}
	if crash, ok := strings.CutPrefix(text, "(CRASH) "); ok {
		return crashed(crash).At(name, 0)
	}
	if strings.HasPrefix(text, "max stack frames exceeded") {
		f := fault.New(fault.Limit, "the program recurses too deeply").At(at.FileName, at.Begin.Line)
		if cycle := p.imports.cycle(name); cycle != nil {
			return f.WithHint("files import each other: %s", strings.Join(cycle, " imports "))
		}
		return f
	}
	if file, line, msg, ok := p.syntaxError(text); ok {
		return fault.New(fault.Invalid, "%s", shorten(msg)).At(file, line)
	}
	return fault.New(fault.Invalid, "%s", shorten(text)).At(at.FileName, at.Begin.Line)
}

// crashed is for a panic of the interpreter, whose text goes on with a stack.
func crashed(text string) *fault.Error {
	first, _, _ := strings.Cut(text, "\n")
	if strings.Contains(first, "makeslice") || strings.Contains(first, "Repeat") || strings.Contains(first, "growslice") {
		return fault.New(fault.Limit, "the program makes a value that is too large")
	}
	return fault.New(fault.Invalid, "the interpreter broke on this program: %s", shorten(first))
}

// place returns the innermost place of an error that is in a file of the tree;
// the program's file without a line if there is none.
func (p *programs) place(name string, err error) ast.LocationRange {
	if r, ok := errors.AsType[jsonnet.RuntimeError](err); ok {
		for _, frame := range slices.Backward(r.StackTrace) {
			if _, ours := p.imports.read[frame.Loc.FileName]; ours {
				return frame.Loc
			}
		}
	}
	return ast.LocationRange{FileName: name}
}

// syntaxError reads "file:line:column text" and "file:(line:column)-(…) text":
// the interpreter knows an error in an imported file as text only.
func (p *programs) syntaxError(text string) (file string, line int, msg string, ok bool) {
	for name := range p.imports.read {
		where, found := strings.CutPrefix(text, name+":")
		if !found {
			continue
		}
		where, msg, _ = strings.Cut(where, " ")
		number, _, _ := strings.Cut(strings.TrimPrefix(where, "("), ":")
		if line, err := strconv.Atoi(number); err == nil {
			return name, line, msg, true
		}
	}
	return "", 0, "", false
}

// imports finds and reads what programs import: beside the importing file,
// then in the libraries, then in the directory of the request.
type imports struct {
	files  worker.Files
	dirs   []string
	read   map[string]jsonnet.Contents // by path in the tree
	edges  map[string][]string         // who imports whom
	main   string
	failed *fault.Error // of this program
}

// start makes ready for a program, whose own file was read already.
func (i *imports) start(name string, content []byte) {
	i.main, i.failed = name, nil
	if _, ok := i.read[name]; !ok {
		i.read[name] = jsonnet.MakeContentsRaw(content)
	}
}

// Import implements jsonnet.Importer. Its error ends the program, because
// Jsonnet cannot catch one, and is remembered: the interpreter reduces it to text.
func (i *imports) Import(from, name string) (jsonnet.Contents, string, error) {
	if from == "" && name == i.main {
		return i.read[name], name, nil
	}
	at, err := i.find(from, name)
	if err == nil {
		i.edges[from] = append(i.edges[from], at)
		return i.read[at], at, nil
	}
	if i.failed == nil && !errors.As(err, &i.failed) {
		i.failed = fault.New(fault.Internal, "%v", err)
	}
	return jsonnet.Contents{}, "", err
}

// find returns the path of what is imported, once it has been read.
func (i *imports) find(from, name string) (string, error) {
	dirs := i.dirs
	if from != "" { // else it is a variable's code, which is nowhere
		dirs = append([]string{path.Dir(from)}, dirs...)
	}
	left := false
	for _, dir := range dirs {
		if path.IsAbs(name) || leaves(dir, name) {
			left = true
			continue
		}
		at := path.Join(dir, name)
		if err := i.open(at); err == nil {
			return at, nil
		} else if !errors.Is(err, tree.ErrNotExist) {
			return "", err
		}
	}
	if left {
		return "", fault.New(fault.Refused, "the import %q leaves the source", name)
	}
	return "", fault.New(fault.Invalid, "the import %q is neither beside this file nor in a library", name)
}

func (i *imports) open(name string) error {
	if _, ok := i.read[name]; ok {
		return nil
	}
	content, err := i.files.ReadFile(name)
	if err != nil {
		return err
	}
	i.read[name] = jsonnet.MakeContentsRaw(content)
	return nil
}

// cycle returns files of which each imports the next, and the last is the first.
func (i *imports) cycle(from string) []string {
	done := map[string]bool{}
	var way []string
	var visit func(string) []string
	visit = func(name string) []string {
		if at := slices.Index(way, name); at >= 0 {
			return append(slices.Clone(way[at:]), name)
		}
		if done[name] {
			return nil
		}
		done[name] = true
		way = append(way, name)
		defer func() { way = way[:len(way)-1] }()
		for _, next := range i.edges[name] {
			if found := visit(next); found != nil {
				return found
			}
		}
		return nil
	}
	return visit(from)
}
