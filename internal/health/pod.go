package health

import (
	"fmt"
	"strings"
)

// ignoreRestartPolicy asks that a Pod that is not restarted for ever be judged like
// one that is.
const ignoreRestartPolicy = "argocd.argoproj.io/ignore-restart-policy"

// Phases that Pods share with other kinds.
const (
	phasePending = "Pending"
	phaseFailed  = "Failed"
)

// judgePod judges a Pod by its phase, but for the failures of a Pod that is restarted
// for ever. Those of others are not looked at: they may be hooks, and a hook that
// waits for its image must not fail for good.
func judgePod(v view) Verdict {
	forever := v.str("spec.restartPolicy") == "Always"
	if message, stuck := stuckContainers(v); forever && stuck {
		return Verdict{Status: Degraded, Message: message}
	}
	message := v.str("status.message")
	switch v.str("status.phase") {
	case phasePending:
		return Verdict{Status: Progressing, Message: message}
	case "Succeeded":
		return Verdict{Status: Healthy, Message: message}
	case phaseFailed:
		return judgeFailedPod(v, message)
	case "Running":
		return judgeRunningPod(v, message, forever || judgedAsForever(v))
	}
	return Verdict{Status: Unknown, Message: message}
}

// stuckContainers collects what keeps containers from starting.
func stuckContainers(v view) (string, bool) {
	var messages []string
	for _, c := range v.list("status.containerStatuses") {
		reason := c.str("state.waiting.reason")
		if !strings.HasPrefix(reason, "Err") && !strings.HasSuffix(reason, "Error") && !strings.HasSuffix(reason, "BackOff") {
			continue
		}
		message := c.str("state.waiting.message")
		if message == "" {
			message = fmt.Sprintf("container %q: %s", c.str("name"), reason)
		}
		messages = append(messages, message)
	}
	return strings.Join(messages, ", "), len(messages) > 0
}

func judgeFailedPod(v view, message string) Verdict {
	for _, list := range []string{"status.initContainerStatuses", "status.containerStatuses"} {
		for _, c := range v.list(list) {
			if message == "" {
				message = failure(c)
			}
		}
	}
	return Verdict{Status: Degraded, Message: message}
}

// failure says why a container ended, in the words of whoever knows best.
func failure(c view) string {
	if m := c.str("state.terminated.message"); m != "" {
		return m
	}
	if c.str("state.terminated.reason") == "OOMKilled" {
		return "OOMKilled"
	}
	if code := c.num("state.terminated.exitCode"); code != 0 {
		return fmt.Sprintf("container %q failed with exit code %d", c.str("name"), code)
	}
	return ""
}

func judgeRunningPod(v view, message string, forever bool) Verdict {
	if !forever {
		return Verdict{Status: Progressing, Message: message}
	}
	if v.condition("Ready").holds() {
		return Verdict{Status: Healthy, Message: message}
	}
	for _, c := range v.list("status.containerStatuses") {
		if !c.has("lastState.terminated") {
			continue
		}
		if message == "" {
			message = fmt.Sprintf("container %q was restarted and is not ready", c.str("name"))
		}
		return Verdict{Status: Degraded, Message: message}
	}
	return Verdict{Status: Progressing, Message: message}
}

// judgedAsForever reports whether a Pod asks to be judged so. A hook cannot.
func judgedAsForever(v view) bool {
	return v.annotation(ignoreRestartPolicy) == "true" &&
		v.annotation("argocd.argoproj.io/hook") == "" && v.annotation("helm.sh/hook") == ""
}
