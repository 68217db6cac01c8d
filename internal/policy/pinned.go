package policy

import "github.com/holdfastcd/holdfast/internal/object"

// Pinned returns the admitted objects with the digests of their images, as
// [object.PinImages] puts them there.
func (a Admitted) Pinned(pins map[string]string, paths []object.ImagePath) Admitted {
	return Admitted{objects: object.PinImages(a.objects, pins, paths...)}
}
