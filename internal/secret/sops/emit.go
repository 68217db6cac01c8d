package sops

import (
	"bytes"
	"encoding/json"

	"github.com/getsops/sops/v3"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// emitJSON writes one object, in the order it had. The library's own writer joins
// strings, level by level, which takes time by the square of the file's size.
func emitJSON(branches sops.TreeBranches) ([]byte, error) {
	if len(branches) != 1 {
		return nil, fault.New(fault.Invalid, "a JSON file holds one object")
	}
	var compact, indented bytes.Buffer
	if err := writeJSON(&compact, branches[0]); err != nil {
		return nil, fault.New(fault.Invalid, "what the file holds cannot be written as JSON")
	}
	if err := json.Indent(&indented, compact.Bytes(), "", "\t"); err != nil {
		return nil, fault.New(fault.Invalid, "what the file holds cannot be written as JSON")
	}
	indented.WriteByte('\n')
	return indented.Bytes(), nil
}

func writeJSON(w *bytes.Buffer, v any) error {
	switch v := v.(type) {
	case sops.TreeBranch:
		return writeObject(w, v)
	case []any:
		w.WriteByte('[')
		for i, item := range v {
			if i > 0 {
				w.WriteByte(',')
			}
			if err := writeJSON(w, item); err != nil {
				return err
			}
		}
		w.WriteByte(']')
		return nil
	}
	text, err := json.Marshal(v)
	w.Write(text)
	return err
}

func writeObject(w *bytes.Buffer, branch sops.TreeBranch) error {
	w.WriteByte('{')
	for i, item := range branch {
		if i > 0 {
			w.WriteByte(',')
		}
		if err := writeJSON(w, item.Key); err != nil {
			return err
		}
		w.WriteByte(':')
		if err := writeJSON(w, item.Value); err != nil {
			return err
		}
	}
	w.WriteByte('}')
	return nil
}
