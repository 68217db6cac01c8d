package flux

import (
	"context"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // senders choose the hash; as a MAC, SHA-1 holds
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net/http"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Bounds of the hooks: everybody may send to them.
const (
	maxHookBody  = 1 << 20
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
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxHookBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge, "the body is too large"
	case err != nil:
		return http.StatusBadRequest, "the body cannot be read"
	}
	status, message := http.StatusUnauthorized, "the signature does not fit"
	for _, receiver := range found {
		if err := h.verify(r.Context(), receiver, r, body); err != nil {
			h.flux.env.Log.Warn("a webhook was refused", "receiver", receiver.Namespace+"/"+receiver.Name, "error", err.Error())
			continue
		}
		if err := h.refresh(r.Context(), receiver); err != nil {
			h.flux.env.Log.Error("a webhook was not served in full", "receiver", receiver.Namespace+"/"+receiver.Name, "error", err)
			return http.StatusInternalServerError, "try again"
		}
		status, message = http.StatusOK, ""
	}
	return status, message
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
		if bad != nil || r.Spec.Suspend || !r.DeletionTimestamp.IsZero() || checkReceiver(&all[i], r) != nil {
			continue
		}
		found = append(found, r)
	}
	return found, nil
}

// verify checks path and signature against the token. Errors are *fault.Error.
func (h hooks) verify(ctx context.Context, r *notificationv1.Receiver, req *http.Request, body []byte) error {
	token, problem := readToken(ctx, h.flux.env.Reader, r)
	if problem != nil {
		return problem
	}
	// A status can be written by others; the token decides.
	if !hmac.Equal([]byte(req.URL.Path), []byte(hookPath(token, r.Name, r.Namespace))) {
		return fault.New(fault.Unauthorized, "the token has changed")
	}
	return verifySignature(req.Header.Get("X-Signature"), token, body)
}

// hashes are those that a sender may sign with.
var hashes = map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha512": sha512.New}

// verifySignature checks a header "sha256=<hex>" over body. Errors are
// *fault.Error of kind Unauthorized.
func verifySignature(header, token string, body []byte) error {
	name, digits, ok := strings.Cut(header, "=")
	newHash, known := hashes[name]
	given, err := hex.DecodeString(digits)
	if !ok || !known || err != nil {
		return fault.New(fault.Unauthorized, "the header X-Signature is missing or malformed").
			WithHint("send sha256=<hexadecimal HMAC of the body>")
	}
	mac := hmac.New(newHash, []byte(token))
	mac.Write(body)
	if !hmac.Equal(given, mac.Sum(nil)) {
		return fault.New(fault.Unauthorized, "the signature does not fit")
	}
	return nil
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
	if repo, bad := decode[sourcev1.GitRepository](u); bad == nil && !repo.Spec.Suspend {
		f.git.hear(name, token)
		f.env.Hub.Refresh(repo.Spec.URL)
		f.fetches.Add(name, urgent)
	}
}
