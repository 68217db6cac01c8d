package oci

import (
	"bytes"
	"compress/gzip"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
)

const (
	// fluxContent is the layer that flux push artifact makes.
	fluxContent = "application/vnd.cncf.flux.content.v1.tar+gzip"
	// title is the name of the file that a layer is
	// (https://github.com/opencontainers/image-spec/blob/main/annotations.md), and unpack
	// says that it is an archive of a directory of that name, as oras has it.
	title  = "org.opencontainers.image.title"
	unpack = "io.deis.oras.content.unpack"

	maxLayers = 1000
)

// layer is a part of an artifact.
type layer struct {
	v1.Descriptor

	file string // that it is; "": it is an archive
}

// layersOf returns the layers that make the tree of an artifact: Flux's content if there
// is one; the one that there is, if it is an archive; else all, if each is a file with a name,
// or an archive of a directory with one. Errors: Unsupported, Invalid, Limit.
func layersOf(manifest []byte) ([]layer, error) {
	m, err := parse(manifest)
	if err != nil {
		return nil, err
	}
	if len(m.Layers) > maxLayers {
		return nil, fault.New(fault.Limit, "the artifact has more than %d layers", maxLayers)
	}
	for _, d := range m.Layers {
		if d.MediaType == fluxContent {
			return []layer{{Descriptor: d}}, nil
		}
	}
	if len(m.Layers) == 1 && isArchive(m.Layers[0]) {
		return []layer{{Descriptor: m.Layers[0]}}, nil
	}
	var all []layer
	for i, d := range m.Layers {
		name := d.Annotations[title]
		switch {
		case name == "":
			return nil, fault.New(fault.Unsupported, "layer %d is a %s without a name", i, mediaType(d)).
				WithHint("push one tar+gzip layer, as flux push artifact does, or files with the annotation %s, as oras push does", title)
		case d.Annotations[unpack] == "true" && isArchive(d):
			all = append(all, layer{Descriptor: d})
		case d.Annotations[unpack] == "true":
			return nil, fault.New(fault.Unsupported, "layer %d is to be unpacked, and is a %s", i, mediaType(d)).WithHint("push tar+gzip")
		default:
			all = append(all, layer{Descriptor: d, file: name})
		}
	}
	return all, nil
}

// isArchive reports whether a layer is a tar, compressed by gzip.
func isArchive(d v1.Descriptor) bool {
	t := string(d.MediaType)
	return strings.HasSuffix(t, ".tar+gzip") || strings.HasSuffix(t, ".tar.gzip") || t == "application/gzip" || t == "application/x-gzip"
}

// mediaType is a layer's, as far as it fits into a message.
func mediaType(d v1.Descriptor) string {
	return strings.ToValidUTF8(string(d.MediaType[:min(len(d.MediaType), 100)]), "")
}

// unpack adds what a layer holds to a tree.
func (l layer) unpack(b *tree.Builder, content []byte) error {
	if l.file != "" {
		return b.File(l.file, content)
	}
	archive, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		return fault.New(fault.Invalid, "layer %s is not compressed by gzip", l.Digest).Because(err)
	}
	return b.Tar(archive)
}
