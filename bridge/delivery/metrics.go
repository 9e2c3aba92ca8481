package delivery

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

type metrics struct {
	acknowledged prometheus.Counter
	retried      prometheus.Counter
	deadLettered prometheus.Counter
	rejected     prometheus.Counter
	publish      prometheus.Observer

	givenUp, replayed                        prometheus.Counter
	retriedAcknowledged, retriedDeadLettered prometheus.Counter
}

// lettered counts an event that became a dead letter.
func (m *metrics) lettered(givenUp bool) {
	if givenUp {
		m.givenUp.Inc()
	} else {
		m.deadLettered.Inc()
	}
}

// beside counts what became of an event of a stream beside the live one.
func (m *metrics) beside(kind journal.StreamKind, f fate) {
	switch {
	case f == lost:
	case kind == journal.Replay && f == acknowledged:
		m.replayed.Inc()
	case kind == journal.Retry && f == acknowledged:
		m.retriedAcknowledged.Inc()
	case kind == journal.Retry:
		m.retriedDeadLettered.Inc()
	}
}

// newMetrics registers the metrics of one sink. Dispatchers share a registry, so the sink is a constant label.
func newMetrics(d *Dispatcher) (*metrics, error) {
	sink := prometheus.Labels{"sink": d.name}
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fnbridge_events_total", ConstLabels: sink,
		Help: "Events by what came of a try to publish them: acknowledged, retried (will be tried again), " +
			"dead_lettered, or rejected (and no dead letter: the webhook is refused).",
	}, []string{"result"})
	publish := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "fnbridge_publish_duration_seconds", ConstLabels: sink,
		Help:    "How long the sink took to answer a batch of events.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	})
	givenUp := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fnbridge_sink_given_up_events_total", ConstLabels: sink,
		Help: "Events that became dead letters because they could not be stored for as long as the sink may try.",
	})
	replayed := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fnbridge_sink_replayed_events_total", ConstLabels: sink,
		Help: "Events of replays that the sink acknowledged.",
	})
	retriedLetters := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fnbridge_sink_retried_dead_letters_total", ConstLabels: sink,
		Help: "Dead letters that were asked another try for, by what came of it: acknowledged or dead_lettered again.",
	}, []string{"result"})
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: sink}, value)
	}
	for _, c := range []prometheus.Collector{
		events, publish, givenUp, replayed, retriedLetters,
		gauge("fnbridge_sink_up",
			"1 while the last try of every partition was acknowledged, or the last check of an idle sink passed; else 0.",
			func() float64 {
				if d.up.Load() {
					return 1
				}
				return 0
			}),
		gauge("fnbridge_sink_backlog_webhooks",
			"Accepted webhooks that have not wholly reached the sink.",
			func() float64 { return float64(d.Backlog()) }),
		gauge("fnbridge_sink_oldest_webhook_age_seconds",
			"Age of the oldest accepted webhook that has not wholly reached the sink; 0 when there is none.",
			func() float64 { return d.oldestAge().Seconds() }),
	} {
		if err := d.o.Registerer.Register(c); err != nil {
			return nil, err
		}
	}
	if sink, ok := d.o.Sink.(bridge.Deduper); ok {
		if err := d.o.Registerer.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "fnbridge_sink_duplicate_events_total", ConstLabels: prometheus.Labels{"sink": d.name},
			Help: "Events that the sink's broker acknowledged and did not store, since it had stored them already.",
		}, func() float64 { return float64(sink.Duplicates()) })); err != nil {
			return nil, err
		}
	}
	return &metrics{
		acknowledged: events.WithLabelValues("acknowledged"),
		retried:      events.WithLabelValues("retried"),
		deadLettered: events.WithLabelValues("dead_lettered"),
		rejected:     events.WithLabelValues("rejected"),
		publish:      publish,

		givenUp: givenUp, replayed: replayed,
		retriedAcknowledged: retriedLetters.WithLabelValues("acknowledged"),
		retriedDeadLettered: retriedLetters.WithLabelValues("dead_lettered"),
	}, nil
}
