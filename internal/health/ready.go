package health

// judgeFlux judges the kinds of Flux, ours or theirs to serve. Their controllers say
// Ready=Unknown while they work, so False is a failure. A failing one does not move
// status.observedGeneration, so the condition's own generation counts first.
func judgeFlux(v view) Verdict {
	if v.yes("spec.suspend") {
		return Verdict{Status: Suspended, Message: "reconciliation is suspended"}
	}
	if c := v.condition("Stalled"); c.holds() {
		return Verdict{Status: Degraded, Message: c.text()}
	}
	ready := v.condition("Ready")
	if ready.kind == "" || outdated(v, ready) {
		return unobserved
	}
	switch ready.status {
	case "True":
		return Verdict{Status: Healthy, Message: ready.text()}
	case "False":
		return Verdict{Status: Degraded, Message: ready.text()}
	}
	return Verdict{Status: Progressing, Message: ready.text()}
}

// judgeHelmRepository knows that a registry is only an address: nobody reconciles it.
func judgeHelmRepository(v view) Verdict {
	if v.str("spec.type") == "oci" {
		return healthy
	}
	return judgeFlux(v)
}

// judgeGeneric judges an object that follows the conventions for conditions: Stalled
// is a failure, Reconciling is work, and anything but Ready=True is not there yet.
// The result is false when the object has none of these conditions.
func judgeGeneric(v view) (Verdict, bool) {
	stalled, reconciling, ready := v.condition("Stalled"), v.condition("Reconciling"), v.condition("Ready")
	switch {
	case stalled.kind == "" && reconciling.kind == "" && ready.kind == "":
		return Verdict{}, false
	case stalled.holds():
		return Verdict{Status: Degraded, Message: stalled.text()}, true
	case outdated(v, ready):
		return unobserved, true
	case reconciling.holds():
		return Verdict{Status: Progressing, Message: reconciling.text()}, true
	case ready.holds():
		return Verdict{Status: Healthy, Message: ready.text()}, true
	}
	return Verdict{Status: Progressing, Message: ready.text()}, true
}

// outdated reports whether a condition speaks of an older spec. One that does not
// say is believed, unless the status as a whole is older.
func outdated(v view, c condition) bool {
	seen := c.generation
	if seen == 0 {
		if !v.has("status.observedGeneration") {
			return false
		}
		seen = v.num("status.observedGeneration")
	}
	return seen < v.num("metadata.generation")
}
