package engine

import (
	"regexp"

	enginecontext "github.com/kyverno/kyverno/pkg/engine/context"
	apiutils "github.com/kyverno/kyverno/pkg/utils/api"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// images are those of an object, read when the first rule asks for them, and once for all
// policies: Kyverno's own context reads them for each, and compiles what finds the
// question each time.
type images struct {
	engine *Engine
	object unstructured.Unstructured
	done   bool
	err    error
	infos  map[string]map[string]apiutils.ImageInfo
	value  any // as rules see them; nil: there are none
}

// read has Kyverno read the images, if that is not done yet.
func (i *images) read() error {
	if i.done {
		return i.err
	}
	i.done = true
	if i.infos, i.err = apiutils.ExtractImagesFromResource(i.object, nil, i.engine.config); i.err != nil || len(i.infos) == 0 {
		return i.err
	}
	variables := enginecontext.NewContext(i.engine.jp)
	if i.err = variables.AddImageInfos(&i.object, i.engine.config); i.err == nil {
		i.value, i.err = variables.Query("images")
	}
	return i.err
}

// imageLoader puts the images among the variables of a policy.
type imageLoader struct {
	*images

	variables enginecontext.Interface
}

var _ enginecontext.DeferredLoader = imageLoader{}

// asksImages finds questions for images where Kyverno does: not those for a field of
// that name.
var asksImages = regexp.MustCompile(`(?:\A|\z|\s|[^.0-9A-Za-z])images\b`)

// Name implements [enginecontext.DeferredLoader].
func (imageLoader) Name() string { return "images" }

// Matches implements [enginecontext.DeferredLoader].
func (imageLoader) Matches(query string) bool { return asksImages.MatchString(query) }

// HasLoaded implements [enginecontext.DeferredLoader]: they are put there again after
// variables were put back.
func (imageLoader) HasLoaded() bool { return false }

// LoadData implements [enginecontext.DeferredLoader]. Rules may write over variables,
// and get a copy.
func (l imageLoader) LoadData() error {
	if err := l.read(); err != nil || l.value == nil {
		return err
	}
	return l.variables.AddVariable("images", runtime.DeepCopyJSONValue(l.value))
}
