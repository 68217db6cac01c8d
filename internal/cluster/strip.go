package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// Strip removes fields from an object, in the name of manager: a GET, and a JSON patch
// (RFC 6902) that names the resource version it is about. Fields, and an object, that are
// gone already are no error. Errors as [Client.Apply]; [ErrChanged] if somebody else
// wrote in between.
func (k *Client) Strip(ctx context.Context, kind schema.Kind, id object.ID, fields []object.Path, manager string) error {
	live, err := k.Get(ctx, kind, id)
	if fault.KindOf(err) == fault.NotFound && !errors.Is(err, ErrNotServed) {
		return nil
	}
	if err != nil {
		return err
	}
	pointers := pointersTo(live.Object, fields)
	if len(pointers) == 0 {
		return nil
	}
	type op struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value,omitempty"`
	}
	patch := []op{{"replace", "/metadata/resourceVersion", live.GetResourceVersion()}}
	for _, p := range pointers {
		patch = append(patch, op{"remove", p, nil})
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return fault.New(fault.Internal, "the patch cannot be written").On(id.String()).Because(err)
	}
	r := k.as(k.c.plain.Patch(types.JSONPatchType)).AbsPath(urlPath(kind, id.Namespace, id.Name)...).Body(body).
		Param("fieldManager", manager).SetHeader("Accept", acceptMetaJSON)
	_, err = k.do(ctx, r, request{"patch", k.who, kind, id})
	return err
}

// pointersTo returns the JSON pointers of fields that content has, the last items of a
// list first, so that the others keep their places.
func pointersTo(content map[string]any, fields []object.Path) []string {
	var pointers []string
	for _, f := range fields {
		if p, ok := f.Pointer(content); ok {
			pointers = append(pointers, p)
		}
	}
	slices.SortFunc(pointers, func(a, b string) int {
		return slices.CompareFunc(strings.Split(b, "/"), strings.Split(a, "/"), func(x, y string) int {
			i, errX := strconv.Atoi(x)
			j, errY := strconv.Atoi(y)
			if errX == nil && errY == nil {
				return cmp.Compare(i, j)
			}
			return strings.Compare(x, y)
		})
	})
	return slices.Compact(pointers)
}
