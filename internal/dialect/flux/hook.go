package flux

import (
	"context"
	"crypto/hmac"
	"errors"
	"io"
	"net/http"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// Bounds of the hooks: everybody may send to them. GitHub sends up to 25 MiB. A
// body is never held, and never parsed: it is only signed.
const (
	maxHookBody  = 25 << 20
	hooksAtOnce  = 16
	maxPathBytes = 256
)

// hooks serves the Receivers: a POST to the path of one, signed with its token,
// makes what it names look again.
type hooks struct {
	flux  *Flux
	slots chan struct{}
}

// ServeHTTP implements [http.Handler].
func (h hooks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "only POST", http.StatusMethodNotAllowed)
		return
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many requests at once", http.StatusServiceUnavailable)
		return
	}
	status, message := h.serve(w, r)
	if status == http.StatusOK {
		w.WriteHeader(status)
		return
	}
	http.Error(w, message, status)
}

// serve answers one request; what it says to a stranger tells nothing.
func (h hooks) serve(w http.ResponseWriter, r *http.Request) (int, string) {
	found, err := h.find(r.Context(), r.URL.Path)
	if err != nil {
		h.flux.env.Log.Error("cannot look up Receivers", "error", err)
		return http.StatusInternalServerError, "try again"
	}
	if len(found) == 0 {
		return http.StatusNotFound, "not found"
	}
	var proofs []*proof
	bodies := []io.Writer{io.Discard}
	for _, receiver := range found {
		p, err := h.begin(r, receiver)
		if err != nil {
			h.refuse(receiver, err)
			continue
		}
		proofs = append(proofs, p)
		bodies = append(bodies, p)
	}
	if len(proofs) == 0 {
		return refused()
	}
	_, err = io.Copy(io.MultiWriter(bodies...), http.MaxBytesReader(w, r.Body, maxHookBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge, "the body is too large"
	case err != nil:
		return http.StatusBadRequest, "the body cannot be read"
	}
	return h.act(r, proofs)
}

// act does what those Receivers ask for that the request proved to be meant for.
func (h hooks) act(r *http.Request, proofs []*proof) (int, string) {
	status, message := refused()
	for _, p := range proofs {
		if err := p.check(); err != nil {
			h.refuse(p.receiver, err)
			continue
		}
		if !listed(p.receiver, r.Header) { // sent by whom it says, and not asked for
			status, message = http.StatusOK, ""
			continue
		}
		if err := h.refresh(r.Context(), p.receiver); err != nil {
			h.flux.env.Log.Error("a webhook was not served in full", "receiver", p.receiver.Namespace+"/"+p.receiver.Name, "error", err)
			return http.StatusInternalServerError, "try again"
		}
		status, message = http.StatusOK, ""
	}
	return status, message
}

// refused is the answer to who does not know the token.
func refused() (int, string) { return http.StatusUnauthorized, "the signature does not fit" }

func (h hooks) refuse(receiver *notificationv1.Receiver, err error) {
	h.flux.env.Log.Warn("a webhook was refused", "receiver", receiver.Namespace+"/"+receiver.Name, "error", err.Error())
}

// find returns the Receivers that listen at a path; more than one only if they
// share token and name by chance.
func (h hooks) find(ctx context.Context, path string) ([]*notificationv1.Receiver, error) {
	if len(path) > maxPathBytes {
		return nil, nil
	}
	all, err := h.flux.receivers.list(ctx, client.MatchingFields{byPath: path})
	if err != nil {
		return nil, err
	}
	var found []*notificationv1.Receiver
	for i := range all {
		r, bad := decode[notificationv1.Receiver](all[i].DeepCopy())
		if bad != nil || dialect.Suspended(&all[i]) || !r.DeletionTimestamp.IsZero() || checkReceiver(&all[i], r) != nil {
			continue
		}
		found = append(found, r)
	}
	return found, nil
}

// begin returns what checks a request against a Receiver, once the body was
// written to it. Errors are *fault.Error: the token cannot be read, or is not the
// one that the path was made of, or a header is missing.
func (h hooks) begin(r *http.Request, receiver *notificationv1.Receiver) (*proof, error) {
	token, problem := readToken(r.Context(), h.flux.env.Reader, receiver)
	if problem != nil {
		return nil, problem
	}
	// A status can be written by others; the token decides.
	if !hmac.Equal([]byte(r.URL.Path), []byte(hookPath(token, receiver.Name, receiver.Namespace))) {
		return nil, fault.New(fault.Unauthorized, "the token has changed")
	}
	return prove(receiver, token, r.Header)
}

// refresh makes everything that a Receiver names look again, at once; then it
// leaves the request on each object, where Flux's clients look for it.
func (h hooks) refresh(ctx context.Context, r *notificationv1.Receiver) error {
	token := h.flux.env.Clock().UTC().Format(time.RFC3339Nano)
	type target struct {
		desk *desk
		name types.NamespacedName
	}
	var targets []target
	for _, ref := range r.Spec.Resources {
		d := h.flux.deskOf(ref.Kind)
		names, err := h.chosen(ctx, d, r, ref)
		if err != nil {
			return err
		}
		for _, name := range names {
			h.flux.refreshNow(ctx, ref.Kind, name, token)
			targets = append(targets, target{d, name})
		}
	}
	var failed error
	for _, t := range targets {
		if u, err := t.desk.get(ctx, t.name); err != nil || u == nil || h.flux.env.Observe && dialect.Taken(u) == "" {
			continue // what is only observed is asked by whoever serves it
		}
		failed = errors.Join(failed, t.desk.annotate(ctx, t.name, meta.ReconcileRequestAnnotation, token))
	}
	return failed
}

// chosen returns the objects that a reference names.
func (h hooks) chosen(ctx context.Context, d *desk, r *notificationv1.Receiver, ref notificationv1.ReceiverResource) ([]types.NamespacedName, error) {
	if ref.Name != anyName {
		name := types.NamespacedName{Namespace: r.Namespace, Name: ref.Name}
		if u, err := d.get(ctx, name); err != nil || u == nil {
			return nil, err
		}
		return []types.NamespacedName{name}, nil
	}
	all, err := d.list(ctx, client.InNamespace(r.Namespace), client.MatchingLabels(ref.MatchLabels))
	names := make([]types.NamespacedName, 0, len(all))
	for i := range all {
		names = append(names, types.NamespacedName{Namespace: all[i].GetNamespace(), Name: all[i].GetName()})
	}
	return names, err
}

// deskOf returns where the objects of a kind are read and written.
func (f *Flux) deskOf(kind string) *desk {
	if kind == kustomizev1.KustomizationKind {
		return f.kustomizations
	}
	return f.repositories
}

// refreshNow queues one object; a GitRepository will fetch. The token is the one
// that will be written on it, so that it is not fetched for twice.
func (f *Flux) refreshNow(ctx context.Context, kind string, name types.NamespacedName, token string) {
	if kind == kustomizev1.KustomizationKind {
		f.deliveries.Add(name, urgent)
		return
	}
	u, err := f.repositories.get(ctx, name)
	if err != nil || u == nil {
		return
	}
	if repo, bad := decode[sourcev1.GitRepository](u); bad == nil && !dialect.Suspended(u) {
		f.git.hear(name, token)
		f.env.Hub.Refresh(repo.Spec.URL)
		f.fetches.Add(name, urgent)
	}
}
