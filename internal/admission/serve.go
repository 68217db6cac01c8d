package admission

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Path is where the API server asks.
const Path = "/admit"

// Bounds of a request. An object has at most 3 MiB, and a request may bring two.
const (
	maxReview = 8 << 20
	atOnce    = 16
	// Timeout is what the API server waits for an answer; see [Configuration].
	Timeout = 10 * time.Second
	judging = 9 * time.Second
)

// Handler serves [Path]. Only the API server has reason to ask; whoever else does learns
// what the policies say of an object that it already has.
func (g *Gate) Handler() http.Handler {
	turns := make(chan struct{}, atOnce)
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+Path, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), judging)
		defer cancel()
		select {
		case turns <- struct{}{}:
			defer func() { <-turns }()
		case <-ctx.Done():
			http.Error(w, "too many requests at once", http.StatusServiceUnavailable)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReview))
		if _, long := errors.AsType[*http.MaxBytesError](err); long {
			http.Error(w, "the review is too large", http.StatusRequestEntityTooLarge)
			return
		}
		var review admissionv1.AdmissionReview
		if err != nil || json.Unmarshal(body, &review) != nil || review.Request == nil {
			http.Error(w, "not an AdmissionReview", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answered(review, g.Review(ctx, review.Request))) // whoever is gone is told nothing
	})
	return mux
}

// answered is the review that goes back.
func answered(review admissionv1.AdmissionReview, a Answer) admissionv1.AdmissionReview {
	out := admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: &admissionv1.AdmissionResponse{
		UID: review.Request.UID, Allowed: a.Refused == "", Warnings: a.Warnings,
	}}
	if a.Refused != "" {
		out.Response.Result = &metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: a.Refused,
		}
	}
	return out
}
