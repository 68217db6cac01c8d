package main

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// field is a field of a type as its JSON has it.
type field struct {
	name string
	typ  reflect.Type // without a pointer
	// plain says that a zero value is the same as none.
	plain bool
	// node is the struct of the field, of its list's items or of its map's values; nil for a leaf.
	node reflect.Type
	// step is how a path goes on to node: "", "[]" or "{}".
	step string
}

// marshaler is implemented by types whose JSON is not that of their fields.
var marshaler = reflect.TypeFor[json.Marshaler]()

// fieldsOf returns the fields of a struct by name; those of embedded structs are among them.
func fieldsOf(t reflect.Type) []field {
	var all []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case name == "" && (f.Anonymous || strings.Contains(options, "inline")):
			if f.Type.Name() != "TypeMeta" {
				all = append(all, fieldsOf(f.Type)...)
			}
		case name == "metadata" || name == "status" && isObject(t):
		default:
			all = append(all, newField(name, f.Type))
		}
	}
	slices.SortFunc(all, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return all
}

// isObject says whether t has the metadata of an object; what is in its status is not for its author.
func isObject(t reflect.Type) bool {
	_, has := t.FieldByName("ObjectMeta")
	return has
}

func newField(name string, t reflect.Type) field {
	f := field{name: name, typ: t, plain: t.Kind() != reflect.Pointer && t.Kind() != reflect.Struct}
	if t.Kind() == reflect.Pointer {
		f.typ = t.Elem()
	}
	elem := f.typ
	switch f.typ.Kind() {
	case reflect.Slice:
		elem, f.step = elem.Elem(), "[]"
	case reflect.Map:
		elem, f.step = elem.Elem(), "{}"
	default:
	}
	if elem.Kind() == reflect.Struct && !isLeaf(elem) {
		f.node = elem
	}
	return f
}

// isLeaf says whether a struct's JSON is a value of its own. A schema in a CustomResourceDefinition is left as it is.
func isLeaf(t reflect.Type) bool {
	return t.Implements(marshaler) || reflect.PointerTo(t).Implements(marshaler) || t.Name() == "JSONSchemaProps" || t.Name() == "ObjectMeta"
}

// nameOf is a type's name in the table: its package below the module of its API, and itself.
func nameOf(t reflect.Type) string {
	path := t.PkgPath()
	for _, prefix := range []string{"k8s.io/api/", "k8s.io/apimachinery/pkg/apis/", "k8s.io/apiextensions-apiserver/pkg/apis/", "k8s.io/kube-aggregator/pkg/apis/"} {
		path = strings.TrimPrefix(path, prefix)
	}
	return path + "." + t.Name()
}

// constants are the values that the source of the API gives names to, by type.
type constants map[string][]string

// findConstants reads them from the modules that this program is built with.
func findConstants() (constants, error) {
	all := constants{}
	for module, below := range map[string]string{
		"k8s.io/api": "", "k8s.io/apiextensions-apiserver": "pkg/apis/apiextensions/v1", "k8s.io/kube-aggregator": "pkg/apis/apiregistration/v1",
	} {
		dir, err := sourceOf(module)
		if err != nil {
			return nil, err
		}
		err = filepath.WalkDir(filepath.Join(dir, below), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, "types.go") {
				return err
			}
			return all.read(path)
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// read adds the constants of one file.
func (c constants) read(path string) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	pkg := filepath.Base(filepath.Dir(filepath.Dir(path))) + "/" + filepath.Base(filepath.Dir(path))
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		typ, named := spec.Type.(*ast.Ident)
		value, literal := spec.Values[0].(*ast.BasicLit)
		if named && literal && value.Kind == token.STRING {
			if text, err := strconv.Unquote(value.Value); err == nil && text != "" {
				c[pkg+"."+typ.Name] = append(c[pkg+"."+typ.Name], text)
			}
		}
		return true
	})
	return nil
}
