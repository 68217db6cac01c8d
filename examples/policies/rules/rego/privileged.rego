# A container that is privileged is root on its node.
#
# Written as for an admission webhook of OPA: what is asked is a review of one object. A
# Deployment is judged by the Pods that it would make.
package kubernetes.admission

import rego.v1

deny contains msg if {
	input.request.kind.kind == "Pod"
	some container in containers
	container.securityContext.privileged
	msg := sprintf("container %s is privileged: take it away, and add the one capability that is needed", [container.name])
}

containers contains container if {
	some list in ["initContainers", "containers"]
	some container in input.request.object.spec[list]
}
