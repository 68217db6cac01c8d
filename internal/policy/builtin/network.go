package builtin

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/object"
)

const networkPage = "https://kubernetes.io/docs/concepts/services-networking/network-policies/"

var (
	networkPolicies = schema.GroupKind{Group: networkingv1.GroupName, Kind: "NetworkPolicy"}
	services        = schema.GroupKind{Kind: "Service"}
)

func network() []definition {
	return []definition{
		define(About{
			Name:      "no-public-ingress",
			Summary:   "No NetworkPolicy and no LoadBalancer lets public addresses in, but those that are allowed. Ingress and Gateway objects are not judged: they publish on purpose.",
			Reference: networkPage + "#behavior-of-to-and-from-selectors", Severity: "high",
		}, func() ingressParameters { return ingressParameters{} }, noPublicIngress),
		define(About{
			Name:      "no-external-ips",
			Summary:   "No Service takes addresses with externalIPs: whoever may do that can take over traffic of others (CVE-2020-8554).",
			Reference: "https://github.com/kubernetes/kubernetes/issues/97076", Severity: "high",
		}, func() exempt { return exempt{} }, noExternalIPs),
		define(About{
			Name:      "namespace-network-policy",
			Summary:   "Each namespace that the delivery brings, or runs Pods in, has a NetworkPolicy in the same delivery that isolates all of its Pods.",
			Reference: networkPage + "#default-deny-all-ingress-traffic", Severity: "medium",
		}, func() isolationParameters { return isolationParameters{} }, namespaceNetworkPolicy),
	}
}

type ingressParameters struct {
	exempt

	Allow               []string          `doc:"address blocks that may be let in though they are public: offices, partners, a CDN"                                                                                  json:"allow"`
	InternalAnnotations map[string]string `doc:"annotations by which a LoadBalancer gets no public address, as service.beta.kubernetes.io/azure-load-balancer-internal: \"true\"; only what holds for your provider" json:"internalAnnotations"`
}

// gate judges address blocks.
type gate struct{ allowed []span }

func noPublicIngress(p ingressParameters) (judge, error) {
	allowed, err := parseCIDRs(p.Allow)
	if err != nil {
		return nil, fmt.Errorf("allow: %w", err)
	}
	inside, err := parseCIDRs(private)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(allowed, span.whole) {
		return nil, errors.New("allow: it holds every address: take the policy away instead")
	}
	for name := range p.InternalAnnotations {
		if name == "" {
			return nil, errors.New("internalAnnotations: a name is empty")
		}
	}
	g := gate{slices.Concat(inside, allowed)}
	return func(_ *view, r *reporter) {
		for i, policy := range typed[networkingv1.NetworkPolicy](r, p.exempt, networkPolicies, schema.GroupKind{Group: "extensions", Kind: "NetworkPolicy"}) {
			if len(policy.Spec.PolicyTypes) == 0 || slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) {
				g.judgePolicy(r, i, policy.Spec.Ingress)
			}
		}
		for i, service := range typed[corev1.Service](r, p.exempt, services) {
			if service.Spec.Type == corev1.ServiceTypeLoadBalancer && !p.internal(service) {
				g.judgeService(r, i, service)
			}
		}
	}, p.check()
}

// whole reports whether a span is every address of its family.
func (s span) whole() bool {
	return s.first.IsUnspecified() && !s.last.Next().IsValid()
}

func (p ingressParameters) internal(service *corev1.Service) bool {
	for name, value := range p.InternalAnnotations {
		if got, ok := service.Annotations[name]; ok && got == value {
			return true
		}
	}
	return false
}

func (g gate) judgePolicy(r *reporter, subject int, rules []networkingv1.NetworkPolicyIngressRule) {
	for i, rule := range rules {
		at := fmt.Sprintf("spec.ingress[%d].from", i)
		if len(rule.From) == 0 {
			r.findingf(subject, "network-policy", at, "the rule has no from, which lets every address in: name the podSelector, namespaceSelector or ipBlock that it is for")
		}
		for j, peer := range rule.From {
			if peer.IPBlock == nil {
				continue
			}
			if problem := g.open(peer.IPBlock.CIDR, peer.IPBlock.Except); problem != "" {
				r.findingf(subject, "network-policy", fmt.Sprintf("%s[%d].ipBlock.cidr", at, j),
					"%s: name the podSelector, namespaceSelector or smaller ipBlock that it is for, or list what may come in under allow of this policy's parameters", problem)
			}
		}
	}
}

// open says what public addresses a block lets in; "" for none. What cannot be read lets
// in who knows what.
func (g gate) open(cidr string, except []string) string {
	block, err := parseCIDR(cidr)
	if err != nil {
		return err.Error()
	}
	holes, err := parseCIDRs(except)
	if err != nil {
		return "except: " + err.Error()
	}
	rest := block.without(slices.Concat(g.allowed, holes))
	switch {
	case len(rest) == 0:
		return ""
	case block.whole() && len(except) == 0:
		return cidr + " is the whole Internet"
	case len(except) > 0:
		return fmt.Sprintf("%s without %s holds public addresses (%s)", cidr, strings.Join(except, ", "), tell(rest))
	}
	return fmt.Sprintf("%s holds public addresses (%s)", cidr, tell(rest))
}

// sourceRanges is an annotation that counts where the field is empty
// (https://github.com/kubernetes/cloud-provider/blob/master/service/helpers/helper.go).
const sourceRanges = "service.beta.kubernetes.io/load-balancer-source-ranges"

func (g gate) judgeService(r *reporter, subject int, service *corev1.Service) {
	ranges, path := service.Spec.LoadBalancerSourceRanges, "spec.loadBalancerSourceRanges"
	if text := strings.TrimSpace(service.Annotations[sourceRanges]); len(ranges) == 0 && text != "" {
		ranges, path = strings.Split(text, ","), "metadata.annotations["+sourceRanges+"]"
	}
	if len(ranges) == 0 {
		r.findingf(subject, "load-balancer", path, "a LoadBalancer without loadBalancerSourceRanges is open to the whole Internet: list who may come in; or use ClusterIP; or name the annotation that keeps it internal under internalAnnotations of this policy's parameters")
	}
	for i, cidr := range ranges {
		if problem := g.open(strings.TrimSpace(cidr), nil); problem != "" {
			at := path
			if len(service.Spec.LoadBalancerSourceRanges) > 0 {
				at = fmt.Sprintf("%s[%d]", path, i)
			}
			r.findingf(subject, "load-balancer", at, "%s: list those who may come in only, or put the block under allow of this policy's parameters", problem)
		}
	}
}

func noExternalIPs(e exempt) (judge, error) {
	return func(_ *view, r *reporter) {
		for i, service := range typed[corev1.Service](r, e, services) {
			if len(service.Spec.ExternalIPs) > 0 {
				r.findingf(i, "", "spec.externalIPs", "the Service takes %s: remove externalIPs, and use a LoadBalancer", strings.Join(service.Spec.ExternalIPs, ", "))
			}
		}
	}, e.check()
}

type isolationParameters struct {
	exempt

	Egress bool `doc:"what Pods send must be isolated as well" json:"egress"`
}

// isolation is what policies for all Pods of a namespace do with a direction: isolate it,
// and let everybody through after all. Policies add up.
type isolation struct{ closed, opened bool }

// directions are those of a namespace.
type directions struct{ ingress, egress isolation }

func (i isolation) holds() bool { return i.closed && !i.opened }

func namespaceNetworkPolicy(p isolationParameters) (judge, error) {
	return func(v *view, r *reporter) {
		if v.c.Alone { // what lies beside it is not known
			return
		}
		isolated := map[string]directions{}
		for i, s := range v.c.Subjects {
			if s.Of != nil || v.ids[i].GroupKind() != networkPolicies {
				continue
			}
			policy, err := read[networkingv1.NetworkPolicy](&v.c.Subjects[i])
			if err != nil {
				r.found.Flaws = append(r.found.Flaws, unreadable(v.ids[i], s.Origin, r.about.Name, err))
				continue
			}
			isolated[v.ids[i].Namespace] = isolated[v.ids[i].Namespace].with(policy.Spec)
		}
		for _, n := range v.namespaces(p.exempt) {
			r.judged()
			if lack := p.lack(isolated[n.name]); lack != "" {
				r.findingf(n.subject, "", n.path,
					"nothing isolates what Pods of namespace %s %s: deliver a NetworkPolicy with it whose podSelector is empty, with policyTypes and without a rule for everybody", n.name, lack)
			}
		}
	}, p.check()
}

func (p isolationParameters) lack(d directions) string {
	switch sends := p.Egress && !d.egress.holds(); {
	case !d.ingress.holds() && sends:
		return "receive and send"
	case !d.ingress.holds():
		return "receive"
	case sends:
		return "send"
	}
	return ""
}

// with adds what a policy does for all Pods. A rule with ports lets nobody through on the
// others, and so takes no isolation back.
func (d directions) with(spec networkingv1.NetworkPolicySpec) directions {
	if len(spec.PodSelector.MatchLabels)+len(spec.PodSelector.MatchExpressions) > 0 {
		return d
	}
	// What API servers fill in where policyTypes is empty.
	ingress := len(spec.PolicyTypes) == 0 || slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeIngress)
	egress := len(spec.PolicyTypes) == 0 && len(spec.Egress) > 0 || slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	fromAll := slices.ContainsFunc(spec.Ingress, func(rule networkingv1.NetworkPolicyIngressRule) bool {
		return len(rule.Ports) == 0 && toAll(rule.From)
	})
	toAnywhere := slices.ContainsFunc(spec.Egress, func(rule networkingv1.NetworkPolicyEgressRule) bool {
		return len(rule.Ports) == 0 && toAll(rule.To)
	})
	return directions{
		isolation{d.ingress.closed || ingress, d.ingress.opened || ingress && fromAll},
		isolation{d.egress.closed || egress, d.egress.opened || egress && toAnywhere},
	}
}

// toAll reports whether peers are everybody.
func toAll(peers []networkingv1.NetworkPolicyPeer) bool {
	return len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool {
		if p.IPBlock != nil {
			block, err := parseCIDR(p.IPBlock.CIDR)
			return err != nil || block.whole() && len(p.IPBlock.Except) == 0
		}
		return all(p.NamespaceSelector) && (p.PodSelector == nil || all(p.PodSelector))
	})
}

func all(s *metav1.LabelSelector) bool {
	return s != nil && len(s.MatchLabels)+len(s.MatchExpressions) == 0
}

// place is a namespace, and what of a delivery to name for it.
type place struct {
	name    string
	subject int
	path    string
}

// namespaces are those that a delivery brings, and those that it runs Pods in.
func (v *view) namespaces(but exempt) []place {
	var found []place
	known := map[string]bool{}
	add := func(p place) {
		if p.name != "" && !known[p.name] && !but.covers(p.name) {
			known[p.name] = true
			found = append(found, p)
		}
	}
	for i, id := range v.ids {
		if id == (object.ID{Kind: "Namespace", Name: id.Name}) {
			add(place{id.Name, i, "metadata.name"})
		}
	}
	for _, p := range v.podList() {
		subject := p.subject
		add(place{v.ids[subject].Namespace, subject, "metadata.namespace"})
	}
	return found
}
