package delivery

import (
	"context"
	"maps"
	"slices"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Images gathers evidence about images; *image.Examiner is one.
type Images interface {
	// Examine resolves and examines the images named. pins are digests, by name,
	// that were resolved before for the same revision and still count. Errors are
	// *fault.Error; what is amiss with one image is among its problems.
	Examine(ctx context.Context, names []string, d trust.Demands, pins map[string]string) ([]trust.Image, error)
}

// admission is what was found about the images of a delivery, and what policies
// said of it. nil: no policy asks about images, no registry was asked, and nothing
// is pinned.
type admission struct {
	commit, url, version string

	names    []string
	images   []trust.Image
	verdicts []policy.Verdict
	pins     map[string]string // digests, by name
}

// examiner judges the images of objects that the rules admit.
type examiner func(ctx context.Context, objects []object.Object) (*admission, error)

// unexamined is the examiner of those who send nothing.
func unexamined(context.Context, []object.Object) (*admission, error) {
	return nil, nil //nolint:nilnil // nothing asked is no failure
}

// examine gathers evidence about the images of admitted objects and has it judged.
// What policies that enforce demand and is not proven refuses the whole.
func (e *Engine) examine(spec Spec, st *state) examiner {
	paths, demanded := imagePaths(spec.Trust)
	if !demanded {
		return unexamined
	}
	return func(ctx context.Context, objects []object.Object) (*admission, error) {
		names := object.ImagesAt(objects, paths)
		if a := st.admission; a != nil && slices.Equal(a.names, names) && e.Unchanged(spec) {
			return a, nil // what was found out of the same revision, or one that changes nothing
		}
		if e.Images == nil {
			return nil, untrusted(fault.New(fault.Internal, "images cannot be examined here"))
		}
		images, err := e.Images.Examine(ctx, names, spec.Trust, e.pins(spec, st))
		if err != nil {
			return nil, untrusted(err)
		}
		a := &admission{
			commit: spec.Revision.Commit, url: spec.Revision.URL, version: spec.Trust.Version,
			names: names, images: images, pins: map[string]string{}, verdicts: policy.Images(images, spec.Trust, e.Clock()),
		}
		for _, image := range images {
			if image.Digest != "" {
				a.pins[image.Name] = image.Digest
			}
		}
		return a, a.refusal(objects, paths)
	}
}

// imagePaths returns where policies find images in custom resources; false if no
// policy asks about images.
func imagePaths(d trust.Demands) ([]object.ImagePath, bool) {
	var paths []object.ImagePath
	demanded := false
	for _, p := range d.Policies {
		if p.Images != nil {
			demanded = true
			paths = append(paths, p.Images.Paths...)
		}
	}
	return paths, demanded
}

// pins are the digests that images of this revision were pinned by before: by this
// process, or by the one before it, as the audit log says. They stay, so that
// nothing restarts because a tag has moved.
func (e *Engine) pins(spec Spec, st *state) map[string]string {
	if a := st.admission; a != nil && (e.Unchanged(spec) || a.commit == spec.Revision.Commit && a.url == spec.Revision.URL) {
		return a.pins
	}
	last, ok, err := e.Audit.Last(spec.ID.String())
	if ok && err == nil && last.Source.Commit == spec.Revision.Commit && last.Source.URL == spec.Revision.URL {
		return maps.Clone(last.Pins)
	}
	return nil
}

// refusal is the error by which verdicts refuse, with the place of an object that runs
// an image which is refused; nil if none does.
func (a *admission) refusal(objects []object.Object, paths []object.ImagePath) error {
	err := policy.Refusal(a.verdicts)
	if err == nil {
		return nil
	}
	failed := a.verdicts[slices.IndexFunc(a.verdicts, func(v policy.Verdict) bool { return v.Outcome == policy.Fail })]
	for i := range objects {
		if o := &objects[i]; slices.Contains(object.ImagesAt(objects[i:i+1], paths), failed.Image) {
			err = err.On(o.ID().String()).At(o.Origin.File, o.Origin.Line)
			break
		}
	}
	return untrusted(err.Because(policy.RefusedBy(a.verdicts)))
}

// pin puts the digests of images into the objects that run them.
func (a *admission) pin(admitted policy.Admitted, d trust.Demands) policy.Admitted {
	if a == nil {
		return admitted
	}
	paths, _ := imagePaths(d)
	return admitted.Pinned(a.pins, paths)
}

// runs returns the images of each object that runs any.
func runs(objects []object.Object, d trust.Demands) map[object.ID][]string {
	paths, _ := imagePaths(d)
	all := map[object.ID][]string{}
	for i := range objects {
		if images := object.ImagesAt(objects[i:i+1], paths); len(images) > 0 {
			all[objects[i].ID()] = images
		}
	}
	return all
}

// admit notes what was found about the images of what is desired from now on, and
// what is to be told of it.
func (st *state) admit(a *admission) {
	if a == st.admission {
		return
	}
	st.admission = a
	for _, text := range a.unproven() {
		st.alerts = append(st.alerts, Alert{AlertUnproven, text})
	}
}

// unproven are the demands that did not hold of policies which only audit.
func (st *state) unproven() []string {
	var all []string
	if st.proof != nil {
		all = append(all, st.proof.evidence.Unproven...)
	}
	return append(append(all, st.admission.unproven()...), st.plaintext.unproven()...)
}

// unprovenTo names the policies of d which only audit, and of which a demand did not hold.
func (st *state) unprovenTo(d trust.Demands) []string {
	var to []string
	if st.proof != nil {
		to = append(to, st.proof.evidence.UnprovenTo...)
	}
	var verdicts []policy.Verdict
	if st.admission != nil {
		verdicts = append(verdicts, st.admission.verdicts...)
	}
	if st.plaintext != nil {
		verdicts = append(verdicts, st.plaintext.verdicts...)
	}
	for _, v := range verdicts {
		if v.Outcome == policy.Audit {
			to = append(to, v.Policy)
		}
	}
	var names []string
	for _, p := range d.Policies {
		if p.Audit && slices.Contains(to, p.Name) {
			names = append(names, p.Name)
		}
	}
	return names
}

// unproven are the verdicts that policies which only audit would refuse.
func (a *admission) unproven() []string {
	if a == nil {
		return nil
	}
	var lines []string
	for _, v := range a.verdicts {
		if v.Outcome == policy.Audit {
			lines = append(lines, v.String())
		}
	}
	return lines
}
