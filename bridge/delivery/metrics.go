package delivery

import (
	"time"

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

	givenUp, replayed                                 prometheus.Counter
	retriedAcknowledged, retriedDeadLettered          prometheus.Counter
	lettersPublished, lettersRetried, lettersRejected prometheus.Counter
}

// newMetrics registers the metrics of one sink. Dispatchers share a registry, so the sink is a constant label.
func newMetrics(d *Dispatcher) (*metrics, error) {
	sink := prometheus.Labels{"sink": d.name}
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fnbridge_events_total", ConstLabels: sink,
		Help: "Events by what came of a try to publish them: acknowledged, retried (will be tried again), dead_lettered, or rejected (and no dead letter: the webhook is refused).",
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
	letters := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fnbridge_sink_dead_letters_published_total", ConstLabels: sink,
		Help: "Dead letters by what came of a try to publish them to the sink's dead-letter address: published, retried (will be tried again) or rejected.",
	}, []string{"result"})
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: sink}, value)
	}
	for _, c := range []prometheus.Collector{
		events, publish, givenUp, replayed, retriedLetters, letters,
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
			func() float64 { return float64(d.origin.backlog()) }),
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
		lettersPublished:    letters.WithLabelValues("published"),
		lettersRetried:      letters.WithLabelValues("retried"),
		lettersRejected:     letters.WithLabelValues("rejected"),
	}, nil
}

// State is how the sink is, and zero until that is known.
func (d *Dispatcher) State() journal.SinkState {
	if s := d.state.Load(); s != nil {
		return *s
	}
	return journal.SinkState{}
}

// Backlog counts the webhooks that have not wholly reached the sink.
func (d *Dispatcher) Backlog() int64 { return d.origin.backlog() }

func (d *Dispatcher) oldestAge() time.Duration {
	nanos := d.oldest.Load()
	if nanos == 0 {
		return 0
	}
	return max(0, d.o.Now().Sub(time.Unix(0, nanos)))
}
