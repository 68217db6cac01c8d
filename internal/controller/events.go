package controller

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Events are told behind the work that they tell of: an event costs the API
// server as much as an object, and in a first sync of many deliveries they
// would take their time from the objects. They come at this pace, and what
// happens rarely is told at once.
const (
	eventsPerSecond = 20
	eventsAtOnce    = 10
)

// newEvents returns what the events of custom resources go out by, and the
// function that ends it. Clients read the core events that the peers write.
func newEvents(cfg *rest.Config, scheme *runtime.Scheme) (record.EventRecorder, func(), error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst, cfg.UserAgent = eventsPerSecond, eventsAtOnce, userAgent
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, nil, fault.New(fault.Unreachable, "cannot set up the connection to the cluster: %s", err).Because(err)
	}
	b := record.NewBroadcaster()
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: clients.CoreV1().Events("")})
	return b.NewRecorder(scheme, corev1.EventSource{Component: userAgent}), b.Shutdown, nil
}
