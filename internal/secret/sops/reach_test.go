package sops

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// silent is a network whose hosts answer or do not.
type silent struct {
	asked int
	err   error
}

func (s *silent) RoundTrip(*http.Request) (*http.Response, error) {
	s.asked++
	if s.err != nil {
		return nil, s.err
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(""))}, nil
}

// A key service that does not answer is left alone for longer and longer, and others not.
func TestPause(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	network := &silent{err: errors.New("no route")}
	c := Options{Transport: network, Clock: func() time.Time { return now }}.client()
	ask := func(host string) error {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(r)
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	steps := []struct {
		reason string
		after  time.Duration
		host   string
		asked  bool
		err    error // of the network from here on
	}{
		{"the first time", 0, "vault", true, network.err},
		{"at once again", 0, "vault", false, network.err},
		{"another host", 0, "other", true, network.err},
		{"when the pause is over", firstPause, "vault", true, network.err},
		{"the next one is longer", firstPause, "vault", false, network.err},
		{"but it ends", firstPause, "vault", true, nil},
		{"who answers is asked at once", 0, "vault", true, network.err},
		{"and begins anew", firstPause, "vault", true, context.Canceled},
	}
	for _, s := range steps {
		now = now.Add(s.after)
		before := network.asked
		if s.err == nil || errors.Is(s.err, context.Canceled) {
			network.err = s.err
		}
		err := ask(s.host)
		if asked := network.asked > before; asked != s.asked {
			t.Errorf("%s: asked %t: %v", s.reason, asked, err)
		}
		if f, ok := errors.AsType[*fault.Error](err); !s.asked && (!ok || f.Kind != fault.Unreachable || f.Hint == "") {
			t.Errorf("%s: %v", s.reason, err)
		}
		network.err = s.err
	}
}
