package render

import (
	"maps"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/resid"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// override lays the request's settings over the kustomization file, and asks
// for annotations that tell where objects come from.
func (b *build) override(name string) error {
	k, err := b.survey.load(name)
	if err != nil {
		return err
	}
	b.name = name
	set(&k.Namespace, b.req.Namespace)
	set(&k.NamePrefix, b.req.NamePrefix)
	set(&k.NameSuffix, b.req.NameSuffix)
	for _, text := range b.req.Images {
		image, err := parseImage(text)
		if err != nil {
			return err
		}
		k.Images = mergeImage(k.Images, image)
	}
	if b.req.Overrides != nil {
		if err := b.overrides(k, *b.req.Overrides); err != nil {
			return err
		}
	}
	if err := k.CheckEmpty(); err != nil {
		return fault.New(fault.Invalid, "the kustomization is empty").At(name, 1)
	}
	if b.origins = slices.Contains(k.BuildMetadata, types.OriginAnnotations); !b.origins {
		k.BuildMetadata = append(k.BuildMetadata, types.OriginAnnotations)
	}
	return b.fs.lay(name, &k.Kustomization)
}

// overrides lays the rarer settings over k, as `kustomize edit` does for Argo CD.
func (b *build) overrides(k *kustomizationFile, o Overrides) error {
	for _, r := range o.Replicas {
		k.Replicas = mergeReplicas(k.Replicas, types.Replica{Name: r.Name, Count: r.Count})
	}
	if err := b.label(k, o); err != nil {
		return err
	}
	if !b.stampsAnnotations() {
		if err := merge(k, "annotation", &k.CommonAnnotations, o.Annotations, o.ForceAnnotations); err != nil {
			return err
		}
	}
	for _, p := range o.Patches {
		if err := b.patch(k, p); err != nil {
			return err
		}
	}
	for _, c := range o.Components {
		if err := b.component(k, c, o.IgnoreMissingComponents); err != nil {
			return err
		}
	}
	return nil
}

func mergeReplicas(replicas []types.Replica, rule types.Replica) []types.Replica {
	i := slices.IndexFunc(replicas, func(have types.Replica) bool { return have.Name == rule.Name })
	if i < 0 {
		return append(replicas, rule)
	}
	replicas[i] = rule
	return replicas
}

// label adds labels: those for selectors to commonLabels, which labels templates
// too, and others to an entry of labels that reaches as far.
func (b *build) label(k *kustomizationFile, o Overrides) error {
	if len(o.Labels) == 0 || b.stampsLabels() {
		return nil
	}
	if o.LabelSelectors {
		return merge(k, "label", &k.CommonLabels, o.Labels, o.ForceLabels) //nolint:staticcheck // what Argo CD sets
	}
	i := slices.IndexFunc(k.Labels, func(l types.Label) bool {
		return !l.IncludeSelectors && l.IncludeTemplates == o.LabelTemplates && len(l.FieldSpecs) == 0
	})
	if i < 0 {
		i = len(k.Labels)
		k.Labels = append(k.Labels, types.Label{IncludeTemplates: o.LabelTemplates})
	}
	return merge(k, "label", &k.Labels[i].Pairs, o.Labels, o.ForceLabels)
}

// merge adds entries to a map of a kustomization file. Without force, one that
// is there already is Invalid.
func merge(k *kustomizationFile, what string, into *map[string]string, add map[string]string, force bool) error {
	merged := maps.Clone(*into)
	if merged == nil {
		merged = map[string]string{}
	}
	for _, key := range slices.Sorted(maps.Keys(add)) {
		if _, there := merged[key]; there && !force {
			return fault.New(fault.Invalid, "the %s %q is set in the kustomization already", what, key).At(k.name, k.line(key)).
				WithHint("it is replaced only where that is forced")
		}
		merged[key] = add[key]
	}
	if *into = merged; len(merged) == 0 {
		*into = nil
	}
	return nil
}

// patch adds a patch, and surveys its file.
func (b *build) patch(k *kustomizationFile, p Patch) error {
	if p.Path != "" {
		if err := b.survey.entry(k, b.dir, entry{field: "patches", text: p.Path}); err != nil {
			return err
		}
	}
	patch := types.Patch{Path: p.Path, Patch: p.Patch, Target: p.Target.selector()}
	for _, option := range slices.Sorted(maps.Keys(p.Options)) {
		if patch.Options == nil {
			patch.Options = &types.PatchArgs{}
		}
		switch option {
		case "allowNameChange":
			patch.Options.AllowNameChange = p.Options[option]
		case "allowKindChange":
			patch.Options.AllowKindChange = p.Options[option]
		default:
			return fault.New(fault.Invalid, "kustomize has no option %q for a patch", option).At(k.name, 0)
		}
	}
	k.Patches = append(k.Patches, patch)
	return nil
}

// selector returns kustomize's form of a target; nil stays nil.
func (t *PatchTarget) selector() *types.Selector {
	if t == nil {
		return nil
	}
	return &types.Selector{
		ResId: resid.ResId{
			Gvk:  resid.Gvk{Group: t.Group, Version: t.Version, Kind: t.Kind},
			Name: t.Name, Namespace: t.Namespace,
		},
		LabelSelector: t.LabelSelector, AnnotationSelector: t.AnnotationSelector,
	}
}

// component adds a component, once, and surveys it.
func (b *build) component(k *kustomizationFile, text string, ignoreMissing bool) error {
	if slices.Contains(k.Components, text) {
		return nil
	}
	e := entry{field: "components", text: text, base: true}
	if ignoreMissing && !remoteFile(text) && !remoteRepository(text) && !path.IsAbs(text) && !leaves(b.dir, text) {
		kind, _, err := b.survey.look(path.Join(b.dir, text))
		if err != nil || kind == 0 {
			return err
		}
	}
	if err := b.survey.entry(k, b.dir, e); err != nil {
		return err
	}
	k.Components = append(k.Components, text)
	return nil
}

func (b *build) hasComponents() bool {
	return b.req.Overrides != nil && len(b.req.Overrides.Components) > 0
}

// stampsLabels reports whether labels are set on the objects that were built,
// instead of by the build: Flux's common metadata overrides whatever a build
// gives, and reaches neither selectors nor templates.
func (b *build) stampsLabels() bool {
	o := b.req.Overrides
	return b.req.Tool == KustomizeOrGenerate && o != nil && o.ForceLabels && !o.LabelSelectors && !o.LabelTemplates
}

// stampsAnnotations is [build.stampsLabels] for annotations.
func (b *build) stampsAnnotations() bool {
	o := b.req.Overrides
	return b.req.Tool == KustomizeOrGenerate && o != nil && o.ForceAnnotations
}

// stamp sets the labels and annotations of the request that are set after the build.
func (b *build) stamp(value map[string]any, limits *budget) error {
	if b.stampsLabels() {
		if err := stamp(value, "labels", b.req.Overrides.Labels, limits); err != nil {
			return err
		}
	}
	if b.stampsAnnotations() {
		return stamp(value, "annotations", b.req.Overrides.Annotations, limits)
	}
	return nil
}

func stamp(value map[string]any, field string, texts map[string]string, limits *budget) error {
	meta, ok := value["metadata"].(map[string]any)
	if !ok || len(texts) == 0 {
		return nil // that there is no metadata is said elsewhere
	}
	have, ok := meta[field].(map[string]any)
	if !ok && meta[field] != nil {
		return fault.New(fault.Invalid, "metadata.%s is not a map", field)
	}
	if have == nil {
		have = make(map[string]any, len(texts))
		meta[field] = have
	}
	for key, text := range texts {
		if err := limits.spend(len(key) + len(text) + 6); err != nil {
			return err
		}
		have[key] = text
	}
	return nil
}

func set(field *string, value string) {
	if value != "" {
		*field = value
	}
}

// parseImage reads [old=]new[:tag][@digest]. A * keeps what the kustomization says.
func parseImage(text string) (types.Image, error) {
	old, rest, replaces := strings.Cut(text, "=")
	if !replaces {
		rest = text
	}
	rest, digest, _ := strings.Cut(rest, "@")
	name, tag := rest, ""
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		name, tag = rest[:i], rest[i+1:]
	}
	image := types.Image{Name: old, NewName: name, NewTag: tag, Digest: digest}
	if !replaces {
		image.Name, image.NewName = name, ""
	}
	if image.Name == "" || !replaces && tag == "" && digest == "" {
		return image, fault.New(fault.Invalid, "the image %q is not of the form [old=]new[:tag][@digest]", text)
	}
	if image.NewName == "*" {
		image.NewName = ""
	}
	if image.NewTag == "*" {
		image.NewTag = ""
	}
	return image, nil
}

// mergeImage sets what the rule names; tag and digest belong together.
func mergeImage(images []types.Image, rule types.Image) []types.Image {
	i := slices.IndexFunc(images, func(have types.Image) bool { return have.Name == rule.Name })
	if i < 0 {
		return append(images, rule)
	}
	set(&images[i].NewName, rule.NewName)
	if rule.NewTag != "" || rule.Digest != "" {
		images[i].NewTag, images[i].Digest = rule.NewTag, rule.Digest
	}
	return images
}
