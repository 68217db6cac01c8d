package server_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/server"
)

func TestAPIAudit(t *testing.T) {
	const token = "0123456789abcdef"
	tests := []struct {
		name, path, header string
		token              string
		body               string
		length             int64 // what the header says; 0: the truth
		want               int
		noted              bool
		reason             string
	}{
		{name: "the API server", header: "Bearer " + token, body: "{}", want: http.StatusOK, noted: true, reason: "it shows the token"},
		{name: "no token", body: "{}", want: http.StatusUnauthorized, reason: "anybody can reach the port"},
		{name: "another token", header: "Bearer 0123456789abcdeX", body: "{}", want: http.StatusUnauthorized, reason: "it is not ours"},
		{name: "a part of it", header: "Bearer " + token[:15], body: "{}", want: http.StatusUnauthorized, reason: "all of it counts"},
		{name: "without its kind", header: token, body: "{}", want: http.StatusUnauthorized, reason: "it is no bearer token"},
		{name: "no token here", token: "-", header: "Bearer ", body: "{}", want: http.StatusServiceUnavailable, reason: "an empty token is none"},
		{name: "a short one here", token: "short", header: "Bearer short", body: "{}", want: http.StatusServiceUnavailable, reason: "it can be guessed"},
		{name: "too large", header: "Bearer " + token, body: strings.Repeat("x", 9<<20), want: http.StatusRequestEntityTooLarge, reason: "bodies are bounded"},
		{name: "too large, of unknown size", header: "Bearer " + token, body: strings.Repeat("x", 9<<20), length: -1, want: http.StatusRequestEntityTooLarge, reason: "bodies are bounded"},
		{name: "nonsense", header: "Bearer " + token, body: "nonsense", want: http.StatusBadRequest, noted: true, reason: "who takes them says so"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			noted := false
			s := server.New(server.Options{APIAudit: &server.APIAudit{
				Token: func() (string, error) {
					switch tt.token {
					case "":
						return token, nil
					case "-":
						return "", errors.New("no file")
					}
					return tt.token, nil
				},
				Note: func(body []byte) (int, error) {
					noted = true
					if string(body) != "{}" {
						return 0, fault.New(fault.Invalid, "nonsense")
					}
					return 1, nil
				},
			}})
			r := httptest.NewRequest(http.MethodPost, server.APIAuditPath, strings.NewReader(tt.body))
			if tt.length != 0 {
				r.ContentLength = tt.length
			}
			if tt.header != "" {
				r.Header.Set("Authorization", tt.header)
			}
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			if w.Code != tt.want || noted != tt.noted {
				t.Errorf("%d, noted %v: %s: %s", w.Code, noted, tt.reason, w.Body)
			}
			if strings.Contains(w.Body.String(), token) {
				t.Error("the answer has the token")
			}
		})
	}
}

func TestAPIAuditIsOff(t *testing.T) {
	w := httptest.NewRecorder()
	server.New(server.Options{}).Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, server.APIAuditPath, strings.NewReader("{}")))
	if w.Code != http.StatusNotFound {
		t.Errorf("it is on unless it is asked for: %d", w.Code)
	}
}
