package remote

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Bounds of a reviewer.
const (
	maxToken      = 8 << 10
	reviewTimeout = 5 * time.Second
	remembered    = 256              // answers
	rememberFor   = 10 * time.Second // so long a right that was taken away still counts
	reviewsEvery  = 100 * time.Millisecond
	reviewsBurst  = 20
)

// Reviewer asks the API server who bears a token, and whether they may read the log.
// What is refused is remembered as well, and what was never asked before is asked at a
// bounded rate: strangers can send any number of tokens.
type Reviewer struct {
	tokens authenticationclient.TokenReviewInterface
	access authorizationclient.SubjectAccessReviewInterface
	clock  func() time.Time
	pace   *rate.Limiter

	mu      sync.Mutex
	answers map[[sha256.Size]byte]answer
}

type answer struct {
	user    string
	refusal *fault.Error // nil: permitted
	until   time.Time
}

// NewReviewer returns a reviewer that asks as the account of cfg, which needs the
// right to create tokenreviews and subjectaccessreviews. It fails with Invalid.
func NewReviewer(cfg *rest.Config, clock func() time.Time) (*Reviewer, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1 // the rate is bounded here
	tokens, err := authenticationclient.NewForConfig(cfg)
	if err != nil {
		return nil, fault.New(fault.Invalid, "cannot use the configuration of the cluster: %s", err).Because(err)
	}
	access, err := authorizationclient.NewForConfig(cfg)
	if err != nil {
		return nil, fault.New(fault.Invalid, "cannot use the configuration of the cluster: %s", err).Because(err)
	}
	return newReviewer(tokens.TokenReviews(), access.SubjectAccessReviews(), clock), nil
}

func newReviewer(tokens authenticationclient.TokenReviewInterface, access authorizationclient.SubjectAccessReviewInterface, clock func() time.Time) *Reviewer {
	return &Reviewer{
		tokens: tokens, access: access, clock: clock,
		pace:    rate.NewLimiter(rate.Every(reviewsEvery), reviewsBurst),
		answers: map[[sha256.Size]byte]answer{},
	}
}

// Review returns the name of who bears a token, if they may read the entries of
// deliveries in a namespace (empty: the whole log). Errors are *fault.Error:
// Unauthorized (no token, or none of ours), Refused (no right), Unreachable (the API
// server did not answer), Waiting (too many strangers at once).
func (r *Reviewer) Review(ctx context.Context, token, namespace string) (string, error) {
	if token == "" || len(token) > maxToken {
		return "", fault.New(fault.Unauthorized, "there is no token in the header %s", Header).
			WithHint("send one of audience %s, as 'holdfast audit' does", Audience)
	}
	key := sha256.Sum256([]byte(namespace + "\x00" + token))
	a, known := r.recall(key)
	if !known {
		if !r.pace.AllowN(r.clock(), 1) {
			return "", fault.New(fault.Waiting, "too many tokens are waiting to be reviewed")
		}
		user, err := r.ask(ctx, token, namespace)
		a.user = user
		if err != nil {
			a.refusal = fault.From(err)
			if a.refusal.Kind != fault.Refused && a.refusal.Kind != fault.Unauthorized {
				return "", a.refusal
			}
		}
		r.remember(key, a)
	}
	if a.refusal != nil {
		return "", a.refusal
	}
	return a.user, nil
}

func (r *Reviewer) recall(key [sha256.Size]byte) (answer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.answers[key]
	if !ok || r.clock().After(a.until) {
		return answer{}, false
	}
	return a, true
}

func (r *Reviewer) remember(key [sha256.Size]byte, a answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) >= remembered {
		clear(r.answers) // they are asked again
	}
	a.until = r.clock().Add(rememberFor)
	r.answers[key] = a
}

// ask asks the API server both questions.
func (r *Reviewer) ask(ctx context.Context, token, namespace string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	review, err := r.tokens.Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{Audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fault.New(fault.Unreachable, "the API server did not review the token: %s", err).Because(err)
	}
	// An authenticator that knows no audiences leaves them empty: its tokens are for
	// the API server, not for us.
	if !review.Status.Authenticated || !slices.Contains(review.Status.Audiences, Audience) {
		return "", fault.New(fault.Unauthorized, "the token is not one of audience %s that the API server knows", Audience)
	}
	user := review.Status.User
	extra := map[string]authorizationv1.ExtraValue{}
	for key, value := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(value)
	}
	access, err := r.access.Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Group: Group, Resource: Resource, Verb: "get", Namespace: namespace},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fault.New(fault.Unreachable, "the API server did not say whether %s may read the log: %s", user.Username, err).Because(err)
	}
	if !access.Status.Allowed {
		return "", refusal(user.Username, namespace)
	}
	return user.Username, nil
}

func refusal(user, namespace string) *fault.Error {
	where := "the whole audit log"
	if namespace != "" {
		where = "entries of deliveries in namespace " + namespace
	}
	return fault.New(fault.Refused, "%s may not read %s", user, where).
		WithHint("it needs the verb get on %s", fmt.Sprintf("%s.%s", Resource, Group))
}
