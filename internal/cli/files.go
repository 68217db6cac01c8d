package cli

import (
	"bytes"
	"errors"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// maxFile bounds what is read of one file.
const maxFile = 64 << 20

// readObjects reads the Kubernetes objects in files, YAML or JSON, one document
// or many; "-" is standard input. Errors are Invalid, NotFound and Limit, with the
// file's name.
func readObjects(p Process, files []string) ([]*unstructured.Unstructured, error) {
	if len(files) == 0 {
		return nil, fault.New(fault.Invalid, "no file is given").WithHint("name one with -f FILE, or -f - for standard input")
	}
	var all []*unstructured.Unstructured
	for _, name := range files {
		content, err := readFile(p, name)
		if err != nil {
			return nil, err
		}
		objects, err := parseObjects(content)
		if err != nil {
			return nil, fault.New(fault.Invalid, "not YAML or JSON of Kubernetes objects: %s", err).At(name, 0)
		}
		all = append(all, objects...)
	}
	return all, nil
}

func readFile(p Process, name string) ([]byte, error) {
	in := p.In
	if name != "-" {
		f, err := os.Open(name) //nolint:gosec // the user named it
		if errors.Is(err, os.ErrNotExist) {
			return nil, fault.New(fault.NotFound, "there is no such file").At(name, 0).Because(err)
		}
		if err != nil {
			return nil, fault.New(fault.Invalid, "cannot open it: %s", errors.Unwrap(err)).At(name, 0)
		}
		defer func() { _ = f.Close() }() // only read from
		in = f
	}
	content, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	switch {
	case err != nil:
		return nil, fault.New(fault.Invalid, "cannot read it: %s", err).At(name, 0)
	case len(content) > maxFile:
		return nil, fault.New(fault.Limit, "the file has more than %d bytes", maxFile).At(name, 0).WithHint("split it")
	}
	return content, nil
}

func parseObjects(content []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		o := &unstructured.Unstructured{}
		switch err := documents.Decode(&o.Object); {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, err
		}
		if len(o.Object) == 0 {
			continue
		}
		if o.GetKind() == "" || o.GetAPIVersion() == "" {
			return nil, errors.New("a document has no apiVersion or no kind")
		}
		objects = append(objects, o)
	}
}
