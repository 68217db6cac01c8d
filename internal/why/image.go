package why

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// imageLinks tell, for each image that the object was applied with, what is proven
// of it, and whether the live object still names it.
func imageLinks(managed *unstructured.Unstructured, e remote.Found) []Link {
	var known []trust.Image
	if e.Record != nil {
		known = e.Record.Images
	}
	live := object.Images([]object.Object{{Unstructured: *managed}})
	var links []Link
	for _, name := range e.Change.Images {
		i := slices.IndexFunc(known, func(i trust.Image) bool { return i.Pinned == name || i.Name == name })
		if i < 0 {
			links = append(links, bare(name, entry(e)))
			continue
		}
		links = append(links, imageLink(known[i], entry(e)))
	}
	for _, name := range live {
		if len(e.Change.Images) > 0 && !slices.Contains(e.Change.Images, name) {
			links = append(links, Link{
				Name: LinkImage, State: Broken, Text: []string{name, "The live object names it; it was not applied with it."}, By: "the API server",
			})
		}
	}
	if len(links) == 0 {
		for _, name := range live {
			links = append(links, bare(name, "the API server"))
		}
	}
	return links
}

// bare tells an image of which no evidence is recorded.
func bare(name, by string) Link {
	l := Link{Name: LinkImage, State: Unproven, Text: []string{name, "Nobody asked for proof of it."}, By: by}
	if digest(name) == "" {
		l.Text = append(l.Text, "It is not pinned by digest: what runs may change.")
	}
	return l
}

func imageLink(i trust.Image, by string) Link {
	l := Link{Name: LinkImage, State: Unproven, Text: []string{i.Name}, By: by}
	if i.Digest == "" {
		l.Text = append(l.Text, "not pinned")
	} else if !strings.Contains(i.Name, i.Digest) {
		l.Text = append(l.Text, "pinned "+i.Digest)
	}
	for _, p := range i.Proofs {
		if p.Claim == trust.ClaimSignature {
			l.State = Proven
		}
		l.Text = append(l.Text, proof(p))
	}
	if len(i.Proofs) == 0 {
		l.Text = append(l.Text, "no signature, no attestation that counts")
	}
	l.Text = append(l.Text, i.Problems...)
	return l
}

// proof tells one statement about an image.
func proof(p trust.Proof) string {
	var b strings.Builder
	switch p.Claim {
	case trust.ClaimSignature:
		b.WriteString("signed")
	case trust.ClaimScan:
		fmt.Fprintf(&b, "scanned %s, worst finding %s,", stamp(p.ScannedAt), cmp.Or(strings.ToLower(p.Worst), "none"))
	case trust.ClaimProvenance:
		b.WriteString("built by " + cmp.Or(p.Builder, "an unnamed builder"))
		if p.Repository != "" {
			b.WriteString(" from " + p.Repository)
		}
		b.WriteString(", said")
	default:
		b.WriteString(p.Claim + ", said")
	}
	b.WriteString(" by " + identity(p.Signer))
	if p.Claim == trust.ClaimSignature && !p.SignedAt.IsZero() {
		b.WriteString(", " + stamp(p.SignedAt))
	}
	b.WriteString(" (" + key(p.Signer) + ", TrustPolicy " + p.Signer.Policy + ")")
	return b.String()
}

// digest returns the digest in the name of an image; "" if it has none.
func digest(name string) string {
	_, digest, _ := strings.Cut(name, "@")
	return digest
}

// running compares what the containers of Pods run with what was pinned.
func running(pods []*unstructured.Unstructured, sync *remote.Found) []Running {
	counts := map[[2]string]int{}
	for _, pod := range pods {
		for _, list := range []string{"initContainerStatuses", "containerStatuses"} {
			statuses, _, _ := unstructured.NestedSlice(pod.Object, "status", list)
			for _, s := range statuses {
				status, _ := s.(map[string]any)
				name, _ := status["name"].(string)
				id, _ := status["imageID"].(string)
				counts[[2]string{asked(pod, name), id}]++
			}
		}
	}
	var all []Running
	for k, n := range counts {
		all = append(all, Running{Image: k[0], ImageID: k[1], Containers: n, State: matches(k[0], k[1], sync)})
	}
	slices.SortFunc(all, func(a, b Running) int {
		return cmp.Or(cmp.Compare(a.Image, b.Image), cmp.Compare(a.ImageID, b.ImageID))
	})
	return all
}

// asked returns the image that the specification of a Pod's container names.
func asked(pod *unstructured.Unstructured, container string) string {
	for _, list := range []string{"initContainers", "containers"} {
		containers, _, _ := unstructured.NestedSlice(pod.Object, "spec", list)
		for _, c := range containers {
			if spec, _ := c.(map[string]any); spec["name"] == container {
				image, _ := spec["image"].(string)
				return image
			}
		}
	}
	return ""
}

// matches judges what a node reports. A node that pulled by digest has the content of
// that digest; what it reports may be the digest of one platform's part of it.
func matches(image, id string, sync *remote.Found) State {
	pinned := sync != nil && sync.Change != nil && slices.Contains(sync.Change.Images, image)
	reported := id[strings.LastIndex(id, "@")+1:]
	switch want := digest(image); {
	case sync != nil && sync.Change != nil && len(sync.Change.Images) > 0 && !pinned:
		return Broken
	case want == "" || id == "":
		return Unproven
	case want == reported:
		if pinned {
			return Proven
		}
		return Claimed
	}
	return Claimed
}

var runs = map[State]string{
	Proven:   "the node reports the digest that was pinned",
	Claimed:  "the node was asked for the pinned digest, and reports another id, as for an image of several platforms",
	Unproven: "the node reports nothing that could be compared",
	Broken:   "it was not applied with this image",
}

func runningLinks(all []Running) []Link {
	var links []Link
	for _, r := range all {
		links = append(links, Link{
			Name: LinkRunning, State: r.State, By: "the Pods' status",
			Text: []string{counted(r.Containers, "container") + ": " + r.Image, runs[r.State]},
		})
	}
	return links
}
