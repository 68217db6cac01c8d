package cli

import (
	"bytes"
	"context"
	"crypto/x509"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret/sealed"
)

// Paths of the controller, and of the stock one, that seal asks.
const (
	certificatePath = "/v1/cert.pem"
	resealPath      = "/v1/rotate"
)

const (
	certTimeout = 30 * time.Second
	maxAnswer   = 8 << 20
)

// reencrypt has the controller seal the SealedSecrets in the files anew: nobody else
// needs its keys for it. Nothing is written if one of a file fails.
func (o *Seal) reencrypt(ctx context.Context, p Process) error {
	var all []*unstructured.Unstructured
	for _, file := range o.Files {
		objects, err := readObjects(p, []string{file})
		if err != nil {
			return err
		}
		if len(objects) == 0 {
			return fault.New(fault.Invalid, "there is no SealedSecret to seal anew").At(file, 0)
		}
		for i, one := range objects {
			if objects[i], err = o.reseal(ctx, one); err != nil {
				return fault.From(err).At(file, 0)
			}
		}
		if !o.InPlace {
			all = append(all, objects...)
		} else if err := rewrite(file, objects); err != nil {
			return err
		}
	}
	return o.print(p.Out, all)
}

// reseal returns what the controller makes of one SealedSecret.
func (o *Seal) reseal(ctx context.Context, one *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if !sealed.IsSealedSecret(one) {
		return nil, fault.New(fault.Invalid, "only SealedSecrets are sealed anew, not %s", one.GetKind())
	}
	if one.GetNamespace() == "" {
		one.SetNamespace(o.defaultNamespace())
	}
	id := one.GetKind() + "/" + one.GetNamespace() + "/" + one.GetName()
	body, err := one.MarshalJSON()
	if err != nil {
		return nil, fault.New(fault.Internal, "cannot write JSON: %s", err)
	}
	answer, err := o.ask(ctx, resealPath, body)
	if fault.KindOf(err) == fault.Conflict {
		return nil, fault.New(fault.Refused, "it does not open with the keys of the controller").On(id).
			WithHint("it may be sealed by another cluster, for another name or namespace, or be damaged: what delivers it says which")
	}
	if err != nil {
		return nil, fault.From(err).On(id)
	}
	again := &unstructured.Unstructured{}
	if err := again.UnmarshalJSON(answer); err != nil || !sealed.IsSealedSecret(again) ||
		again.GetName() != one.GetName() || again.GetNamespace() != one.GetNamespace() {
		return nil, fault.New(fault.Invalid, "the controller's answer is not this SealedSecret").On(id)
	}
	return again, nil
}

// certificate returns what is sealed for: from a file, a URL or the controller.
func (o *Seal) certificate(ctx context.Context) (*x509.Certificate, error) {
	content, err := o.certificateText(ctx)
	if err != nil {
		return nil, err
	}
	cert, err := sealed.ParseCertificate(content)
	if err != nil {
		return nil, err
	}
	if time.Now().After(cert.NotAfter) {
		return nil, fault.New(fault.Invalid, "the certificate has expired on %s", cert.NotAfter.Format(time.DateOnly)).
			WithHint("fetch the newest, or make a key with 'holdfast keys rotate'")
	}
	return cert, nil
}

func (o *Seal) certificateText(ctx context.Context) ([]byte, error) {
	if o.Cert == "" {
		return o.ask(ctx, certificatePath, nil)
	}
	if !strings.Contains(o.Cert, "://") {
		return readFile(Process{}, o.Cert)
	}
	u, err := controllerURL(o.Cert, "--cert")
	if err != nil {
		return nil, err
	}
	return fetch(ctx, u, nil)
}

// ask sends a request to the controller: POST with a body, GET without. Errors are
// Conflict where a SealedSecret does not open, and others that say what to do.
func (o *Seal) ask(ctx context.Context, path string, body []byte) ([]byte, error) {
	if o.Control == "" {
		return o.askByAPI(ctx, path, body)
	}
	u, err := controllerURL(o.Control, "--controller")
	if err != nil {
		return nil, err
	}
	return fetch(ctx, u.JoinPath(path), body)
}

// askByAPI asks by way of the API server, whose rules say who may.
func (o *Seal) askByAPI(ctx context.Context, path string, body []byte) ([]byte, error) {
	service, err := namespaced(o.Service, "--service")
	if err != nil {
		return nil, err
	}
	cfg, err := o.config()
	if err != nil {
		return nil, err
	}
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, kubeFault(err, "connect to the cluster")
	}
	request := clients.CoreV1().RESTClient().Get()
	if body != nil {
		request = clients.CoreV1().RESTClient().Post().Body(body)
	}
	answer, err := request.Namespace(service.Namespace).Resource("services").SubResource("proxy").
		Name("http:" + service.Name + ":http").Suffix(path).Timeout(certTimeout).Stream(ctx)
	if err != nil {
		return nil, o.unanswered(err, body != nil)
	}
	defer func() { _ = answer.Close() }() // only read from
	return readAnswer(answer)
}

// unanswered says what to do where the controller does not answer by way of the API server.
func (o *Seal) unanswered(err error, resealing bool) error {
	f := fault.From(classify(err, "ask the controller behind Service "+o.Service))
	switch {
	case !resealing:
		return f.WithHint("name its Service with --service NAMESPACE/NAME, or give the certificate with --cert: "+
			"a file, or http://127.0.0.1:PORT%s of a controller on this machine", certificatePath)
	case apierrors.IsConflict(err):
		return fault.New(fault.Conflict, "it does not open")
	case apierrors.IsForbidden(err):
		return f.WithHint("it takes 'create' on services/proxy, or --controller URL")
	}
	return f.WithHint("name its Service with --service NAMESPACE/NAME, or its address with --controller URL; without the controller nothing is sealed anew")
}

// controllerURL reads an address of the controller's. It takes TLS, but on this
// machine: who can put another certificate in its place can read everything that is
// sealed for it, and who can answer for the controller can put values of his own there.
func controllerURL(address, flag string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		what := "takes an https URL, or an http URL on this machine"
		if flag == "--cert" {
			what = "takes a file or an https URL"
		}
		return nil, fault.New(fault.Invalid, "%s %s", flag, what).
			WithHint("whoever can exchange the certificate on its way can read what is sealed with it")
	}
	return u, nil
}

// fetch sends a request to the controller itself: POST with a body, GET without.
func fetch(ctx context.Context, u *url.URL, body []byte) ([]byte, error) {
	client := &http.Client{Timeout: certTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s is no address that can be asked", u.Host)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fault.New(fault.Unreachable, "the controller at %s does not answer", u.Host).Because(err)
	}
	defer func() { _ = response.Body.Close() }() // only read from
	switch response.StatusCode {
	case http.StatusOK:
		return readAnswer(response.Body)
	case http.StatusConflict:
		return nil, fault.New(fault.Conflict, "it does not open")
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return nil, fault.New(fault.Waiting, "%s answers %s", u.Host, response.Status).WithHint("try again later")
	}
	return nil, fault.New(fault.NotFound, "%s answers %s to a request for %s", u.Host, response.Status, u.Path)
}

func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}

func readAnswer(r io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fault.New(fault.Unreachable, "the answer breaks off: %s", err)
	case len(content) > maxAnswer:
		return nil, fault.New(fault.Limit, "the answer has more than %d bytes", maxAnswer)
	}
	return content, nil
}
