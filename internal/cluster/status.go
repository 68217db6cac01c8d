package cluster

import (
	"context"
	"encoding/json"

	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// SetStatus sets fields of the status of an object, by a merge patch (RFC 7386) of its
// subresource. It needs the verb patch on that alone. Errors as [Client.Apply];
// NotFound also where the kind has no such subresource.
func (k *Client) SetStatus(ctx context.Context, kind schema.Kind, id object.ID, status map[string]any, manager string) error {
	body, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return fault.New(fault.Internal, "the status cannot be written").On(id.String()).Because(err)
	}
	at := append(urlPath(kind, id.Namespace, id.Name), "status")
	r := k.as(k.c.plain.Patch(types.MergePatchType)).AbsPath(at...).Body(body).
		Param("fieldManager", manager).SetHeader("Accept", acceptMetaJSON)
	_, err = k.do(ctx, r, request{"patch", k.who, kind, id})
	return err
}
