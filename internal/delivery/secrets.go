package delivery

import (
	"context"
	"encoding/base64"
	"maps"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/secret"
)

// leaveSealed is the label or annotation, as Flux has it, of documents that are to stay
// as they are.
const leaveSealed = "kustomize.toolkit.fluxcd.io/decrypt"

const openHint = "give the delivery the keys that it was sealed for"

// opener opens the sealed files of the delivery. Where nobody said how, what looks
// sealed refuses it.
func (s Spec) opener() secret.Opener {
	if s.Opener != nil {
		return s.Opener
	}
	return secret.None{Hint: openHint, Sealed: func(_ string, content []byte) bool {
		text := string(content)
		return strings.Contains(text, secret.SOPS) && strings.Contains(text, "sops") && !strings.Contains(text, leaveSealed)
	}}
}

// open opens the values of Secrets that are sealed each by itself, as a file is that was
// put into a Secret; what is sealed after that is refused: nobody could read it.
func (s Spec) open(ctx context.Context, objects []object.Object, mask *secret.Mask) error {
	opener := s.opener()
	if _, left := opener.(*secret.Left); left {
		return nil
	}
	for i := range objects {
		o := &objects[i]
		if staysSealed(o) {
			continue
		}
		if isSecret(o.ID()) {
			if err := openValues(ctx, o, opener, mask); err != nil {
				return err
			}
		}
		if field := sealedField(o); field != "" {
			return fault.New(fault.NotFound, "%s is sealed, and was not opened", field).
				On(o.ID().String()).At(o.Origin.File, o.Origin.Line).WithHint("%s", openHint)
		}
	}
	return nil
}

// staysSealed reports whether an object asks to be left as it is.
func staysSealed(o *object.Object) bool {
	for _, marks := range []map[string]string{o.GetLabels(), o.GetAnnotations()} {
		if strings.EqualFold(marks[leaveSealed], "disabled") {
			return true
		}
	}
	return false
}

// openValues opens what lies sealed under data and stringData.
func openValues(ctx context.Context, o *object.Object, opener secret.Opener, mask *secret.Mask) error {
	for _, field := range []string{"data", "stringData"} {
		values, _ := o.Object[field].(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(values)) {
			text, ok := values[key].(string)
			content := []byte(text)
			if ok && field == "data" {
				decoded, err := base64.StdEncoding.DecodeString(text)
				content, ok = decoded, err == nil
			}
			if !ok || !sealed(string(content)) {
				continue
			}
			opened, is, err := opener.Open(ctx, key, content)
			if err != nil {
				f := fault.From(err)
				f = f.On(o.ID().String()).At(o.Origin.File, o.Origin.Line)
				f.Msg = field + "." + key + ": " + f.Msg
				return f
			}
			if !is {
				continue
			}
			for _, v := range opened.Values {
				mask.AddSealed(string(v.Reveal()))
			}
			values[key] = string(opened.Content.Reveal())
			if field == "data" {
				values[key] = base64.StdEncoding.EncodeToString(opened.Content.Reveal())
			}
		}
	}
	return nil
}

// sealed reports whether a text may hold sealed values; what opens knows better.
func sealed(text string) bool {
	return strings.Contains(text, secret.SOPS) || strings.Contains(text, "lastmodified")
}

// sealedField names what of an object is sealed: the whole of it, or a value of a
// Secret; "" if nothing is.
func sealedField(o *object.Object) string {
	if whole, ok := o.Object["sops"].(map[string]any); ok && (whole["mac"] != nil || whole["version"] != nil) {
		return "the " + o.GetKind()
	}
	if !isSecret(o.ID()) {
		return ""
	}
	for _, field := range []string{"data", "stringData"} {
		values, _ := o.Object[field].(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(values)) {
			text, _ := values[key].(string)
			if decoded, err := base64.StdEncoding.DecodeString(text); err == nil && field == "data" {
				text = string(decoded)
			}
			if strings.HasPrefix(strings.TrimSpace(text), secret.SOPS) {
				return field + "." + key
			}
		}
	}
	return ""
}

// hide has the values of Secrets be masked.
func hide(mask *secret.Mask, objects ...object.Object) {
	for i := range objects {
		o := &objects[i]
		if !isSecret(o.ID()) {
			continue
		}
		data, _ := o.Object["data"].(map[string]any)
		for _, v := range data {
			text, _ := v.(string)
			if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
				text = string(decoded)
			}
			mask.Add(text)
		}
		plain, _ := o.Object["stringData"].(map[string]any)
		for _, v := range plain {
			text, _ := v.(string)
			mask.Add(text)
		}
	}
}

// hideVariables has the values of secret variables be masked, as they are and as they
// are put in.
func (s Spec) hideVariables(mask *secret.Mask) {
	if s.Substitute == nil {
		return
	}
	for name := range s.Substitute.Secret {
		value := s.Substitute.Variables[name]
		mask.AddFilled(value)
		mask.AddFilled(strings.ReplaceAll(value, "\n", ""))
	}
}

// substitute puts variables in. What stood sealed is known as such with variables in it,
// too.
func (s Spec) substitute(objects []object.Object, mask *secret.Mask) ([]object.Object, error) {
	if s.Substitute == nil {
		return objects, nil
	}
	before := slices.Clone(objects)
	after, err := s.Substitute.Objects(objects)
	if err != nil || !mask.Sealed() || len(after) != len(before) {
		return after, err
	}
	for i := range after {
		follow(mask, before[i].Object, after[i].Object)
	}
	return after, nil
}

// follow has texts that stood sealed be masked, and be known as sealed, as they are after
// something was put in.
func follow(mask *secret.Mask, before, after any) {
	switch b := before.(type) {
	case string:
		if a, ok := after.(string); ok && a != b && mask.FromSealed(b) {
			mask.AddSealed(a)
		}
	case map[string]any:
		a, _ := after.(map[string]any)
		for key, value := range b {
			follow(mask, value, a[key])
		}
	case []any:
		a, _ := after.([]any)
		for i := range min(len(a), len(b)) {
			follow(mask, b[i], a[i])
		}
	}
}

// discreet is a report without a secret value.
func discreet(r Report, mask *secret.Mask) Report {
	if !mask.Opened() {
		return r
	}
	r.Err = mask.Fault(r.Err)
	r.Health.Message = mask.Text(r.Health.Message)
	r.Unproven, r.Warned = mask.Texts(r.Unproven), mask.Texts(r.Warned)
	for i := range r.Alerts {
		r.Alerts[i].Message = mask.Text(r.Alerts[i].Message)
	}
	for i := range r.Objects {
		o := &r.Objects[i]
		o.Message, o.By = mask.Text(o.Message), mask.Text(o.By)
		o.Warnings, o.Fields = mask.Texts(o.Warnings), mask.Texts(o.Fields)
		if o.Health != nil {
			verdict := *o.Health
			verdict.Message = mask.Text(verdict.Message)
			o.Health = &verdict
		}
	}
	return r
}

// masked has the values of live objects, which may be others than are desired, be masked
// as well.
func (st *state) masked(seen plan.Observed) {
	for _, o := range []*object.Object{seen.Live, seen.DryRun} {
		if o != nil && st.mask != nil {
			hide(st.mask, *o)
		}
	}
}
