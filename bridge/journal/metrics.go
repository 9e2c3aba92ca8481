package journal

import (
	"fmt"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the journal's. They leave the registry when the journal is closed.
type metrics struct {
	registerer prometheus.Registerer
	registered []prometheus.Collector

	commitSeconds  prometheus.Histogram
	commitRequests prometheus.Histogram
	deadLetters    *prometheus.GaugeVec
	missing        *prometheus.GaugeVec
	replaysEnded   prometheus.Counter
}

func newMetrics(j *Journal, registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		registerer: registerer,
		commitSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "fnbridge_journal_commit_duration_seconds",
			Help:    "Time to commit one group of requests to the journal, fsync included.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 16),
		}),
		commitRequests: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "fnbridge_journal_commit_requests", Help: "Requests that shared one commit of the journal.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		deadLetters: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fnbridge_dead_letters", Help: "Dead letters that the journal holds, by sink.",
		}, []string{"sink"}),
		missing: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fnbridge_sink_missing_webhooks",
			Help: "Webhooks whose events may be missing since the sink's broker went back, until they have been replayed.",
		}, []string{"sink"}),
		replaysEnded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fnbridge_journal_ended_replays_total",
			Help: "Replays that were ended since the webhooks that they had yet to publish filled the journal.",
		}),
	}
	if registerer == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		newWaitingMetrics(j), m.commitSeconds, m.commitRequests, m.deadLetters, m.missing, m.replaysEnded,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fnbridge_journal_bytes", Help: "Space that the journal uses.",
		}, func() float64 { return float64(j.space.used.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fnbridge_journal_files_bytes",
			Help: "Space that the journal's files take on the volume, with what in them is free for use again.",
		}, func() float64 { return float64(FilesBytes(filepath.Dir(j.path))) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fnbridge_journal_max_bytes", Help: "Space that the journal may use before it refuses webhooks.",
		}, func() float64 { return float64(j.space.limit) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fnbridge_journal_webhooks", Help: "Webhooks that the journal holds, delivered or not.",
		}, func() float64 { return float64(j.stored()) }),
	} {
		if err := registerer.Register(c); err != nil {
			m.unregister()
			return nil, fmt.Errorf("register the journal's metrics: %w", err)
		}
		m.registered = append(m.registered, c)
	}
	return m, nil
}

func (m *metrics) unregister() {
	for _, c := range m.registered {
		m.registerer.Unregister(c)
	}
	m.registered = nil
}
