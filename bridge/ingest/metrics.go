package ingest

import (
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// metrics are what the endpoint counts. The counters are looked up by label once, at the start.
type metrics struct {
	byResult     [resultCount]atomic.Int64
	unauthorized *prometheus.CounterVec
	duration     prometheus.Histogram
	secrets      *prometheus.CounterVec
	unrecognized prometheus.Counter
	reusedIDs    prometheus.Counter
}

func newMetrics(r prometheus.Registerer, secrets int, inFlight func() float64) (*metrics, error) {
	m := &metrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "fnbridge_webhook_duration_seconds",
			Help: "Time from the headers of a request to its answer, for webhooks that passed every check and went to " +
				"the store.",
			// From a write without fsync on a fast disk up to the 15 s after which the sender gives up.
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15},
		}),
		unauthorized: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fnbridge_webhooks_unauthorized_total",
			Help: "Requests whose signature was refused, by why: missing_header (nobody has signed), no_match (with " +
				"another secret, or another body), timestamp_out_of_tolerance (a clock is off, or it is a replay), " +
				"bad_timestamp, bad_signature or repeated_header (not as the sender makes them).",
		}, []string{"reason"}),
		secrets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fnbridge_webhook_secret_matches_total",
			Help: "Verified webhooks, by the place (from 1) that the secret which signed them has in the configured list.",
		}, []string{"secret"}),
		unrecognized: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fnbridge_webhooks_unrecognized_total",
			Help: "Accepted webhooks whose payload has none of the known shapes, or is an envelope that goes under other.",
		}),
		reusedIDs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fnbridge_webhook_id_reused_total",
			Help: "Accepted webhooks whose id was known with another body: a sender gives an id twice.",
		}),
	}
	for _, reason := range []string{
		tensorlake.ReasonMissingHeader, tensorlake.ReasonBadTimestamp, tensorlake.ReasonOutOfTolerance,
		tensorlake.ReasonBadSignature, tensorlake.ReasonNoMatchingSecret, reasonRepeatedHeader,
	} {
		m.unauthorized.WithLabelValues(reason)
	}
	for i := range secrets {
		m.secrets.WithLabelValues(strconv.Itoa(i + 1))
	}
	if r == nil {
		return m, nil
	}
	gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fnbridge_webhooks_in_flight",
		Help: "Webhooks that are being read, checked or stored right now, or wait for their turn.",
	}, inFlight)
	collectors := []prometheus.Collector{m.unauthorized, m.duration, m.secrets, m.unrecognized, m.reusedIDs, gauge}
	for i := range m.byResult {
		collectors = append(collectors, prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "fnbridge_webhooks_total", ConstLabels: prometheus.Labels{"result": result(i).String()},
			Help: "Requests to the public listener, by how they ended: accepted, duplicate, or why they were not taken.",
		}, func() float64 { return float64(m.byResult[i].Load()) }))
	}
	var errs []error
	for _, c := range collectors {
		errs = append(errs, r.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("register the metrics of the webhook endpoint (fnbridge_webhook…): %w", err)
	}
	return m, nil
}

func (m *metrics) count(r result) { m.byResult[r].Add(1) }

// countRefusal counts a request that was refused, and why its signature was if that is the cause.
func (m *metrics) countRefusal(f *refusal) {
	m.count(f.kind.terms().result)
	if f.kind == kindUnauthorized {
		m.unauthorized.WithLabelValues(f.reason).Inc()
	}
}

// countSecret counts a match of the secret with this index in the configured list.
func (m *metrics) countSecret(index int) {
	m.secrets.WithLabelValues(strconv.Itoa(index + 1)).Inc()
}

func (m *metrics) observe(d time.Duration) { m.duration.Observe(d.Seconds()) }
