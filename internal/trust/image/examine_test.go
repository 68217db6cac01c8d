package image_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/internal/trust/image"
	"github.com/holdfastcd/holdfast/test/signing"
)

// counter counts requests.
type counter struct{ atomic.Int64 }

// RoundTrip implements http.RoundTripper.
func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	c.Add(1)
	return http.DefaultTransport.RoundTrip(r)
}

// TestRemembered tries what is asked again, and when.
func TestRemembered(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds the signer")
	}
	host, key := signing.Registry(t), signing.NewKey(t)
	pushed := signing.Push(t, host+"/team/app:v1")
	var network counter
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	e := image.New(image.Options{Transport: &network, Clock: func() time.Time { return time.Unix(0, now.Load()) }})
	d := demand(trust.Authority{Key: key.Public})
	asked := func(d trust.Demands, names ...string) int64 {
		before := network.Load()
		if _, err := e.Examine(context.Background(), names, d, nil); err != nil {
			t.Fatal(err)
		}
		return network.Load() - before
	}
	step := func(reason string, got int64, asks bool) {
		t.Helper()
		if got > 0 != asks {
			t.Errorf("%s: %d requests", reason, got)
		}
	}
	step("the first time", asked(d, pushed.Ref), true)
	step("unsigned is believed for a moment", asked(d, pushed.Ref), false)
	signing.Cosign(t, pushed.Ref, signing.Options{By: signing.By{Key: key}})
	now.Add(int64(time.Minute))
	step("unsigned is asked again", asked(d, pushed.Ref), true)
	_, verdicts := look(t, e, pushed.Ref, d)
	expect(t, "signed meanwhile", verdicts, "")
	step("signed is believed", asked(d, pushed.Ref, pushed.Ref), false)
	step("by another name of the same digest too, but for the tag itself", asked(d, pushed.Tag), true)
	step("a tag is believed for a moment", asked(d, pushed.Tag), false)
	now.Add(int64(5 * time.Minute))
	step("signed is believed for minutes", asked(d, pushed.Ref), false)
	now.Add(int64(30 * time.Minute))
	step("and not for ever", asked(d, pushed.Ref), true)
	other := demand(trust.Authority{Key: key.Public, NotBefore: time.Unix(1, 0)})
	step("another policy asks anew", asked(other, pushed.Ref), true)
	soon := time.Unix(0, now.Load()).Add(time.Minute)
	ending := demand(trust.Authority{Key: key.Public, NotAfter: soon})
	_, verdicts = look(t, e, pushed.Ref, ending)
	expect(t, "it counts for a minute yet", verdicts, "")
	now.Add(int64(2 * time.Minute))
	found, err := e.Examine(context.Background(), []string{pushed.Ref}, ending, nil)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "what is remembered ends with the authority", policy.Images(found, ending, soon), "ceased to count")
}

// TestPins tries names that were resolved before.
func TestPins(t *testing.T) {
	t.Parallel()
	host := signing.Registry(t)
	old := signing.Push(t, host+"/team/app:v1")
	moved := signing.Push(t, host+"/team/app:v1")
	latest := signing.Push(t, host+"/team/app:latest")
	d := trust.NewDemands(trust.Policy{Name: "p", Images: &trust.Images{Match: []string{host + "/team/*"}}})
	e := image.New(image.Options{})
	names := []string{moved.Tag, host + "/team/app", host + "/other/app:v1", moved.Tag + "@" + old.Digest}
	got, err := e.Examine(context.Background(), names, d, map[string]string{host + "/other/app:v1": old.Digest})
	if err != nil {
		t.Fatal(err)
	}
	want := []trust.Image{
		{Name: moved.Tag, Digest: moved.Digest, Pinned: moved.Tag + "@" + moved.Digest},
		{Name: host + "/team/app", Digest: latest.Digest, Pinned: host + "/team/app@" + latest.Digest},
		{Name: host + "/other/app:v1"},
		{Name: moved.Tag + "@" + old.Digest, Digest: old.Digest, Pinned: moved.Tag + "@" + old.Digest},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what no policy is for is left alone (-want +got):\n%s", diff)
	}
	got, err = e.Examine(context.Background(), []string{moved.Tag}, d, map[string]string{moved.Tag: old.Digest})
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Digest != old.Digest {
		t.Errorf("a pin does not count: %+v", got[0])
	}
	if got, _ = e.Examine(context.Background(), []string{moved.Tag}, d, map[string]string{moved.Tag: "sha256:junk"}); got[0].Digest != "" || len(got[0].Problems) == 0 {
		t.Errorf("a pin that is no digest: %+v", got[0])
	}
}

// TestNames tries names that cannot be read: every policy on images refuses them.
func TestNames(t *testing.T) {
	t.Parallel()
	network := &counter{}
	e := image.New(image.Options{Transport: network})
	for _, name := range []string{"", "UPPER/case", "user:word@registry.example.org/app", "registry.example.org/app@md5:0123", "a b", "https://registry.example.org/app", "registry.example.org/app@sha256:" + strings.Repeat("A", 64)} {
		d := trust.NewDemands(trust.Policy{Name: "p", Images: &trust.Images{Match: []string{"ghcr.io/**"}}})
		_, verdicts := look(t, e, name, d)
		expect(t, name, verdicts, "policy p")
	}
	if n := network.Load(); n > 0 {
		t.Errorf("asked %d times", n)
	}
}

// TestNothingDemanded tries that without policies on images nobody is asked.
func TestNothingDemanded(t *testing.T) {
	t.Parallel()
	network := &counter{}
	e := image.New(image.Options{Transport: network})
	for _, d := range []trust.Demands{{}, trust.NewDemands(trust.Policy{Name: "commits", Commits: &trust.Commits{}})} {
		found, verdicts := look(t, e, "registry.example.org/app:v1", d)
		if diff := cmp.Diff(trust.Image{Name: "registry.example.org/app:v1"}, found); diff != "" || len(verdicts) > 0 {
			t.Errorf("%v (-want +got):\n%s", verdicts, diff)
		}
	}
	if n := network.Load(); n > 0 {
		t.Errorf("asked %d times", n)
	}
}

// TestInterrupted tries that one who gives up does not spoil it for another.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	host := signing.Registry(t)
	pushed := signing.Push(t, host+"/team/app:v1")
	held := &gate{open: make(chan struct{}), asked: make(chan struct{}, 100)}
	e := image.New(image.Options{Transport: held})
	d := trust.NewDemands(trust.Policy{Name: "p", Images: &trust.Images{}})
	ctx, cancel := context.WithCancel(context.Background())
	gaveUp, waited := make(chan error), make(chan trust.Image)
	go func() {
		_, err := e.Examine(ctx, []string{pushed.Tag}, d, nil)
		gaveUp <- err
	}()
	<-held.asked
	go func() {
		found, _ := e.Examine(context.Background(), []string{pushed.Tag}, d, nil)
		waited <- found[0]
	}()
	cancel()
	if err := <-gaveUp; err == nil {
		t.Error("no error")
	}
	close(held.open)
	if found := <-waited; found.Digest != pushed.Digest {
		t.Errorf("found %+v", found)
	}
}

// gate is a network that holds requests back until it is open.
type gate struct {
	open  chan struct{}
	asked chan struct{}
}

// RoundTrip implements http.RoundTripper.
func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	g.asked <- struct{}{}
	select {
	case <-g.open:
		return http.DefaultTransport.RoundTrip(r)
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// BenchmarkExamine measures one signed image, verified and remembered.
func BenchmarkExamine(b *testing.B) {
	host := signing.Registry(b)
	key, store, authority := signing.NewKey(b), signing.NewSigstore(b), signing.NewAuthority(b, "images")
	pushed := signing.Push(b, host+"/team/app:v1")
	keyless := trust.Authority{Sigstore: &trust.Sigstore{TrustedRoot: store.TrustedRoot, Identities: []trust.Identity{{Issuer: issuer, Subject: subject}}}}
	for _, tc := range []struct {
		name      string
		sign      func(image string)
		authority trust.Authority
	}{
		{"key", func(i string) { signing.Cosign(b, i, signing.Options{By: signing.By{Key: key}}) }, trust.Authority{Key: key.Public}},
		{"keyless", func(i string) {
			signing.Cosign(b, i, signing.Options{By: signing.By{Sigstore: store, Subject: subject, Issuer: issuer}, Layout: signing.Bundles})
		}, keyless},
		{"notation", func(i string) {
			signing.Notation(b, i, signing.NotationOptions{Certificate: authority.Issue(b, "release", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))})
		}, trust.Authority{Notation: authority.Root}},
	} {
		pushed = signing.Push(b, host+"/"+tc.name+":v1")
		tc.sign(pushed.Ref)
		d := demand(tc.authority)
		b.Run(tc.name+"/first", func(b *testing.B) {
			defer spent(b)()
			for b.Loop() {
				e := image.New(image.Options{})
				examine(b, e, pushed.Ref, d)
			}
		})
		b.Run(tc.name+"/again", func(b *testing.B) { // what was found has become old; keys and roots are read
			var passed time.Duration
			e := image.New(image.Options{Clock: func() time.Time { return time.Now().Add(passed) }})
			defer spent(b)()
			for b.Loop() {
				passed += time.Hour
				examine(b, e, pushed.Ref, d)
			}
		})
		b.Run(tc.name+"/remembered", func(b *testing.B) {
			e := image.New(image.Options{})
			defer spent(b)()
			for b.Loop() {
				examine(b, e, pushed.Ref, d)
			}
		})
	}
}

// spent reports the processor time of an operation, with that of the registry,
// which lives in the same process: the wall clock knows who else is at work.
func spent(b *testing.B) func() {
	b.Helper()
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64((used()-before).Microseconds())/float64(b.N), "cpu-us/op") }
}

func examine(b *testing.B, e *image.Examiner, name string, d trust.Demands) {
	b.Helper()
	found, err := e.Examine(context.Background(), []string{name}, d, nil)
	if err != nil || len(found[0].Proofs) != 1 {
		b.Fatal(err, found[0].Problems)
	}
}

// TestTagOfDigest tries a registry that has a tag which looks like a digest's.
func TestTagOfDigest(t *testing.T) {
	t.Parallel()
	host := signing.Registry(t)
	pushed := signing.Push(t, host+"/team/app:v1")
	tag, err := name.NewTag(host + "/team/app:" + strings.Replace(pushed.Digest, ":", "-", 1) + ".sig")
	if err != nil {
		t.Fatal(err)
	}
	other, err := remote.Image(digestOf(t, pushed.Ref))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, other); err != nil {
		t.Fatal(err)
	}
	_, verdicts := look(t, image.New(image.Options{}), pushed.Ref, demand(trust.Authority{Key: signing.NewKey(t).Public}))
	expect(t, "an image where signatures should be", verdicts, "no signature")
}
