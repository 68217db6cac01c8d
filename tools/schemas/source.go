package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// source is what the Go source of an API says and its OpenAPI documents do not: the values of enumerations, and when kinds go.
// Packages are named by their last two elements, such as core/v1.
type source struct {
	enums   map[string]bool     // types marked as enumerations, as "core/v1.Protocol"
	values  map[string][]string // constants by type
	unread  map[string]bool     // types with a constant that is no text
	structs map[string]map[string]ast.Expr
	embeds  map[string][]ast.Expr
	imports map[string]map[string]string // package: alias: package
	gone    map[string]removal           // by "apiVersion Kind"
	groups  map[string]string            // package: group
}

// removal is when a kind is no longer served, and what to use instead.
type removal struct {
	minor   int
	instead string // an apiVersion, and another kind where it is another
}

func newSource() *source {
	return &source{
		enums: map[string]bool{}, values: map[string][]string{}, unread: map[string]bool{}, structs: map[string]map[string]ast.Expr{}, embeds: map[string][]ast.Expr{},
		imports: map[string]map[string]string{}, gone: map[string]removal{}, groups: map[string]string{},
	}
}

// read takes in the packages of a module below dir.
func (s *source) read(dir, module string) error {
	return filepath.WalkDir(dir, func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		pkg := path.Base(path.Dir(filepath.ToSlash(filepath.Dir(file)))) + "/" + filepath.Base(filepath.Dir(file))
		switch filepath.Base(file) {
		case "types.go", "types_jsonschema.go":
			return s.readTypes(file, pkg)
		case "register.go", "zz_generated.prerelease-lifecycle.go":
			return s.readLifecycle(file, pkg)
		default:
			return nil
		}
	})
}

// readTypes takes in declarations of types and constants.
func (s *source) readTypes(file, pkg string) error {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if s.imports[pkg] == nil {
		s.imports[pkg] = map[string]string{}
	}
	for _, i := range parsed.Imports {
		full, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return err
		}
		short := path.Base(path.Dir(full)) + "/" + path.Base(full)
		alias := path.Base(full)
		if i.Name != nil {
			alias = i.Name.Name
		}
		s.imports[pkg][alias] = short
	}
	for _, declaration := range parsed.Decls {
		general, ok := declaration.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range general.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				s.addType(pkg, spec, general.Doc)
			case *ast.ValueSpec:
				s.addConstant(pkg, spec)
			}
		}
	}
	return nil
}

func (s *source) addType(pkg string, spec *ast.TypeSpec, doc *ast.CommentGroup) {
	name := pkg + "." + spec.Name.Name
	if spec.Doc != nil {
		doc = spec.Doc
	}
	if doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.TrimSpace(strings.TrimPrefix(c.Text, "//")) == "+enum" }) {
		s.enums[name] = true
	}
	body, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	s.structs[name] = map[string]ast.Expr{}
	for _, f := range body.Fields.List {
		tag := ""
		if f.Tag != nil {
			text, err := strconv.Unquote(f.Tag.Value)
			if err != nil {
				continue
			}
			tag, _, _ = strings.Cut(reflect.StructTag(text).Get("json"), ",")
		}
		if tag != "" {
			s.structs[name][tag] = f.Type
		} else if len(f.Names) == 0 {
			s.embeds[name] = append(s.embeds[name], f.Type)
		}
	}
}

// addConstant takes in a constant that is declared with a type, or as a conversion to one.
func (s *source) addConstant(pkg string, spec *ast.ValueSpec) {
	for _, v := range spec.Values {
		typ, _ := spec.Type.(*ast.Ident)
		if conversion, ok := v.(*ast.CallExpr); ok && len(conversion.Args) == 1 {
			typ, _ = conversion.Fun.(*ast.Ident)
			v = conversion.Args[0]
		}
		if typ == nil {
			continue
		}
		name := pkg + "." + typ.Name
		literal, ok := v.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			s.unread[name] = true
			continue
		}
		if text, err := strconv.Unquote(literal.Value); err == nil && !slices.Contains(s.values[name], text) {
			s.values[name] = append(s.values[name], text)
		}
	}
}

// allowed returns the values of a field of a schema's type that is an enumeration; none where it is not, or where a value could
// not be written in the file.
func (s *source) allowed(schemaName, field string) []string {
	typ := s.fieldType(structOf(schemaName), field)
	if !s.enums[typ] || s.unread[typ] {
		return nil
	}
	all := slices.Sorted(slices.Values(s.values[typ]))
	if slices.ContainsFunc(all, func(v string) bool { return strings.ContainsAny(v, " |=\n") }) {
		return nil
	}
	return slices.DeleteFunc(all, func(v string) bool { return v == "" })
}

// structOf is the Go type of a schema, such as core/v1.Pod of io.k8s.api.core.v1.Pod.
func structOf(schemaName string) string {
	parts := strings.Split(schemaName, ".")
	if len(parts) < 3 {
		return schemaName
	}
	return strings.Join(parts[len(parts)-3:len(parts)-1], "/") + "." + parts[len(parts)-1]
}

// fieldType names the type of a field, of its items or its values.
func (s *source) fieldType(structName, field string) string {
	pkg, _, _ := strings.Cut(structName, ".")
	if t, ok := s.structs[structName][field]; ok {
		return s.typeName(pkg, t)
	}
	for _, e := range s.embeds[structName] {
		if found := s.fieldType(s.typeName(pkg, e), field); found != "" {
			return found
		}
	}
	return ""
}

func (s *source) typeName(pkg string, t ast.Expr) string {
	switch t := t.(type) {
	case *ast.StarExpr:
		return s.typeName(pkg, t.X)
	case *ast.ArrayType:
		return s.typeName(pkg, t.Elt)
	case *ast.MapType:
		return s.typeName(pkg, t.Value)
	case *ast.Ident:
		return pkg + "." + t.Name
	case *ast.SelectorExpr:
		if alias, ok := t.X.(*ast.Ident); ok {
			return s.imports[pkg][alias.Name] + "." + t.Sel.Name
		}
	}
	return ""
}

// readLifecycle takes in when the kinds of a package are no longer served.
func (s *source) readLifecycle(file, pkg string) error {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	group := path.Dir(pkg)
	ast.Inspect(parsed, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Names) == 1 && spec.Names[0].Name == "GroupName" && len(spec.Values) == 1 {
			if literal, ok := spec.Values[0].(*ast.BasicLit); ok {
				s.groups[pkg], _ = strconv.Unquote(literal.Value)
			}
		}
		f, ok := n.(*ast.FuncDecl)
		if !ok || f.Recv == nil || len(f.Body.List) != 1 {
			return true
		}
		result, ok := f.Body.List[0].(*ast.ReturnStmt)
		if ok {
			s.addLifecycle(pkg, group, f, result.Results)
		}
		return true
	})
	return nil
}

// addLifecycle takes in one function. The file of a package's group is read before that of its lifecycle: r is before z.
func (s *source) addLifecycle(pkg, group string, f *ast.FuncDecl, results []ast.Expr) {
	kind := s.typeName("", f.Recv.List[0].Type)
	kind = kind[strings.LastIndexByte(kind, '.')+1:]
	if full := s.groups[pkg]; full != "" {
		group = full
	}
	key := strings.TrimPrefix(group+"/"+path.Base(pkg), "/") + " " + kind
	r := s.gone[key]
	switch f.Name.Name {
	case "APILifecycleRemoved":
		if literal, ok := results[1].(*ast.BasicLit); ok {
			r.minor, _ = strconv.Atoi(literal.Value)
		}
	case "APILifecycleReplacement":
		if literal, ok := results[0].(*ast.CompositeLit); ok {
			r.instead = replacement(literal, kind)
		}
	default:
		return
	}
	if !strings.HasSuffix(kind, "List") {
		s.gone[key] = r
	}
}

// replacement reads a literal of a GroupVersionKind.
func replacement(literal *ast.CompositeLit, kind string) string {
	parts := map[string]string{}
	for _, e := range literal.Elts {
		pair, ok := e.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		name, isName := pair.Key.(*ast.Ident)
		value, isValue := pair.Value.(*ast.BasicLit)
		if isName && isValue {
			parts[name.Name], _ = strconv.Unquote(value.Value)
		}
	}
	version := strings.TrimPrefix(parts["Group"]+"/"+parts["Version"], "/")
	if parts["Kind"] != kind {
		return version + " " + parts["Kind"]
	}
	return version
}
