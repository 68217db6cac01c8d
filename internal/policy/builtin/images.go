package builtin

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/object"
)

const imagesPage = "https://kubernetes.io/docs/concepts/containers/images/"

type tagParameters struct {
	exempt
	exemptImages

	Tags []string `doc:"tags that are refused; globs" json:"tags"`
}

type digestParameters struct {
	exempt
	exemptImages
}

type allowedParameters struct {
	exempt

	Images []string `doc:"images that may run; patterns such as registry.example.org/team/**. Required" json:"images"`
}

func images() []definition {
	return []definition{
		define(About{
			Name:      "no-latest-tag",
			Summary:   "Images have a tag or a digest, and the tag is not latest: what runs can be told, and taken back.",
			Reference: imagesPage + "#image-names", Severity: "medium",
		}, func() tagParameters { return tagParameters{Tags: []string{"latest"}} }, noLatestTag),
		define(About{
			Name:      "image-digests",
			Summary:   "Images are given by digest: what was judged is what runs.",
			Reference: imagesPage + "#image-pull-policy", Severity: "medium",
		}, func() digestParameters { return digestParameters{} }, imageDigests),
		define(About{
			Name:      "allowed-images",
			Summary:   "Images come from where they may.",
			Reference: "https://cheatsheetseries.owasp.org/cheatsheets/Kubernetes_Security_Cheat_Sheet.html", Severity: "high",
		}, func() allowedParameters { return allowedParameters{} }, allowedImages),
	}
}

// imageJudge says what is wrong with an image: a rule, and a message; "" for nothing.
type imageJudge func(n object.ImageName) (rule, message string)

func noLatestTag(p tagParameters) (judge, error) {
	if len(p.Tags) == 0 {
		return nil, errors.New("tags: none is refused: take the policy away instead")
	}
	err := errors.Join(checkGlobs("tags", p.Tags), p.exempt.check(), p.exemptImages.check())
	return judgeImages(p.exempt, p.exemptImages, func(n object.ImageName) (string, string) {
		switch {
		case n.Digest != "":
			return "", ""
		case n.Tag == "":
			return "tag", "it has no tag, which means latest: give it a version, or better its digest"
		case anyGlob(p.Tags, n.Tag):
			return "tag", fmt.Sprintf("the tag %s moves: give it a version, or better its digest", n.Tag)
		}
		return "", ""
	}), err
}

func imageDigests(p digestParameters) (judge, error) {
	err := errors.Join(p.exempt.check(), p.exemptImages.check())
	return judgeImages(p.exempt, p.exemptImages, func(n object.ImageName) (string, string) {
		if n.Digest != "" {
			return "", ""
		}
		return "digest", "it is not given by digest: write name@sha256:..., which `crane digest` and `docker buildx imagetools inspect` print"
	}), err
}

func allowedImages(p allowedParameters) (judge, error) {
	if len(p.Images) == 0 {
		return nil, errors.New("images: it is required: list the images that may run, as registry.example.org/**")
	}
	err := errors.Join(checkImagePatterns("images", p.Images), p.check())
	return judgeImages(p.exempt, exemptImages{}, func(n object.ImageName) (string, string) {
		if object.Concerns(p.Images, n) {
			return "", ""
		}
		return "registry", fmt.Sprintf("%s/%s is none of the images that may run: %s", n.Registry, n.Repository, strings.Join(p.Images, ", "))
	}), err
}

// judgeImages has each image of each delivered object judged. A name that cannot be read
// fails: nobody can tell what would run.
func judgeImages(e exempt, but exemptImages, wrong imageJudge) judge {
	return func(v *view, r *reporter) {
		seen := make([]bool, len(v.c.Subjects))
		for p := range r.pods(e) {
			seen[p.subject] = true
			for path, image := range p.images() {
				judgeImage(r, p.subject, path, image, but, wrong)
			}
		}
		// Kinds that make no Pods that this package knows of may name images all the same.
		for i, s := range v.c.Subjects {
			if seen[i] || s.Of != nil || e.covers(v.ids[i].Namespace) {
				continue
			}
			for path, image := range v.named(i) {
				judgeImage(r, i, path, image, but, wrong)
			}
		}
	}
}

func judgeImage(r *reporter, subject int, path, image string, but exemptImages, wrong imageJudge) {
	if but.has(image) {
		return
	}
	n, err := object.ParseImage(image)
	if image == "" {
		r.findingf(subject, "name", path, "no image is named")
		return
	}
	if err != nil {
		r.findingf(subject, "name", path, "%s", err)
		return
	}
	if rule, message := wrong(n); message != "" {
		r.findingf(subject, rule, path, "image %s: %s", image, message)
	}
}

// images are the images of a Pod, by the fields that name them.
func (p *pod) images() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, c := range p.containers() {
			if !yield(c.path+".image", c.Image) {
				return
			}
		}
		for i, volume := range p.spec.Volumes {
			if volume.Image != nil && !yield(fmt.Sprintf("%sspec.volumes[%d].image.reference", p.at, i), volume.Image.Reference) {
				return
			}
		}
	}
}

// named are the images of a subject of another kind, and where in it they stand.
func (v *view) named(subject int) iter.Seq2[string, string] {
	o := object.Object{}
	o.Object = v.c.Subjects[subject].Object
	names := object.Images([]object.Object{o})
	return func(yield func(string, string) bool) {
		for _, name := range names {
			if !yield(fieldWith(o.Object, "", name), name) {
				return
			}
		}
	}
}

// fieldWith returns the first field at or below value that holds a text; "" if none does.
func fieldWith(value any, path, text string) string {
	switch value := value.(type) {
	case string:
		if value == text {
			return path
		}
	case map[string]any:
		keys := make([]string, 0, len(value))
		for key := range value {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			if found := fieldWith(value[key], strings.TrimPrefix(path+"."+key, "."), text); found != "" {
				return found
			}
		}
	case []any:
		for i, item := range value {
			if found := fieldWith(item, fmt.Sprintf("%s[%d]", path, i), text); found != "" {
				return found
			}
		}
	}
	return ""
}
