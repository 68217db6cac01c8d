package health

import (
	"strconv"
	"strings"
)

// What follows are the kinds of the External Secrets Operator, and SealedSecrets. The
// facts about the operator are those of its controllers (github.com/external-secrets/
// external-secrets, pkg/controllers): Ready is False after a failed attempt, which is
// repeated; a status names the spec that it is about by syncedResourceVersion,
// "generation-hash", which moves on success only; stores have no generation at all.

// judgeExternal judges an ExternalSecret, a PushSecret or a store by its condition
// Ready. One without it was not looked at by the operator yet.
func judgeExternal(v view) Verdict {
	ready := v.condition("Ready")
	switch {
	case ready.kind == "":
		return progressing("the operator has not looked at it yet")
	case ready.status == "False":
		return Verdict{Status: Degraded, Message: ready.text()}
	case !ready.holds():
		return Verdict{Status: Progressing, Message: ready.text()}
	case outdated(v, ready) || unsynced(v):
		return unobserved
	}
	return Verdict{Status: Healthy, Message: ready.text()}
}

// waitExternal is judgeExternal as kstatus reads conditions: what is not ready is not
// there yet, and the operator tries again.
func waitExternal(v view) Verdict { return patient(judgeExternal(v)) }

func patient(verdict Verdict) Verdict {
	if verdict.Status == Degraded {
		verdict.Status = Progressing
	}
	return verdict
}

// unsynced reports whether the last success was one of an older spec. One that is not
// fetched again by the operator, whatever becomes of its spec, never is.
func unsynced(v view) bool {
	generation, _, _ := strings.Cut(v.str("status.syncedResourceVersion"), "-")
	seen, err := strconv.ParseInt(generation, 10, 64)
	if err != nil || seen >= v.num("metadata.generation") {
		return false
	}
	return !v.fetchedOnce()
}

// fetchedOnce reports whether an ExternalSecret is filled once and then left alone: by
// its policy, or because it has no interval. A PushSecret always follows its spec.
func (v view) fetchedOnce() bool {
	if v.str("kind") != "ExternalSecret" {
		return false
	}
	switch v.str("spec.refreshPolicy") {
	case "CreatedOnce":
		return true
	case "OnChange":
		return false
	}
	interval := v.str("spec.refreshInterval")
	return interval != "" && !strings.ContainsAny(interval, "123456789")
}

// judgeSpread judges what the operator copies into namespaces: a ClusterExternalSecret
// or a ClusterPushSecret. Older versions had conditions of their own for a part.
func judgeSpread(v view) Verdict {
	for _, kind := range []string{"NotReady", "PartiallyReady"} {
		if c := v.condition(kind); c.holds() {
			return Verdict{Status: Degraded, Message: c.text() + failedIn(v)}
		}
	}
	verdict := judgeExternal(v)
	if verdict.Status == Degraded {
		verdict.Message += failedIn(v)
	}
	return verdict
}

func waitSpread(v view) Verdict { return patient(judgeSpread(v)) }

// failedIn names the namespaces in which a copy failed.
func failedIn(v view) string {
	failed := v.list("status.failedNamespaces")
	if len(failed) == 0 {
		return ""
	}
	names := make([]string, 0, len(failed))
	for _, f := range failed {
		names = append(names, f.str("namespace"))
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// judgeSealed judges a SealedSecret by its condition Synced, as its controller and we
// write it. A status that says nothing of it counts as opened: a quirk of Argo CD's.
func judgeSealed(v view) Verdict {
	switch synced := v.condition("Synced"); {
	case !v.has("status"):
		return progressing("it has not been opened yet")
	case outdated(v, synced):
		return unobserved
	case synced.status == "False":
		return Verdict{Status: Degraded, Message: synced.text()}
	}
	return healthy
}

// waitSealed knows no condition Synced, as kstatus does not: a SealedSecret is there
// when its controller has seen it, and also where it writes no status at all.
func waitSealed(v view) Verdict {
	if outdated(v, condition{}) {
		return unobserved
	}
	return healthy
}
